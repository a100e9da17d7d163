"""Which writer says a reply anew, and what all of them must be able to say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from stillhouse.gateway.surfaces.write_chat import ChatWriter
from stillhouse.gateway.surfaces.write_completion import CompletionWriter
from stillhouse.gateway.surfaces.write_message import MessageWriter
from stillhouse.gateway.surfaces.write_response import ResponseWriter

if TYPE_CHECKING:
    from stillhouse.gateway.surfaces.logprobs import Entry
    from stillhouse.gateway.surfaces.policy import Asked
    from stillhouse.gateway.surfaces.produced import Usage


class Writer(Protocol):
    """Says a reply in the client's terms: events into `out` as it goes, or `whole` at the end."""

    out: list[bytes]

    def start(self, usage: Usage | None) -> None:
        """Begin the reply."""

    def open(self, index: int) -> None:
        """Begin a choice."""

    def text(self, index: int, text: str, logprobs: list[Entry] | None) -> None:
        """Serve text, with log-probabilities where they are sold."""

    def refusal(self, index: int, text: str) -> None:
        """Serve the words of a refusal by the model."""

    def reasoning(self, index: int, text: str) -> None:
        """Serve reasoning to an account that may read it."""

    def blob(self, index: int, sealed: str, *, redacted: bool) -> None:
        """Serve sealed reasoning, which ends the reasoning before it."""

    def tool(self, index: int, slot: int, call_id: str, name: str) -> None:
        """Begin a tool call."""

    def arguments(self, index: int, slot: int, text: str) -> None:
        """Serve more of a call's arguments."""

    def finish(self, index: int, reason: str, stopped_by: str | None) -> None:
        """End a choice; `stopped_by` is one of the client's own stop sequences."""

    def end(self, usage: Usage | None) -> None:
        """End the reply."""

    def whole(self, usage: Usage | None) -> dict[str, Any]:
        """Return the reply as one object."""

    def text_so_far(self) -> str:
        """Return the text served so far."""


def make_writer(asked: Asked, reply_id: str, created_s: int) -> Writer:
    """Return the writer for a request's surface."""
    if asked.surface == "messages":
        return MessageWriter(asked, reply_id)
    if asked.surface == "responses":
        return ResponseWriter(asked, reply_id, created_s)
    if asked.surface == "chat":
        return ChatWriter(asked, reply_id, created_s)
    return CompletionWriter(asked, reply_id, created_s)
