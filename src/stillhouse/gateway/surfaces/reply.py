"""An upstream's reply rebuilt for the client, the same way whole and as a stream.

A reader takes the reply apart into what the model said; the listener decides what of it the account
may have, counts it, and has a writer say that anew. No byte of the upstream's reply is passed on:
what no reader knows does not exist for the client.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gateway.refusals import error_event
from stillhouse.gateway.sse import EventReader
from stillhouse.gateway.strict_json import parse_lenient
from stillhouse.gateway.surfaces.listener import Listener
from stillhouse.gateway.surfaces.readers import EVENT, WHOLE
from stillhouse.gateway.surfaces.vectors import rebuild_embeddings

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.gateway.surfaces.policy import Asked, TierPolicy


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A whole reply for the client, or the refusal code to answer with."""

    body: bytes
    code: str | None = None


class ReplyRebuilder(Listener):
    """Rebuilds one reply. Use `whole` for one body, or `feed` and `finish` for a stream.

    `tier` can be harder than the one the request was read for, never softer. `reply_id` is the id
    the client sees. `random(n)` gives n random bytes. Nothing here raises, whatever is fed:
    `failed` then holds a refusal code.
    """

    def __init__(
        self,
        asked: Asked,
        *,
        reply_id: str,
        created_s: int,
        tier: TierPolicy | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ):
        super().__init__(asked, reply_id=reply_id, created_s=created_s, tier=tier, random=random)
        self.done = False
        self.most_tokens = asked.most_output_tokens
        self._out = self._writer.out
        self._events = EventReader()
        self._read_event = EVENT.get(asked.upstream_surface)

    @property
    def text(self) -> str:
        """The text served so far, choices in order."""
        return self._writer.text_so_far()

    def whole(self, body: bytes) -> Rebuilt:
        """Return the reply to serve for a whole reply of the upstream."""
        reply = parse_lenient(body)
        if reply is None:
            return self._broken("upstream_malformed")
        if self._asked.surface == "embeddings":
            return self._vectors(reply)
        WHOLE[self._asked.upstream_surface](reply, self)
        if self.failed is None and not self._choices:
            self.failed = "upstream_malformed"
        if self.failed is not None:
            return self._broken(self.failed)
        self.billed_bytes = self.produced.bytes  # usage is of all of it, wherever it stands
        self.produced.chunks = max(1, self.produced.chunks)
        self._end_choices()
        self.done = True
        return Rebuilt(orjson.dumps(self._writer.whole(self.usage)))

    def feed(self, chunk: bytes) -> bytes:
        """Return what to send for the next bytes of the upstream's stream, maybe nothing."""
        if self.done:
            return b""
        comments = self._events.comments
        for data in self._events.feed(chunk):
            if not self._take_event(data):
                return self._flush()
        if self._events.overflowed:
            self._fail("upstream_malformed")
        elif self._events.comments > comments:
            self._out.append(b":\n\n")
        return self._flush()

    def finish(self) -> bytes:
        """Return the stream's end, now that the upstream has closed it.

        Where it closed before any finish reason, that is an error event: the client must not take
        what it has for the whole reply.
        """
        if self.done:
            return b""
        for data in self._events.finish():
            if not self._take_event(data):
                return self._flush()
        if any(choice.finished for choice in self._choices.values()):
            self._end_choices()
            self._end()
        else:
            self._fail("upstream_failed")
        return self._flush()

    def cut(self) -> bytes:
        """End the stream here as if its bound of tokens was reached; return the last bytes."""
        if self.done:
            return b""
        if not self._choices:
            self.take_start(0)
        for index, choice in self._choices.items():
            if not choice.finished:
                self.take_finish(index, "length", None)
        self._end()
        return self._flush()

    def fail(self, code: str) -> bytes:
        """End the stream with an error event; return it."""
        if self.done:
            return b""
        self._fail(code)
        return self._flush()

    def _take_event(self, data: bytes) -> bool:
        """Take one event; return whether the stream goes on."""
        if data == b"[DONE]":
            self._complete()
            return False
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            event = parse_lenient(data)
        if type(event) is not dict or self._read_event is None:
            self._fail("upstream_malformed")
            return False
        self._read_event(event, self)
        if self.failed is not None:
            self._fail(self.failed)
        elif self._ended:
            self._complete()
        return not self.done

    def _complete(self) -> None:
        if not self._choices:
            self._fail("upstream_malformed")
            return
        self._end_choices()
        self._end()

    def _end(self) -> None:
        self._writer.end(self.usage)
        self.done = True

    def _fail(self, code: str) -> None:
        self.failed = code
        self.done = True
        dialect = "anthropic" if self._asked.surface == "messages" else "openai"
        self._out.append(error_event(code, None, dialect, self._reply_id))  # type: ignore[arg-type]

    def _flush(self) -> bytes:
        out = self._out
        if not out:
            return b""
        sent = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return sent

    def _broken(self, code: str) -> Rebuilt:
        self.failed = code
        self.done = True
        return Rebuilt(b"", code)

    def _vectors(self, reply: dict[str, Any]) -> Rebuilt:
        rebuilt, self.usage = rebuild_embeddings(reply, self._asked)
        if rebuilt is None:
            return self._broken("upstream_malformed")
        self.done = True
        self.produced.chunks = 1
        return Rebuilt(rebuilt)
