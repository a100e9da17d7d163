"""Requests to Anthropic's /v1/messages, rebuilt from what they may hold."""

# ruff: noqa: ARG001  (all checks take what any of them needs)
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.surfaces.fields import (
    Fate,
    Table,
    anything,
    flag,
    integer,
    keep_only,
    number,
    one_of,
    read_fields,
    short,
    stop_sequences,
    wrong,
)
from stillhouse.gateway.surfaces.parts import Prompt, call_id, canonical, tool_list, tool_name
from stillhouse.gateway.surfaces.reading import (
    Reading,
    bounded_tokens,
    check_prefill,
    choose_upstream,
)
from stillhouse.gateway.surfaces.translation import messages_to_chat

if TYPE_CHECKING:
    from collections.abc import Iterable

# Whatever is not named is refused: tools that the provider runs (and containers, MCP servers,
# files) reach out from the upstream's network, and the rest reads or writes its state.
TABLE: Table = {
    "model": (Fate.TAKEN, anything),
    "messages": (Fate.TAKEN, anything),
    "system": (Fate.TAKEN, anything),
    "max_tokens": (Fate.TAKEN, integer(1, 2**31)),
    "stream": (Fate.TAKEN, flag),
    "stop_sequences": (Fate.TAKEN, stop_sequences),
    "tools": (Fate.TAKEN, anything),
    "tool_choice": (Fate.TAKEN, anything),
    "thinking": (Fate.TAKEN, anything),
    "output_config": (Fate.TAKEN, anything),
    "metadata": (Fate.TAKEN, anything),
    "temperature": (Fate.SENT, number(0, 1)),
    "top_p": (Fate.SENT, number(0, 1)),
    "top_k": (Fate.EXTRA, integer(0, 1_000_000)),
    "cache_control": (Fate.IGNORED, anything),
    "service_tier": (Fate.IGNORED, short(32)),
}

_TEXT = frozenset({"type", "text", "cache_control", "citations"})
_IMAGE = frozenset({"type", "source", "cache_control"})
_SOURCE = frozenset({"type", "media_type", "data", "url"})
_TOOL_USE = frozenset({"type", "id", "name", "input", "cache_control", "caller"})
_TOOL_RESULT = frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})
_THINKING = frozenset({"type", "thinking", "signature"})
_REDACTED = frozenset({"type", "data"})
_TOOL = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control"})
_CHOICE = frozenset({"type", "name", "disable_parallel_tool_use"})
_EFFORT = one_of("low", "medium", "high", "xhigh", "max")


def read(given: dict[str, Any], prompt: Prompt) -> Reading:
    """Read a request. Raises `RefusedError`."""
    served = prompt.served
    dialect = served.dialect
    upstream_surface = choose_upstream("messages", dialect)
    sent, taken = read_fields(given, TABLE, dialect.extras)
    if "max_tokens" not in taken:
        raise RefusedError("bad_request", "max_tokens is missing")
    upstream: dict[str, Any] = {"model": served.upstream_name}
    if "system" in taken:
        upstream["system"] = _content(taken["system"], "system", prompt, ("text",))
    thinking, wants_thinking = _thinking(taken.get("thinking"))
    prompt.bind(_beginning(taken.get("messages")))
    rebuilt = _messages(taken.get("messages"), prompt)
    upstream["messages"] = rebuilt
    upstream |= sent
    reading = Reading(
        taken={},
        sent=sent,
        upstream=upstream,
        upstream_surface=upstream_surface,
        max_tokens=bounded_tokens(taken["max_tokens"], served, prompt.policy.tier),
        turns=len(rebuilt),
        stream=bool(taken.get("stream")),
        include_usage=True,
        stop=tuple(taken.get("stop_sequences", ())),
        blobs=wants_thinking and prompt.seals,
        end_user=_end_user(taken.get("metadata")),
    )
    upstream["max_tokens"] = reading.max_tokens
    if reading.stop:
        upstream["stop_sequences"] = taken["stop_sequences"]
    if "tools" in taken:
        tools = _tools(taken["tools"], prompt)
        reading.tools = tuple(tool["name"] for tool in tools)
        if tools:
            upstream["tools"] = tools
            if "tool_choice" in taken:
                upstream["tool_choice"] = _choice(taken["tool_choice"], reading.tools)
    if thinking is not None:
        upstream["thinking"] = _clamped(thinking, reading.max_tokens)
    if "output_config" in taken:
        upstream["output_config"], reading.schema = _output(taken["output_config"], prompt)
    if upstream_surface == "chat":
        reading.upstream = messages_to_chat(upstream, dialect, stream=reading.stream)
    elif reading.stream:
        upstream["stream"] = True
    check_prefill(prompt, rebuilt[-1]["role"], reading.upstream)
    return reading


