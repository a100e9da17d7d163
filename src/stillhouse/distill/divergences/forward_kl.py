"""Forward KL: the student must cover everything the teacher does.

    D = KL(t || s) = sum_v t_v (log t_v - log s_v)

Minimised where s = t. Infinite where the teacher gives mass to a token that the student gives none.
Linear in t, so an unbiased estimate of t gives an unbiased gradient: the only divergence that
`Sampled` signals admit. Source: Hinton et al., arXiv 1503.02531 (without its factor T**2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.distill.divergences.simplex import times

if TYPE_CHECKING:
    import torch


def terms(
    log_s_NV: torch.Tensor, log_t_NV: torch.Tensor, _parameter: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the divergence (N) and its slope in log s (N, V): -t."""
    t_NV = log_t_NV.exp()
    return times(t_NV, log_t_NV - log_s_NV).sum(-1), -t_NV
