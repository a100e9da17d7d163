"""Differences between two answer sheets on the same items, with their intervals.

All intervals are two-sided at 1 - 2 alpha, so that each end is a one-sided bound at 1 - alpha.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from stillhouse.parity.scores import estimate
from stillhouse.statistics import Interval, paired_difference, paired_statistic_difference

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`left` minus `right` on one metric; positive means that `left` is better."""

    left: str
    right: str
    metric: str
    interval: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSpread:
    """A metric over training seeds: each seed's value, never only the best."""

    values: tuple[float, ...]
    mean: float
    deviation: float  # sample standard deviation; 0 for one seed
    lowest: float
    highest: float


def spread_over_seeds(values: Sequence[float]) -> SeedSpread:
    """Mean and spread of one metric over seeds."""
    return SeedSpread(
        values=tuple(values),
        mean=float(np.mean(values)),
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        lowest=min(values),
        highest=max(values),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A difference between two sheets: what its items tell, and what its seeds add.

    `of_items` is the interval with the seeds as they are; `seeds` the half-width that their spread
    adds (0 for one seed a side). `discordance` is the share of items that one side alone has right;
    None where items are not independent, or not right or wrong.
    """

    of_items: Interval
    seeds: float
    discordance: float | None

    @property
    def interval(self) -> Interval:
        """Both parts together."""
        return self.of_items if self.seeds == 0 else _widened(self.of_items, self.seeds)

    def scaled(self, gain: float) -> Compared:
        """The same for `gain` times the difference; a negative gain turns it round."""
        low, high = sorted((gain * self.of_items.low, gain * self.of_items.high))
        interval = dataclasses.replace(
            self.of_items, estimate=gain * self.of_items.estimate, low=low, high=high
        )
        return dataclasses.replace(self, of_items=interval, seeds=abs(gain) * self.seeds)


def compare(
    left_SNK: Floats,
    right_SNK: Floats,
    clusters: Sequence[str] | None,
    *,
    span: float | None,
    alpha: float,
    rng: np.random.Generator,
    resamples: int,
) -> Compared:
    """The difference of one metric between two sheets, each averaged over its seeds.

    `left_SNK`, `right_SNK`: values of a `Measure` for S seeds, N items and K = 1 (mean) or 2 (ratio
    of sums); S may differ between the sides. `span` is the measure's; None takes the larger of the
    two metrics. With S > 1 on a side, the spread between its seeds is added: the half-widths of the
    items' interval and of the t interval over seeds combine in quadrature (MOVER; Zou & Donner,
    2008), slightly conservative because part of the seeds' spread is already among the items.
    Raises InputError where no interval can be made.
    """
    level = 1 - 2 * alpha
    if span is None:
        span = max(estimate(values_NK) for values_NK in (*left_SNK, *right_SNK)) or 1.0
    if left_SNK.shape[2] == 1:
        interval = paired_difference(
            left_SNK.mean(axis=0)[:, 0],
            right_SNK.mean(axis=0)[:, 0],
            clusters=clusters,
            level=level,
            rng=rng,
            resamples=resamples,
            value_range=span,
        )
    else:
        seeds = math.lcm(len(left_SNK), len(right_SNK))
        interval = paired_statistic_difference(
            _mean_ratio,
            _side_by_side(left_SNK, seeds),
            _side_by_side(right_SNK, seeds),
            clusters=clusters,
            level=level,
            rng=rng,
            resamples=resamples,
            value_range=span,
        )
    return Compared(
        of_items=interval,
        seeds=math.hypot(_seed_half_width(left_SNK, alpha), _seed_half_width(right_SNK, alpha)),
        discordance=_discordance(left_SNK, right_SNK) if clusters is None else None,
    )


def _side_by_side(values_SNK: Floats, seeds: int) -> Floats:
    """Seeds as columns (N, seeds x K), each repeated equally often."""
    repeated_SNK = np.tile(values_SNK, (seeds // len(values_SNK), 1, 1))
    return repeated_SNK.transpose(1, 0, 2).reshape(values_SNK.shape[1], -1)


def _mean_ratio(totals: Floats) -> Floats:
    """Mean over seeds of numerator / denominator, from totals (..., seeds x 2)."""
    return np.asarray((totals[..., 0::2] / totals[..., 1::2]).mean(axis=-1))


def _discordance(left_SNK: Floats, right_SNK: Floats) -> float | None:
    if len(left_SNK) > 1 or len(right_SNK) > 1 or left_SNK.shape[2] > 1:
        return None
    left_N, right_N = left_SNK[0, :, 0], right_SNK[0, :, 0]
    if not np.isin(np.concatenate([left_N, right_N]), (0.0, 1.0)).all():
        return None
    return float((left_N != right_N).mean())


def _seed_half_width(values_SNK: Floats, alpha: float) -> float:
    seeds = len(values_SNK)
    if seeds < 2:
        return 0.0
    deviation = float(np.std([estimate(values_NK) for values_NK in values_SNK], ddof=1))
    return float(student_t.ppf(1 - alpha, seeds - 1)) * deviation / math.sqrt(seeds)


def _widened(interval: Interval, half_width: float) -> Interval:
    return dataclasses.replace(
        interval,
        low=interval.estimate - math.hypot(interval.estimate - interval.low, half_width),
        high=interval.estimate + math.hypot(interval.high - interval.estimate, half_width),
        note=f"{interval.note}; widened by the spread between training seeds",
    )
