"""Tango's score interval for the difference of two paired proportions.

Of n pairs, b are right on side a only and c on side b only. The bounds are the differences delta
at which the score statistic equals -z and +z:

    T(delta) = (b - c - n delta) / sqrt(n (2 q + delta (1 - delta)))

with q the maximum-likelihood share of the c cell under delta: the positive root of
2n q^2 + (2n delta - b (1 + delta) - c (1 - delta)) q - c delta (1 - delta) = 0 in the paper's
parametrisation. It does not collapse when b = c = 0: the bounds are then +-z^2 / (n + z^2).
Close to its level, not exact: when one cell is empty and the other holds 3 to 8 pairs, a one-sided
bound can fall to 0.90 at a nominal 0.95 on the side towards which the truth leans. The lower bound
of a difference that is truly negative, which is what non-inferiority uses, covers 0.93 at the least
from 50 pairs on and 0.92 at 20, by exact summation where side a is never right alone.

Source: Tango (1998), Statistics in Medicine 17:891-908.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics.interval import Floats, Interval, check_level

_HALVINGS = 42  # of an interval at most 2 wide: 5e-13


def tango_bounds(b: ArrayLike, c: ArrayLike, n: ArrayLike, z: float) -> tuple[Floats, Floats]:
    """Lower and upper bounds of p_b - p_c, elementwise; counts may be fractional."""
    b, c, n = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (b, c, n)))
    side = np.array([1.0, -1.0]).reshape(2, *[1] * b.ndim)  # the lower bound, then the upper
    inside = np.broadcast_to((b - c) / n, (2, *b.shape))
    outside = np.broadcast_to(-side, inside.shape)
    for _ in range(_HALVINGS):
        delta = (inside + outside) / 2
        linear = (2 * n - b + c) * delta - b - c
        cells = delta * (1 - delta)
        share = (np.sqrt(np.maximum(linear * linear + 8 * n * c * cells, 0.0)) - linear) / (4 * n)
        spread = np.sqrt(np.maximum(n * (2 * share + cells), 0.0))
        kept = side * (b - c - n * delta) <= z * spread
        inside, outside = np.where(kept, delta, inside), np.where(kept, outside, delta)
    return outside[0], outside[1]


def tango_interval(only_a: int, only_b: int, n: int, level: float = 0.90) -> Interval:
    """Interval of p_a - p_b from the two discordant counts of n independent pairs.

    Raises InputError when the counts are negative or exceed n, or n < 1.
    """
    check_level(level)
    if n < 1 or only_a < 0 or only_b < 0 or only_a + only_b > n:
        raise InputError(f"{only_a} and {only_b} discordant pairs do not fit into n = {n}")
    low, high = tango_bounds(only_a, only_b, n, float(special.ndtri((1 + level) / 2)))
    discordant = only_a + only_b
    return Interval(
        estimate=(only_a - only_b) / n,
        low=float(low),
        high=float(high),
        level=level,
        method="tango",
        n=n,
        clusters=None,
        df=None,
        note=f"Tango score interval; {discordant} of {n} pairs are discordant",
    )
