"""Conformal p-values: how unusual is a score beside scores known to be clean?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from stillhouse.statistics.interval import Floats, check_values


def conformal_pvalues(
    calibration: ArrayLike, test: ArrayLike, *, rng: np.random.Generator | None = None
) -> Floats:
    """Split-conformal p-values (M,) of `test` scores, high meaning unusual.

    p = (1 + #{calibration >= s}) / (n + 1). If the score and the n calibration scores are
    exchangeable, P(p <= u) <= u; the smallest possible value is 1 / (n + 1), so alpha = 0.01 needs
    99 clean scores. With `rng`, ties are broken at random,
    p = (#{calibration > s} + U (1 + #{calibration = s})) / (n + 1), and p is exactly uniform.

    Limits: p-values that share one calibration set depend on each other positively. Without `rng`
    Benjamini-Hochberg stays valid; Fisher's combination does not. Validity is on average over
    calibration sets, not for the one at hand. Calibrate within a class (plan, industry, volume)
    when classes differ: exchangeability holds nowhere else.
    Sources: Vovk, Gammerman and Shafer (2005); Bates et al., arXiv 2104.08279.
    """
    clean = np.sort(check_values(calibration, "calibration"))
    scores = check_values(test, "test")
    above = len(clean) - np.searchsorted(clean, scores, side="right")
    at_least = len(clean) - np.searchsorted(clean, scores, side="left")
    if rng is None:
        return np.asarray((1 + at_least) / (len(clean) + 1), dtype=np.float64)
    ties = at_least - above
    # 1 - random() lies in (0, 1]: a p-value is never 0.
    share = 1 - rng.random(len(scores))
    return np.asarray((above + share * (1 + ties)) / (len(clean) + 1), dtype=np.float64)
