"""An upstream's reply rebuilt for the client, the same way whole and as a stream.

A reader takes the reply apart into what the model said; this class decides what of it the account
may have, counts it, and has a writer say that anew. No byte of the upstream's reply is passed on:
what no reader knows does not exist for the client.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gateway.reasoning import ReasoningSplitter
from stillhouse.gateway.refusals import error_event
from stillhouse.gateway.sse import EventReader
from stillhouse.gateway.strict_json import parse_lenient
from stillhouse.gateway.surfaces.logprobs import LogprobAligner
from stillhouse.gateway.surfaces.produced import Produced, Usage, utf8_size
from stillhouse.gateway.surfaces.readers import EVENT, WHOLE
from stillhouse.gateway.surfaces.vectors import rebuild_embeddings
from stillhouse.gateway.surfaces.writers import make_writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.gateway.surfaces.policy import Asked, TierPolicy

_CALL_ID = re.compile(r"[A-Za-z0-9_.:|-]{1,128}")
# Names are the model's words, but no client takes a name that is longer or has control characters.
_NAME = re.compile(r"[!-~]{1,128}")
_MOST_SLOTS = 1024


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A whole reply for the client, or the refusal code to answer with."""

    body: bytes
    code: str | None = None


class _Choice:
    """What is known of one choice while its reply is read."""

    __slots__ = ("aligner", "calls", "finished", "splitter", "thought", "waiting")

    def __init__(self, splitter: ReasoningSplitter | None, aligner: LogprobAligner | None):
        self.splitter = splitter
        self.aligner = aligner
        self.finished = False
        self.calls: set[int] = set()
        self.waiting: dict[int, list[str]] = {}  # arguments that came before the tool's name
        self.thought: list[str] = []  # reasoning to seal once it ends


