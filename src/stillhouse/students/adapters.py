"""Low-rank adapters (LoRA, arXiv 2106.09685) through PEFT, merged before a student is saved."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import peft
import torch

from stillhouse.exchanges import InputError


def add_adapter(
    model: Any,
    *,
    rank: int = 16,
    alpha: int | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> Any:
    """Return `model` (changed in place) with trainable LoRA on every linear layer but the head.

    `alpha` scales the update by alpha / rank and defaults to twice the rank. `seed` draws the
    initial A matrices; B is zero, so the model answers as before until it is trained.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise InputError(
            f"LoRA of rank {rank} and dropout {dropout}", repair="rank >= 1, 0 <= dropout < 1"
        )
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for an attribute under its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def merged(model: Any) -> Any:
    """Return an ordinary model: a copy with its adapters merged, or `model` itself without any."""
    if not isinstance(model, peft.PeftModel):
        return model
    return copy.deepcopy(model).merge_and_unload()
