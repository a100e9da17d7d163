"""Where a model's reasoning ends and its answer begins, in text that arrives in pieces.

A reasoning model without a parser in its server writes its reasoning into the reply, between
delimiters that belong to the model. They mean reasoning in one place only: at the start of the
reply. The same characters anywhere later (code, a quotation, an explanation of the tags) are part
of the answer and are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from stillhouse.exchanges import InputError


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """How an upstream writes its reasoning into the text of a reply.

    `tags` are pairs of an opening and a closing delimiter; none where reasoning arrives in fields
    of its own (those are always known). `starts_open`: the chat template has already written the
    first pair's opening delimiter, so a reply begins inside the reasoning.
    """

    tags: tuple[tuple[str, str], ...] = ()
    starts_open: bool = False

    def __post_init__(self) -> None:
        opens = [pair[0] for pair in self.tags]
        if any(not a.strip() or not b.strip() or a != a.strip() for a, b in self.tags):
            raise InputError(
                "a reasoning delimiter is empty or begins or ends with white space",
                repair="write it as the model does, without white space around it",
            )
        if any(a != b and b.startswith(a) for a in opens for b in opens) or len(set(opens)) < len(
            opens
        ):
            raise InputError(
                "one opening delimiter begins another, so text in pieces cannot tell them apart",
                repair="keep the shorter one",
            )
        if self.starts_open and not self.tags:
            raise InputError(
                "starts_open needs a pair of tags", repair="name the closing delimiter"
            )

    @property
    def in_text(self) -> bool:
        """True if reasoning may be part of the text."""
        return bool(self.tags)


class ReasoningSplitter:
    """Splits one reply's text into answer and reasoning, the same for every way it is cut up.

    White space between the closing delimiter and the answer belongs to the delimiter. A reply that
    ends inside its reasoning has no answer.
    """

    __slots__ = ("_close", "_held", "_state", "_tags")

    def __init__(self, form: ReasoningFormat):
        self._tags = form.tags
        self._held = ""
        self._close = form.tags[0][1] if form.starts_open else ""
        self._state = _INSIDE if form.starts_open else _START if form.tags else _ANSWER

    @property
    def undecided(self) -> bool:
        """True until it is known whether the reply begins with reasoning."""
        return self._state is _START

    def feed(self, text: str) -> tuple[str, str]:
        """Return (answer, reasoning) that `text` makes certain; the delimiters are in neither."""
        if self._state is _ANSWER:
            return text, ""
        held, reasoning = self._held + text, ""
        if self._state is _START:
            body = held.lstrip(_SPACE)
            for opening, closing in self._tags:
                if body.startswith(opening):
                    held = body[len(opening) :]
                    self._close, self._state = closing, _INSIDE
                    break
                if opening.startswith(body):
                    self._held = held
                    return "", ""
            else:
                self._held, self._state = "", _ANSWER
                return held, ""
        if self._state is _INSIDE:
            at = held.find(self._close)
            if at < 0:
                sure = len(held) - _overlap(held, self._close)
                self._held = held[sure:]
                return "", held[:sure]
            reasoning = held[:at]
            held = held[at + len(self._close) :]
            self._state = _GAP
        self._held = ""
        held = held.lstrip(_SPACE)
        if held:
            self._state = _ANSWER
        return held, reasoning

    def finish(self) -> tuple[str, str]:
        """Return what is still held: at the start it is answer, inside the reasoning reasoning."""
        held, self._held = self._held, ""
        if self._state is _START and held:
            self._state = _ANSWER
        return ("", held) if self._state is _INSIDE else (held, "")


_START, _INSIDE, _GAP, _ANSWER = "start", "inside", "gap", "answer"
_SPACE = " \t\r\n"


def _overlap(text: str, closing: str) -> int:
    """Return the length of the longest end of `text` that begins `closing`."""
    for size in range(min(len(text), len(closing) - 1), 0, -1):
        if closing.startswith(text[-size:]):
            return size
    return 0
