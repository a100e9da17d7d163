"""What is like a field's value in a document, but is no field's: names, amounts and dates.

A buyer beside a seller, a deposit beside a total: their lines change places between layouts too, so
that what is learned is which label means the field, not that its layout has one such value.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from stillhouse.students.extraction.readings import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    from stillhouse.students.extraction.examples import Reply
    from stillhouse.students.extraction.fields import Field
    from stillhouse.students.extraction.readings import Reading

Slot = tuple[str, str]  # field name, kind of reading

_UNIT = r"(?:[^\w\s.,:;()\[\]{}<>|*\"'/+=-]|[A-Z]{3}|z\u0142)"
_BEFORE, _AFTER = re.compile(_UNIT + r" ?$"), re.compile(" ?" + _UNIT + r"(?!\w)")
AMOUNT = re.compile(r"\d[.,]\d\d(?!\d|%)")
DECOYS: dict[Kind, Slot] = {kind: (f"~{kind}", kind) for kind in ("text", "number", "date")}
_OFTEN = 20  # documents that make a word or the end of a name a usual one


class NameFinder:
    """Finds what is like the values of a text field that are no codes: by how they end."""

    def __init__(
        self, documents: Sequence[tuple[str, Reply, str]], fields: Sequence[Field]
    ) -> None:
        texts = [field.name for field in fields if field.kind == "text"]
        self._values: list[str] = sorted(
            {
                reply[name]
                for _, reply, _ in documents
                for name in texts
                if reply.get(name) is not None and not is_code(reply[name])
            }
        )
        ends = Counter(value.rpartition(" ")[2] for value in self._values if " " in value)
        self._ends = tuple(f" {end}" for end, count in ends.items() if count >= _OFTEN)
        self._words = {word for value in self._values for word in value.split()}
        usual = Counter(word for text, _, _ in documents for word in set(text.split()))
        self._usual = {word for word, count in usual.items() if count >= _OFTEN} - self._words

    def spans(self, texts: Sequence[Reading]) -> list[tuple[int, int]]:
        """Where such values stand: the longest readings that start with no usual word."""
        found: dict[int, int] = {}
        for one in texts:
            words = str(one.value).split()
            if str(one.value).endswith(self._ends) and not self._usual & set(words[:2]):
                found.setdefault(one.end, one.start)
        return [(start, end) for end, start in found.items()]

    def other(self, reply: Reply, random: Random) -> str:
        """A value of another document."""
        value = random.choice(self._values)
        return value if value not in reply.values() else random.choice(self._values)


def decoy_marks(
    text: str, readings: Mapping[Kind, Sequence[Reading]], names: NameFinder
) -> list[tuple[int, int, Slot]]:
    """Where amounts, dates and names stand, a field's own among them."""
    found: list[tuple[int, int, Slot]] = []
    for one in readings["number"]:
        if AMOUNT.search(text[one.start : one.end]):
            found.append((*with_unit(text, one), DECOYS["number"]))
    found += [(one.start, one.end, DECOYS["date"]) for one in readings["date"]]
    found += [(*span, DECOYS["text"]) for span in names.spans(readings["text"])]
    found.sort(key=lambda m: (m[0], m[0] - m[1]))
    return [m for at, m in enumerate(found) if at == 0 or m[0] >= found[at - 1][1]]


def is_code(value: Any) -> bool:
    """Whether a value is one word with a digit."""
    return isinstance(value, str) and " " not in value and any(c.isdigit() for c in value)


def with_unit(text: str, one: Reading) -> tuple[int, int]:
    """An amount and the currency mark at its side."""
    before = _BEFORE.search(text, max(0, one.start - 4), one.start)
    if before:
        return before.start(), one.end
    after = _AFTER.match(text, one.end)
    return one.start, after.end() if after else one.end
