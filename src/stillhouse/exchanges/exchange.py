"""The exchange: one request to a teacher and its reply. The one place that defines its columns."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_type_hints

from stillhouse.exchanges.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA_VERSION = 1
LATEST_US = 253_402_300_799_999_999  # the end of the year 9999: later times have no day
Kind = Literal["text", "integer", "real", "truth", "bytes", "integers"]


@dataclass(frozen=True, slots=True)
class Column:
    """How a field is kept: its kind, what it means, and its bounds.

    `size` is the exact length of a bytes column; `low` and `high` bound an integer.
    """

    kind: Kind
    meaning: str
    size: int | None = None
    low: int = 0
    high: int = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and its reply, as recorded. None means unknown, never zero.

    Times are microseconds since 1970 (UTC), money is nano-dollars. Digests are keyed. Raises
    `InputError` naming the column for a value of the wrong type, length or range.
    """

    id: Annotated[bytes, Column("bytes", "UUID version 7, so ids are in order of time", 16)]
    time_us: Annotated[
        int, Column("integer", "when the request arrived, in microseconds", high=LATEST_US)
    ]
    account: Annotated[str, Column("text", "who asked")]

    organisation: Annotated[str | None, Column("text", "whose account it is")] = None
    key: Annotated[str | None, Column("text", "public id of the API key, not the key")] = None
    model: Annotated[str | None, Column("text", "the served model")] = None
    teacher_fingerprint: Annotated[
        str | None, Column("text", "what the teacher says of its own version")
    ] = None
    arm: Annotated[str | None, Column("text", "which randomised arm was served")] = None

    request_digest: Annotated[bytes | None, Column("bytes", "of the whole request", 32)] = None
    schema_digest: Annotated[bytes | None, Column("bytes", "of the asked reply schema", 32)] = None
    end_user_digest: Annotated[bytes | None, Column("bytes", "of the declared end user", 32)] = None

    temperature: Annotated[float | None, Column("real", "sampling temperature")] = None
    top_p: Annotated[float | None, Column("real", "nucleus mass")] = None
    max_tokens: Annotated[int | None, Column("integer", "largest reply, in tokens")] = None
    seed: Annotated[int | None, Column("integer", "sampling seed", low=-(2**63))] = None
    choices: Annotated[int | None, Column("integer", "replies asked for at once")] = None
    top_logprobs: Annotated[int | None, Column("integer", "alternatives asked for")] = None
    streamed: Annotated[bool | None, Column("truth", "the reply was streamed")] = None

    tokens_in: Annotated[int | None, Column("integer", "tokens of the prompt")] = None
    tokens_out: Annotated[int | None, Column("integer", "tokens of the reply, all told")] = None
    tokens_reasoning: Annotated[int | None, Column("integer", "of those, hidden reasoning")] = None
    price_nano: Annotated[int | None, Column("integer", "price, in nano-dollars")] = None

    status: Annotated[int | None, Column("integer", "HTTP status answered")] = None
    refusal: Annotated[str | None, Column("text", "stable code of a refusal")] = None
    finish_reason: Annotated[str | None, Column("text", "why the reply ended")] = None
    latency_us: Annotated[int | None, Column("integer", "request to last byte")] = None
    first_token_us: Annotated[int | None, Column("integer", "request to first token")] = None

    address_prefix: Annotated[str | None, Column("text", "client network: IPv4 /24, IPv6 /48")] = (
        None
    )
    asn: Annotated[int | None, Column("integer", "autonomous system of the client")] = None
    client_fingerprint: Annotated[str | None, Column("text", "of its TLS and headers")] = None
    sdk: Annotated[str | None, Column("text", "client library and version, as sent")] = None

    skeleton: Annotated[bytes | None, Column("bytes", "signature of the prompt's skeleton", 64)] = (
        None
    )
    content_cells: Annotated[
        tuple[int, ...] | None, Column("integers", "locality-sensitive cells of the content")
    ] = None
    asks_reasoning: Annotated[bool | None, Column("truth", "elicits reasoning traces")] = None
    asks_grading: Annotated[bool | None, Column("truth", "asks to grade other replies")] = None
    turns: Annotated[int | None, Column("integer", "messages in the request")] = None
    tools_offered: Annotated[int | None, Column("integer", "tools the request offers")] = None
    tool_calls: Annotated[int | None, Column("integer", "tool calls in the reply")] = None

    sealed_skeleton: Annotated[
        bytes | None, Column("bytes", "masked skeleton text, encrypted for the account")
    ] = None
    sealed_request: Annotated[bytes | None, Column("bytes", "request body, encrypted")] = None
    sealed_reply: Annotated[bytes | None, Column("bytes", "reply body, encrypted")] = None

    def __post_init__(self) -> None:
        # One pass in step: this runs for every request that is served.
        for value, check in zip(_values(self), _CHECKS, strict=True):
            if (value is not None or check.required) and not check.fits(value):
                raise InputError(_misfit(check.name, check.column, value))

    def to_record(self) -> dict[str, Any]:
        """Return what a journal keeps: unknown columns left out, bytes in hexadecimal."""
        record: dict[str, Any] = {}
        for name, value in zip(COLUMNS, _values(self), strict=True):
            if value is not None:
                record[name] = value.hex() if isinstance(value, bytes) else value
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read back what `to_record` gave. Raises `InputError` naming the column."""
        values: dict[str, Any] = {}
        for name, value in record.items():
            column = COLUMNS.get(name)
            if column is None:
                near = difflib.get_close_matches(name, COLUMNS, 1)
                raise InputError(
                    f"an exchange has no column {name!r}",
                    repair=f"did you mean {near[0]!r}?"
                    if near
                    else "was it written by a newer version of stillhouse?",
                )
            if column.kind == "bytes" and isinstance(value, str):
                try:
                    value = bytes.fromhex(value)
                except ValueError as error:
                    raise InputError(f"{name} is not hexadecimal: {value[:40]!r}") from error
            values[name] = tuple(value) if isinstance(value, list) else value
        for name in REQUIRED - values.keys():
            raise InputError(f"an exchange needs {name}: {COLUMNS[name].meaning}")
        return cls(**values)


def new_id(time_us: int, random: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """Return a UUID version 7 (RFC 9562) of 16 bytes; `random(n)` gives n random bytes.

    The twelve bits after the milliseconds hold their fraction, so ids of different microseconds
    sort by time.
    """
    milliseconds, rest_us = divmod(time_us, 1000)
    tail = int.from_bytes(random(8)) >> 2
    fraction = (rest_us << 12) // 1000
    return (milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | tail).to_bytes(16)


def _columns() -> dict[str, Column]:
    hints = get_type_hints(Exchange, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(Exchange)}


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    column: Column
    required: bool
    fits: Callable[[Any], bool]


def _fitting(column: Column) -> Callable[[Any], bool]:
    """Return the test of whether a value fits a column."""
    low, high, size = column.low, column.high, column.size
    tests: dict[Kind, Callable[[Any], bool]] = {
        "text": lambda value: isinstance(value, str),
        "integer": lambda value: type(value) is int and low <= value <= high,
        "real": lambda value: isinstance(value, float) and math.isfinite(value),
        "truth": lambda value: value is True or value is False,
        "bytes": lambda value: isinstance(value, bytes) and size in (None, len(value)),
        "integers": lambda value: (
            isinstance(value, tuple) and all(type(v) is int and 0 <= v < 2**31 for v in value)
        ),
    }
    return tests[column.kind]


def _misfit(name: str, column: Column, value: Any) -> str:
    wanted = {
        "text": "text",
        "integer": f"an integer from {column.low} to "
        + ("2^63 - 1" if column.high == 2**63 - 1 else f"{column.high}"),
        "bytes": "bytes" if column.size is None else f"{column.size} bytes",
        "real": "a finite float",
        "truth": "true or false",
        "integers": "a tuple of integers from 0 to 2^31 - 1",
    }[column.kind]
    # Never the bytes or the text themselves: this message ends in logs.
    length = f" of length {len(value)}" if isinstance(value, str | bytes | tuple) else f" {value!r}"
    return f"{name} ({column.meaning}) must be {wanted}, not {type(value).__name__}{length}"


COLUMNS: dict[str, Column] = _columns()
REQUIRED: frozenset[str] = frozenset(
    field.name for field in dataclasses.fields(Exchange) if field.default is dataclasses.MISSING
)
_values = operator.attrgetter(*COLUMNS)
_CHECKS = [_Check(n, c, n in REQUIRED, _fitting(c)) for n, c in COLUMNS.items()]
