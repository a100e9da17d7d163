"""The `regex` baseline for documents: fields found by the words and shapes that surround them.

From training examples it learns, for each top-level field, which pairs of left context (the two
words before, or the one) and shape ("A-9" for "PO-4711") the field's value stands in, and how often
such a span is that value. On a new prompt each field takes the span with the highest share. Without
one, a field that training has as null is null, and any other has its commonest training value.
Numbers are read with a point or a comma for decimals, ISO dates from the usual ways to write a day.
Values that no span reads as (sums, terms such as "30 days") are out of reach, as they are for a
regular expression.
"""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.baselines import Example
from stillhouse.parity.items import Item
from stillhouse.parity.outcomes import parse_document
from stillhouse.teachers.chat import Reply

Key = tuple[str, ...]

_LONGEST = 6  # words in a span
_WORTH = 0.2  # share below which a field that may be null is null
_TRIM = " \t,;:.()[]<>\"'*|#"
_WAYS = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d %B %Y", "%d %b %Y",
         "%B %d %Y", "%b %d %Y")  # fmt: skip
_DAY = re.compile(r"(?=.*\d{4})[\w./-]+(?: [\w,.]+){0,2}")
_NUMBER = re.compile(r"[^\d\s]{0,3}\s?(\d[\d.,'\u00a0 ]*\d|\d)\s?[^\d\s]{0,3}")


@dataclass(frozen=True, slots=True)
class _Span:
    text: str
    keys: tuple[Key, Key]


@dataclass(frozen=True, slots=True)
class _Field:
    """How a field is read out of a span, where it stands, and what it is when it is not found."""

    read: Callable[[str], Any]
    shares: dict[Key, float]
    otherwise: Any


def regex_answers(training: Sequence[Example], items: Sequence[Item]) -> dict[str, Reply]:
    """Documents put together from spans of each prompt. Raises InputError without documents."""
    documents = [(example.prompt, parse_document(example.answer)) for example in training]
    known = [(prompt, document) for prompt, document in documents if document]
    if not known:
        raise InputError("the regex baseline has no training document to learn from")
    fields = _learn(known)
    return {
        item.id: Reply(
            text=json.dumps(_fill(item.variable, fields), ensure_ascii=False),
            finish_reason="stop",
            model="regex",
        )
        for item in items
    }


def _learn(known: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, _Field]:
    names = list(dict.fromkeys(name for _, document in known for name in document))
    values = {name: [document.get(name) for _, document in known] for name in names}
    readers = {name: _reader(values[name]) for name in names}
    hits: dict[str, Counter[Key]] = {name: Counter() for name in names}
    seen: Counter[Key] = Counter()
    for prompt, document in known:
        wanted = [(name, document[name]) for name in names if document.get(name) is not None]
        for span in _spans(prompt):
            seen.update(span.keys)
            for name, value in wanted:
                if readers[name](span.text) == value:
                    hits[name].update(span.keys)
    return {
        name: _Field(
            read=readers[name],
            shares={key: count / (seen[key] + 2) for key, count in hits[name].items()},
            otherwise=None if None in values[name] else _commonest(values[name]),
        )
        for name in names
    }


def _fill(prompt: str, fields: dict[str, _Field]) -> dict[str, Any]:
    best = {
        name: (_WORTH if field.otherwise is None else 0.0, field.otherwise)
        for name, field in fields.items()
    }
    for span in _spans(prompt):
        for name, field in fields.items():
            share = max(field.shares.get(key, 0.0) for key in span.keys)
            if share > best[name][0]:
                value = field.read(span.text)
                if value is not None:
                    best[name] = (share, value)
    return {name: value for name, (_, value) in best.items()}


def _reader(values: Sequence[Any]) -> Callable[[str], Any]:
    """How to read a field with such values: as a number, a day, or the text itself."""
    given = [value for value in values if value is not None]
    if given and all(isinstance(value, int | float) for value in given):
        return _number
    if given and all(isinstance(value, str) and _day(value) == value for value in given):
        return _day
    return str


def _commonest(values: Sequence[Any]) -> Any:
    counts = Counter(json.dumps(value) for value in values)
    return json.loads(counts.most_common(1)[0][0])


@lru_cache(maxsize=100_000)
def _day(text: str) -> str | None:
    if not _DAY.fullmatch(text):
        return None
    plain = re.sub(r"(\d)(?:st|nd|rd|th)\b", r"\1", text.replace(",", ""))
    for way in _WAYS:
        try:
            return datetime.datetime.strptime(plain, way).date().isoformat()  # noqa: DTZ007
        except ValueError:
            continue
    return None


@lru_cache(maxsize=100_000)
def _number(text: str) -> float | None:
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    digits = re.sub(r"[\s\u00a0']", "", found.group(1))
    decimals = re.search(r"[.,](\d{1,2})\Z", digits)
    whole = re.sub(r"[.,]", "", digits[: decimals.start()] if decimals else digits)
    return float(f"{whole or 0}.{decimals.group(1) if decimals else 0}")


def _spans(prompt: str) -> Iterator[_Span]:
    """Runs of up to six words within a line, each with what stands before it."""
    before: list[str] = []
    for line in prompt.split("\n"):
        words = [match.group() for match in re.finditer(r"[^\s|\t]+", line)]
        for start in range(len(words)):
            left = [_plain(word) for word in (before[-2:] + words[:start])[-2:]]
            for end in range(start + 1, min(start + _LONGEST, len(words)) + 1):
                text = " ".join(words[start:end]).strip(_TRIM)
                if text:
                    shape = _shape(text)
                    yield _Span(text, ((*left, shape), (*left[-1:], "", shape)))
        before += words


def _plain(word: str) -> str:
    return re.sub(r"\d+", "9", word.casefold().strip(",;.()"))


def _shape(text: str) -> str:
    """A day, a number, or runs of capitals, small letters and digits: `A-9` for `PO-4711`."""
    if _day(text) is not None:
        return "day"
    if _number(text) is not None:
        return "number"
    signs = re.sub(r"\d+", "9", re.sub(r"[a-z]+", "a", re.sub(r"[A-Z]+", "A", text)))
    return signs if len(signs) <= 12 else re.sub(r"(?:Aa? ?){3,}", "Words", signs)[:12]