def _beginning(value: Any) -> Any:
    """Return what the first message says: a conversation's reasoning is bound by it."""
    if type(value) is not list or not value or type(value[0]) is not dict:
        return None
    # Clients move markers of cache_control about, and they change nothing of what is said.
    first = value[0].get("content")
    if type(first) is list:
        first = [
            {name: item for name, item in block.items() if name != "cache_control"}
            for block in first
            if type(block) is dict
        ]
        if len(first) == 1 and set(first[0]) == {"type", "text"}:
            first = first[0]["text"]
    return first


def _messages(value: Any, prompt: Prompt) -> list[dict[str, Any]]:
    if type(value) is not list or not value:
        raise RefusedError("bad_request", "messages is not a list with messages")
    rebuilt = []
    for given in value:
        message = keep_only(given, frozenset({"role", "content"}), "messages")
        role = message.get("role")
        if role not in ("user", "assistant"):
            raise wrong("messages.role", "user or assistant")
        kinds = _USER_KINDS if role == "user" else _ASSISTANT_KINDS
        rebuilt.append(
            {"role": role, "content": _content(message.get("content"), role, prompt, kinds)}
        )
    return rebuilt


_USER_KINDS = ("text", "image", "tool_result")
_ASSISTANT_KINDS = ("text", "tool_use", "thinking", "redacted_thinking")


def _content(value: Any, role: str, prompt: Prompt, kinds: Iterable[str]) -> Any:
    if type(value) is str:
        return prompt.text(role, value, "content")
    if type(value) is not list:
        raise RefusedError("bad_request", "content is neither text nor a list of blocks")
    blocks = []
    for given in value:
        kind = given.get("type") if type(given) is dict else None
        if type(kind) is not str or kind not in kinds:
            raise wrong(f"a block's type in {role}", " or ".join(kinds))
        block = _BLOCKS[kind](given, role, prompt)
        if block is not None:
            if "cache_control" in given and "cache_control" in prompt.served.dialect.extras:
                block["cache_control"] = _cache_control(given["cache_control"])
            blocks.append(block)
    return blocks


def _text_block(given: Any, role: str, prompt: Prompt) -> dict[str, Any]:
    block = keep_only(given, _TEXT, "a text block")
    return {"type": "text", "text": prompt.text(role, block.get("text"), "a text block")}


def _image_block(given: Any, role: str, prompt: Prompt) -> dict[str, Any]:
    block = keep_only(given, _IMAGE, "an image block")
    source = keep_only(block.get("source"), _SOURCE, "image.source")
    if source.get("type") == "base64":
        prompt.image_data(source.get("media_type"), source.get("data"))
        kept = {name: source[name] for name in ("type", "media_type", "data")}
    elif source.get("type") == "url":
        url = source.get("url")
        if type(url) is not str or not url.startswith("https://"):
            raise RefusedError("image_refused")
        kept = {"type": "url", "url": prompt.image_url(url, "auto")}
    else:
        raise RefusedError("image_refused")
    return {"type": "image", "source": kept}


def _tool_use_block(given: Any, role: str, prompt: Prompt) -> dict[str, Any]:
    block = keep_only(given, _TOOL_USE, "a tool_use block")
    if type(block.get("input")) is not dict:
        raise wrong("tool_use.input", "an object")
    kept = {
        "type": "tool_use",
        "id": call_id(block.get("id"), "tool_use.id"),
        "name": tool_name(block.get("name"), "tool_use.name"),
        "input": block["input"],
    }
    prompt.text("assistant", orjson.dumps(block["input"]).decode(), "tool_use.input")
    prompt.part(kept)
    return kept


def _tool_result_block(given: Any, role: str, prompt: Prompt) -> dict[str, Any]:
    block = keep_only(given, _TOOL_RESULT, "a tool_result block")
    kept: dict[str, Any] = {
        "type": "tool_result",
        "tool_use_id": call_id(block.get("tool_use_id"), "tool_result.tool_use_id"),
    }
    prompt.part(kept["tool_use_id"])
    if block.get("content") is not None:
        kept["content"] = _content(block["content"], "tool", prompt, ("text", "image"))
    if block.get("is_error") is not None:
        kept["is_error"] = flag(block["is_error"], "tool_result.is_error")
    return kept


def _thinking_block(given: Any, role: str, prompt: Prompt) -> dict[str, Any] | None:
    block = keep_only(given, _THINKING, "a thinking block")
    if block.get("signature") == "":
        return None  # was shown without being sealed: there is nothing to give back
    # Not the client's text but what was sealed with it: it may have shown less, or nothing.
    opened = prompt.open_blob(block.get("signature"))
    if "t" not in opened:
        raise RefusedError("foreign_reasoning")
    dialect = prompt.served.dialect
    sent = "messages" in dialect.surfaces or bool(dialect.history)
    prompt.thought(opened["t"], sent=sent)
    return {"type": "thinking", "thinking": opened["t"], "signature": opened.get("s", "")}


