"""The widths of a decoder, and which architectures are known well enough to cut them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from stillhouse.exchanges import InputError
from stillhouse.students.depth import find_blocks

# Decoders of one plan: q, k, v, o and gate, up, down projections, RMS norms, rotary positions.
# SmolLM and SmolLM2 are Llamas. The value: whether a norm multiplies by 1 + weight.
KNOWN = {
    "llama": False,
    "mistral": False,
    "qwen2": False,
    "qwen3": False,
    "gemma": True,
    "gemma2": True,
    "gemma3_text": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Counts of a decoder's parts; `kv_heads` are those that groups of query heads share."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, model: Any) -> Self:
        """Read a model's shape; raises `InputError` for an architecture that is not `KNOWN`."""
        require_known(model)
        config = model.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            feed_forward=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_size=size,
            vocabulary=int(model.get_input_embeddings().weight.shape[0]),
            tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        )


def require_known(model: Any) -> None:
    """Raise `InputError` naming the architecture unless it is one that width surgery knows."""
    kind = getattr(model.config, "model_type", type(model).__name__)
    if kind not in KNOWN:
        raise InputError(
            f"the width of the architecture {kind!r} ({type(model).__name__}) cannot be cut",
            repair=f"cut its layers only, or take one of: {', '.join(KNOWN)}",
        )


def blocks_of(model: Any) -> Any:
    """Return the model's decoder blocks in order."""
    return model.get_submodule(find_blocks(model)[0])
