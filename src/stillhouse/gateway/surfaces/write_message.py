"""Replies in the form of Anthropic's /v1/messages."""

# ruff: noqa: ARG002  (all writers take what any of them needs)
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from stillhouse.gateway.surfaces.logprobs import Entry
    from stillhouse.gateway.surfaces.policy import Asked
    from stillhouse.gateway.surfaces.produced import Usage

_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class MessageWriter:
    """Writes messages: a list of blocks, each opened, filled and closed."""

    def __init__(self, asked: Asked, reply_id: str):
        self.out: list[bytes] = []
        self._asked = asked
        self._id = f"msg_{reply_id}"
        self._blocks: list[tuple[dict[str, Any], list[str]]] = []
        self._calls: dict[int, int] = {}
        self._open: int | None = None
        self._reason: str | None = None
        self._stopped_by: str | None = None

    def start(self, usage: Usage | None) -> None:
        """Begin the message."""
        message = self._message([], None, None, usage)
        self._emit("message_start", {"message": message})

    def open(self, index: int) -> None:
        """The one choice begins with the message."""

    def text(self, index: int, text: str, logprobs: list[Entry] | None) -> None:
        """Serve text."""
        self._block("text", {"type": "text", "text": ""})
        self._fill(text, {"type": "text_delta", "text": text})

    def refusal(self, index: int, text: str) -> None:
        """A refusal's words are text here."""
        self.text(index, text, None)

    def reasoning(self, index: int, text: str) -> None:
        """Serve reasoning."""
        self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        self._fill(text, {"type": "thinking_delta", "thinking": text})

    def blob(self, index: int, sealed: str, *, redacted: bool) -> None:
        """Serve sealed reasoning."""
        if redacted:
            self._close()
            self._begin({"type": "redacted_thinking", "data": sealed})
        else:
            self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            self._blocks[-1][0]["signature"] = sealed
            self._delta({"type": "signature_delta", "signature": sealed})
        self._close()

    def tool(self, index: int, slot: int, call_id: str, name: str) -> None:
        """Begin a tool call."""
        self._close()
        self._calls[slot] = len(self._blocks)
        self._begin({"type": "tool_use", "id": call_id, "name": name, "input": {}})

    def arguments(self, index: int, slot: int, text: str) -> None:
        """Serve more of a call's input, also of one that is not the last."""
        at = self._calls[slot]
        self._blocks[at][1].append(text)
        delta = {"type": "input_json_delta", "partial_json": text}
        self._emit("content_block_delta", {"index": at, "delta": delta})

    def finish(self, index: int, reason: str, stopped_by: str | None) -> None:
        """End the message's content."""
        self._close()
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        self._stopped_by = stopped_by if reason == "stop" else None
        self._reason = "stop_sequence" if self._stopped_by else _REASONS[reason]

    def end(self, usage: Usage | None) -> None:
        """End the stream."""
        delta = {"stop_reason": self._reason, "stop_sequence": self._stopped_by}
        self._emit("message_delta", {"delta": delta, "usage": _usage(usage)})
        self._emit("message_stop", {})

    def whole(self, usage: Usage | None) -> dict[str, Any]:
        """Return the message."""
        content = [self._content(block, pieces) for block, pieces in self._blocks]
        return self._message(content, self._reason, self._stopped_by, usage)

    def text_so_far(self) -> str:
        """Return the text served so far."""
        return "".join("".join(said) for block, said in self._blocks if block["type"] == "text")

    def _message(
        self,
        content: list[dict[str, Any]],
        reason: str | None,
        stopped_by: str | None,
        usage: Usage | None,
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._asked.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stopped_by,
            "usage": _usage(usage),
        }

    def _content(self, block: dict[str, Any], pieces: list[str]) -> dict[str, Any]:
        said = "".join(pieces)
        kind = block["type"]
        if kind == "text":
            return {"type": "text", "text": said}
        if kind == "thinking":
            return {**block, "thinking": said}
        return {**block, "input": _input(said)} if kind == "tool_use" else block

    def _block(self, kind: str, block: dict[str, Any]) -> None:
        """Go on with the open block if it is of this kind, else begin `block`."""
        if self._open is None or self._blocks[self._open][0]["type"] != kind:
            self._close()
            self._begin(block)

    def _begin(self, block: dict[str, Any]) -> None:
        self._open = len(self._blocks)
        self._emit("content_block_start", {"index": self._open, "content_block": block})
        self._blocks.append((block, []))

    def _close(self) -> None:
        if self._open is not None:
            self._emit("content_block_stop", {"index": self._open})
            self._open = None

    def _fill(self, text: str, delta: dict[str, Any]) -> None:
        self._blocks[-1][1].append(text)
        self._delta(delta)

    def _delta(self, delta: dict[str, Any]) -> None:
        self._emit("content_block_delta", {"index": self._open, "delta": delta})

    def _emit(self, name: str, data: dict[str, Any]) -> None:
        if self._asked.stream:
            body = orjson.dumps({"type": name, **data})
            self.out.append(b"event: " + name.encode() + b"\ndata: " + body + b"\n\n")


def _input(arguments: str) -> dict[str, Any]:
    """Return a call's input; what the model wrote in vain is kept as it is."""
    if not arguments:
        return {}
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        value = None
    return value if type(value) is dict else {"malformed_arguments": arguments}


def _usage(usage: Usage | None) -> dict[str, int]:
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    return {
        "input_tokens": usage.tokens_in - min(usage.tokens_cached, usage.tokens_in),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": min(usage.tokens_cached, usage.tokens_in),
        "output_tokens": usage.tokens_out or 0,
    }
