"""What a stretch of text can be read as: a text, a number, a date or a count of days.

An extracting student never writes values; it points at one of these readings. The rules here are
about number and calendar formats only. Which reading is whose (and whether 03/04/2026 is in March
or in April) is what the student learns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["text", "number", "date", "days"]
Value = str | float | date | int

MAX_WORDS = 7  # of a text value
DAY_FIRST, MONTH_FIRST = 1, 2  # how an all-number date was read; 0 where its form settles it

_MONTHS = (
    "january february march april may june july august september october november december",
    "januar februar märz april mai juni juli august september oktober november dezember",
    "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
    (
        "styczeń luty marzec kwiecień maj czerwiec"
        " lipiec sierpień wrzesień październik listopad grudzień"
    ),
    (
        "stycznia lutego marca kwietnia maja czerwca"
        " lipca sierpnia września października listopada grudnia"
    ),
    "januari februari maart april mei juni juli augustus september oktober november december",
)
_LEADERS = r"(?<=\.\.)|(?<=__)|(?<=--)"  # dots and the like up to a value
_FREE = rf"(?:(?<![\w.,/-])|{_LEADERS})"
_NAME = r"([^\W\d_]{3,12})\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th|er|\.)?"
_YEAR = r"((?:19|20)\d\d|(?<=[-/.'\u2019])\d\d)"
_OF = r"(?: of| de| del)?[ ./-]"
_END = r"(?:(?![\w/-]|\.\d)|(?=T\d\d:))"
_DATES = (
    ("ymd", re.compile(rf"(?:{_FREE}|(?<=,))((?:19|20)\d\d)([-/.])(\d{{1,2}})\2(\d{{1,2}}){_END}")),
    ("ymd", re.compile(rf"{_FREE}((?:19|20)\d\d)()(0[1-9]|1[0-2])([0-3]\d){_END}")),
    ("numeric", re.compile(rf"{_FREE}(\d{{1,2}})([-/.])(\d{{1,2}})\2(\d{{4}}|\d\d){_END}")),
    ("dmy", re.compile(rf"{_FREE}{_DAY}{_OF}{_NAME},?{_OF}['\u2019]?{_YEAR}(?![\w:])")),
    ("mdy", re.compile(rf"(?<!\w){_NAME}[ ./-]{_DAY},?[ ./-]['\u2019]?{_YEAR}(?![\w:])")),
)
_FRONT = rf"(?:{_FREE}|(?<=[A-Z]{{3}}))"
_BACK = r"(?:(?![\w/-]|[.,']\d)|(?=[A-Z]{3}\b)|(?=-\D))"
_NUMBERS = (
    re.compile(_FRONT + r"\d{1,3}(?:[ \u00a0\u202f'\u2019]\d{3})+(?:[.,]\d{1,2})?" + _BACK),
    re.compile(_FRONT + r"\d{1,3}(?:([.,])\d{3})?(?:\1\d{3})*(?:[.,]\d{1,2})?" + _BACK),
    re.compile(_FRONT + r"\d{4,9}(?:[.,]\d{1,2})?" + _BACK),
)
_DAYS = re.compile(
    r"(?:(?<![\w.,/:-])|(?<=[A-Za-z]{3})|(?<=[Nn]et-)|(?<=[A-Za-z]:))[1-9]\d{0,2}"
    r"(?:(?![\w/:%]|[.,-]\d)|(?=d\b))"
)
_ATOM = re.compile(r"(?:(?![._-]{3})[^\s=:;,|<>\"()\[\]{}*\u201c\u201d])+")
_BETWEEN = {" ", ", "}
_INSIDE = re.compile(r"#|(?<=[^\W\d_])\.(?=\d)")  # A-17 in "Inv#A-17" and "No.17"


@dataclass(frozen=True, slots=True)
class Reading:
    """Characters `start` to `end` of a document, read as `value`."""

    start: int
    end: int
    kind: Kind
    value: Value
    order: int = 0


def read_all(text: str) -> dict[Kind, list[Reading]]:
    """Every reading of a document, by kind, each list in the order of the text."""
    dates = sorted(_dates(text), key=_place)
    return {
        "text": sorted(_texts(text), key=_place),
        "number": _outermost(sorted(set(_numbers(text)), key=_place)),
        "date": dates,
        "days": [
            one
            for one in sorted(_days(text), key=_place)
            if not any(day.start <= one.start < day.end for day in dates)
        ],
    }


def same(kind: Kind, value: Value, wanted: Value) -> bool:
    """Whether a reading says what a reply says; numbers to half a cent."""
    if kind == "number":
        return abs(float(value) - float(wanted)) < 0.005  # type: ignore[arg-type]
    return value == wanted


@cache
def month_named(name: str) -> int | None:
    """1 to 12 for a month's name in eight languages, whole or cut to three letters or more."""
    months = {
        index + 1
        for language in _MONTHS
        for index, month in enumerate(language.split())
        if len(name) >= 3 and month.startswith(name.lower())
    }
    return months.pop() if len(months) == 1 else None


