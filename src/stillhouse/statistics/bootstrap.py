"""Studentised bootstrap over units that were sampled: items, or whole clusters of them.

A resample draws G units with replacement. From each, t* = (theta* - theta) / se* is kept; the
interval is [theta - q_high se, theta - q_low se]. Percentile and BCa intervals were measured beside
it (`benchmarks/coverage.py`) and cover less at 30 clusters, most of all where sizes differ.

Units are drawn as counts, in chunks, so that memory stays small; a mean needs five sums per unit
and no item is ever copied.

Source: Efron and Tibshirani (1993), chapters 12 and 14; Cameron, Gelbach and Miller (2008).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics.interval import Floats

CHUNK_CELLS = 1 << 20


def draw_counts(
    rng: np.random.Generator, units: int, resamples: int
) -> Iterator[NDArray[np.float64]]:
    """Yield, in chunks, how often each unit is in each resample: (r, G), rows summing to G."""
    if resamples < 200:
        raise InputError(f"{resamples} resamples are too few for a quantile", repair="use 4000")
    rows = max(1, CHUNK_CELLS // units)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = rng.integers(0, units, (count, units), dtype=np.int32)
        drawn += np.arange(count, dtype=np.int32)[:, None] * units
        flat = np.bincount(drawn.ravel(), minlength=count * units)
        yield flat.reshape(count, units).astype(np.float64)


def studentised_mean(
    sum_G: Floats, size_G: Floats, rng: np.random.Generator, resamples: int
) -> Floats:
    """Draws (resamples,) of t* for the mean over all items, sum(sum_G) / sum(size_G)."""
    mean = sum_G.sum() / size_G.sum()
    moments_G5 = np.stack([sum_G, size_G, sum_G**2, sum_G * size_G, size_G**2], axis=1)
    draws = []
    for counts_RG in draw_counts(rng, len(sum_G), resamples):
        total, n, total2, cross, n2 = (counts_RG @ moments_G5).T
        again = total / n
        variance = np.maximum(total2 - 2 * again * cross + again**2 * n2, 0.0) / n**2
        draws.append(_studentise(again - mean, variance))
    return np.concatenate(draws)


def studentised_statistic(
    replicate: Callable[[Floats], Floats],
    estimate: float,
    influence_G: Floats,
    rng: np.random.Generator,
    resamples: int,
) -> Floats:
    """Draws of t* for a statistic of unit counts; se* is taken from the linear part.

    `replicate` maps counts (r, G) to values (r,); `influence_G` holds each unit's share of the
    estimate's error (its squares sum to the variance). Draws where the statistic is undefined
    (for AUC: a resample without negatives) are left out.
    """
    draws = []
    for counts_RG in draw_counts(rng, len(influence_G), resamples):
        again = replicate(counts_RG)
        linear = counts_RG @ np.stack([influence_G, influence_G**2], axis=1)
        variance = np.maximum(linear[:, 1] - linear[:, 0] ** 2 / len(influence_G), 0.0)
        defined = np.isfinite(again)
        draws.append(_studentise((again - estimate)[defined], variance[defined]))
    return np.concatenate(draws)


def _studentise(error: Floats, variance: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = error / np.sqrt(variance)
    # A resample without spread lies infinitely far out, unless it also has no error.
    return np.where(np.isnan(ratio), 0.0, ratio)
