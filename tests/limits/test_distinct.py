"""Distinct items held side by side are the set that they stand for."""

from __future__ import annotations

import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.limits import Limit, cells

LIMIT = Limit.distinct("prompts", 100, 10**6)
# Two letters only: items overlap where they stand side by side.
items = st.lists(st.text("ab", min_size=3, max_size=3).map(str.encode), max_size=40)
others = st.lists(st.text("ab", max_size=4).map(str.encode), max_size=5)


@given(items, others, st.integers(3, 30))
def test_items_are_the_set_of_what_was_taken(
    taken: list[bytes], odd: list[bytes], few_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "FEW_BYTES", few_bytes)
        cell, plain = cells.DistinctCell(LIMIT, 0), set()
        for item in [*taken, *odd, *taken]:
            assert (item in cell) == (item in plain)
            cell.take(1, item, 0, 0)
            plain.add(item)
            assert cell.items == plain
            assert len(cell) == len(plain)
        copy = cells.DistinctCell(LIMIT, 0)
        copy.load(cell.dump())
        assert copy.items == plain


def test_ten_short_digests_need_less_than_two_hundred_and_fifty_bytes() -> None:
    cell = cells.DistinctCell(LIMIT, 0)
    for number in range(10):
        cell.take(1, hashlib.sha256(b"%d" % number).digest()[:10], 0, 0)
    assert cell.many is None
    assert sys.getsizeof(cell) + sys.getsizeof(cell.few) < 250


def test_an_epoch_that_is_over_is_forgotten() -> None:
    cell = cells.DistinctCell(LIMIT, 0)
    cell.take(1, b"item", 0, 0)
    assert b"item" in cell
    assert cell.fits(1, b"other", 10**6)
    assert len(cell) == 0
    assert b"item" not in cell
