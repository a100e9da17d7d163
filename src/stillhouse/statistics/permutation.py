"""p-values from re-drawing what was random: permutations, keys, or signs.

The observed arrangement is itself one of the possible ones, so with m re-drawings p is
(1 + count) / (1 + m) and never 0 (Phipson and Smyth, arXiv 1603.05766); an exact enumeration holds
the observed one already. Re-drawings that fall short of the observed statistic by rounding alone
count as reaching it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics.interval import Floats, check_values

Side = Literal["greater", "less", "two-sided"]

_ENUMERATED_AT_MOST = 40  # halves of 2^20 sums each, met in the middle
_CONVOLVED_CELLS_AT_MOST = 200_000_000
_ROUNDING = 1e-10


@dataclass(frozen=True, slots=True)
class SignFlip:
    """A sign-flip p-value, how it was computed, and the number n of differences that are not 0."""

    pvalue: float
    method: Literal["enumeration", "convolution", "monte-carlo"]
    n: int
    flips: int | None


def permutation_pvalue(observed: float, redrawn: ArrayLike, side: Side = "greater") -> float:
    """(1 + #{redrawn at least as extreme}) / (1 + m) for m statistics under the null.

    "two-sided" doubles the smaller tail. Valid if observed and redrawn are exchangeable under the
    null. InputError when there is nothing to compare with or a value is not finite.
    """
    statistics_M = check_values(redrawn, "redrawn")
    target = float(check_values([observed], "observed")[0])
    slack = _ROUNDING * max(abs(target), float(np.abs(statistics_M).max()))
    upper = (1 + int((statistics_M >= target - slack).sum())) / (1 + len(statistics_M))
    lower = (1 + int((statistics_M <= target + slack).sum())) / (1 + len(statistics_M))
    return _choose(upper, lower, side)


def sign_flip_pvalue(
    differences: ArrayLike,
    side: Side = "greater",
    *,
    rng: np.random.Generator | None = None,
    flips: int = 9999,
) -> float:
    """The p-value of `sign_flip_test`."""
    return sign_flip_test(differences, side, rng=rng, flips=flips).pvalue


def sign_flip_test(
    differences: ArrayLike,
    side: Side = "greater",
    *,
    rng: np.random.Generator | None = None,
    flips: int = 9999,
) -> SignFlip:
    """Tail of sum(differences) when every sign is a fair, independent coin.

    Exact by convolution when all values are multiples of one step (wins and losses, counts), exact
    by enumeration up to 40 values that are not 0, else Monte-Carlo with `rng` and `flips`. The null
    is that each difference is symmetric about 0: one per independent unit, so sum the items of a
    cluster first. InputError when Monte-Carlo is needed and no `rng` is given.
    """
    values = check_values(differences, "differences")
    values = values[values != 0]
    if len(values) == 0:
        return SignFlip(1.0, "enumeration", 0, None)
    if side == "less":
        return sign_flip_test(-values, rng=rng, flips=flips)
    target = abs(float(values.sum())) if side == "two-sided" else float(values.sum())
    sizes = np.abs(values)
    steps = _as_steps(sizes)
    method: Literal["enumeration", "convolution", "monte-carlo"]
    drawn: int | None = None
    if steps is not None:
        # Summed in steps: the sum of unrounded values can lie beyond all sums of rounded ones.
        total = int((np.sign(values).astype(np.int64) * steps).sum())
        tail = _convolve(steps, abs(total) if side == "two-sided" else total)
        method = "convolution"
    elif len(sizes) <= _ENUMERATED_AT_MOST:
        tail, method = _enumerate(sizes, target), "enumeration"
    elif rng is None:
        raise InputError(
            f"{len(sizes)} differences are too many to enumerate",
            repair="give rng to draw signs at random",
        )
    else:
        tail, method, drawn = _draw(sizes, target, rng, flips), "monte-carlo", flips
    # The distribution is symmetric about 0, so both tails beyond |target| weigh the same.
    pvalue = min(1.0, 2 * tail) if side == "two-sided" else min(1.0, tail)
    return SignFlip(pvalue, method, len(sizes), drawn)


def _choose(upper: float, lower: float, side: Side) -> float:
    if side == "greater":
        return upper
    return lower if side == "less" else min(1.0, 2 * min(upper, lower))


def _as_steps(sizes: Floats) -> NDArray[np.int64] | None:
    """Sizes as whole multiples of a common step, where that keeps the convolution affordable."""
    for step in (1.0, float(sizes.min())):
        ratio = sizes / step
        whole = np.rint(ratio)
        if np.all(whole >= 1) and np.all(np.abs(ratio - whole) <= _ROUNDING * whole):
            if whole.sum() * len(whole) > _CONVOLVED_CELLS_AT_MOST:
                continue
            steps = whole.astype(np.int64)
            return steps // math.gcd(*steps.tolist())
    return None


def _convolve(steps: NDArray[np.int64], target: int) -> float:
    """P(sum of +-steps >= target), adding positive terms only: small tails keep their digits."""
    share = np.ones(1)  # share[k] = P(sum = 2 k - sum(steps))
    for step in np.sort(steps):
        longer = np.zeros(len(share) + step)
        longer[: len(share)] = share / 2
        longer[step:] += share / 2
        share = longer
    return float(share[(target + int(steps.sum())) // 2 :].sum())


def _sums(sizes: Floats) -> Floats:
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return sums


def _enumerate(sizes: Floats, target: float) -> float:
    first = _sums(sizes[::2])
    second = np.sort(_sums(sizes[1::2]))
    slack = _ROUNDING * float(sizes.sum())
    reached = len(second) - np.searchsorted(second, target - slack - first, side="left")
    return float(reached.sum()) / (len(first) * len(second))


def _draw(sizes: Floats, target: float, rng: np.random.Generator, flips: int) -> float:
    slack = _ROUNDING * float(sizes.sum())
    count = 0
    rows = max(1, (1 << 22) // len(sizes))
    for start in range(0, flips, rows):
        shape = (min(rows, flips - start), len(sizes))
        signs = rng.integers(0, 2, shape, dtype=np.int8)
        count += int((2 * (signs @ sizes) - sizes.sum() >= target - slack).sum())
    return (1 + count) / (1 + flips)
