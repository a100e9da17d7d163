"""Metrics that are no mean over items: ratios of sums, and the area under the curve."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.statistics.coverage_check import coverage_shortfalls, simulate
from tests.statistics.scenarios import equal, unequal

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics import (
    auc,
    auc_difference,
    micro_f1,
    paired_difference,
    paired_statistic_difference,
)
from stillhouse.statistics.auc import _pairs_won, _weighted_auc
from stillhouse.statistics.choice import choose_interval

LEVEL = 0.90


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("clusters", [5, 12, 45])
def test_a_mean_written_as_a_ratio_gets_the_interval_of_a_mean(clusters: int) -> None:
    a, b = rng().random((2, 300))
    codes = rng(1).integers(0, clusters, 300).tolist()
    ones = np.ones(300)
    ratio = paired_statistic_difference(
        lambda sums: sums[..., 0] / sums[..., 1],
        np.stack([a, ones], 1),
        np.stack([b, ones], 1),
        clusters=codes,
        rng=rng(2),
    )
    mean = paired_difference(a, b, clusters=codes, rng=rng(2))
    assert ratio.method == mean.method
    assert ratio.df == pytest.approx(mean.df)
    # The bootstrap takes its standard errors from the linear part, hence the looser bound.
    close = 1e-9 if clusters < 30 else 2e-3
    assert (ratio.low, ratio.high) == pytest.approx((mean.low, mean.high), abs=close)


def documents(r: np.random.Generator, codes: np.ndarray, ease: float) -> tuple[np.ndarray, ...]:
    """Counts of right, wrong and missed fields per document; documents of a layout are alike."""
    fields = r.integers(2, 9, len(codes))
    layout = r.beta(8 * ease, 8 * (1 - ease), codes.max() + 1)
    both = []
    for _ in range(2):
        hits = r.binomial(fields, layout[codes] * 0.95 + 0.05 * ease)
        wrong = r.binomial(fields - hits, 0.6)
        both.append(np.stack([hits, wrong, fields - hits], 1))
    return tuple(both)


@pytest.mark.parametrize("clusters", [6, 10, 30])
@pytest.mark.parametrize("ease", [0.8, 0.985])
def test_micro_f1_differences_are_covered(clusters: int, ease: float) -> None:
    codes = np.repeat(np.arange(clusters), unequal(clusters) // (4 if clusters == 30 else 1))

    def bounds(r: np.random.Generator) -> tuple[float, float]:
        a, b = documents(r, codes, ease)
        interval = paired_statistic_difference(
            micro_f1, a, b, clusters=codes.tolist(), level=LEVEL, rng=r, resamples=300
        )
        return interval.low, interval.high

    low, high = simulate(bounds, rng(3))
    assert coverage_shortfalls(low, high, 0.0, LEVEL) == []


def auc_bounds(clusters: int, gap: float, *, clustered: bool = True) -> tuple[np.ndarray, ...]:
    """Both models separate the labels by `gap`; clusters shift scores and hold unlike labels."""
    codes = np.repeat(np.arange(clusters), equal(clusters, 10 if clusters == 30 else 20))
    positive_share = 1 / (1 + np.exp(-np.linspace(-2.0, 2.0, clusters)))[codes]

    def bounds(r: np.random.Generator) -> tuple[float, float]:
        labels = (r.random(len(codes)) < positive_share).astype(float)
        effect = 0.8 * r.normal(size=(2, clusters))[:, codes]
        a, b = gap * labels + effect + r.normal(size=(2, len(codes)))
        interval = auc_difference(
            a,
            b,
            labels,
            clusters=codes.tolist() if clustered else None,
            level=LEVEL,
            rng=r,
            resamples=200,
        )
        return interval.low, interval.high

    return simulate(bounds, rng(4))


@pytest.mark.parametrize(("clusters", "gap"), [(6, 1.0), (10, 1.0), (30, 1.0), (6, 4.0), (10, 4.0)])
def test_auc_differences_are_covered(clusters: int, gap: float) -> None:
    low, high = auc_bounds(clusters, gap)
    assert coverage_shortfalls(low, high, 0.0, LEVEL) == []


def test_the_check_rejects_an_auc_interval_that_ignores_clusters() -> None:
    low, high = auc_bounds(6, 1.0, clustered=False)
    assert coverage_shortfalls(low, high, 0.0, LEVEL) != []


@given(st.integers(2, 25), st.integers(0, 10**6))
def test_pairs_won_equals_counting_pairs(items: int, seed: int) -> None:
    scores = rng(seed).integers(0, 6, items).astype(float)
    positive = rng(seed + 1).random(items) < 0.5
    won = _pairs_won(scores, positive)
    for i in range(items):
        others = scores[positive != positive[i]]
        wins, ties = (others < scores[i]).sum(), (others == scores[i]).sum()
        if not positive[i]:
            wins = (others > scores[i]).sum()
        assert won[i] == wins + ties / 2


@given(st.integers(0, 10**6))
def test_weighted_auc_equals_repeating_items(seed: int) -> None:
    r = rng(seed)
    scores, positive = r.integers(0, 8, 30).astype(float), r.random(30) < 0.5
    positive[:2] = [True, False]
    codes = np.arange(30) % 7
    codes[:2] = 0
    counts = r.integers(0, 3, (4, 7)).astype(float)
    counts[:, 0] += 1
    area = _weighted_auc(scores, positive, codes)(counts)
    for value, row in zip(area, counts, strict=True):
        again = np.repeat(np.arange(30), row[codes].astype(int))
        won = _pairs_won(scores[again], positive[again])[positive[again]].sum()
        assert value == pytest.approx(won / (positive[again].sum() * (~positive[again]).sum()))


@given(st.integers(0, 10**6))
def test_leaving_out_a_cluster_is_really_that(seed: int) -> None:
    """With 8 clusters the standard error is the jackknife's, recomputed here item by item."""
    r = rng(seed)
    codes = np.arange(160) % 8
    a, b = r.normal(size=(2, 160))
    labels = (r.random(160) < 0.5).astype(float)

    def area(keep: np.ndarray) -> float:
        positive = labels[keep] == 1
        pairs = positive.sum() * (~positive).sum()
        won = [_pairs_won(x[keep], positive)[positive].sum() for x in (a, b)]
        return float((won[0] - won[1]) / pairs)

    with pytest.MonkeyPatch.context() as patch:  # without a range no rare loss is allowed for
        patch.setattr(
            auc, "choose_interval", lambda d, level: choose_interval(replace(d, span=None), level)
        )
        interval = auc_difference(a, b, labels, clusters=codes.tolist(), rng=r)
    everything = area(np.ones(160, dtype=bool))
    without = np.array([area(codes != g) for g in range(8)])
    error = np.sqrt((7 / 8 * (without - everything) ** 2).sum())
    assert interval.method == "cr2"
    assert interval.estimate == pytest.approx(everything)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.894579 * error, rel=1e-5)


