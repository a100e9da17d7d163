import dataclasses
import json
import math
import random
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.exchanges import Exchange, InputError, new_id
from stillhouse.exchanges.dataset import from_table, to_table
from stillhouse.exchanges.exchange import COLUMNS, REQUIRED, Column


def values_of(column: Column) -> st.SearchStrategy[Any]:
    size = column.size
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "text": st.text(),
        "integer": st.integers(column.low, column.high),
        "real": st.floats(allow_nan=False, allow_infinity=False),
        "truth": st.booleans(),
        "bytes": st.binary(min_size=size or 0, max_size=size),
        "integers": st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple),
    }
    return strategies[column.kind]


exchanges = st.builds(
    Exchange,
    **{
        name: values_of(column) if name in REQUIRED else st.none() | values_of(column)
        for name, column in COLUMNS.items()
    },
)
SMALL: dict[str, Any] = {"id": b"i" * 16, "time_us": 0, "account": "a"}


@given(exchanges)
def test_an_exchange_comes_back_from_its_journal_line_unchanged(exchange: Exchange) -> None:
    line = json.loads(json.dumps(exchange.to_record()))
    assert Exchange.from_record(line) == exchange


@settings(deadline=None)
@given(st.lists(exchanges, max_size=5))
def test_exchanges_come_back_from_a_table_unchanged(records: list[Exchange]) -> None:
    assert list(from_table(to_table(records))) == records


def test_what_is_unknown_is_left_out_and_zero_is_kept() -> None:
    record = Exchange(**SMALL, price_nano=0, asks_grading=False).to_record()
    assert record == {
        "id": "69" * 16,
        "time_us": 0,
        "account": "a",
        "price_nano": 0,
        "asks_grading": False,
    }


@pytest.mark.parametrize("kind", sorted({column.kind for column in COLUMNS.values()}))
def test_a_wrong_value_is_refused_and_the_column_named_but_not_the_value(kind: str) -> None:
    wrong: dict[str, list[Any]] = {
        "text": [1, b"secret"],
        "integer": [1.0, True, "1", -(2**63) - 1, 2**63],
        "real": [1, math.nan, math.inf, "1"],
        "truth": [0, 1, "yes"],
        "bytes": ["secret", bytearray(3)],
        "integers": [[1], (1.0,), (-1,), (2**31,), (True,)],
    }
    for name, column in COLUMNS.items():
        if column.kind == kind:
            for value in wrong[kind]:
                with pytest.raises(InputError, match=rf"^{name} ") as caught:
                    Exchange(**(SMALL | {name: value}))
                assert "secret" not in str(caught.value)


def test_lengths_and_signs_are_checked() -> None:
    for wrong in ({"skeleton": b"x" * 63}, {"id": b"x" * 15}, {"tokens_in": -1}):
        with pytest.raises(InputError, match=f"^{next(iter(wrong))} "):
            Exchange(**(SMALL | wrong))
    assert Exchange(**SMALL, seed=-5).seed == -5


def test_what_is_required_must_be_there() -> None:
    assert {"id", "time_us", "account"} == REQUIRED
    for name in REQUIRED:
        with pytest.raises(InputError, match=f"^{name} "):
            Exchange(**(SMALL | {name: None}))
        record = {k: v for k, v in Exchange(**SMALL).to_record().items() if k != name}
        with pytest.raises(InputError, match=f"needs {name}"):
            Exchange.from_record(record)


def test_an_unknown_column_is_refused_with_the_nearest_known_one() -> None:
    record = Exchange(**SMALL).to_record()
    with pytest.raises(InputError, match=r"no column 'token_in'(?s:.*)'tokens_in'"):
        Exchange.from_record(record | {"token_in": 3})
    with pytest.raises(InputError, match="id is not hexadecimal"):
        Exchange.from_record(record | {"id": "xy"})


def test_every_column_says_what_it_means_once() -> None:
    assert list(COLUMNS) == [field.name for field in dataclasses.fields(Exchange)]
    assert len({column.meaning for column in COLUMNS.values()}) == len(COLUMNS)


def test_the_signature_of_the_skeleton_has_at_most_64_bytes() -> None:
    assert COLUMNS["skeleton"].size == 64


def test_nothing_of_an_exchange_can_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Exchange(**SMALL).account = "b"  # type: ignore[misc]
    assert not hasattr(Exchange(**SMALL), "__dict__")


@given(st.integers(0, 2**48 * 1000 - 1), st.integers(0, 2**48 * 1000 - 1), st.randoms())
def test_ids_are_uuids_of_version_7_in_order_of_time(
    first_us: int, second_us: int, generator: random.Random
) -> None:
    first, second = (new_id(t, generator.randbytes) for t in (first_us, second_us))
    parsed = uuid.UUID(bytes=first)
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert parsed.int >> 80 == first_us // 1000
    if first_us != second_us:
        assert (first < second) == (first_us < second_us)


def test_ids_of_one_microsecond_differ() -> None:
    assert len({new_id(5) for _ in range(1000)}) == 1000
