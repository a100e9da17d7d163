"""Skew KL, both ways: one side is mixed into the other, so that nothing is divided by zero.

    skew_forward_kl:  D = KL(t || alpha t + (1 - alpha) s)        0 <= alpha < 1
    skew_reverse_kl:  D = KL(s || alpha s + (1 - alpha) t)

Both are the plain KL at alpha 0 and go to 0 as alpha goes to 1, without a jump. For alpha > 0 they
are at most -log(alpha). With x = log t - log s and m the mixture:

    forward:  L = log(m / s) = log(1 + alpha (e**x - 1))          dD/d log s = -(1 - alpha) t s / m
    reverse:  L = log(m / s) = log(1 + (1 - alpha)(e**x - 1))     dD/d log s = s (1 - L - alpha s/m)

Source: DistiLLM, arXiv 2402.03898 (there alpha = 0.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.distill.divergences import reverse_kl
from stillhouse.distill.divergences.simplex import log_mixture, times

if TYPE_CHECKING:
    import torch


def forward_terms(
    log_s_NV: torch.Tensor, log_t_NV: torch.Tensor, alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return skew forward KL (N) and its slope in log s (N, V)."""
    x_NV = log_t_NV - log_s_NV
    log_ratio_NV = log_mixture(x_NV, alpha)
    t_NV = log_t_NV.exp()
    slope_NV = times(t_NV, (alpha - 1) * (-log_ratio_NV).exp())
    return -times(t_NV, log_mixture(-x_NV, 1 - alpha)).sum(-1), slope_NV


def reverse_terms(
    log_s_NV: torch.Tensor, log_t_NV: torch.Tensor, alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return skew reverse KL (N) and its slope in log s (N, V)."""
    if alpha == 0:
        return reverse_kl.terms(log_s_NV, log_t_NV, 0.0)
    log_ratio_NV = log_mixture(log_t_NV - log_s_NV, 1 - alpha)
    s_NV = log_s_NV.exp()
    slope_NV = times(s_NV, 1 - log_ratio_NV - alpha * (-log_ratio_NV).exp())
    return -times(s_NV, log_ratio_NV).sum(-1), slope_NV