class ReplyRebuilder:
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
        tier = asked.tier if tier is None else tier
        self.produced = Produced()
        self.usage: Usage | None = None
        self.billed_bytes = 0  # of `produced` when the upstream last reported usage
        self.finish_reason: str | None = None
        self.tool_calls = 0
        self.done = False
        self.failed: str | None = None
        top = asked.top_logprobs
        sold = min(tier.top_logprobs, asked.tier.top_logprobs)
        self._top = None if top is None or sold == 0 else min(top, sold)
        self.logprobs_wanted = self._top is not None
        self._step_milli = max(tier.logprob_step_milli, asked.tier.logprob_step_milli)
        self._show_reasoning = tier.reasoning and asked.tier.reasoning
        self._seals = asked.blobs and tier.reasoning_blobs
        self._asked = asked
        self._reply_id = reply_id
        self._now_us = created_s * 1_000_000
        self._random = random
        self._writer = make_writer(asked, reply_id, created_s)
        self._out = self._writer.out
        self._events = EventReader()
        self._read_event = EVENT.get(asked.upstream_surface)
        self._choices: dict[int, _Choice] = {}
        self._seen: set[tuple[str, int, Any]] = set()
        self._ended = False

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

    # What readers report. An index or slot may be anything: it comes from the upstream.

    def take_start(self, index: Any) -> None:
        """A choice has begun."""
        if index not in self._choices:
            self._open(index)

    def take_text(self, index: Any, text: str, entries: Any) -> None:
        """The model said `text`; `entries` are its log-probabilities."""
        produced = self.produced
        produced.chunks += 1
        # Counted as it arrives, also what is held back: an abort pays for it.
        produced.text_bytes += len(text) if text.isascii() else utf8_size(text)
        choice = self._choices.get(index) or self._open(index)
        if choice is None:
            return
        if choice.splitter is not None:
            text, thought = choice.splitter.feed(text)
            if thought:
                produced.text_bytes -= utf8_size(thought)
                self._think(index, choice, thought)
        if choice.thought and text:
            self._close_thought(index, choice)
        if choice.aligner is not None:
            served = choice.aligner.add(text, entries)
            if text or served:
                self._writer.text(index, text, served)
        elif text:
            self._writer.text(index, text, None)

    def take_refusal(self, index: Any, text: str) -> None:
        """The model declined, in these words."""
        self.produced.chunks += 1
        self.produced.text_bytes += utf8_size(text)
        choice = self._choices.get(index) or self._open(index)
        if choice is not None:
            self._close_thought(index, choice)
            self._writer.refusal(index, text)

    def take_reasoning(self, index: Any, text: str) -> None:
        """The model reasoned, in a field of its own."""
        self.produced.chunks += 1
        choice = self._choices.get(index) or self._open(index)
        if choice is None:
            self.produced.reasoning_bytes += utf8_size(text)
        elif text:
            self._think(index, choice, text)

    def take_signature(self, signature: str) -> None:
        """The reasoning so far is complete; the upstream signed it."""
        choice = self._choices.get(0) or self._open(0)
        if choice is None:
            return
        if self._seals:
            blob = {"t": "".join(choice.thought), "s": signature}
            self._writer.blob(0, self._seal(blob), redacted=False)
        choice.thought.clear()

    def take_blob(self, blob: dict[str, Any]) -> None:
        """The upstream sent reasoning that only it can read."""
        self.produced.chunks += 1
        self.produced.reasoning_bytes += sum(len(part) for part in blob.values())
        choice = self._choices.get(0) or self._open(0)
        if choice is None:
            return
        choice.thought.clear()
        if self._seals:
            self._writer.blob(0, self._seal(blob), redacted="d" in blob)

    def take_tool(self, index: Any, slot: int, call_id: Any, name: Any) -> None:
        """The model calls a tool; said again with every piece by some upstreams."""
        choice = self._choices.get(index) or self._open(index)
        if choice is None or slot in choice.calls or len(choice.calls) >= _MOST_SLOTS:
            return
        if type(name) is not str or not _NAME.fullmatch(name):
            return
        choice.calls.add(slot)
        self.tool_calls += 1
        self.produced.chunks += 1
        self.produced.tool_bytes += len(name)
        if choice.splitter is not None and choice.splitter.undecided:
            self._flush_choice(index, choice)
        self._close_thought(index, choice)
        if type(call_id) is not str or not _CALL_ID.fullmatch(call_id):
            call_id = f"call_{self._reply_id}_{self.tool_calls - 1}"
        self._writer.tool(index, slot, call_id, name)
        for piece in choice.waiting.pop(slot, ()):
            self._writer.arguments(index, slot, piece)

    def take_arguments(self, index: Any, slot: int, text: str) -> None:
        """More of a call's arguments, as JSON text."""
        self.produced.chunks += 1
        self.produced.tool_bytes += utf8_size(text)
        choice = self._choices.get(index) or self._open(index)
        if choice is None or not text:
            return
        if slot in choice.calls:
            self._writer.arguments(index, slot, text)
        elif len(choice.waiting) < _MOST_SLOTS:
            choice.waiting.setdefault(slot, []).append(text)

    def take_once(self, kind: str, slot: int, part: Any) -> bool:
        """Return True the first time a part is named, and remember it."""
        key = (kind, slot, part if type(part) is int else 0)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def take_finish(self, index: Any, reason: str, stopped_by: Any) -> None:
        """A choice has ended."""
        choice = self._choices.get(index) or self._open(index)
        if choice is None or choice.finished:
            return
        choice.finished = True
        self._flush_choice(index, choice)
        self._close_thought(index, choice)
        if self.finish_reason is None or index == 0:
            self.finish_reason = reason
        known = type(stopped_by) is str and stopped_by in self._asked.stop
        self._writer.finish(index, reason, stopped_by if known else None)

    def take_end(self) -> None:
        """The reply is complete."""
        self._ended = True

    def take_error(self) -> None:
        """The upstream failed. Its words may hold anything, so none of them are kept."""
        self.failed = self.failed or "upstream_failed"

    # Inside.

    def _open(self, index: Any) -> _Choice | None:
        """Begin a choice. One that was not asked for is counted and not served."""
        if type(index) is not int or not 0 <= index < self._asked.choices:
            return None
        form = self._asked.served.reasoning
        splitter = ReasoningSplitter(form) if form.in_text else None
        aligner = None if self._top is None else LogprobAligner(self._top, self._step_milli)
        choice = self._choices[index] = _Choice(splitter, aligner)
        if len(self._choices) == 1:
            self._writer.start(self.usage)
        self._writer.open(index)
        return choice

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
        usage = self.usage
        self._read_event(event, self)
        if self.usage is not usage:
            self.billed_bytes = self.produced.bytes
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

    def _think(self, index: int, choice: _Choice, text: str) -> None:
        self.produced.reasoning_bytes += utf8_size(text)
        if self._seals:
            choice.thought.append(text)
        if self._show_reasoning:
            self._writer.reasoning(index, text)

    def _close_thought(self, index: int, choice: _Choice) -> None:
        if choice.thought:
            blob = {"t": "".join(choice.thought)}
            choice.thought.clear()
            self._writer.blob(index, self._seal(blob), redacted=False)

    def _seal(self, blob: dict[str, Any]) -> str:
        asked = self._asked
        seal = asked.policy.seal
        if seal is None:  # never: blobs are only asked for where there is a seal
            return ""
        return seal.seal(
            blob,
            account=asked.policy.account,
            session=asked.session,
            model=asked.model,
            now_us=self._now_us,
            random=self._random,
        )

    def _flush_choice(self, index: int, choice: _Choice) -> None:
        if choice.splitter is None:
            return
        text, thought = choice.splitter.finish()
        if thought:
            self.produced.text_bytes -= utf8_size(thought)
            self._think(index, choice, thought)
        if text:
            self._close_thought(index, choice)
            self._writer.text(index, text, None)

    def _end_choices(self) -> None:
        for index, choice in self._choices.items():
            if not choice.finished:
                self.take_finish(index, "stop", None)

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
