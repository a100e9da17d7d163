"""Total variation distance: the largest difference the two can give to any set of tokens.

    D = 1/2 sum_v |t_v - s_v|          between 0 and 1

Not differentiable where s_v = t_v; the slope there is 0. Its gradient does not grow with the
distance, so it starts slowly from a student that is far off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def terms(log_s_NV: Tensor, log_t_NV: Tensor, _parameter: float) -> tuple[Tensor, Tensor]:
    """Return the distance (N) and its slope in log s (N, V): s sign(s - t) / 2."""
    s_NV = log_s_NV.exp()
    gap_NV = s_NV - log_t_NV.exp()
    return 0.5 * gap_NV.abs().sum(-1), 0.5 * s_NV * torch.sign(gap_NV)
