"""What a reply cost and how it ended, in one vocabulary for all upstreams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MOST = 2**53


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the upstream counted them: in (cached ones included), out (reasoning included).

    `tokens_out` is None where it told the prompt's alone.
    """

    tokens_in: int
    tokens_out: int | None
    tokens_cached: int = 0
    tokens_reasoning: int = 0


@dataclass(slots=True)
class Produced:
    """Our own count of what the upstream produced, hidden parts included; sizes in UTF-8 bytes.

    `chunks` are the events that carried output: at least one token each.
    """

    chunks: int = 0
    text_bytes: int = 0
    reasoning_bytes: int = 0
    tool_bytes: int = 0

    @property
    def bytes(self) -> int:
        """All of it: no upstream needs more tokens than this."""
        return self.text_bytes + self.reasoning_bytes + self.tool_bytes


def utf8_size(text: str) -> int:
    """Return the bytes of `text` as UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def openai_usage(given: Any) -> Usage | None:
    """Read the usage object of OpenAI's surfaces (chat, completions, embeddings, responses)."""
    if type(given) is not dict:
        return None
    tokens_in = _count(given, "prompt_tokens", "input_tokens")
    tokens_out = _count(given, "completion_tokens", "output_tokens")
    if tokens_in is None:
        return None
    read = given.get("prompt_tokens_details") or given.get("input_tokens_details")
    wrote = given.get("completion_tokens_details") or given.get("output_tokens_details")
    cached = _count(read, "cached_tokens") if type(read) is dict else 0
    thought = _count(wrote if type(wrote) is dict else given, "reasoning_tokens")
    return Usage(tokens_in, tokens_out, cached or 0, thought or 0)


def anthropic_usage(given: Any, before: Usage | None) -> Usage | None:
    """Read Anthropic's usage object; what a later one leaves out stays as `before`."""
    if type(given) is not dict:
        return before
    fresh = _count(given, "input_tokens")
    cached = _count(given, "cache_read_input_tokens") or 0
    written = _count(given, "cache_creation_input_tokens") or 0
    details = given.get("output_tokens_details")
    thought = _count(details, "thinking_tokens") if type(details) is dict else 0
    tokens_out = _count(given, "output_tokens")
    if fresh is None:
        if before is None or tokens_out is None:
            return before
        return Usage(before.tokens_in, tokens_out, before.tokens_cached, thought or 0)
    return Usage(fresh + cached + written, tokens_out, cached, thought or 0)


def llamacpp_usage(given: Any) -> Usage | None:
    """Read the timings that llama.cpp sends with every piece."""
    if type(given) is not dict:
        return None
    fresh, out = _count(given, "prompt_n"), _count(given, "predicted_n")
    cached = _count(given, "cache_n") or 0
    return None if fresh is None or out is None else Usage(fresh + cached, out, cached)


def _count(given: Any, *names: str) -> int | None:
    for name in names:
        value = given.get(name)
        if type(value) is int and 0 <= value < _MOST:
            return value
    return None
