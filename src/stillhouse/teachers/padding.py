"""Sequences of unequal length as one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def pad_right(sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids (B, L) padded with 0, and each row's last real position (-1 for an empty one).

    Needs no mask: a causal model's real tokens come before the padding.
    """
    lengths = [len(ids) for ids in sequences]
    ids_BL = torch.zeros((len(sequences), max(lengths)), dtype=torch.long)
    for row, ids in enumerate(sequences):
        ids_BL[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    return ids_BL, torch.tensor(lengths) - 1


def pad_left(sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids (B, L) padded with 0 in front, and the attention mask (B, L) that hides it.

    For what continues: every row ends in the same column.
    """
    width = max(len(ids) for ids in sequences)
    ids_BL = torch.zeros((len(sequences), width), dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    for row, ids in enumerate(sequences):
        ids_BL[row, width - len(ids) :] = torch.tensor(ids, dtype=torch.long)
        mask_BL[row, width - len(ids) :] = 1
    return ids_BL, mask_BL


def positions(mask_BL: torch.Tensor) -> torch.Tensor:
    """Return the position ids (B, L) that count from each row's first real token."""
    return (mask_BL.cumsum(1) - 1).clamp(min=0)
