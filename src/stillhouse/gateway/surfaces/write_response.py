"""Replies in the form of /v1/responses. The response object repeats our request, not another's."""

# ruff: noqa: ARG002  (all writers take what any of them needs)
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from stillhouse.gateway.surfaces.logprobs import Entry
    from stillhouse.gateway.surfaces.policy import Asked
    from stillhouse.gateway.surfaces.produced import Usage


class ResponseWriter:
    """Writes responses: a list of items, each added, filled and done."""

    def __init__(self, asked: Asked, reply_id: str, created_s: int):
        self.out: list[bytes] = []
        self._asked = asked
        self._id = reply_id
        self._created = created_s
        self._items: list[dict[str, Any]] = []
        self._pieces: list[list[str]] = []
        self._logprobs: list[Entry] = []
        self._calls: dict[int, int] = {}
        self._open: str | None = None
        self._status = "completed"
        self._why: str | None = None
        self._number = 0

    def start(self, usage: Usage | None) -> None:
        """Begin the response."""
        response = self._response("in_progress", None)
        self._emit("response.created", {"response": response})
        self._emit("response.in_progress", {"response": response})

    def open(self, index: int) -> None:
        """The one choice begins with the response."""

    def text(self, index: int, text: str, logprobs: list[Entry] | None) -> None:
        """Serve text."""
        self._say("output_text", {"type": "output_text", "text": "", "annotations": []})
        self._pieces[-1].append(text)
        if logprobs:
            self._logprobs += logprobs
        self._emit(
            "response.output_text.delta",
            {**self._place(), "delta": text, "logprobs": logprobs or []},
        )

    def refusal(self, index: int, text: str) -> None:
        """Serve a refusal."""
        self._say("refusal", {"type": "refusal", "refusal": ""})
        self._pieces[-1].append(text)
        self._emit("response.refusal.delta", {**self._place(), "delta": text})

    def reasoning(self, index: int, text: str) -> None:
        """Serve reasoning."""
        self._think()
        self._pieces[-1].append(text)
        self._emit("response.reasoning_text.delta", {**self._place(), "delta": text})

    def blob(self, index: int, sealed: str, *, redacted: bool) -> None:
        """Serve sealed reasoning."""
        self._think()
        self._items[-1]["encrypted_content"] = sealed
        self._close()

    def tool(self, index: int, slot: int, call_id: str, name: str) -> None:
        """Begin a function call."""
        self._close()
        self._calls[slot] = len(self._items)
        self._add(
            "function_call",
            {
                "type": "function_call",
                "id": f"fc_{self._id}_{len(self._items)}",
                "call_id": call_id,
                "name": name,
                "arguments": "",
                "status": "in_progress",
            },
        )

    def arguments(self, index: int, slot: int, text: str) -> None:
        """Serve more of a call's arguments, also of one that is not the last."""
        at = self._calls[slot]
        self._pieces[at].append(text)
        place = {"item_id": self._items[at]["id"], "output_index": at}
        self._emit("response.function_call_arguments.delta", {**place, "delta": text})

    def finish(self, index: int, reason: str, stopped_by: str | None) -> None:
        """End the response's output."""
        if reason in ("length", "content_filter"):
            self._status = "incomplete"
            self._why = "max_output_tokens" if reason == "length" else reason
        self._close()

    def end(self, usage: Usage | None) -> None:
        """End the stream."""
        self._emit(f"response.{self._status}", {"response": self.whole(usage)})

    def whole(self, usage: Usage | None) -> dict[str, Any]:
        """Return the response."""
        for at in self._calls.values():
            self._items[at]["arguments"] = "".join(self._pieces[at])
        return self._response(self._status, usage)

    def text_so_far(self) -> str:
        """Return the text served so far."""
        return "".join(
            "".join(self._pieces[at])
            for at, item in enumerate(self._items)
            if item["type"] == "message"
        )

    def _say(self, kind: str, part: dict[str, Any]) -> None:
        if self._open == kind:
            return
        self._close()
        self._add(
            kind,
            {
                "type": "message",
                "id": f"msg_{self._id}_{len(self._items)}",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            },
        )
        self._emit("response.content_part.added", {**self._place(), "part": part})

    def _think(self) -> None:
        if self._open != "reasoning":
            self._close()
            self._add(
                "reasoning",
                {"type": "reasoning", "id": f"rs_{self._id}_{len(self._items)}", "summary": []},
            )

    def _add(self, kind: str, item: dict[str, Any]) -> None:
        place = {"output_index": len(self._items)}
        self._emit("response.output_item.added", {**place, "item": item})
        self._items.append(item)
        self._pieces.append([])
        self._open = kind

    def _close(self) -> None:
        """End the open item: what it holds is said once more, whole."""
        if self._open is None:
            return
        kind, self._open = self._open, None
        item, said = self._items[-1], "".join(self._pieces[-1])
        if kind == "output_text":
            part = {"type": kind, "text": said, "annotations": [], "logprobs": self._logprobs}
            done = {"text": said, "logprobs": self._logprobs}
            self._emit("response.output_text.done", {**self._place(), **done})
            self._part_done(item, part)
            self._logprobs = []
        elif kind == "refusal":
            part = {"type": kind, "refusal": said}
            self._emit("response.refusal.done", {**self._place(), "refusal": said})
            self._part_done(item, part)
        elif kind == "function_call":
            item["arguments"] = said
            place = {"item_id": item["id"], "output_index": len(self._items) - 1}
            done = {"name": item["name"], "arguments": said}
            self._emit("response.function_call_arguments.done", {**place, **done})
        elif said:
            item["content"] = [{"type": "reasoning_text", "text": said}]
            self._emit("response.reasoning_text.done", {**self._place(), "text": said})
        if "status" in item:
            item["status"] = self._status
        place = {"output_index": len(self._items) - 1}
        self._emit("response.output_item.done", {**place, "item": item})

    def _part_done(self, item: dict[str, Any], part: dict[str, Any]) -> None:
        item["content"] = [part]
        self._emit("response.content_part.done", {**self._place(), "part": part})

    def _place(self) -> dict[str, Any]:
        at = len(self._items) - 1
        return {"item_id": self._items[at]["id"], "output_index": at, "content_index": 0}

    def _response(self, status: str, usage: Usage | None) -> dict[str, Any]:
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": self._why} if self._why else None,
            "model": self._asked.model,
            "output": list(self._items),
            "usage": None if usage is None else _usage(usage),
            **self._asked.echo,
        }

    def _emit(self, name: str, data: dict[str, Any]) -> None:
        if self._asked.stream:
            body = orjson.dumps({"type": name, "sequence_number": self._number, **data})
            self._number += 1
            self.out.append(b"event: " + name.encode() + b"\ndata: " + body + b"\n\n")


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.tokens_in,
        "input_tokens_details": {"cached_tokens": usage.tokens_cached, "cache_write_tokens": 0},
        "output_tokens": usage.tokens_out or 0,
        "output_tokens_details": {"reasoning_tokens": usage.tokens_reasoning},
        "total_tokens": usage.tokens_in + (usage.tokens_out or 0),
    }
