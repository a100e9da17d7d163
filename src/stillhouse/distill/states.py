"""A model's states at the places that predict reply tokens, of examples packed or padded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from stillhouse.distill.divergences import packed_layers, reply_places
from stillhouse.teachers.padding import pad_right

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillhouse.distill.examples import Example


def reply_states(
    model: Any, examples: Sequence[Example], *, pack: bool, every: bool = False
) -> list[torch.Tensor]:
    """Return states (M, D) of the last layer, or with `every` of the embedding and all layers.

    Row by row the places of the first example's reply, then the second's, and so on.
    """
    if pack:
        places_M = reply_places([len(e.ids) for e in examples], [e.start for e in examples])
        layers = packed_layers(model, [e.ids for e in examples], every=every)
        return [states[places_M] for states in layers]
    device = model.get_input_embeddings().weight.device
    ids_BL = pad_right([e.ids for e in examples])[0].to(device)
    places = [(r, c) for r, e in enumerate(examples) for c in range(e.start - 1, len(e.ids) - 1)]
    rows_M, columns_M = torch.tensor(places).T
    # Padding is on the right, where a causal model's real tokens do not see it.
    output = model.get_decoder()(input_ids=ids_BL, use_cache=False, output_hidden_states=every)
    found = output.hidden_states if every else [output.last_hidden_state]
    return [states[rows_M, columns_M] for states in found]


def bare(model: Any) -> Any:
    """The ordinary model inside one with adapters."""
    return model.get_base_model() if hasattr(model, "peft_config") else model
