"""Replies in the form of the older /v1/completions."""

# ruff: noqa: ARG002  (all writers take what any of them needs)
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gateway.surfaces.write_chat import completion_usage

if TYPE_CHECKING:
    from stillhouse.gateway.surfaces.logprobs import Entry
    from stillhouse.gateway.surfaces.policy import Asked
    from stillhouse.gateway.surfaces.produced import Usage


class CompletionWriter:
    """Writes text completions. There are no tools here, and reasoning has no place."""

    def __init__(self, asked: Asked, reply_id: str, created_s: int):
        self.out: list[bytes] = []
        self._asked = asked
        self._fixed = {
            "id": f"cmpl-{reply_id}",
            "object": "text_completion",
            "created": created_s,
            "model": asked.model,
        }
        self._texts: dict[int, list[str]] = {}
        self._sizes: dict[int, int] = {}
        self._logprobs: dict[int, list[Entry]] = {}
        self._finish: dict[int, str] = {}
        self._head = b"data: " + orjson.dumps(self._fixed)[:-1]
        self._usage = b',"usage":null' if asked.include_usage else b""

    def start(self, usage: Usage | None) -> None:
        """Nothing comes before the first choice."""

    def open(self, index: int) -> None:
        """Begin a choice."""
        self._texts[index] = []
        self._sizes[index] = 0
        self._logprobs[index] = []

    def text(self, index: int, text: str, logprobs: list[Entry] | None) -> None:
        """Serve text."""
        self._texts[index].append(text)
        start = self._sizes[index]
        self._sizes[index] += len(text)
        if logprobs:
            self._logprobs[index] += logprobs
        if self._asked.stream:
            self._chunk(index, text, _side_by_side(logprobs, start), None)

    def refusal(self, index: int, text: str) -> None:
        """A refusal is text here."""
        self.text(index, text, None)

    def reasoning(self, index: int, text: str) -> None:
        """There is no place for reasoning here."""

    def blob(self, index: int, sealed: str, *, redacted: bool) -> None:
        """There is no place for reasoning here."""

    def tool(self, index: int, slot: int, call_id: str, name: str) -> None:
        """There are no tools here."""

    def arguments(self, index: int, slot: int, text: str) -> None:
        """There are no tools here."""

    def finish(self, index: int, reason: str, stopped_by: str | None) -> None:
        """End a choice."""
        self._finish[index] = reason
        if self._asked.stream:
            self._chunk(index, "", None, reason)

    def end(self, usage: Usage | None) -> None:
        """End the stream."""
        if self._asked.include_usage:
            shown = orjson.dumps(completion_usage(usage))
            self.out.append(self._head + b',"choices":[],"usage":' + shown + b"}\n\n")
        self.out.append(b"data: [DONE]\n\n")

    def whole(self, usage: Usage | None) -> dict[str, Any]:
        """Return the completion."""
        choices = [
            {
                "index": index,
                "text": "".join(self._texts[index]),
                "logprobs": _side_by_side(self._logprobs[index], 0),
                "finish_reason": self._finish.get(index, "stop"),
            }
            for index in sorted(self._texts)
        ]
        shown = {} if usage is None else {"usage": completion_usage(usage)}
        return {**self._fixed, "choices": choices, **shown}

    def text_so_far(self) -> str:
        """Return the text served so far."""
        return "\n".join("".join(self._texts[index]) for index in sorted(self._texts))

    def _chunk(self, index: int, text: str, logprobs: Any, reason: str | None) -> None:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        self.out.append(
            self._head + b',"choices":[' + orjson.dumps(choice) + b"]" + self._usage + b"}\n\n"
        )


def _side_by_side(entries: list[Entry] | None, start: int) -> dict[str, Any] | None:
    if not entries:
        return None
    offsets = []
    for entry in entries:
        offsets.append(start)
        start += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [
            {other["token"]: other["logprob"] for other in entry["top_logprobs"]}
            for entry in entries
        ],
        "text_offset": offsets,
    }
