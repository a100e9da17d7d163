"""Field-F1 and whole-document match of JSON answers, in two definitions.

`strict` (ours). A field is a path to a leaf of the document: object keys and list positions. Null,
an empty object and an empty list are no field, so absent and null are the same. Two leaves are
equal when both are strings equal after NFC and collapsing of white space, both are numbers of equal
value, or both are the same truth value. With P predicted fields, R reference fields and E equal
ones: F1 = 2 E / (P + R), summed over documents before dividing (micro). A document matches when
E = P = R. The reply must be one JSON object (see `outcomes`); otherwise P = E = 0.

`published` is the definition behind the invoice figures of the taskdistill package (0.1.1), for
comparison with them: top-level properties of the schema only; the object may stand anywhere in the
reply; it must be valid under the schema, dates included, or counts as no answer; strings ignore
case, numbers may differ by 0.005, an ISO date-time equals its date. The formula is the same.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

Path = tuple[str | int, ...]

_TOLERANCE = 0.005 + 1e-9  # the second term absorbs the rounding of decimal fractions
_BLOCK = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DATE_TIME = re.compile(
    r"\d{4}-\d{2}-\d{2}"
    r"(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:Z|[+-]\d{2}(?::?\d{2})?)?)?"
)


@dataclass(frozen=True, slots=True)
class FieldCounts:
    """Fields of one document: equal, predicted, and in the reference."""

    equal: int
    predicted: int
    reference: int
    match: bool


def count_fields(
    predicted: Mapping[str, Any] | None, reference: Mapping[str, Any] | None
) -> FieldCounts:
    """Field counts of one document under the strict definition; None is no answer."""
    found, wanted = _leaves(predicted or {}), _leaves(reference or {})
    equal = sum(path in wanted and _equal(value, wanted[path]) for path, value in found.items())
    whole = predicted is not None and reference is not None
    return FieldCounts(equal, len(found), len(wanted), whole and equal == len(found) == len(wanted))


def count_fields_published(
    predicted: Mapping[str, Any] | None, reference: Mapping[str, Any], fields: Sequence[str]
) -> FieldCounts:
    """Field counts of one document under the published definition.

    A null field counts nowhere in F1, but the document matches only if null stands where the
    reference has null.
    """
    wanted = [reference.get(name) for name in fields]
    present = sum(value is not None for value in wanted)
    if predicted is None:
        return FieldCounts(0, 0, present, match=False)
    found = [predicted.get(name) for name in fields]
    same = [_alike(g, p) for g, p in zip(wanted, found, strict=True)]
    return FieldCounts(
        equal=sum(ok and p is not None for ok, p in zip(same, found, strict=True)),
        predicted=sum(value is not None for value in found),
        reference=present,
        match=all(same),
    )


def parse_published(text: str, schema: str) -> dict[str, Any] | None:
    """The first JSON object within `text`, when it is valid under `schema` (JSON Schema text)."""
    blocks = [match.group(1) for match in _BLOCK.finditer(text)]
    body = next((block for block in blocks if "{" in block), text)
    start, end = body.find("{"), body.rfind("}")
    document = _object_in(body, start, end) if 0 <= start < end else None
    if document is None or not _validator(schema).is_valid(document):
        return None
    return document


def schema_fields(schema: str) -> tuple[str, ...]:
    """Top-level properties of a JSON Schema, in its order."""
    return tuple(json.loads(schema).get("properties", {}))


def _object_in(body: str, start: int, end: int) -> dict[str, Any] | None:
    document = _loads(body[start : end + 1])
    if document is not None:
        return document
    try:  # prose after the object may hold braces of its own
        first, _ = json.JSONDecoder(parse_constant=_refuse).raw_decode(body, start)
    except (ValueError, RecursionError):
        return None
    return first if isinstance(first, dict) and _is_finite(first) else None


def _loads(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and _is_finite(document) else None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_finite(v) for v in value.values())
    if isinstance(value, list):
        return all(_is_finite(v) for v in value)
    return not isinstance(value, float) or math.isfinite(value)


@lru_cache(maxsize=16)
def _validator(schema: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator, FormatChecker

    return Draft202012Validator(json.loads(schema), format_checker=FormatChecker())


def _leaves(value: Any, path: Path = ()) -> dict[Path, Any]:
    if isinstance(value, Mapping):
        parts = [_leaves(child, (*path, str(key))) for key, child in value.items()]
    elif isinstance(value, list):
        parts = [_leaves(child, (*path, index)) for index, child in enumerate(value)]
    else:
        return {} if value is None else {path: value}
    return {at: leaf for part in parts for at, leaf in part.items()}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, str) and isinstance(b, str):
        return _squeeze(a, "NFC") == _squeeze(b, "NFC")
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return not isinstance(a, str) and not isinstance(b, str) and bool(a == b)


def _alike(gold: Any, found: Any) -> bool:
    """Equality of two values under the published definition."""
    if gold is None or found is None or isinstance(gold, bool) or isinstance(found, bool):
        return gold is found
    if isinstance(gold, int | float) and isinstance(found, int | float):
        return gold == found or _near(gold, found)
    if isinstance(gold, str) and isinstance(found, str):
        day, other = _as_date(gold, _DATE), _as_date(found, _DATE_TIME)
        if day is not None and other is not None:
            return day == other
        return _squeeze(gold, "NFKC").casefold() == _squeeze(found, "NFKC").casefold()
    if isinstance(gold, Mapping) and isinstance(found, Mapping):
        return all(_alike(gold.get(key), found.get(key)) for key in {**gold, **found})
    if isinstance(gold, list) and isinstance(found, list):
        return len(gold) == len(found) and all(map(_alike, gold, found))
    return False


def _near(a: float, b: float) -> bool:
    try:
        return abs(a - b) <= _TOLERANCE
    except OverflowError:  # an integer beyond the range of a float
        return False


def _as_date(text: str, form: re.Pattern[str]) -> date | None:
    trimmed = text.strip()
    if not form.fullmatch(trimmed):
        return None
    try:
        return datetime.fromisoformat(trimmed).date()
    except ValueError:
        return None


def _squeeze(text: str, form: Literal["NFC", "NFKC"]) -> str:
    return " ".join(unicodedata.normalize(form, text).split())
