"""Read a model and its tokenizer from disk: a transformers folder, or one GGUF file."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers

from stillhouse.exchanges import InputError
from stillhouse.teachers.model_files import model_files

if TYPE_CHECKING:
    from collections.abc import Iterator

Precision = Literal["float32", "bfloat16"]
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def read_model(
    path: Path, *, gguf_file: str | None = None, dtype: Precision = "float32"
) -> tuple[Any, Any, tuple[Path, ...]]:
    """Return the model in evaluation mode, its tokenizer, and the files both were read from.

    `path` is a folder, or a .gguf file itself; GGUF weights are dequantised to `dtype` (the values
    stay those of the quantised model). Nothing is fetched, and no code of the folder is run.
    Raises `InputError` naming the path when something is missing or cannot be read.
    """
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}", repair=f"use one of {sorted(DTYPES)}")
    if path.is_file() and path.suffix == ".gguf":
        path, gguf_file = path.parent, path.name
    files = model_files(path, gguf_file)
    where: dict[str, Any] = {"local_files_only": True}
    extra: dict[str, Any] = {}
    if gguf_file is not None:
        where["gguf_file"] = gguf_file
        extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        with without_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, **where)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=DTYPES[dtype], **where, **extra
            )
    except Exception as error:
        raise InputError(
            f"cannot read a causal language model here: {type(error).__name__}: {error}",
            place=str(path / (gguf_file or "")),
            repair="check that the folder is complete: config.json, weights, tokenizer.json",
        ) from error
    return model.eval(), tokenizer, files


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' own progress bars off the terminal."""
    bars: Any = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        # The GGUF reader draws a bar that no setting turns off.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        if shown:
            bars.enable_progress_bar()


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the ids that end generation: the generation config's, else the tokenizer's."""
    found = getattr(model.generation_config, "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        return ()
    return tuple(sorted({int(token) for token in ([found] if isinstance(found, int) else found)}))
