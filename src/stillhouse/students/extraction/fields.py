"""Which fields an extracting student fills, and how each is read: taken from a JSON Schema."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Literal

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

FieldKind = Literal["text", "number", "date", "choice"]


@dataclass(frozen=True, slots=True)
class Field:
    """One property. `days_after` names the date that a count of days is added to, `share_of` the
    number of which this one is a part."""

    name: str
    kind: FieldKind
    optional: bool = False
    choices: tuple[str, ...] = ()
    days_after: str | None = None
    share_of: str | None = None

    @property
    def base(self) -> str | None:
        """The field this one stands in a relation to."""
        return self.days_after or self.share_of


def read_fields(
    schema: Mapping[str, Any],
    days_after: Mapping[str, str] | None = None,
    share_of: Mapping[str, str] | None = None,
) -> tuple[Field, ...]:
    """The fields of a flat object schema: strings, numbers, dates (`format: date`) and enums.

    `days_after` lists date fields that may be given as days after another date field, `share_of`
    number fields that are a part of another number field. Raises `InputError` for any other
    property, and for a relation that is not between two such fields.
    """
    fields = tuple(_field(name, about) for name, about in schema.get("properties", {}).items())
    kinds = {field.name: field.kind for field in fields}
    after, part = dict(days_after or {}), dict(share_of or {})
    for kind, relations in (("date", after), ("number", part)):
        for name, base in relations.items():
            if kinds.get(name) != kind or kinds.get(base) != kind or base in relations:
                raise InputError(
                    f"{name} cannot be counted from {base}",
                    repair=f"name two {kind} fields, the second not counted itself",
                )
    return tuple(
        replace(one, days_after=after.get(one.name), share_of=part.get(one.name)) for one in fields
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
