"""Does an interval hold the truth as often as it says?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stillhouse.statistics import binomial_interval

Floats = NDArray[np.float64]
Bounds = tuple[float, float]


def coverage_shortfalls(
    low: Floats, high: Floats, truth: float, level: float, *, tolerance: float = 0.0
) -> list[str]:
    """What is wrong with the coverage of R simulated intervals; empty when nothing is.

    Checked: the two-sided share, and each bound alone against (1 + level) / 2. A share is wrong
    when the exact one-sided 99 % bound of what was simulated lies below nominal - tolerance: more
    coverage than promised is no fault here.
    """
    runs = len(low)
    assert runs >= 2000, "coverage needs at least 2,000 simulations"
    one_sided = (1 + level) / 2
    found = []
    for what, held, nominal in (
        ("both", (low <= truth) & (truth <= high), level),
        ("low", low <= truth, one_sided),
        ("high", truth <= high, one_sided),
    ):
        best = binomial_interval(int(held.sum()), runs, 0.99, side="upper").high
        if best < nominal - tolerance:
            found.append(f"{what}: {held.mean():.4f} of {runs}, nominal {nominal:.3f}")
    return found


def simulate(
    interval: Callable[[np.random.Generator], Bounds], rng: np.random.Generator, runs: int = 2000
) -> tuple[Floats, Floats]:
    """Lower and upper bounds (R,) of repeated draws."""
    bounds = np.array([interval(rng) for _ in range(runs)])
    return bounds[:, 0], bounds[:, 1]
