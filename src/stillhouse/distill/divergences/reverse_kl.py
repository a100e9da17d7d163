"""Reverse KL: the student must stay where the teacher is.

    D = KL(s || t) = sum_v s_v (log s_v - log t_v)

Infinite where the student gives mass to a token that the teacher gives none (logits of -inf).
Source: MiniLLM, arXiv 2306.08543; here per token, over the whole vocabulary, not over rollouts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.distill.divergences.simplex import times

if TYPE_CHECKING:
    import torch


def terms(
    log_s_NV: torch.Tensor, log_t_NV: torch.Tensor, _parameter: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the divergence (N) and its slope in log s (N, V): s (log s - log t), up to c s."""
    slope_NV = times(log_s_NV.exp(), log_s_NV - log_t_NV)
    return slope_NV.sum(-1), slope_NV
