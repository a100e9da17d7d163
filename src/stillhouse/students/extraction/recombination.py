"""New training documents out of old ones: lines, labels and codes change places.

Lines that give fields are lifted out of every training document with slots where the values stood.
A recombined document says some of its own values in lines of documents from other groups (layouts),
loses or gains optional fields with their lines, and wears codes of other shapes. Nothing enters
that some training document or reply does not hold, but made-up codes, dates and amounts in the
written forms of the training documents. So no line is known by the company it keeps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from stillhouse.students.extraction.decoys import (
    AMOUNT,
    DECOYS,
    NameFinder,
    Slot,
    decoy_marks,
    is_code,
    with_unit,
)
from stillhouse.students.extraction.examples import Reply, right_options
from stillhouse.students.extraction.readings import Kind, Reading, read_all
from stillhouse.students.extraction.redating import redate
from stillhouse.students.extraction.relaying import relay
from stillhouse.students.extraction.rendering import (
    code_shape,
    random_code,
    render_amount,
    render_date,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from stillhouse.students.extraction.fields import Field

_TERMS = (7, 10, 14, 15, 20, 21, 30, 45, 60, 90)
_HEADING = re.compile(r"(?!>)\W*[^\W\d_][^\d:\]]{0,30}[:\]]\W*")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a document: literal parts around slots; `raw` holds what stood in the slots."""

    literals: tuple[str, ...]
    slots: tuple[Slot, ...]
    raw: tuple[str, ...]

    def filled(self, values: dict[Slot, str]) -> str:
        """The line with these values."""
        parts = [self.literals[0]]
        for slot, literal in zip(self.slots, self.literals[1:], strict=True):
            parts += [values[slot], literal]
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Rates:
    """How often each change is made, as a probability per document, line or field."""

    line: float = 0.45
    split: float = 0.4
    merge: float = 0.3
    drop: float = 0.12
    add: float = 0.25
    code: float = 0.5
    swap: float = 0.25
    typo: float = 0.3
    dates: float = 0.35
    relay: float = 0.5
    decoy: float = 0.2


