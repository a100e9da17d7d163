"""How much each part of a decoder does, measured on training text: what width surgery goes by.

A part's size at a token is how much it hands on there:

attention head   norm of its output after its columns of the output projection
neuron           its activation times the norm of its column of the down projection
hidden channel   its value after each norm that reads the residual stream

So a part whose outgoing weights are zero scores zero, and rescaling a part against its outgoing
weights changes nothing. A score puts the sizes at all tokens together, by one of the aggregations:

rms            root mean square over all tokens: a few tokens with large values count most
mean           mean over all tokens
rms_of_means   root mean square over the sequences of the mean over each one's tokens

Parts and aggregations (L2 or mean, over batch and sequence) are those of Muralidharan et al.
(arXiv 2407.14679) and Sreenivas et al. (arXiv 2408.11796), who compare them after some training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from stillhouse.exchanges import InputError
from stillhouse.students.shape import Shape, blocks_of
from stillhouse.teachers.padding import pad_right

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

Aggregation = Literal["rms", "mean", "rms_of_means"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Scores per layer and head (L, H), layer and neuron (L, I), and hidden channel (D)."""

    heads: NDArray[np.float64]
    neurons: NDArray[np.float64]
    channels: NDArray[np.float64]
    tokens: int


@torch.no_grad()
def measure_activations(
    model: Any,
    sequences: Sequence[Sequence[int]],
    *,
    aggregation: Aggregation = "rms",
    batch_size: int = 8,
) -> Activations:
    """Score every head, neuron and hidden channel of `model` on token ids.

    `sequences` are prompts with their replies from the training split; never validation or test
    items. Padding is not counted. Raises `InputError` for an architecture that is not known here,
    an aggregation that is not one of `AGGREGATIONS`, or when there is no text.
    """
    shape = Shape.of(model)
    if aggregation not in AGGREGATIONS:
        raise InputError(
            f"sizes cannot be put together by {aggregation!r}",
            repair=f"take one of: {', '.join(AGGREGATIONS)}",
        )
    texts = [ids for ids in sequences if len(ids)]
    if not texts:
        raise InputError("scoring a model's parts needs some training text")
    heads = torch.zeros(shape.layers, shape.heads, dtype=torch.float64)
    neurons = torch.zeros(shape.layers, shape.feed_forward, dtype=torch.float64)
    channels = torch.zeros(shape.hidden, dtype=torch.float64)
    tokens_B1 = torch.zeros(0, 1)
    real_BL1 = torch.zeros(0, 0, 1)
    handles = []

    def watch(module: Any, totals_P: torch.Tensor, size: Callable[[Any], torch.Tensor]) -> None:
        def hook(_module: Any, given: tuple[Any, ...]) -> None:
            sizes_BLP = size(given[0].double()) * real_BL1
            if aggregation == "rms":
                totals_P.add_(sizes_BLP.square().sum((0, 1)))
            elif aggregation == "mean":
                totals_P.add_(sizes_BLP.sum((0, 1)))
            else:
                totals_P.add_((sizes_BLP.sum(1) / tokens_B1).square().sum(0))

        handles.append(module.register_forward_pre_hook(hook))

    for layer, block in enumerate(blocks_of(model)):
        out_DHC = block.self_attn.o_proj.weight.double().view(-1, shape.heads, shape.head_size)
        gram_HCC = torch.einsum("dhc,dhe->hce", out_DHC, out_DHC)
        norms_I = block.mlp.down_proj.weight.double().norm(dim=0)
        watch(block.self_attn.o_proj, heads[layer], partial(_head_norms, gram_HCC))
        watch(block.mlp.down_proj, neurons[layer], partial(_scaled, norms_I))
        watch(block.self_attn.q_proj, channels, torch.abs)
        watch(block.mlp.gate_proj, channels, torch.abs)
    watch(model.get_output_embeddings(), channels, torch.abs)
    try:
        for start in range(0, len(texts), batch_size):
            ids_BL, last_B = pad_right(texts[start : start + batch_size])
            tokens_B1 = (last_B + 1)[:, None]
            real_BL1 = (torch.arange(ids_BL.shape[1]) < tokens_B1)[:, :, None]
            # The head is not needed: its hook sees the hidden states all the same.
            _without_head(model, ids_BL)
    finally:
        for handle in handles:
            handle.remove()
    tokens = sum(map(len, texts))
    count = len(texts) if aggregation == "rms_of_means" else tokens

    def score(totals: torch.Tensor, readings: int) -> NDArray[np.float64]:
        mean = totals / readings
        found: NDArray[np.float64] = (mean if aggregation == "mean" else mean.sqrt()).numpy()
        return found

    return Activations(
        heads=score(heads, count),
        neurons=score(neurons, count),
        channels=score(channels, count * (2 * shape.layers + 1)),
        tokens=tokens,
    )


def _head_norms(gram_HCC: torch.Tensor, x_BLA: torch.Tensor) -> torch.Tensor:
    """The norm of each head's part of the output, whose projection has this Gram matrix."""
    x_BLHC = x_BLA.reshape(*x_BLA.shape[:-1], *gram_HCC.shape[:2])
    energy_BLH: torch.Tensor = (torch.einsum("blhc,hce->blhe", x_BLHC, gram_HCC) * x_BLHC).sum(-1)
    return energy_BLH.clamp(min=0).sqrt()


def _scaled(norms_I: torch.Tensor, x_BLI: torch.Tensor) -> torch.Tensor:
    return x_BLI.abs() * norms_I


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
