"""The area under the ROC curve, as a mean over items.

AUC = P(score of a positive > score of a negative) + P(equal) / 2. Written with DeLong's placements
(DeLong, DeLong & Clarke-Pearson, 1988) it is a mean over all N items: a positive i contributes
A + (V_i - A) N / N_pos and a negative A + (V_i - A) N / N_neg, where V_i is the share of the
opposite class that i is ranked right against. So differences of AUC get the same paired and
clustered intervals as differences of means.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


def auc_contributions(scores_N: Floats, positive_N: NDArray[np.bool_]) -> Floats:
    """Per-item contributions (N,) whose mean is the AUC.

    Infinite scores are allowed and rank at the ends; both classes must be present (ValueError).
    """
    n_pos, n = int(positive_N.sum()), len(positive_N)
    if n_pos in (0, n):
        raise ValueError("the area under the ROC curve needs items of both classes")
    rank_N = rankdata(scores_N)
    placement_N = np.empty(n)
    for own_N in (positive_N, ~positive_N):
        others = n - int(own_N.sum())
        placement_N[own_N] = (rank_N[own_N] - rankdata(scores_N[own_N])) / others
    placement_N[~positive_N] = 1.0 - placement_N[~positive_N]
    area = float(placement_N[positive_N].mean())
    weight_N = np.where(positive_N, n / n_pos, n / (n - n_pos))
    return np.asarray(area + (placement_N - area) * weight_N, dtype=np.float64)


def label_margin(scores_L: Floats, label: int) -> float:
    """Log-odds of one label against the rest, from natural-log scores; may be infinite."""
    rest_L = np.delete(scores_L, label)
    top = float(rest_L.max())
    rest = top + float(np.log(np.exp(rest_L - top).sum())) if np.isfinite(top) else top
    own = float(scores_L[label])
    return own - rest if own > -np.inf else -np.inf
