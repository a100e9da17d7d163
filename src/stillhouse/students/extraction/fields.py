"""Which fields an extracting student fills, and how each is read: taken from a JSON Schema."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Literal

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

FieldKind = Literal["text", "number", "date", "choice"]


@dataclass(frozen=True, slots=True)
class Field:
    """One property. `days_after` names the date that a count of days is added to."""

    name: str
    kind: FieldKind
    optional: bool = False
    choices: tuple[str, ...] = ()
    days_after: str | None = None


def read_fields(
    schema: Mapping[str, Any], days_after: Mapping[str, str] | None = None
) -> tuple[Field, ...]:
    """The fields of a flat object schema: strings, numbers, dates (`format: date`) and enums.

    `days_after` lists date fields that may be given as days after another date field. Raises
    `InputError` for any other property, and for a `days_after` that is not about two date fields.
    """
    fields = tuple(_field(name, about) for name, about in schema.get("properties", {}).items())
    kinds = {field.name: field.kind for field in fields}
    after = dict(days_after or {})
    for name, base in after.items():
        if kinds.get(name) != "date" or kinds.get(base) != "date" or base in after:
            raise InputError(
                f"{name} cannot be counted in days after {base}",
                repair="name two date fields, the second not counted itself",
            )
    return tuple(
        Field(one.name, one.kind, one.optional, one.choices, after.get(one.name)) for one in fields
    )


def parse_value(field: Field, value: Any) -> Any:
    """A reply's value as the kind of its field: str, float, date; None stays None.

    Raises ValueError where it is of another kind.
    """
    if value is None:
        return None
    if field.kind == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{field.name}: {value!r} is not a number")
        return float(value)
    if not isinstance(value, str):
        raise ValueError(f"{field.name}: {value!r} is not a string")
    if field.kind == "choice" and value not in field.choices:
        raise ValueError(f"{field.name}: {value!r} is not one of {', '.join(field.choices)}")
    return date.fromisoformat(value) if field.kind == "date" else value


def write_value(value: Any) -> Any:
    """The same value as JSON holds it; whole numbers keep no fraction."""
    return value.isoformat() if isinstance(value, date) else value


def days_later(base: date, days: int) -> date:
    """The date that many days after `base`; the last that there is where it would lie beyond."""
    return base + timedelta(min(days, (date.max - base).days))


def _field(name: str, about: Mapping[str, Any]) -> Field:
    kinds = about.get("type", "string")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    optional = "null" in kinds
    plain = [kind for kind in kinds if kind != "null"]
    if "enum" in about:
        choices = tuple(str(one) for one in about["enum"] if one is not None)
        return Field(name, "choice", optional or None in about["enum"], choices)
    if plain == ["number"] or plain == ["integer"]:
        return Field(name, "number", optional)
    if plain == ["string"]:
        return Field(name, "date" if about.get("format") == "date" else "text", optional)
    raise InputError(
        f"{name}: an extracting student fills strings, numbers, dates and enums, not {kinds}",
        repair="use a model folder as student for this schema",
    )
