"""K ids and weights whose expectation is a distribution: unbiased, with little variance.

Ids above a threshold tau are kept with their own probability; the others are drawn with inclusion
probability p / tau and all weigh tau, where tau makes it K ids in all. That is the unbiased choice
of K values with the least expected squared error (Horvitz and Thompson; for gradients Wangni et
al., arXiv 1710.09854). The draw is systematic, from one uniform number a row: always K ids (fewer
where fewer have mass), none twice. arXiv 2503.16870 showed that sampled ids train as well as whole
distributions, with independent draws; those are `drawn_independently`, kept to compare with.
"""

from __future__ import annotations

import torch


def sample_ids(
    probabilities_NV: torch.Tensor, uniform_N: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids (N, K) by falling weight, and weights (N, K) in float64 that sum to 1.

    `uniform_N` are numbers in [0, 1). Unused places hold distinct other ids with weight 0.
    """
    p_NV = probabilities_NV.double()
    p_NV = p_NV / p_NV.sum(-1, keepdim=True)
    k = min(k, p_NV.shape[-1])
    top = p_NV.topk(k, dim=-1)
    before_NK = top.values.cumsum(-1) - top.values  # mass of the larger ones
    left_K = k - torch.arange(k, device=p_NV.device)
    # The larger ones are kept as they are, as long as the next one is above its fair share.
    kept_NK = (top.values * left_K >= 1 - before_NK).long().cumprod(-1).bool()
    kept_N = kept_NK.sum(-1)
    rest_NV = p_NV.scatter(-1, top.indices, torch.where(kept_NK, 0.0, top.values))
    along_NV = rest_NV.cumsum(-1)
    mass_N = along_NV[:, -1]
    draws_N = k - kept_N
    tau_N = mass_N / draws_N.clamp(min=1)
    number_NK = torch.arange(k, device=p_NV.device) - kept_N[:, None]
    points_NK = (number_NK.clamp(min=0) + uniform_N.double()[:, None]) * tau_N[:, None]
    found_NK = torch.searchsorted(along_NV, points_NK, right=True).clamp(max=p_NV.shape[-1] - 1)
    drawn_NK = number_NK >= 0
    drawn_NK &= (mass_N > 1e-12)[:, None]
    ids_NK = torch.where(drawn_NK, found_NK, top.indices)
    weights_NK = torch.where(drawn_NK, tau_N[:, None], torch.where(kept_NK, top.values, 0.0))
    return ids_NK, weights_NK


def drawn_independently(
    probabilities_NV: torch.Tensor, generator: torch.Generator, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return k draws with replacement, each of weight 1 / k (ids may repeat)."""
    ids_NK = torch.multinomial(probabilities_NV, k, replacement=True, generator=generator)
    return ids_NK, torch.full(ids_NK.shape, 1 / k, dtype=torch.float64, device=ids_NK.device)
