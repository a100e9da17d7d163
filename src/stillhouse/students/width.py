"""A narrower student: some heads, neurons and hidden channels of a decoder, as an ordinary model.

The cut model computes exactly what the whole one computes with every other part set to zero, up
to the epsilon of its norms. A norm divides by the root of the mean square over its channels: over
fewer channels that mean is larger, so norm weights are multiplied by sqrt(whole / kept).
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from stillhouse.exchanges import InputError
from stillhouse.students.depth import find_blocks
from stillhouse.students.shape import KNOWN, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillhouse.students.activations import Activations


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """How much to keep; None keeps all. `kv_heads` follows from `heads` when it is absent."""

    heads: int | None = None
    kv_heads: int | None = None
    feed_forward: int | None = None
    hidden: int | None = None

    def of(self, shape: Shape) -> Shape:
        """Return the shape that is left of `shape`; raises `InputError` for what cannot be.

        Query heads that share a key-value head form a group, and all groups are of one size. When
        only `heads` is given, whole groups are dropped if their size divides it; otherwise each
        group loses as many heads, if the number of groups divides it.
        """
        for name, wanted, whole in (
            ("hidden", self.hidden, shape.hidden),
            ("feed_forward", self.feed_forward, shape.feed_forward),
            ("heads", self.heads, shape.heads),
            ("kv_heads", self.kv_heads, shape.kv_heads),
        ):
            if wanted is not None and not 1 <= wanted <= whole:
                raise InputError(
                    f"cannot keep {wanted} of {whole} ({name})", repair=f"keep 1 to {whole}"
                )
        heads = shape.heads if self.heads is None else self.heads
        group = shape.heads // shape.kv_heads
        if self.kv_heads is not None:
            kv_heads = self.kv_heads
            possible = heads % kv_heads == 0 and heads // kv_heads <= group
        else:
            kv_heads = heads // group if heads % group == 0 else shape.kv_heads
            possible = heads % kv_heads == 0
        if not possible:
            options = sorted(
                {n * size for n in range(1, shape.kv_heads + 1) for size in range(1, group + 1)}
                if self.kv_heads is None
                else {self.kv_heads * size for size in range(1, group + 1)}
            )
            if self.kv_heads is None:
                options = [n for n in options if n % group == 0 or n % shape.kv_heads == 0]
            raise InputError(
                f"{heads} query heads cannot share {kv_heads} key-value heads evenly (the whole"
                f" model has groups of {group})",
                repair=f"keep one of {options} heads",
            )
        return dataclasses.replace(
            shape,
            heads=heads,
            kv_heads=kv_heads,
            feed_forward=self.feed_forward or shape.feed_forward,
            hidden=self.hidden or shape.hidden,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Which parts to keep: increasing indices; heads, key-value heads and neurons per layer.

    The kept query heads of a layer lie in the groups of its kept key-value heads, equally many in
    each.
    """

    heads: tuple[tuple[int, ...], ...]
    kv_heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]
    channels: tuple[int, ...]


def choose_units(model: Any, widths: Widths, activations: Activations) -> Units:
    """Return the parts of `model` that score highest, at `widths`.

    Of a layer's heads, first the key-value heads whose groups score highest together, then in each
    of those groups the query heads that do. Ties go to the earlier part.
    """
    shape = Shape.of(model)
    left = widths.of(shape)
    group = shape.heads // shape.kv_heads
    heads, kv_heads, neurons = [], [], []
    for layer in range(shape.layers):
        scores_KG = activations.heads[layer].reshape(shape.kv_heads, group)
        # Energies of heads add up, not their roots.
        kept = _highest((scores_KG**2).sum(1), left.kv_heads)
        kv_heads.append(kept)
        heads.append(
            tuple(
                kv * group + one
                for kv in kept
                for one in _highest(scores_KG[kv], left.heads // left.kv_heads)
            )
        )
        neurons.append(_highest(activations.neurons[layer], left.feed_forward))
    return Units(
        heads=tuple(heads),
        kv_heads=tuple(kv_heads),
        neurons=tuple(neurons),
        channels=_highest(activations.channels, left.hidden),
    )


def _highest(scores: Any, count: int) -> tuple[int, ...]:
    order = np.argsort(-np.asarray(scores), kind="stable")[:count]
    return tuple(sorted(int(place) for place in order))


def cut_width(model: Any, units: Units) -> Any:
    """Return a new model of the same class made of `units`; the original is left as it was.

    Weights are copied; a tied head stays tied. The head size stays what it was, so that rotary
    positions keep their meaning. Raises `InputError` for units that do not fit the model.
    """
    shape = Shape.of(model)
    _check(shape, units)
    config = copy.deepcopy(model.config)
    config.head_dim = shape.head_size
    config.hidden_size = len(units.channels)
    config.intermediate_size = len(units.neurons[0])
    config.num_attention_heads = len(units.heads[0])
    config.num_key_value_heads = len(units.kv_heads[0])
    prefix = find_blocks(model)[0] + "."
    weights = {}
    cutter = _Cutter(shape, units, KNOWN[config.model_type])
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix):
            number, _, part = name.removeprefix(prefix).partition(".")
            weights[name] = cutter.block(int(number), part, tensor)
        else:
            weights[name] = cutter.outside(name, tensor)
    with torch.random.fork_rng(devices=[]):
        auto: Any = transformers.AutoModelForCausalLM
        cut = auto.from_config(config, dtype=model.dtype)
    cut.load_state_dict(weights, strict=True)
    cut.generation_config = copy.deepcopy(model.generation_config)
    return cut.train(model.training)


