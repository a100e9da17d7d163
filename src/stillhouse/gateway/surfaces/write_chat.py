"""Replies in the form of /v1/chat/completions."""

# ruff: noqa: ARG002  (all writers take what any of them needs)
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from stillhouse.gateway.surfaces.logprobs import Entry
    from stillhouse.gateway.surfaces.policy import Asked
    from stillhouse.gateway.surfaces.produced import Usage

_DONE = b"data: [DONE]\n\n"


class _Message:
    """What one choice has said."""

    __slots__ = ("calls", "finish", "logprobs", "refusal", "text", "thought")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.refusal: list[str] = []
        self.thought: list[str] = []
        self.calls: dict[int, tuple[int, str, str, list[str]]] = {}
        self.logprobs: list[Entry] = []
        self.finish = "stop"


class ChatWriter:
    """Writes chat completions. The constant parts of a chunk are written once a reply."""

    def __init__(self, asked: Asked, reply_id: str, created_s: int):
        self.out: list[bytes] = []
        self._asked = asked
        self._id = f"chatcmpl-{reply_id}"
        self._created = created_s
        self._stream = asked.stream
        self._messages: dict[int, _Message] = {}
        self._heads: dict[int, bytes] = {}
        if self._stream:
            fixed = {"id": self._id, "object": "chat.completion.chunk", "created": created_s}
            head = orjson.dumps({**fixed, "model": asked.model})
            usage = b',"usage":null' if asked.include_usage else b""
            self._fixed = b"data: " + head[:-1] + b',"choices":['
            self._tail = b'},"logprobs":null,"finish_reason":null}]' + usage + b"}\n\n"
            self._end = b"}]" + usage + b"}\n\n"

    def start(self, usage: Usage | None) -> None:
        """Nothing comes before the first choice."""

    def open(self, index: int) -> None:
        """Begin a choice."""
        self._messages[index] = _Message()
        if self._stream:
            self._heads[index] = self._fixed + b'{"index":%d,"delta":{' % index
            self._delta(index, b'"role":"assistant","content":""')

    def text(self, index: int, text: str, logprobs: list[Entry] | None) -> None:
        """Serve text."""
        message = self._messages[index]
        message.text.append(text)
        if logprobs:
            message.logprobs += logprobs
        if not self._stream:
            return
        if not logprobs:
            self.out.append(self._heads[index] + b'"content":' + orjson.dumps(text) + self._tail)
        else:
            shown = orjson.dumps({"content": logprobs, "refusal": None})
            self.out.append(
                self._heads[index] + b'"content":' + orjson.dumps(text)
                + b'},"logprobs":' + shown + b',"finish_reason":null' + self._end
            )  # fmt: skip

    def refusal(self, index: int, text: str) -> None:
        """Serve a refusal."""
        self._messages[index].refusal.append(text)
        self._delta(index, b'"refusal":' + orjson.dumps(text))

    def reasoning(self, index: int, text: str) -> None:
        """Serve reasoning."""
        self._messages[index].thought.append(text)
        self._delta(index, b'"reasoning_content":' + orjson.dumps(text))

    def blob(self, index: int, sealed: str, *, redacted: bool) -> None:
        """This surface has no place for sealed reasoning."""

    def tool(self, index: int, slot: int, call_id: str, name: str) -> None:
        """Begin a tool call."""
        calls = self._messages[index].calls
        place = len(calls)
        calls[slot] = (place, call_id, name, [])
        call = {
            "index": place,
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        self._delta(index, b'"tool_calls":[' + orjson.dumps(call) + b"]")

    def arguments(self, index: int, slot: int, text: str) -> None:
        """Serve more arguments."""
        place, _, _, pieces = self._messages[index].calls[slot]
        pieces.append(text)
        said = orjson.dumps({"index": place, "function": {"arguments": text}})
        self._delta(index, b'"tool_calls":[' + said + b"]")

    def finish(self, index: int, reason: str, stopped_by: str | None) -> None:
        """End a choice."""
        self._messages[index].finish = reason
        if self._stream:
            head = self._fixed + b'{"index":%d,"delta":{},"logprobs":null,' % index
            self.out.append(head + b'"finish_reason":"' + reason.encode() + b'"' + self._end)

    def end(self, usage: Usage | None) -> None:
        """End the stream, with usage where the client asked for it."""
        if self._asked.include_usage:
            shown = orjson.dumps(completion_usage(usage))
            self.out.append(self._fixed + b'],"usage":' + shown + b"}\n\n")
        self.out.append(_DONE)

    def whole(self, usage: Usage | None) -> dict[str, Any]:
        """Return the completion."""
        reply = {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._asked.model,
            "choices": [self._choice(index) for index in sorted(self._messages)],
        }
        if usage is not None:
            reply["usage"] = completion_usage(usage)
        return reply

    def text_so_far(self) -> str:
        """Return the text served so far."""
        said = self._messages
        return "\n".join("".join(said[i].text) + "".join(said[i].refusal) for i in sorted(said))

    def _choice(self, index: int) -> dict[str, Any]:
        said = self._messages[index]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(said.text) if said.text or not said.calls else None,
            "refusal": "".join(said.refusal) if said.refusal else None,
        }
        if said.thought:
            message["reasoning_content"] = "".join(said.thought)
        if said.calls:
            message["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": name, "arguments": "".join(pieces)},
                }
                for _, call_id, name, pieces in said.calls.values()
            ]
        logprobs = {"content": said.logprobs, "refusal": None} if said.logprobs else None
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": said.finish,
        }

    def _delta(self, index: int, said: bytes) -> None:
        if self._stream:
            self.out.append(self._heads[index] + said + self._tail)


def completion_usage(usage: Usage | None) -> dict[str, Any] | None:
    """Return the usage object of chat and text completions."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.tokens_in,
        "completion_tokens": usage.tokens_out or 0,
        "total_tokens": usage.tokens_in + (usage.tokens_out or 0),
        "prompt_tokens_details": {"cached_tokens": usage.tokens_cached},
        "completion_tokens_details": {"reasoning_tokens": usage.tokens_reasoning},
    }
