"""A causal model's last hidden states of sequences laid end to end: no padding, no head, no mask.

Every matrix product then works on real tokens only. Sequences do not see each other: attention runs
on one after the other, and positions count from each one's start. The model's own code does
everything else, through the attention interface of transformers.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
import transformers

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NAME = "stillhouse_packed"


def packed_states(model: Any, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the states (tokens, D) that the head would see; rows in the order of the sequences.

    Works inside autocast, `no_grad` and training alike. Raises `InputError` for a model whose
    layers do not all look at the whole sequence (sliding windows), or that has no stack of its own.
    """
    return packed_layers(model, sequences)[-1]


def packed_layers(
    model: Any, sequences: Sequence[Sequence[int]], *, every: bool = False
) -> list[torch.Tensor]:
    """Return the last states alone, or with `every` the embeddings' and each block's before them.

    As in transformers, what the head sees stands in place of the last block's own output.
    """
    decoder = model.get_decoder()
    check_packable(model)
    lengths = [len(ids) for ids in sequences]
    device = model.get_input_embeddings().weight.device
    ids_1N = torch.tensor([[i for ids in sequences for i in ids]], device=device)
    places_1N = torch.cat([torch.arange(n, device=device) for n in lengths])[None]
    with _packed_attention(decoder.config):
        output = decoder(
            input_ids=ids_1N,
            position_ids=places_1N,
            use_cache=False,
            packed_lengths=lengths,
            output_hidden_states=every,
        )
    return [states[0] for states in (output.hidden_states if every else [output.last_hidden_state])]


def _attend(
    module: Any,
    query_BHND: torch.Tensor,
    key_BHND: torch.Tensor,
    value_BHND: torch.Tensor,
    _mask: None,
    *,
    scaling: float,
    packed_lengths: Sequence[int],
    dropout: float = 0.0,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    grouped = query_BHND.shape[1] != key_BHND.shape[1]
    every = (query_BHND, key_BHND, value_BHND)
    sides = (torch.split(part, list(packed_lengths), 2) for part in every)
    done = [
        torch.nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            dropout_p=dropout if module.training else 0.0,
            is_causal=True,
            scale=scaling,
            enable_gqa=grouped,
        )
        for q, k, v in zip(*sides, strict=True)
    ]
    return torch.cat(done, 2).transpose(1, 2), None


def _no_mask(*_given: Any, **_options: Any) -> None:
    return None


@contextlib.contextmanager
def _packed_attention(config: Any) -> Iterator[None]:
    register: Any = transformers.AttentionInterface.register
    register(_NAME, _attend)
    masks: Any = transformers.AttentionMaskInterface.register
    masks(_NAME, _no_mask)
    own = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = own


def check_packable(model: Any) -> None:
    """Raise `InputError` for a model whose layers do not all see the whole sequence."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if kinds - {"full_attention"} or (not kinds and window is not None):
        raise InputError(
            f"{type(model).__name__} has layers that see only a part of the sequence: "
            f"{', '.join(sorted(kinds)) or f'a window of {window}'}",
            repair="take a model with full attention in every layer",
        )
