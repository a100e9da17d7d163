"""Arithmetic on probabilities that stays exact where there is no mass."""

from __future__ import annotations

import math

import torch


def times(mass: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return mass * value, and 0 wherever mass is 0, whatever the value (0 log 0 = 0)."""
    return torch.where(mass > 0, mass * value, 0)


def log_mixture(x: torch.Tensor, share: float) -> torch.Tensor:
    """Return log(1 + share (e**x - 1)) for 0 <= share <= 1: log of the mixture over its base.

    Exact to rounding for shares near 0 and 1 and for any x, infinities included.
    """
    if share == 0:
        return torch.zeros_like(x)
    if share == 1:
        return x
    # log1p keeps small shares exact, logaddexp keeps e**x from overflowing.
    small = torch.log1p(share * torch.expm1(x.clamp(max=1.0)))
    base = torch.full_like(x, math.log1p(-share))
    return torch.where(x > 1, torch.logaddexp(base, x + math.log(share)), small)