def _place(reading: Reading) -> tuple[int, int, int]:
    return reading.start, reading.end, reading.order


def _texts(text: str) -> Iterator[Reading]:
    atoms = []
    for found in _ATOM.finditer(text):
        start, end = found.span()
        while start < end and text[start] in "'.#>!?":
            start += 1
        while start < end and text[start] in "_-" and any(c.isalnum() for c in text[start:end]):
            start += 1
        while end > start and text[end - 1] in "'!?":
            end -= 1
        if start < end and any(c.isalnum() or c in "&-/" for c in text[start:end]):
            atoms.append((start, end))
    for first, (start, _) in enumerate(atoms):
        if not text[start].isalnum():
            continue
        for last in range(first, min(first + MAX_WORDS, len(atoms))):
            if last > first and text[atoms[last - 1][1] : atoms[last][0]] not in _BETWEEN:
                break
            end = atoms[last][1]
            if text[end - 1] == ".":
                bare = end - 1
                while text[bare - 1] == ".":
                    bare -= 1
                yield Reading(start, bare, "text", text[start:bare])
                end = bare + 1
            elif not text[end - 1].isalnum():
                continue
            yield Reading(start, end, "text", text[start:end])
            if first == last:
                for mark in _INSIDE.finditer(text, start, end - 1):
                    yield Reading(mark.end(), end, "text", text[mark.end() : end])


def _numbers(text: str) -> Iterator[Reading]:
    for form in _NUMBERS:
        for found in form.finditer(text):
            yield Reading(*found.span(), "number", _number(found.group()))


def _outermost(numbers: list[Reading]) -> list[Reading]:
    """Without those inside a longer one: 1 234,50 is no 234,50."""
    kept: list[Reading] = []
    for one in sorted(numbers, key=lambda r: (r.start, -r.end)):
        if not kept or one.end > kept[-1].end:
            kept.append(one)
    return kept


def _number(raw: str) -> float:
    decimals = re.search(r"[.,](\d{1,2})$", raw)
    whole = raw[: decimals.start()] if decimals else raw
    digits = re.sub(r"\D", "", whole)
    return float(f"{digits}.{decimals.group(1)}") if decimals else float(digits)


def _dates(text: str) -> Iterator[Reading]:
    for form, pattern in _DATES:
        for found in pattern.finditer(text):
            parts = found.groups()
            if form == "ymd":
                options = [(parts[0], parts[2], parts[3], 0)]
            elif form == "numeric":
                year = _whole_year(parts[3])
                options = [
                    (year, parts[2], parts[0], DAY_FIRST),
                    (year, parts[0], parts[2], MONTH_FIRST),
                ]
            else:
                day, name = (parts[0], parts[1]) if form == "dmy" else (parts[1], parts[0])
                month = month_named(name)
                options = [] if month is None else [(_whole_year(parts[2]), str(month), day, 0)]
            for year, month_text, day, order in options:
                try:
                    value = date(int(year), int(month_text), int(day))
                except ValueError:  # no such day
                    continue
                yield Reading(*found.span(), "date", value, order)


def _whole_year(year: str) -> str:
    return year if len(year) == 4 else f"20{year}"


def _days(text: str) -> Iterator[Reading]:
    for found in _DAYS.finditer(text):
        yield Reading(*found.span(), "days", int(found.group()))
