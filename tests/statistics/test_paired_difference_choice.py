"""The method is chosen from the data, and the interval says which and why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics import paired_difference
from stillhouse.statistics.bootstrap import draw_counts, studentised_mean
from stillhouse.statistics.small_clusters import cr2_mean, satterthwaite_df


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def labels(items: int, clusters: int) -> list[str]:
    return [f"layout-{i % clusters}" for i in range(items)]


def test_independent_right_or_wrong_gets_tango() -> None:
    a, b = rng().integers(0, 2, (2, 500))
    interval = paired_difference(a, b, rng=rng())
    assert (interval.method, interval.clusters, interval.n) == ("tango", None, 500)


def test_few_clusters_get_cr2_and_say_how_many() -> None:
    a, b = rng().integers(0, 2, (2, 600))
    interval = paired_difference(a, b, clusters=labels(600, 6), rng=rng())
    assert interval.method == "cr2"
    assert interval.clusters == 6
    assert interval.df == pytest.approx(5)
    assert "G = 6" in interval.note
    assert "t(5)" in interval.note


def test_real_scores_on_few_items_get_t() -> None:
    differences = rng().normal(5, 1, 10)
    interval = paired_difference(differences + 80, np.full(10, 80.0), rng=rng())
    assert (interval.method, interval.df) == ("t", pytest.approx(9))
    error = differences.std(ddof=1) / np.sqrt(10)
    assert interval.high - interval.estimate == pytest.approx(1.833113 * error, rel=1e-6)


def test_thirty_clusters_get_the_cluster_bootstrap() -> None:
    a, b = rng().integers(0, 2, (2, 600))
    interval = paired_difference(a, b, clusters=labels(600, 30), rng=rng())
    assert interval.method == "cluster-bootstrap"


@pytest.mark.parametrize("clusters", [2, 6, 30, 100])
def test_two_perfect_sides_never_get_an_interval_of_no_width(clusters: int) -> None:
    interval = paired_difference(
        np.ones(600), np.ones(600), clusters=labels(600, clusters), rng=rng()
    )
    assert interval.method == "tango-clustered"
    assert interval.low < 0 < interval.high
    # Never tighter than 600 independent pairs would allow.
    assert interval.high >= 1.6448**2 / (600 + 1.6448**2)
    assert "whole clusters" in interval.note


def test_losses_in_one_cluster_count_for_less_than_scattered_ones() -> None:
    clusters = labels(600, 6)
    together, apart = np.ones(600), np.ones(600)
    together[:72:6] = 0
    apart[:12] = 0
    wide = paired_difference(together, np.ones(600), clusters=clusters, rng=rng())
    narrow = paired_difference(apart, np.ones(600), clusters=clusters, rng=rng())
    assert wide.estimate == narrow.estimate
    assert wide.low < 2 * narrow.low < 0


def test_many_losses_in_two_of_thirty_clusters_are_not_bootstrapped() -> None:
    a = np.ones(900)
    a[np.arange(900) % 30 < 2] = 0
    interval = paired_difference(a, np.ones(900), clusters=labels(900, 30), rng=rng())
    assert interval.method == "tango-clustered"
    assert "2 of 30 clusters" in interval.note


def test_equal_real_scores_without_a_range_are_refused_with_the_repair() -> None:
    with pytest.raises(InputError, match="value_range"):
        paired_difference([3.0, 4.0, 9.0], [3.0, 4.0, 9.0], rng=rng())
    with pytest.raises(InputError, match="must be positive"):
        paired_difference([3.0, 4.0], [3.0, 4.0], rng=rng(), value_range=0)
    interval = paired_difference([3.0, 4.0], [3.0, 4.0], rng=rng(), value_range=5)
    assert interval.low < 0 < interval.high


def test_a_constant_gain_does_not_collapse() -> None:
    b = rng().random(100) * 0.5
    interval = paired_difference(b + 0.25, b, clusters=labels(100, 10), rng=rng())
    assert interval.low < interval.estimate


def test_one_cluster_per_item_is_the_same_as_none() -> None:
    a, b = rng().random((2, 50))
    with_labels = paired_difference(a, b, clusters=range(50), rng=rng())
    assert with_labels == paired_difference(a, b, rng=rng())


@pytest.mark.parametrize(
    ("a", "b", "clusters", "message"),
    [
        ([], [], None, "empty"),
        ([1.0], [0.0], None, "one item"),
        ([1.0, 0.0], [1.0], None, "a has 2, b has 1"),
        ([1.0, 0.0], [1.0, 0.0], ["x"], "clusters has 1"),
        ([1.0, 0.0], [1.0, 0.0], ["x", "x"], "one cluster"),
        ([1.0, float("nan")], [1.0, 0.0], None, r"a\[1\] is nan"),
        ([1.0, 0.0], [1.0, float("inf")], None, r"b\[1\] is inf"),
        (["good", "bad"], [1.0, 0.0], None, "not a number"),
        ([[1.0, 0.0]], [1.0, 0.0], None, "shape"),
    ],
)
def test_input_that_cannot_be_used_is_named(
    a: object, b: object, clusters: list[str] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        paired_difference(a, b, clusters=clusters, rng=rng())  # type: ignore[arg-type]


def test_a_level_in_per_cent_is_refused() -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        paired_difference([1, 0], [0, 0], level=95, rng=rng())


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.integers(0, 10**6))
def test_cr2_and_its_degrees_of_freedom_equal_the_matrix_definition(
    sizes: list[int], seed: int
) -> None:
    size_G = np.array(sizes, dtype=np.float64)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    values = rng(seed).normal(size=len(codes))
    n = len(codes)
    residual_maker = np.eye(n) - 1 / n
    terms = []
    for g, size in enumerate(sizes):
        rows = codes == g
        # The symmetric inverse square root of I - H_gg.
        adjusted = np.eye(size) + (1 / np.sqrt(1 - size / n) - 1) / size * np.ones((size, size))
        terms.append(residual_maker[:, rows] @ adjusted @ np.ones(size) / n)
    P_GN = np.array(terms)
    mean, error, _ = cr2_mean(np.bincount(codes, weights=values), size_G)
    assert float(mean) == pytest.approx(values.mean())
    assert float(error) ** 2 == pytest.approx(((P_GN @ values) ** 2).sum(), rel=1e-9)
    inverse = []
    for working in (np.eye(n), (codes[:, None] == codes[None, :]).astype(float)):
        form = P_GN @ working @ P_GN.T
        inverse.append((form**2).sum() / np.trace(form) ** 2)
    assert float(satterthwaite_df(size_G)) == pytest.approx(1 / np.mean(inverse), rel=1e-6)


@given(st.integers(2, 400), st.integers(200, 700))
def test_every_resample_draws_as_many_units_as_there_are(units: int, resamples: int) -> None:
    counts = np.concatenate(list(draw_counts(rng(1), units, resamples)))
    assert counts.shape == (resamples, units)
    assert (counts.sum(1) == units).all()


def test_the_bootstrap_by_cluster_sums_equals_one_that_copies_items() -> None:
    codes = np.repeat(np.arange(8), rng().integers(1, 20, 8))
    values = rng().normal(size=len(codes))
    sums, sizes = np.bincount(codes, weights=values), np.bincount(codes).astype(np.float64)
    fast = studentised_mean(sums, sizes, rng(5), 200)
    counts = np.concatenate(list(draw_counts(rng(5), 8, 200)))
    for t, row in zip(fast, counts, strict=True):
        drawn = np.repeat(np.arange(8), row.astype(int))
        again = np.concatenate([values[codes == g] for g in drawn])
        residuals = [(values[codes == g] - again.mean()).sum() for g in drawn]
        error = np.sqrt(np.square(residuals).sum()) / len(again)
        assert t == pytest.approx((again.mean() - values.mean()) / error, rel=1e-6)


def test_the_same_seed_gives_the_same_interval() -> None:
    a, b = rng().random((2, 300))
    clusters = labels(300, 40)
    first = paired_difference(a, b, clusters=clusters, rng=rng(3))
    assert first == paired_difference(a, b, clusters=clusters, rng=rng(3))


@given(st.integers(0, 10**6), st.sampled_from([3, 12, 40]), st.floats(0.0, 1.0))
def test_swapping_the_sides_mirrors_the_interval(seed: int, clusters: int, rate: float) -> None:
    a, b = (rng(seed).random((2, 240)) < rate).astype(float)
    names = labels(240, clusters)
    there = paired_difference(a, b, clusters=names, rng=rng(seed), resamples=200)
    back = paired_difference(b, a, clusters=names, rng=rng(seed), resamples=200)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
    assert there.low <= there.estimate <= there.high
    assert there.low >= -1
    assert there.high <= 1
