"""How much each part of a decoder does, measured on training text: what width surgery goes by.

A part's score is the root mean square, over all tokens, of what it hands on:

attention head   norm of its output after its columns of the output projection
neuron           its activation times the norm of its column of the down projection
hidden channel   its value after each norm that reads the residual stream

So a part whose outgoing weights are zero scores zero, and rescaling a part against its outgoing
weights changes nothing. The kinds of parts are those of Muralidharan et al. (arXiv 2407.14679).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillhouse.exchanges import InputError
from stillhouse.students.shape import Shape, blocks_of
from stillhouse.teachers.padding import pad_right

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Scores per layer and head (L, H), layer and neuron (L, I), and hidden channel (D)."""

    heads: NDArray[np.float64]
    neurons: NDArray[np.float64]
    channels: NDArray[np.float64]
    tokens: int


@torch.no_grad()
def measure_activations(
    model: Any, sequences: Sequence[Sequence[int]], *, batch_size: int = 8
) -> Activations:
    """Score every head, neuron and hidden channel of `model` on token ids.

    `sequences` are prompts with their replies from the training split; never validation or test
    items. Padding is not counted. Raises `InputError` for an architecture that is not known here,
    or when there is no text.
    """
    shape = Shape.of(model)
    if not any(map(len, sequences)):
        raise InputError("scoring a model's parts needs some training text")
    blocks = blocks_of(model)
    head_CC = torch.zeros(
        shape.layers, shape.heads, shape.head_size, shape.head_size, dtype=torch.float64
    )
    neurons = torch.zeros(shape.layers, shape.feed_forward, dtype=torch.float64)
    channels = torch.zeros(shape.hidden, dtype=torch.float64)
    real: list[torch.Tensor] = []
    handles = []

    def watch(module: Any, note: Callable[[torch.Tensor], None]) -> None:
        def hook(_module: Any, given: tuple[Any, ...]) -> None:
            note(given[0][real[0]].double())

        handles.append(module.register_forward_pre_hook(hook))

    def channel(x_ND: torch.Tensor) -> None:
        channels.add_(x_ND.square().sum(0))

    for layer, block in enumerate(blocks):

        def head(x_NA: torch.Tensor, layer: int = layer) -> None:
            x_NHC = x_NA.view(len(x_NA), shape.heads, shape.head_size)
            head_CC[layer] += torch.einsum("nhc,nhd->hcd", x_NHC, x_NHC)

        def neuron(x_NI: torch.Tensor, layer: int = layer) -> None:
            neurons[layer] += x_NI.square().sum(0)

        watch(block.self_attn.o_proj, head)
        watch(block.mlp.down_proj, neuron)
        watch(block.self_attn.q_proj, channel)
        watch(block.mlp.gate_proj, channel)
    watch(model.get_output_embeddings(), channel)
    tokens = 0
    try:
        for start in range(0, len(sequences), batch_size):
            batch = [ids for ids in sequences[start : start + batch_size] if len(ids)]
            if batch:
                ids_BL, last_B = pad_right(batch)
                real[:] = [torch.arange(ids_BL.shape[1]) <= last_B[:, None]]
                # The head is not needed: its hook sees the hidden states all the same.
                _without_head(model, ids_BL)
                tokens += int(real[0].sum())
    finally:
        for handle in handles:
            handle.remove()
    scores_LH = np.empty((shape.layers, shape.heads))
    for layer, block in enumerate(blocks):
        out_DHC = block.self_attn.o_proj.weight.double().view(-1, shape.heads, shape.head_size)
        energy_H = torch.einsum("dhc,hce,dhe->h", out_DHC, head_CC[layer], out_DHC)
        scores_LH[layer] = (energy_H.clamp(min=0) / tokens).sqrt().numpy()
        neurons[layer] *= block.mlp.down_proj.weight.double().square().sum(0)
    return Activations(
        heads=scores_LH,
        neurons=(neurons / tokens).sqrt().numpy(),
        channels=(channels / (tokens * (2 * shape.layers + 1))).sqrt().numpy(),
        tokens=tokens,
    )


def _without_head(model: Any, ids_BL: torch.Tensor) -> None:
    """Run the model with its head on one position only, the head's hook on all of them."""
    output = model.get_output_embeddings()

    def first(_module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0][:1, :1], *given[1:])

    handle = output.register_forward_pre_hook(first)
    try:
        model(input_ids=ids_BL, use_cache=False)
    finally:
        handle.remove()
