"""One byte form for each JSON value, so that digests of equal values are equal."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from stillhouse.exchanges.errors import InputError

_encode = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
).encode


def canonical_json(value: Any) -> bytes:
    """Return `value` as JSON: keys sorted by code point, no spaces, UTF-8, floats as by `repr`.

    Tuples become lists; 1 and 1.0 stay apart. Raises `InputError` for what JSON cannot hold without
    change: NaN and infinities, keys that are not strings, lone surrogates, other types.
    """
    # The standard encoder, not orjson: it refuses NaN, and its float form is fixed by Python's.
    try:
        _refuse_odd_keys(value, "$")
        return _encode(value).encode()
    except UnicodeEncodeError as error:
        raise InputError("a string holds a lone surrogate, which UTF-8 cannot hold") from error
    except RecursionError as error:
        raise InputError("the value is nested too deeply or holds itself") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not a JSON value: {error}") from error


def content_digest(value: Any) -> str:
    """Return the SHA-256 of `canonical_json(value)`, in hexadecimal.

    It is not keyed, so it reveals a guessable value: for files that the user owns, never for what
    other people sent (`KeyedDigests` is for that).
    """
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _refuse_odd_keys(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InputError(f"the key {key!r} is not a string", place=place)
            if isinstance(inner, dict | list | tuple):
                _refuse_odd_keys(inner, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            if isinstance(inner, dict | list | tuple):
                _refuse_odd_keys(inner, f"{place}[{index}]")
