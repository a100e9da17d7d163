"""Which parameters of a student stay as they are."""

from __future__ import annotations

from typing import Any

from stillhouse.exchanges import InputError
from stillhouse.students.depth import find_blocks


def freeze(model: Any, *, embeddings: bool, layers: int) -> None:
    """Turn gradients off for embedding and head, and for the first `layers` blocks.

    Without trained embeddings below them, frozen first blocks need no backward pass at all. Models
    with adapters are left alone: theirs are the only parameters that train. Raises `InputError`
    when nothing would be left to train.
    """
    if hasattr(model, "peft_config"):
        return
    if embeddings:
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            module.requires_grad_(False)
    if layers == 0:
        return
    prefix, depth = find_blocks(model)
    if layers >= depth:
        raise InputError(
            f"train.freeze_layers is {layers}, and the student has {depth} layers",
            repair=f"freeze at most {depth - 1}",
        )
    for block in model.get_submodule(prefix)[:layers]:
        block.requires_grad_(False)
