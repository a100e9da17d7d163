"""Many tests at once: Holm for p-values, e-BH for e-values."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics.interval import Floats, check_probabilities


def holm(pvalues: ArrayLike) -> Floats:
    """Holm's adjusted p-values (M,), in the order given.

    Rejecting where the adjusted value is <= alpha keeps the chance of any false rejection at
    alpha, under any dependence. Source: Holm (1979).
    """
    p = check_probabilities(pvalues, "pvalues")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def e_bh(evalues: ArrayLike, alpha: float = 0.05) -> NDArray[np.bool_]:
    """Which of M hypotheses to reject (M,): expected share of false ones among them <= alpha.

    Rejects the k largest e-values for the largest k with e_(k) >= M / (k alpha). Valid under any
    dependence between them. Infinite e-values are allowed, negative or missing ones are an
    InputError. Source: Wang and Ramdas (2022), arXiv 2009.02824.
    """
    e = np.asarray(evalues, dtype=np.float64)
    if e.ndim != 1 or np.isnan(e).any() or (e < 0).any():
        raise InputError("evalues must be one row of numbers >= 0, none of them missing")
    if not 0 < alpha < 1:
        raise InputError(f"alpha is {alpha}, not a share between 0 and 1")
    rejected = np.zeros(len(e), dtype=np.bool_)
    order = np.argsort(-e, kind="stable")
    passes = e[order] * np.arange(1, len(e) + 1) >= len(e) / alpha
    if passes.any():
        rejected[order[: int(np.flatnonzero(passes)[-1]) + 1]] = True
    return rejected