def test_many_items_in_few_clusters_are_resampled_in_little_memory() -> None:
    r = rng(3)
    labels = (r.random(20_000) < 0.5).astype(float)
    a, b = labels + r.normal(size=(2, 20_000))
    codes = np.arange(20_000) % 30
    tracemalloc.start()
    auc_difference(a, b, labels, clusters=codes.tolist(), rng=r, resamples=400)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6, "400 resamples of 20,000 items at once are 64 MB an array"


def test_two_perfect_rankings_do_not_collapse() -> None:
    labels = np.arange(200) % 2
    interval = auc_difference(labels, labels, labels, rng=rng())
    assert interval.low < 0 < interval.high


def test_auc_input_that_cannot_be_used_is_named() -> None:
    with pytest.raises(InputError, match="0 or 1"):
        auc_difference([1, 2], [1, 2], [1, 2], rng=rng())
    with pytest.raises(InputError, match="positives are in one unit"):
        auc_difference([1, 2, 3], [1, 2, 3], [1, 0, 0], rng=rng())
    with pytest.raises(InputError, match="labels has 1"):
        auc_difference([1, 2], [1, 2], [1], rng=rng())


def test_ratio_input_that_cannot_be_used_is_named() -> None:
    with pytest.raises(InputError, match="alike"):
        paired_statistic_difference(micro_f1, np.ones((3, 3)), np.ones((3, 2)), rng=rng())
    with pytest.raises(InputError, match="undefined"):
        paired_statistic_difference(
            lambda sums: sums[..., 0] / sums[..., 1],
            np.array([[1, 1], [0, 0]]),
            np.array([[1, 1], [0, 0]]),
            rng=rng(),
        )


def test_micro_f1_of_nothing_is_one() -> None:
    assert micro_f1(np.array([0.0, 0.0, 0.0])) == 1
    assert micro_f1(np.array([3.0, 1.0, 2.0])) == pytest.approx(6 / 9)
