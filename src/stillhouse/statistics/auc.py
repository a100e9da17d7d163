"""The interval of a difference of two areas under the ROC curve on the same items."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics.bootstrap import CHUNK_CELLS, studentised_statistic
from stillhouse.statistics.choice import Difference, choose_interval
from stillhouse.statistics.interval import (
    Floats,
    Interval,
    check_level,
    check_same_length,
    check_values,
    cluster_codes,
)


def auc_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.90,
    rng: np.random.Generator,
    resamples: int = 4000,
) -> Interval:
    """Interval of AUC(a) - AUC(b); ties count one half.

    `scores_a`, `scores_b` (N,): higher means "positive"; `labels` (N,): 0 or 1. The spread is that
    of leaving out one unit at a time (for independent items this is DeLong's, for clusters
    Obuchowski's), or whole units are resampled, by the rule of `choice`.

    InputError on scores that are not finite, labels other than 0 and 1, and when every positive or
    every negative belongs to one unit.
    Sources: DeLong, DeLong and Clarke-Pearson (1988); Obuchowski (1997).
    """
    check_level(level)
    a_N, b_N = check_values(scores_a, "scores_a"), check_values(scores_b, "scores_b")
    label_N = check_values(labels, "labels")
    items = check_same_length(
        scores_a=a_N,
        scores_b=b_N,
        labels=label_N,
        **({} if clusters is None else {"clusters": clusters}),
    )
    if not np.isin(label_N, (0.0, 1.0)).all():
        raise InputError("labels must be 0 or 1")
    codes, units = np.arange(items), items
    if clusters is not None:
        codes, units = cluster_codes(clusters)
    positive_N = label_N == 1
    positives_G = np.bincount(codes, weights=positive_N, minlength=units)
    size_G = np.bincount(codes, minlength=units).astype(np.float64)
    negatives_G = size_G - positives_G
    for name, counts_G in (("positives", positives_G), ("negatives", negatives_G)):
        if counts_G.max() == counts_G.sum():
            raise InputError(f"all {int(counts_G.sum())} {name} are in one unit")
    won_a, won_b = _pairs_won(a_N, positive_N), _pairs_won(b_N, positive_N)
    won_N = won_a - won_b
    positives, negatives = float(positives_G.sum()), float(negatives_G.sum())
    won = float(won_N[positive_N].sum())
    estimate = won / (positives * negatives)
    within_G = _won_within(a_N, positive_N, codes) - _won_within(b_N, positive_N, codes)
    lost_G = np.bincount(codes, weights=won_N, minlength=units) - within_G
    without_G = (won - lost_G) / ((positives - positives_G) * (negatives - negatives_G))
    share_G = (1 - size_G / items) * (estimate - without_G)
    per_class_N = np.where(positive_N, positives, negatives)
    others_N = np.where(positive_N, negatives, positives)
    replicate_a, replicate_b = (
        _weighted_auc(scores_N, positive_N, codes) for scores_N in (a_N, b_N)
    )
    difference = Difference(
        estimate=estimate,
        shares=share_G,
        sizes=size_G,
        codes=None if units == items else codes,
        values=estimate + (won_N / others_N - estimate) * items / per_class_N,
        active=won_N != 0,
        span=items / min(positives, negatives),
        binary=False,
        draw_t=lambda: studentised_statistic(
            lambda counts_RG: replicate_a(counts_RG) - replicate_b(counts_RG),
            estimate,
            share_G,
            rng,
            resamples,
        ),
    )
    return choose_interval(difference, level)


def _pairs_won(scores_N: Floats, positive_N: NDArray[np.bool_]) -> Floats:
    """Per item, how many items of the other class it is ordered rightly against; ties are half."""
    won_N = np.empty(len(scores_N))
    for own_N, gain in ((positive_N, 1), (~positive_N, -1)):
        others = np.sort(gain * scores_N[~own_N])
        mine = gain * scores_N[own_N]
        won_N[own_N] = (
            np.searchsorted(others, mine, side="left") + np.searchsorted(others, mine, side="right")
        ) / 2
    return won_N


def _won_within(
    scores_N: Floats, positive_N: NDArray[np.bool_], codes: NDArray[np.int64]
) -> Floats:
    """Pairs ordered rightly (G,) among those that lie in one unit."""
    ranks_N = np.unique(scores_N, return_inverse=True)[1]
    # Sorted by unit first, an item also beats all negatives of earlier units: taken off again.
    won_N = _pairs_won((codes * len(codes) + ranks_N).astype(np.float64), positive_N)
    negatives_G = np.bincount(codes, weights=~positive_N)
    earlier_G = np.cumsum(negatives_G) - negatives_G
    within_N = np.where(positive_N, won_N - earlier_G[codes], 0.0)
    return np.bincount(codes, weights=within_N).astype(np.float64)


def _weighted_auc(
    scores_N: Floats, positive_N: NDArray[np.bool_], codes: NDArray[np.int64]
) -> Callable[[Floats], Floats]:
    """AUC (r,) as a function of unit counts (r, G), with one sort for all resamples."""
    order = np.argsort(scores_N, kind="stable")
    ordered, code_N, truth_N = scores_N[order], codes[order], positive_N[order]
    first = np.searchsorted(ordered, ordered[truth_N], side="left")
    last = np.searchsorted(ordered, ordered[truth_N], side="right")

    def areas(counts_RG: Floats) -> Floats:
        weights_RN = counts_RG[:, code_N]
        negative_RN = np.zeros((len(counts_RG), len(ordered) + 1))
        np.cumsum(weights_RN * ~truth_N, axis=1, out=negative_RN[:, 1:])
        positive_RP = weights_RN[:, truth_N]
        won = (positive_RP * (negative_RN[:, first] + negative_RN[:, last])).sum(1) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            area: Floats = won / (positive_RP.sum(1) * negative_RN[:, -1])
        return area

    def replicate(counts_RG: Floats) -> Floats:
        # In pieces: a few units can hold very many items.
        rows = max(1, CHUNK_CELLS // len(ordered))
        pieces = range(0, len(counts_RG), rows)
        return np.concatenate([areas(counts_RG[start : start + rows]) for start in pieces])

    return replicate
