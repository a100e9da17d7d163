"""The interval of a paired difference: the entry point for "is a as good as b?"."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics.bootstrap import studentised_mean, studentised_statistic
from stillhouse.statistics.choice import Difference, choose_interval
from stillhouse.statistics.interval import (
    Floats,
    Interval,
    check_level,
    check_same_length,
    check_values,
    cluster_codes,
)

Clusters = Sequence[Hashable] | None


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: Clusters = None,
    level: float = 0.90,
    rng: np.random.Generator,
    resamples: int = 4000,
    value_range: float | None = None,
) -> Interval:
    """Interval of mean(a - b) over paired items; 0.90 two-sided = two one-sided 95 % bounds.

    `a`, `b`: one score per item (N,). `clusters`: what was sampled together (template, document,
    author), one label per item; leave it out only when items are independent. The method is chosen
    by `choice`, and `method`, `note`, `df`, `clusters` say which and why. `value_range` is the
    largest difference one item can show; scores within 0 to 1 need none.

    InputError on empty, non-finite or unpaired scores, a single item, a single cluster.
    """
    check_level(level)
    a_N, b_N = check_values(a, "a"), check_values(b, "b")
    pairs = check_same_length(a=a_N, b=b_N, **({} if clusters is None else {"clusters": clusters}))
    if pairs < 2:
        raise InputError("one item has no spread", repair="give at least two items")
    values_N = a_N - b_N
    both = np.concatenate([a_N, b_N])
    if value_range is None and both.min() >= 0 and both.max() <= 1:
        value_range = 1.0
    codes, _ = _units(clusters, pairs)
    sum_G, size_G = values_N, np.ones(pairs, dtype=np.float64)
    if codes is not None:
        sum_G = np.bincount(codes, weights=values_N).astype(np.float64)
        size_G = np.bincount(codes).astype(np.float64)
    estimate = float(values_N.mean())
    difference = Difference(
        estimate=estimate,
        shares=(sum_G - size_G * estimate) / pairs,
        sizes=size_G,
        codes=codes,
        values=values_N,
        active=values_N != 0,
        span=value_range,
        binary=bool(np.isin(both, (0.0, 1.0)).all()),
        draw_t=lambda: studentised_mean(sum_G, size_G, rng, resamples),
    )
    return choose_interval(difference, level)


def paired_statistic_difference(
    statistic: Callable[[Floats], Floats],
    sums_a: ArrayLike,
    sums_b: ArrayLike,
    *,
    clusters: Clusters = None,
    level: float = 0.90,
    rng: np.random.Generator,
    resamples: int = 4000,
    value_range: float = 1.0,
) -> Interval:
    """Interval of statistic(sum of sums_a) - statistic(sum of sums_b).

    For metrics that are no mean over items, such as micro-F1: `sums_a`, `sums_b` hold the K counts
    of each item (N, K), `statistic` maps totals (..., K) to values (...) (see `micro_f1`). Spread
    comes from leaving out one unit at a time (below 30 units, with CR2's degrees of freedom) or
    from the cluster bootstrap; for a plain mean the result equals `paired_difference`.
    `value_range` is the range of the statistic.

    InputError as for `paired_difference`, and when the statistic is undefined without some unit.
    """
    check_level(level)
    a_NK, b_NK = check_values(sums_a, "sums_a", ndim=2), check_values(sums_b, "sums_b", ndim=2)
    pairs = check_same_length(
        sums_a=a_NK, sums_b=b_NK, **({} if clusters is None else {"clusters": clusters})
    )
    if pairs < 2:
        raise InputError("one item has no spread", repair="give at least two items")
    if a_NK.shape != b_NK.shape:
        raise InputError(f"sums_a is {a_NK.shape}, sums_b is {b_NK.shape}; they must be alike")
    codes, units = _units(clusters, pairs)
    unit_a_GK, unit_b_GK, size_G = a_NK, b_NK, np.ones(pairs)
    if codes is not None:
        unit_a_GK, unit_b_GK = np.zeros((units, a_NK.shape[1])), np.zeros((units, a_NK.shape[1]))
        np.add.at(unit_a_GK, codes, a_NK)
        np.add.at(unit_b_GK, codes, b_NK)
        size_G = np.bincount(codes, minlength=units).astype(np.float64)
    total_a_K, total_b_K = a_NK.sum(0), b_NK.sum(0)

    def contrast(a_K: Floats, b_K: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(statistic(a_K) - statistic(b_K), dtype=np.float64)

    estimate = float(contrast(total_a_K, total_b_K))
    without_G = contrast(total_a_K - unit_a_GK, total_b_K - unit_b_GK)
    without_N = contrast(total_a_K - a_NK, total_b_K - b_NK)
    if not (
        np.isfinite(estimate) and np.isfinite(without_G).all() and np.isfinite(without_N).all()
    ):
        raise InputError(
            "the statistic is undefined, or becomes so when one unit is left out",
            repair="define it for zero counts, or give more units",
        )
    share_G = (1 - size_G / pairs) * (estimate - without_G)
    values_N = (pairs - 1) * (estimate - without_N)
    difference = Difference(
        estimate=estimate,
        shares=share_G,
        sizes=size_G,
        codes=codes,
        values=values_N - values_N.mean() + estimate,
        active=np.any(a_NK != b_NK, axis=1),
        span=value_range,
        binary=False,
        draw_t=lambda: studentised_statistic(
            lambda counts_RG: contrast(counts_RG @ unit_a_GK, counts_RG @ unit_b_GK),
            estimate,
            share_G,
            rng,
            resamples,
        ),
    )
    return choose_interval(difference, level)


def micro_f1(counts: Floats) -> Floats:
    """F1 from totals (..., 3) of true positives, false positives and false negatives; 1 if none."""
    hits, wrong, missed = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    whole = 2 * hits + wrong + missed
    return np.where(whole > 0, 2 * hits / np.where(whole > 0, whole, 1.0), 1.0)


def _units(clusters: Clusters, pairs: int) -> tuple[NDArray[np.int64] | None, int]:
    """Codes and count of the sampled units; no codes when every item is its own cluster."""
    if clusters is None:
        return None, pairs
    codes, units = cluster_codes(clusters)
    return (None, pairs) if units == pairs else (codes, units)