def _check(shape: Shape, units: Units) -> None:
    group = shape.heads // shape.kv_heads
    layers = (units.heads, units.kv_heads, units.neurons)
    choices = [(units.channels, shape.hidden)]
    for kept, whole in zip(layers, (shape.heads, shape.kv_heads, shape.feed_forward), strict=True):
        if len(kept) != shape.layers or len({len(one) for one in kept}) != 1:
            raise InputError("each layer needs a choice, and all of one size")
        choices += [(one, whole) for one in kept]
    for kept_one, whole in choices:
        if not kept_one or list(kept_one) != sorted({*kept_one} & {*range(whole)}):
            raise InputError(f"{list(kept_one)} are not increasing indices below {whole}")
    for heads, kv_heads in zip(units.heads, units.kv_heads, strict=True):
        share = len(heads) // len(kv_heads)
        if [head // group for head in heads] != [kv for kv in kv_heads for _ in range(share)]:
            raise InputError(f"the query heads {list(heads)} do not share {list(kv_heads)} evenly")


class _Cutter:
    """What is left of each tensor."""

    def __init__(self, shape: Shape, units: Units, plus_one: bool):
        self.shape, self.units, self.plus_one = shape, units, plus_one
        self.channels = torch.tensor(units.channels)
        self.gain = (shape.hidden / len(units.channels)) ** 0.5

    def block(self, layer: int, part: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of a decoder block, named by its place in the block."""
        names = part.split(".")
        if names[0] == "self_attn" and names[1] in ("q_norm", "k_norm"):
            return tensor  # over the head size, which stays
        if names[0] not in ("self_attn", "mlp"):
            return self._norm(tensor, self.gain)
        inner = {
            "q_proj": lambda: self._head_rows(self.units.heads[layer]),
            "k_proj": lambda: self._head_rows(self.units.kv_heads[layer]),
            "v_proj": lambda: self._head_rows(self.units.kv_heads[layer]),
            "o_proj": lambda: self._head_rows(self.units.heads[layer]),
            "gate_proj": lambda: torch.tensor(self.units.neurons[layer]),
            "up_proj": lambda: torch.tensor(self.units.neurons[layer]),
            "down_proj": lambda: torch.tensor(self.units.neurons[layer]),
        }[names[1]]()
        writes = names[1] in ("o_proj", "down_proj")
        rows, columns = (self.channels, inner) if writes else (inner, self.channels)
        return tensor[rows] if names[2] == "bias" else tensor[rows][:, columns]

    def outside(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor before, between or after the blocks."""
        if tensor.dim() == 1 and len(tensor) == self.shape.hidden and "norm" in name:
            # Gemma multiplies its embeddings by sqrt(hidden size): what a smaller size takes away
            # is put into the embedding, and out of the last norm again where the head is the same.
            return self._norm(tensor, 1.0 if self.plus_one and self.shape.tied else self.gain)
        if tensor.dim() == 2 and tensor.shape[1] == self.shape.hidden:
            cut = tensor[:, self.channels]
            scaled = self.plus_one and (self.shape.tied or "embed" in name)
            return cut * self.gain if scaled else cut.clone()
        return tensor  # a head's bias, over the vocabulary

    def _norm(self, tensor: torch.Tensor, gain: float) -> torch.Tensor:
        kept = tensor[self.channels]
        if len(self.channels) == self.shape.hidden:
            return kept
        return (1 + kept) * gain - 1 if self.plus_one else kept * gain

    def _head_rows(self, heads: Sequence[int]) -> torch.Tensor:
        size = self.shape.head_size
        return (torch.tensor(heads)[:, None] * size + torch.arange(size)).flatten()