class Recombiner:
    """Built from training documents as (text, reply, group)."""

    def __init__(
        self,
        documents: Sequence[tuple[str, Reply, str]],
        fields: Sequence[Field],
        rates: Rates | None = None,
    ) -> None:
        self._rates = rates or Rates()
        self._fields = {field.name: field for field in fields}
        self._names = NameFinder(documents, fields)
        donors: dict[frozenset[Slot], dict[str, list[Line]]] = {}
        self._codes: set[str] = set()
        for text, reply, group in documents:
            for line in self._lines(text, reply):
                if isinstance(line, Line) and _tells(line):
                    pool = donors.setdefault(frozenset(line.slots), {})
                    pool.setdefault(group, []).append(line)
            for name, value in reply.items():
                if self._fields[name].kind == "text" and is_code(value):
                    self._codes.add(re.sub(r"\d", "0", value))
        self._pools = {key: list(groups.values()) for key, groups in donors.items()}
        self._patterns = sorted(self._codes)

    def recombine(self, text: str, reply: Reply, random: Random) -> tuple[str, Reply]:
        """A changed document and its reply; the given ones where nothing could be changed."""
        reply = dict(reply)
        lines = self._lines(text, reply)
        values = self._values(lines, reply)
        lines = self._dropped(lines, reply, random)
        lines = self._relaid(lines, values, random)
        lines = self._added(lines, reply, values, random)
        lines = self._with_decoys(lines, reply, values, random)
        if random.random() < self._rates.swap:
            _swap(lines, random)
        text = "\n".join(line if isinstance(line, str) else _joined(line) for line in lines)
        if random.random() < self._rates.relay:
            text = relay(text, random)
        if random.random() < self._rates.dates:
            text = redate(text, reply, random)
        text = self._coded(text, reply, random)
        return _mistyped(text, self._rates.typo, random), reply

    def _lines(self, text: str, reply: Reply) -> list[Line | str]:
        """Lines with slots; a plain str where a line holds no field or something else beside.

        A heading above a line that is a field's goes with that line.
        """
        readings = read_all(text)
        marks = self._marks(text, reply, readings)
        decoys = decoy_marks(text, readings, self._names)
        made: list[Line | str] = []
        at = 0
        for raw in text.split("\n"):
            end = at + len(raw)
            inside = [m for m in marks if at <= m[0] < end]
            if not inside and not raw.startswith(">"):
                inside = [m for m in decoys if at <= m[0] < end]
            line = _slotted(text, at, end, inside) if inside else raw
            above = made[-1] if made else None
            if isinstance(line, Line) and isinstance(above, str) and _HEADING.fullmatch(above):
                made.pop()
                line = replace(line, literals=(f"{above}\n{line.literals[0]}", *line.literals[1:]))
            made.append(line)
            at = end + 1
        return made

    def _with_decoys(
        self, lines: list[Line | str], reply: Reply, values: dict[Slot, str], random: Random
    ) -> list[Line | str]:
        """Lines of other documents with a name or an amount that is no field's."""
        spots = [i for i, one in enumerate(lines) if isinstance(one, Line)]
        for slot in (DECOYS["text"], DECOYS["number"]):
            pool = self._pools.get(frozenset({slot}))
            if not pool or not spots or random.random() >= self._rates.decoy:
                continue
            donor = random.choice(random.choice(pool))
            if slot == DECOYS["text"]:
                name = self._names.other(reply, random)
                made: tuple[Any, str] | None = (name, name)
            else:
                made = self._part_of_an_amount(reply, values, random)
            if made is not None:
                new = _refilled(donor, {slot: made[1]})
                lines.insert(random.choice(spots) + 1, new)
        return lines

    def _marks(
        self, text: str, reply: Reply, readings: dict[Kind, list[Reading]]
    ) -> list[tuple[int, int, Slot]]:
        found: list[tuple[int, int, Slot]] = []
        for name, field in self._fields.items():
            if field.kind == "choice" or reply.get(name) is None:
                continue
            kinds: tuple[Any, ...] = (field.kind, "days") if field.days_after else (field.kind,)
            options = [one for kind in kinds for one in readings[kind]]
            for index in right_options(options, field, reply):
                one = options[index]
                start, end = one.start, one.end
                if one.kind == "number":
                    start, end = with_unit(text, one)
                found.append((start, end, (name, one.kind)))
        found.sort(key=lambda m: (m[0], m[0] - m[1]))
        return found

    def _values(self, lines: Sequence[Line | str], reply: Reply) -> dict[Slot, str]:
        """How the document writes each field, with what can be written in the other form."""
        values: dict[Slot, str] = {}
        for line in lines:
            if isinstance(line, Line):
                for slot, raw in zip(line.slots, line.raw, strict=True):
                    values.setdefault(slot, raw)
        for name, field in self._fields.items():
            base = field.days_after
            if base is None or reply.get(name) is None or reply.get(base) is None:
                continue
            days = (reply[name] - reply[base]).days
            like = values.get((base, "date"))
            if days in _TERMS:
                values.setdefault((name, "days"), str(days))
            if like is not None and "/" not in like:
                written = render_date(reply[name], like)
                if written is not None:
                    values.setdefault((name, "date"), written)
        return values

    def _dropped(self, lines: list[Line | str], reply: Reply, random: Random) -> list[Line | str]:
        for name, field in self._fields.items():
            if not field.optional or reply.get(name) is None:
                continue
            if random.random() >= self._rates.drop:
                continue
            holding = [one for one in lines if isinstance(one, Line) and _names(one) & {name}]
            loose = any(
                _joined(one).find(str(reply[name])) >= 0 for one in lines if isinstance(one, str)
            )
            if holding and not loose and all(_names(one) == {name} for one in holding):
                lines = [one for one in lines if one not in holding]
                reply[name] = None
        return lines

    def _relaid(
        self, lines: list[Line | str], values: dict[Slot, str], random: Random
    ) -> list[Line | str]:
        made: list[Line | str] = []
        index = 0
        while index < len(lines):
            line = lines[index]
            index += 1
            if not isinstance(line, Line) or random.random() >= self._rates.line:
                made.append(line)
                continue
            wanted = _names(line)
            if index < len(lines) and random.random() < self._rates.merge:
                after = lines[index]
                if isinstance(after, Line) and self._pick(wanted | _names(after), values, random):
                    wanted = wanted | _names(after)
                    index += 1
            parts = [wanted]
            if len(wanted) > 1 and random.random() < self._rates.split:
                parts = [{name} for name in sorted(wanted)]
            donors = [self._pick(part, values, random) for part in parts]
            if all(donors):
                own = values | dict(zip(line.slots, line.raw, strict=True))
                made += [_refilled(donor, own) for donor in donors if donor]
            else:
                made.append(line)
        return made

    def _pick(self, names: set[str], values: dict[Slot, str], random: Random) -> Line | None:
        """A donor line for exactly these fields whose slots can be filled."""
        keys = [
            key
            for key in self._pools
            if {name for name, _ in key} == names and all(slot in values for slot in key)
        ]
        if not keys:
            return None
        keys.sort(key=sorted)
        weights = [len(self._pools[key]) for key in keys]
        return random.choice(random.choice(self._pools[random.choices(keys, weights)[0]]))

    def _added(
        self, lines: list[Line | str], reply: Reply, values: dict[Slot, str], random: Random
    ) -> list[Line | str]:
        for name, field in self._fields.items():
            if not field.optional or reply.get(name) is not None:
                continue
            if random.random() >= self._rates.add:
                continue
            kinds = ("date", "days") if field.days_after else (field.kind,)
            kind = random.choice(kinds)
            pool = self._pools.get(frozenset({(name, kind)}))
            spots = [i for i, one in enumerate(lines) if isinstance(one, Line)]
            if not pool or not spots or any(slot[0] == name for slot in values):
                continue
            donor = random.choice(random.choice(pool))
            made = self._invented(field, kind, reply, values, random)
            if made is None:
                continue
            reply[name], written = made
            lines.insert(random.choice(spots) + 1, _refilled(donor, {(name, kind): written}))
        return lines

    def _invented(
        self,
        field: Field,
        kind: str,
        reply: Reply,
        values: dict[Slot, str],
        random: Random,
    ) -> tuple[Any, str] | None:
        if field.kind == "text":
            code = random_code(random.choice(self._patterns), random)
            return code, code
        if field.kind == "date":
            base = reply.get(field.days_after or "")
            if base is None:
                return None
            days = random.choice(_TERMS)
            value = base + timedelta(days)
            if kind == "days":
                return value, str(days)
            like = values.get((field.days_after or "", "date"))
            written = render_date(value, like) if like is not None and "/" not in like else None
            return None if written is None else (value, written)
        return self._part_of_an_amount(reply, values, random)

    def _part_of_an_amount(
        self, reply: Reply, values: dict[Slot, str], random: Random
    ) -> tuple[float, str] | None:
        amounts = [
            (slot, raw)
            for slot, raw in values.items()
            if slot[1] == "number" and reply.get(slot[0]) is not None
        ]
        if not amounts:
            return None
        slot, like = random.choice(amounts)
        value = round(float(reply[slot[0]]) * random.uniform(0.02, 0.2), 2)
        written = render_amount(value, like)
        return None if written is None or value < 0.01 else (value, written)

    def _coded(self, text: str, reply: Reply, random: Random) -> str:
        for name, field in self._fields.items():
            value = reply.get(name)
            if field.kind != "text" or not is_code(value) or random.random() >= self._rates.code:
                continue
            pattern = random.choice(self._patterns)
            if random.random() < 0.3:
                cut = random.randrange(1, len(pattern))
                other = random.choice(self._patterns)
                pattern = (pattern[:cut] + other[-max(2, len(other) // 2) :]).replace("//", "/")
            if not pattern[-1].isalnum() or not any(c.isdigit() for c in pattern):
                continue
            new = random_code(pattern, random)
            shape = rf"(?<![\w/-]){code_shape(str(value))}(?![\w/-])"
            text = re.sub(
                shape,
                lambda found, v=value, n=new: n if found[0] == v else random_code(n, random),  # type: ignore[misc]
                text,
            )
            reply[name] = new
        return text


def _names(line: Line) -> set[str]:
    return {name for name, _ in line.slots}


def _tells(line: Line) -> bool:
    """Whether a line says what it is: names in lines of their own are whose their place says."""
    bare = not any(c.isalpha() for literal in line.literals for c in literal)
    return not (bare and line.slots[0] == DECOYS["text"])


def _joined(line: Line | str) -> str:
    return (
        line if isinstance(line, str) else line.filled(dict(zip(line.slots, line.raw, strict=True)))
    )


def _refilled(donor: Line, values: dict[Slot, str]) -> Line:
    return Line(donor.literals, donor.slots, tuple(values[slot] for slot in donor.slots))


def _slotted(text: str, start: int, end: int, marks: list[tuple[int, int, Slot]]) -> Line | str:
    """The line as literals and slots, or as it stands if anything else in it is a value."""
    kept: list[tuple[int, int, Slot]] = []
    for mark in marks:
        if mark[1] <= end and (not kept or mark[0] >= kept[-1][1]):
            kept.append(mark)
    slots = tuple(mark[2] for mark in kept)
    edges = [start, *[edge for mark in kept for edge in mark[:2]], end]
    literals = tuple(text[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2))
    rest = " ".join(literals)
    clean = len(set(slots)) == len(slots) and not AMOUNT.search(rest)
    if not clean or read_all(rest)["date"] or len(rest) > 240:
        return text[start:end]
    return Line(literals, slots, tuple(text[mark[0] : mark[1]] for mark in kept))


def _swap(lines: list[Line | str], random: Random) -> None:
    """Two neighbouring lines with fields change places."""
    pairs = [
        i
        for i in range(len(lines) - 1)
        if isinstance(lines[i], Line) and isinstance(lines[i + 1], Line)
    ]
    if pairs:
        at = random.choice(pairs)
        lines[at], lines[at + 1] = lines[at + 1], lines[at]


def _mistyped(text: str, rate: float, random: Random) -> str:
    """Two letters of up to two lower-case words change places."""
    for _ in range(2):
        if random.random() >= rate:
            continue
        words = list(re.finditer(r"(?<![\w.@-])[A-Za-z]?[a-z]{4,}(?=:|  | [a-z])", text))
        if words:
            word = random.choice(words)
            at = word.start() + random.randrange(1, len(word[0]) - 1)
            text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text
