"""What a model said, as a reader reports it: counted, and served as far as the account may have it.

The reader says what it found in the upstream's reply, piece by piece; the writer says the same
anew, in the client's terms. Between the two stands this class and decides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from stillhouse.gateway.reasoning import ReasoningSplitter
from stillhouse.gateway.surfaces.logprobs import LogprobAligner
from stillhouse.gateway.surfaces.produced import Produced, Usage, utf8_size
from stillhouse.gateway.surfaces.writers import make_writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.gateway.surfaces.policy import Asked, TierPolicy

_CALL_ID = re.compile(r"[A-Za-z0-9_.:|-]{1,128}")
# Names are the model's words, but no client takes a name that is longer or has control characters.
_NAME = re.compile(r"[!-~]{1,128}")
_MOST_SLOTS = 1024


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


class Listener:
    """Takes what a reader reports of one reply. Nothing here raises, whatever is reported.

    `failed` is the refusal code once the upstream said that it failed. An index or slot may be any
    integer: it comes from the upstream.
    """

    def __init__(
        self,
        asked: Asked,
        *,
        reply_id: str,
        created_s: int,
        tier: TierPolicy | None,
        random: Callable[[int], bytes],
    ):
        tier = asked.tier if tier is None else tier
        self.produced = Produced()
        self.usage: Usage | None = None
        self.billed_bytes = 0  # of `produced` when the upstream last reported its output
        self.finish_reason: str | None = None
        self.tool_calls = 0
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
        self._choices: dict[int, _Choice] = {}
        self._seen: set[tuple[str, int, Any]] = set()
        self._ended = False

    def take_start(self, index: int) -> None:
        """A choice has begun."""
        if index not in self._choices:
            self._open(index)

    def take_text(self, index: int, text: str, entries: Any) -> None:
        """The model said `text`; `entries` are its log-probabilities."""
        produced = self.produced
        if text or entries:  # with entries alone it is a token that spells nothing yet
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

    def take_refusal(self, index: int, text: str) -> None:
        """The model declined, in these words."""
        self.produced.chunks += bool(text)
        self.produced.text_bytes += utf8_size(text)
        choice = self._choices.get(index) or self._open(index)
        if choice is not None:
            self._close_thought(index, choice)
            self._writer.refusal(index, text)

    def take_reasoning(self, index: int, text: str) -> None:
        """The model reasoned, in a field of its own."""
        self.produced.chunks += bool(text)
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

    def take_tool(self, index: int, slot: int, call_id: Any, name: Any) -> None:
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

    def take_arguments(self, index: int, slot: int, text: str) -> None:
        """More of a call's arguments, as JSON text."""
        self.produced.chunks += bool(text)
        self.produced.tool_bytes += utf8_size(text)
        choice = self._choices.get(index) or self._open(index)
        if choice is None or not text:
            return
        if slot in choice.calls:
            self._writer.arguments(index, slot, text)
        elif len(choice.waiting) < _MOST_SLOTS:
            choice.waiting.setdefault(slot, []).append(text)

    def take_usage(self, usage: Usage | None) -> None:
        """The upstream reported usage; half of one takes nothing back."""
        known = self.usage
        if usage is None or usage is known or (usage.tokens_out is None and known is not None):
            return
        self.usage = usage
        if usage.tokens_out is not None:
            self.billed_bytes = self.produced.bytes

    def take_once(self, kind: str, slot: int, part: Any) -> bool:
        """Return True the first time a part is named, and remember it."""
        key = (kind, slot, part if type(part) is int else 0)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def take_finish(self, index: int, reason: str, stopped_by: Any) -> None:
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

    def _open(self, index: int) -> _Choice | None:
        """Begin a choice. One that was not asked for is counted and not served."""
        if not 0 <= index < self._asked.choices:
            return None
        form = self._asked.served.reasoning
        splitter = ReasoningSplitter(form) if form.in_text else None
        aligner = None if self._top is None else LogprobAligner(self._top, self._step_milli)
        choice = self._choices[index] = _Choice(splitter, aligner)
        if len(self._choices) == 1:
            self._writer.start(self.usage)
        self._writer.open(index)
        return choice

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
