"""Which positions carry loss, and what their sum is divided by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def reply_places(lengths: Sequence[int], starts: Sequence[int]) -> torch.Tensor:
    """Return the places that predict reply tokens in sequences laid end to end.

    Sequence i has `lengths[i]` ids, its reply is ids[starts[i]:]. A token is predicted one place
    before it stands: places starts[i] - 1 .. lengths[i] - 2, and never in another sequence.
    """
    places: list[int] = []
    before = 0
    for length, start in zip(lengths, starts, strict=True):
        if not 1 <= start <= length:
            raise ValueError(f"a reply from place {start} of {length} tokens: 1 is the first")
        places += range(before + start - 1, before + length - 1)
        before += length
    return torch.tensor(places, dtype=torch.long)


def normaliser(reply_tokens: int) -> float:
    """Return the divisor of one optimiser step's losses, from this process's reply tokens.

    `reply_tokens` counts all micro-batches of the accumulation. Under torch.distributed the counts
    of all ranks are added (each must call this once a step) and divided by the number of ranks,
    because DDP and FSDP average gradients over ranks: the step is then that of one process with
    all the data, however unequal the ranks are.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return float(reply_tokens)
    # NCCL adds up what lies on a GPU, and nothing else.
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(float(reply_tokens), dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return float(total) / distributed.get_world_size()
