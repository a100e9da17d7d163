"""A student as a GGUF file, through the `gguf` package: weights, tokenizer and template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import gguf
import numpy as np

from stillhouse.exchanges import InputError
from stillhouse.students.export.gguf_tokens import add_tokens

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Our architecture, llama.cpp's, and whether llama.cpp rotates neighbours instead of halves.
ARCHITECTURES = {
    "llama": (gguf.MODEL_ARCH.LLAMA, True),
    "mistral": (gguf.MODEL_ARCH.LLAMA, True),
    "qwen2": (gguf.MODEL_ARCH.QWEN2, False),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, False),
}
FILE_TYPES = {
    "float32": gguf.LlamaFileType.ALL_F32,
    "float16": gguf.LlamaFileType.MOSTLY_F16,
}


def write_gguf(
    model: Any,
    tokenizer: Any,
    path: Path,
    *,
    precision: Literal["float32", "float16"],
    name: str,
) -> None:
    """Write `model` to `path`; matrices in `precision`, norms and biases in float32.

    Raises `InputError` for architectures, position codes, attention windows and tokenizers that
    are not written here, before anything is.
    """
    architecture, neighbours = _require(model)
    writer: Any = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _add_shape(writer, model, name, FILE_TYPES[precision])
    add_tokens(writer, model, tokenizer)
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for key, tensor in model.state_dict().items():
        if tied and key.startswith("lm_head."):
            continue  # llama.cpp takes the embedding where there is no head
        value = tensor.detach().float().numpy()
        part = key.split(".")[-2]
        if neighbours and part in heads:
            value = _interleaved(value, heads[part])
        found = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise InputError(f"GGUF has no place for the tensor {key}", repair="export to ONNX")
        if precision == "float16" and value.ndim > 1:
            value = value.astype(np.float16)
        writer.add_tensor(found, np.ascontiguousarray(value))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _require(model: Any) -> tuple[gguf.MODEL_ARCH, bool]:
    config = model.config
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise InputError(
            f"the architecture {kind!r} ({type(model).__name__}) is not written as GGUF here",
            repair=f"export to ONNX, or take one of: {', '.join(ARCHITECTURES)}",
        )
    rope = config.rope_parameters["rope_type"]
    windows = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if rope != "default" or windows or (kind == "mistral" and config.sliding_window):
        raise InputError(
            f"rotary positions of type {rope!r}"
            if rope != "default"
            else "attention within a sliding window is not written as GGUF here",
            repair="export to ONNX",
        )
    return ARCHITECTURES[kind]


def _add_shape(writer: Any, model: Any, name: str, file_type: gguf.LlamaFileType) -> None:
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(int(model.get_input_embeddings().weight.shape[0]))


def _interleaved(value: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of each head so that the two halves of a rotation stand side by side."""
    halves = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
    return halves.swapaxes(1, 2).reshape(value.shape)
