"""Generalised Jensen-Shannon divergence, scaled so that it has no jump at its ends.

    m = (1 - beta) s + beta t          0 <= beta <= 1
    D = KL(t || m) / (1 - beta) + KL(s || m) / beta

D tends to KL(t || s) as beta goes to 0 and to KL(s || t) as it goes to 1, and equals them there.
The usual form, beta KL(t || m) + (1 - beta) KL(s || m), is beta (1 - beta) D: it tends to 0 at both
ends, which is why programs that use it switch to another loss there. At beta 1/2, D is 4 times the
Jensen-Shannon divergence in nats. With x = log t - log s and l(x, b) = log(1 + b (e**x - 1)) / b,

    D = - sum_v [ t l(-x, 1 - beta) + s l(x, beta) ]      dD/d log s = - s l(x, beta) + c s

Bounded for 0 < beta < 1, also where one side has no mass. Source: GKD, arXiv 2306.13649, eq. 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.distill.divergences import forward_kl, reverse_kl
from stillhouse.distill.divergences.simplex import log_mixture, times

if TYPE_CHECKING:
    from torch import Tensor


def terms(log_s_NV: Tensor, log_t_NV: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the divergence (N) and its slope in log s (N, V)."""
    if beta == 0:
        return forward_kl.terms(log_s_NV, log_t_NV, 0.0)
    if beta == 1:
        return reverse_kl.terms(log_s_NV, log_t_NV, 0.0)
    x_NV = log_t_NV - log_s_NV
    slope_NV = -times(log_s_NV.exp(), log_mixture(x_NV, beta) / beta)
    teacher_side_NV = times(log_t_NV.exp(), log_mixture(-x_NV, 1 - beta) / (1 - beta))
    return (slope_NV - teacher_side_NV).sum(-1), slope_NV
