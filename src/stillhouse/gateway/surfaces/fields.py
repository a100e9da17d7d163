"""The parts of a request's table: what a field may hold, and what becomes of it."""

# ruff: noqa: ARG001  (all checks take what any of them needs)
from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable
from typing import Any

from stillhouse.gateway.refusals import RefusedError

Check = Callable[[Any, str], Any]
_SAFE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}")


class Fate(enum.IntEnum):
    """What becomes of a field whose value is accepted."""

    SENT = 0  # copied upstream under its name
    TAKEN = 1  # used here; what goes upstream is written anew
    HINT = 2  # sent to upstreams that know it, else left out: the reply means the same
    EXTRA = 3  # sent to upstreams that know it, else refused: the reply would differ
    IGNORED = 4  # harmless, sent by the official clients, and of no use upstream
    STATE = 5  # its value would make the upstream keep or find state


Table = dict[str, tuple[Fate, Check]]


def read_fields(
    given: dict[str, Any], table: Table, extras: frozenset[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (fields to send, fields taken here) of an object. None means absent.

    A field that the table does not name is refused, not dropped: the caller of a request that
    silently did less than it says would take the reply for something it is not. Raises
    `RefusedError` (unsupported_field, unsupported_value, stateful_refused).
    """
    sent: dict[str, Any] = {}
    taken: dict[str, Any] = {}
    for name, value in given.items():
        row = table.get(name)
        if row is None:
            raise RefusedError("unsupported_field", shown_name(name))
        if value is None:
            continue
        fate, check = row
        if fate is Fate.TAKEN:
            taken[name] = check(value, name)
        elif fate is Fate.SENT:
            sent[name] = check(value, name)
        elif fate is Fate.HINT:
            value = check(value, name)
            if name in extras:
                sent[name] = value
        elif fate is Fate.EXTRA:
            if name not in extras:
                raise RefusedError("unsupported_field", name)
            sent[name] = check(value, name)
        elif fate is Fate.IGNORED:
            check(value, name)
        elif value is not False:
            raise RefusedError("stateful_refused", name)
    return sent, taken


def keep_only(given: Any, allowed: frozenset[str], where: str) -> dict[str, Any]:
    """Return an object of which every field is in `allowed`."""
    if type(given) is not dict:
        raise RefusedError("bad_request", f"{where} is not an object")
    if not given.keys() <= allowed:
        name = next(iter(given.keys() - allowed))
        raise RefusedError("unsupported_field", f"{where}: {shown_name(name)}")
    return given


def shown_name(name: str) -> str:
    """Return a field's name for an error message, or a stand-in where it is more than a name."""
    return name if _SAFE_NAME.fullmatch(name) else "a field with an unusual name"


def wrong(where: str, wanted: str) -> RefusedError:
    """Return the refusal of a value that is not what a field takes."""
    return RefusedError("unsupported_value", f"{where} must be {wanted}")


def anything(value: Any, where: str) -> Any:
    """Accept any value: it is read by its surface."""
    return value


def flag(value: Any, where: str) -> bool:
    """Accept true and false."""
    if value is True or value is False:
        return value
    raise wrong(where, "true or false")


def integer(low: int, high: int) -> Check:
    """Accept an integer in a range, both ends included."""

    def check(value: Any, where: str) -> int:
        if type(value) is int and low <= value <= high:
            return value
        raise wrong(where, f"an integer from {low} to {high}")

    return check


def number(low: float, high: float) -> Check:
    """Accept a finite number in a range, both ends included."""

    def check(value: Any, where: str) -> float | int:
        if (type(value) is float or type(value) is int) and low <= value <= high:
            return value
        raise wrong(where, f"a number from {low:g} to {high:g}")

    return check


def text(value: Any, where: str) -> str:
    """Accept text of any length (the body's size is bounded)."""
    if type(value) is str:
        return value
    raise wrong(where, "text")


def short(longest: int = 256) -> Check:
    """Accept text up to a length in characters."""

    def check(value: Any, where: str) -> str:
        if type(value) is str and len(value) <= longest:
            return value
        raise wrong(where, f"text of at most {longest} characters")

    return check


def one_of(*words: str) -> Check:
    """Accept one of these words."""
    allowed = frozenset(words)

    def check(value: Any, where: str) -> str:
        if type(value) is str and value in allowed:
            return value
        raise wrong(where, " or ".join(words))

    return check


def exactly(*values: Any) -> Check:
    """Accept these values and nothing else (true is not 1)."""

    def check(value: Any, where: str) -> Any:
        if any(type(value) is type(one) and value == one for one in values):
            return value
        raise RefusedError("unsupported_value", where)

    return check


def string_map(value: Any, where: str) -> dict[str, str]:
    """Accept an object of at most 16 short texts (OpenAI's metadata)."""
    if (
        type(value) is dict
        and len(value) <= 16
        and all(type(item) is str and len(item) <= 512 for item in value.values())
    ):
        return value
    raise wrong(where, "an object of at most 16 texts")


def stop_sequences(value: Any, where: str) -> list[str]:
    """Accept one text, or at most 16 of them, none empty."""
    values = [value] if type(value) is str else value
    if (
        type(values) is list
        and len(values) <= 16
        and all(type(item) is str and 0 < len(item) <= 1024 for item in values)
    ):
        return values
    raise wrong(where, "at most 16 texts of 1 to 1024 characters")


def logit_bias(value: Any, where: str) -> dict[str, float]:
    """Accept token ids with a bias from -100 to 100."""
    if (
        type(value) is dict
        and len(value) <= 1024
        and all(key.isascii() and key.isdecimal() and len(key) <= 9 for key in value)
        and all(
            type(bias) in (int, float) and math.isfinite(bias) and -100 <= bias <= 100
            for bias in value.values()
        )
    ):
        return value
    raise wrong(where, "at most 1024 token ids with a bias from -100 to 100")
