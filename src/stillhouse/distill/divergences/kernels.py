"""Loss and gradient of one chunk of positions, as plain functions of tensors.

Everything here takes the student's logits z (N, V) at temperature 1, after scale and soft cap, and
returns the summed divergence and its gradient in z, in the dtype of the coming products. They can
be compiled whole: the first one is most of the arithmetic outside matrix products.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.distill.divergences.divergence import Divergence
    from stillhouse.distill.divergences.head import Curve

    Full = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def wide(z: torch.Tensor) -> torch.Tensor:
    """Return logits in float32 at least."""
    return z if z.dtype in (torch.float32, torch.float64) else z.float()


def full(
    y_s_NV: torch.Tensor,
    y_t_NV: torch.Tensor,
    divergence: Divergence,
    student: Curve,
    teacher: Curve,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Divergence (N) and gradient in the student's bare products, from both models' products."""
    z_s_NV = student.bend(wide(y_s_NV))
    z_t_NV = teacher.bend(wide(y_t_NV))
    heat = divergence.temperature
    log_s_NV = torch.log_softmax(z_s_NV / heat if heat != 1 else z_s_NV, -1)
    log_t_NV = torch.log_softmax(z_t_NV / heat if heat != 1 else z_t_NV, -1)
    loss_N, slope_NV = divergence.terms(log_s_NV, log_t_NV)
    gradient_NV = (slope_NV - log_s_NV.exp() * slope_NV.sum(-1, keepdim=True)) / heat
    return loss_N, student.unbend(gradient_NV, z_s_NV).to(y_s_NV.dtype)


def grouped(z_NV: torch.Tensor, kept_K: torch.Tensor, heat: float) -> torch.Tensor:
    """Logits (N, K + 1) of the kept ids and of all others as one, by softmax(z / heat)."""
    others_NV = z_NV.index_fill(-1, kept_K, -torch.inf)
    tail_N1 = heat * (others_NV / heat).logsumexp(-1, keepdim=True)
    return torch.cat([z_NV[:, kept_K], tail_N1], -1)


def buckets(
    y_s_NV: torch.Tensor,
    ids_NK: torch.Tensor,
    log_t_NK: torch.Tensor,
    divergence: Divergence,
    student: Curve,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same against k ids and one bucket for all others."""
    z_s_NV = student.bend(wide(y_s_NV))
    heat = divergence.temperature
    scaled_NV = z_s_NV / heat if heat != 1 else z_s_NV
    kept_NK = scaled_NV.gather(-1, ids_NK)
    others_NV = scaled_NV.scatter(-1, ids_NK, -torch.inf)
    rest_N1 = others_NV.logsumexp(-1, keepdim=True)
    both_NB = torch.cat([kept_NK, rest_N1], -1)
    total_N1 = both_NB.logsumexp(-1, keepdim=True)
    log_t_NK = log_t_NK.to(z_s_NV.dtype)
    tail_N1 = (1 - log_t_NK.exp().sum(-1, keepdim=True)).clamp(min=0).log()
    # Rounding of that sum is no mass where every id is listed.
    tail_N1 = tail_N1.masked_fill(rest_N1 == -torch.inf, -torch.inf)
    log_s_NB = both_NB - total_N1
    loss_N, slope_NB = divergence.terms(log_s_NB, torch.cat([log_t_NK, tail_N1], -1))
    # A bucket's slope is shared out over its members by their share of the bucket.
    sum_N1 = slope_NB.sum(-1, keepdim=True)
    in_NB = slope_NB - log_s_NB.exp() * sum_N1
    gradient_NV = others_NV.sub_(rest_N1).exp_().mul_(in_NB[:, -1:])
    gradient_NV.nan_to_num_(0.0).scatter_(-1, ids_NK, in_NB[:, :-1]).div_(heat)
    return loss_N, student.unbend(gradient_NV, z_s_NV).to(y_s_NV.dtype)


def sampled(
    y_s_NV: torch.Tensor,
    ids_NK: torch.Tensor,
    weights_NK: torch.Tensor,
    entropy_N: torch.Tensor | None,
    divergence: Divergence,
    student: Curve,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward KL (or cross-entropy) against weighted ids."""
    z_s_NV = student.bend(wide(y_s_NV))
    heat = divergence.temperature
    scaled_NV = z_s_NV / heat if heat != 1 else z_s_NV
    weights_NK = weights_NK.to(z_s_NV.dtype)
    mass_N1 = weights_NK.sum(-1, keepdim=True)
    total_N1 = scaled_NV.logsumexp(-1, keepdim=True)
    kept_NK = scaled_NV.gather(-1, ids_NK)
    loss_N = (weights_NK * (total_N1 - kept_NK)).sum(-1)
    if entropy_N is not None:
        loss_N = loss_N - entropy_N.to(loss_N.dtype)
    gradient_NV = (scaled_NV - total_N1).exp_().mul_(mass_N1)
    gradient_NV.scatter_add_(-1, ids_NK, -weights_NK).div_(heat)
    return loss_N, student.unbend(gradient_NV, z_s_NV).to(y_s_NV.dtype)


@cache
def compiled(divergence: Divergence, student: Curve, teacher: Curve) -> Full:
    """`full` for one choice of settings through torch.compile, which needs a C++ compiler."""

    def chosen(y_s_NV: torch.Tensor, y_t_NV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return full(y_s_NV, y_t_NV, divergence, student, teacher)

    return torch.compile(chosen)
