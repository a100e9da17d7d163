"""A shallower student: some of the teacher's blocks, in their order, as an ordinary model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import transformers

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def cut_depth(model: Any, layers: Sequence[int]) -> Any:
    """Return a new model of the same class made of `layers` (indices from 0, increasing).

    Its config has as many hidden layers, and lists with an entry per layer (`layer_types` and the
    like) are cut to match, so that the result loads in plain transformers. Weights are copied; the
    original is left as it was. Raises `InputError` for a bad choice, or an architecture whose
    blocks cannot be told apart from the rest or do not fit their new places.
    """
    prefix, depth = find_blocks(model)
    chosen = [int(layer) for layer in layers]
    if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] >= depth:
        raise InputError(
            f"layers {list(layers)} are not increasing indices below {depth}",
            repair=f"choose some of 0..{depth - 1}, each once, in order",
        )
    config = copy.deepcopy(model.config)
    for name, value in list(vars(config).items()):
        if _is_per_layer(name, value, depth):
            setattr(config, name, [value[layer] for layer in chosen])
    config.num_hidden_layers = len(chosen)
    new_places = {f"{prefix}.{old}.": f"{prefix}.{new}." for new, old in enumerate(chosen)}
    weights = {}
    for name, tensor in model.state_dict().items():
        block = _block_of(name, prefix)
        if block is None:
            weights[name] = tensor
        elif block in new_places:
            weights[new_places[block] + name.removeprefix(block)] = tensor
    with torch.random.fork_rng(devices=[]):
        auto: Any = transformers.AutoModelForCausalLM
        cut = auto.from_config(config, dtype=model.dtype)
    try:
        cut.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"the blocks {chosen} of this {type(model).__name__} do not fit a model of that depth: "
            f"{error}",
            repair="choose layers whose kinds repeat in the model's own pattern",
        ) from error
    cut.generation_config = copy.deepcopy(model.generation_config)
    return cut.train(model.training)


def find_blocks(model: Any) -> tuple[str, int]:
    """Return the name of the model's list of blocks, and how many there are."""
    depth = int(model.config.num_hidden_layers)
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth
    ]
    if len(found) != 1:
        raise InputError(
            f"{type(model).__name__} has {len(found)} lists of {depth} blocks; cutting needs one",
            repair="take a model that is one stack of blocks",
        )
    return found[0], depth


def _is_per_layer(name: str, value: Any, depth: int) -> bool:
    # Token ids and class names are lists too; their length means nothing here.
    ids = name.endswith(("_id", "_ids", "_token", "architectures", "id2label"))
    return isinstance(value, list) and len(value) == depth and not ids


def _block_of(name: str, prefix: str) -> str | None:
    if not name.startswith(prefix + "."):
        return None
    return f"{prefix}.{name.removeprefix(prefix + '.').split('.')[0]}."
