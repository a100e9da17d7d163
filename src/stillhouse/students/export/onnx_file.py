"""A student as ONNX, by torch's own exporter: token ids in, logits out, any batch and length."""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_BYTES = 2_000_000_000  # of one protobuf file


def write_onnx(model: Any, path: Path) -> None:
    """Write `model` (float32) to `path`: `input_ids` (batch, length) to `logits` (…, vocabulary).

    There is no cache of keys and values: each call computes the whole sequence. Raises
    `InputError` for a model beyond 2 GB, or one whose code torch cannot export.
    """
    parameters = list(model.parameters())
    weight_bytes = 4 * sum(parameter.numel() for parameter in parameters)
    if weight_bytes > MOST_BYTES:
        raise InputError(
            f"{weight_bytes / 1e9:.1f} GB of weights do not fit one ONNX file",
            repair="export to GGUF, or a smaller student",
        )
    attention = model.config._attn_implementation
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    try:
        model.set_attn_implementation("eager")
        with _quietly():
            program: Any = torch.onnx.export(
                _Logits(model).eval(),
                (torch.ones((2, 7), dtype=torch.long),),
                dynamo=True,
                dynamic_shapes={"input_ids": {0: batch, 1: length}},
                input_names=["input_ids"],
                output_names=["logits"],
                verbose=False,
            )
            program.save(str(path))
    except Exception as error:
        raise InputError(
            f"torch cannot export a {type(model).__name__} ({model.config.model_type}) to ONNX:"
            f" {type(error).__name__}: {str(error)[:300]}",
            repair="export it to GGUF, or take a llama, mistral, qwen2 or qwen3 decoder",
        ) from error
    finally:
        model.set_attn_implementation(attention)


class _Logits(torch.nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, use_cache=False).logits
        return logits


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep torch's own deprecations and its remarks about absent packages off the terminal."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
