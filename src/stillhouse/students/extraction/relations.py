"""How two fields of a reply usually stand to each other, counted in the teacher's replies.

A date that is some days after another, an amount that is a share of another: of the gaps or shares
a histogram is kept. Where the student wavers between two places, the one that stands as usual to
the other field is likelier.
"""

from __future__ import annotations

import math
from datetime import date
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

LONGEST_GAP = 366  # days, either way
BINS = 2 * LONGEST_GAP + 1
_SHARE_STEP = 0.005  # of the logarithm of a share: shares from 0.026 to 1 have bins of their own


def relation_bin(value: Any, base: Any) -> int:
    """Which of BINS holds the gap between two dates, or the share of one amount in another."""
    if isinstance(value, date):
        days: int = (value - base).days
        return max(-LONGEST_GAP, min(days, LONGEST_GAP)) + LONGEST_GAP
    if value <= 0 or base <= 0:
        return 0
    steps = round(-math.log(value / base) / _SHARE_STEP)
    return max(0, min(steps, BINS - 1))


def relation_histogram(bins: Iterable[int]) -> Tensor:
    """(BINS,) log-probabilities against even odds, each bin counted once more than it is seen."""
    counts = torch.ones(BINS)
    for one in bins:
        counts[one] += 1
    return (counts / counts.sum() * BINS).log()
