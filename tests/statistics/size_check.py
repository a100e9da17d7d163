"""Does a test reject a true null no more often than it says?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillhouse.statistics import binomial_interval

LEVELS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)


def excesses(pvalues: ArrayLike) -> list[str]:
    """Levels u at which simulated null p-values have P(p <= u) > u; empty when super-uniform.

    A level is exceeded when the exact one-sided 99.9 % lower bound of the share lies above it.
    """
    p = np.asarray(pvalues)
    assert len(p) >= 2000, "size needs at least 2,000 simulations"
    return [f"P(p <= {u}) = {np.mean(p <= u):.4f}" for u in LEVELS if _above(p <= u, u)]


def rejects_too_often(rejected: NDArray[np.bool_], alpha: float) -> bool:
    """Whether the share of R null runs that were rejected is beyond alpha, at 99.9 %."""
    assert len(rejected) >= 2000, "size needs at least 2,000 simulations"
    return _above(rejected, alpha)


def _above(held: NDArray[np.bool_], share: float) -> bool:
    return binomial_interval(int(held.sum()), len(held), 0.999, side="lower").low > share
