"""Exact interval of a share."""

from __future__ import annotations

from typing import Literal

from scipy import stats

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics.interval import Interval, check_level


def binomial_interval(
    k: int, n: int, level: float = 0.95, side: Literal["two", "lower", "upper"] = "two"
) -> Interval:
    """Clopper-Pearson interval of k successes in n independent trials.

    Coverage is never below `level`, whatever the share; it is usually above. "lower" and "upper"
    put the whole error on one side (the other bound is 1 or 0). InputError unless 0 <= k <= n,
    n >= 1. Source: Clopper and Pearson (1934).
    """
    check_level(level)
    if n < 1 or not 0 <= k <= n:
        raise InputError(f"{k} of {n} is not a share", repair="give 0 <= k <= n and n >= 1")
    tail = (1 - level) / 2 if side == "two" else 1 - level
    low = 0.0 if k == 0 or side == "upper" else float(stats.beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k == n or side == "lower" else float(stats.beta.isf(tail, k + 1, n - k))
    note = "exact; conservative" if side == "two" else f"exact one-sided {side} bound"
    return Interval(k / n, low, high, level, "clopper-pearson", n, None, None, note)
