"""Adaptive KL: forward where the head of the teacher's distribution is off, reverse for the tail.

    head = the tokens v for which the teacher's mass on {u: t_u >= t_v} is at most mu, and those
           of the largest t;  tail = the others                               0 < mu < 1
    h = sum_head |t - s|,  r = sum_tail |t - s|
    D = h / (h + r) KL(t || s) + r / (h + r) KL(s || t)

The two weights are constants of the gradient (and 1/2 each where s = t). Tied tokens share a side:
the order of the vocabulary does not matter. Source: arXiv 2404.02657 (mu = 0.5), whose code sorts
and so divides ties by their index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stillhouse.distill.divergences import forward_kl, reverse_kl

if TYPE_CHECKING:
    from torch import Tensor

_FIRST_TOP = 64  # half of a language model's mass is usually on fewer tokens


def terms(log_s_NV: Tensor, log_t_NV: Tensor, mu: float) -> tuple[Tensor, Tensor]:
    """Return the divergence (N) and its slope in log s (N, V)."""
    t_NV = log_t_NV.exp()
    error_NV = (t_NV - log_s_NV.exp()).abs()
    in_head_NV = t_NV >= _smallest_of_head(t_NV, mu)
    head_N = torch.where(in_head_NV, error_NV, 0).sum(-1)
    total_N = error_NV.sum(-1)
    weight_N = torch.where(total_N > 0, head_N / total_N.clamp(min=1e-30), 0.5)
    forward_N, forward_slope_NV = forward_kl.terms(log_s_NV, log_t_NV, 0.0)
    reverse_N, reverse_slope_NV = reverse_kl.terms(log_s_NV, log_t_NV, 0.0)
    # Each slope may lack some c s, which changes no gradient; so may their sum.
    slope_NV = weight_N[:, None] * forward_slope_NV + (1 - weight_N)[:, None] * reverse_slope_NV
    return weight_N * forward_N + (1 - weight_N) * reverse_N, slope_NV


def _smallest_of_head(t_NV: Tensor, mu: float) -> Tensor:
    """Return the least probability (N, 1) that belongs to the head."""
    width, vocabulary = _FIRST_TOP, t_NV.shape[-1]
    while True:
        top_NK = t_NV.topk(min(width, vocabulary), dim=-1).values
        mass_NK = top_NK.cumsum(-1)
        if width >= vocabulary or bool((mass_NK[:, -1] > mu).all()):
            break
        width *= 8
    # The mass of a tie is complete at its last member.
    last_NK = torch.ones_like(top_NK, dtype=torch.bool)
    last_NK[:, :-1] = top_NK[:, :-1] > top_NK[:, 1:]
    counts_NK = (last_NK & (mass_NK <= mu)).long()
    place_NK = torch.arange(1, top_NK.shape[-1] + 1, device=t_NV.device) * counts_NK
    return top_NK.gather(-1, (place_NK.amax(-1, keepdim=True) - 1).clamp(min=0))