def _redacted_block(given: Any, role: str, prompt: Prompt) -> dict[str, Any]:
    block = keep_only(given, _REDACTED, "a redacted_thinking block")
    opened = prompt.open_blob(block.get("data"))
    if "d" not in opened:
        raise RefusedError("foreign_reasoning")
    prompt.part(opened)
    return {"type": "redacted_thinking", "data": opened["d"]}


_BLOCKS = {
    "text": _text_block,
    "image": _image_block,
    "tool_use": _tool_use_block,
    "tool_result": _tool_result_block,
    "thinking": _thinking_block,
    "redacted_thinking": _redacted_block,
}


def _cache_control(value: Any) -> dict[str, str]:
    mark = keep_only(value, frozenset({"type", "ttl"}), "cache_control")
    if mark.get("type") != "ephemeral" or mark.get("ttl", "5m") not in ("5m", "1h"):
        raise wrong("cache_control", "ephemeral for 5m or 1h")
    return dict(mark)


def _tools(value: Any, prompt: Prompt) -> list[dict[str, Any]]:
    tools = []
    for given in tool_list(value):
        if type(given) is dict and given.get("type") not in (None, "custom"):
            raise wrong("tools.type", "custom: tools that the provider runs are not offered")
        tool = keep_only(given, _TOOL, "tools")
        kept: dict[str, Any] = {
            "name": tool_name(tool.get("name"), "tools.name"),
            "input_schema": prompt.schema(tool.get("input_schema"), "tools.input_schema"),
        }
        if tool.get("description") is not None:
            description = short(1 << 20)(tool["description"], "tools.description")
            kept["description"] = prompt.text("tool", description, "tools.description")
        if tool.get("strict") is not None:
            kept["strict"] = flag(tool["strict"], "tools.strict")
        prompt.part(kept)
        if tool.get("cache_control") and "cache_control" in prompt.served.dialect.extras:
            kept["cache_control"] = _cache_control(tool["cache_control"])
        tools.append(kept)
    return tools


def _choice(value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    choice = keep_only(value, _CHOICE, "tool_choice")
    kind = choice.get("type")
    if kind not in ("auto", "any", "none") and not (kind == "tool" and choice.get("name") in names):
        raise wrong("tool_choice", "auto, any, none or a tool that is offered")
    kept = {"type": kind}
    if kind == "tool":
        kept["name"] = choice["name"]
    if choice.get("disable_parallel_tool_use") is not None and kind != "none":
        parallel = choice["disable_parallel_tool_use"]
        kept["disable_parallel_tool_use"] = flag(parallel, "disable_parallel_tool_use")
    return kept


def _thinking(value: Any) -> tuple[dict[str, Any] | None, bool]:
    if value is None:
        return None, False
    asked = keep_only(value, frozenset({"type", "budget_tokens", "display"}), "thinking")
    kind = asked.get("type")
    if kind == "enabled":
        budget = integer(1024, 2**31)(asked.get("budget_tokens"), "thinking.budget_tokens")
        return {"type": kind, "budget_tokens": budget}, True
    if kind in ("disabled", "adaptive"):
        return {"type": kind}, kind == "adaptive"
    raise wrong("thinking.type", "enabled, adaptive or disabled")


def _clamped(thinking: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """Keep the thinking's budget below the clamped max_tokens, as the API asks."""
    if thinking.get("budget_tokens", 0) < max_tokens:
        return thinking
    if max_tokens <= 1024:
        return {"type": "disabled"}
    return thinking | {"budget_tokens": max(1024, max_tokens // 2)}


def _output(value: Any, prompt: Prompt) -> tuple[dict[str, Any], bytes | None]:
    config = keep_only(value, frozenset({"effort", "format"}), "output_config")
    kept: dict[str, Any] = {}
    schema = None
    if config.get("effort") is not None:
        kept["effort"] = _EFFORT(config["effort"], "output_config.effort")
    if config.get("format") is not None:
        form = keep_only(config["format"], frozenset({"type", "schema"}), "output_config.format")
        if form.get("type") != "json_schema":
            raise wrong("output_config.format.type", "json_schema")
        kept["format"] = {
            "type": "json_schema",
            "schema": prompt.schema(form.get("schema"), "output_config.format.schema"),
        }
        prompt.part(kept["format"])
        schema = canonical(kept["format"]["schema"])
    return kept, schema


def _end_user(value: Any) -> str | None:
    if value is None:
        return None
    user = keep_only(value, frozenset({"user_id"}), "metadata").get("user_id")
    return None if user is None else str(short(512)(user, "metadata.user_id"))
