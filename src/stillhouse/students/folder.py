"""A student on disk: an ordinary transformers folder, whole or not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillhouse.exchanges import InputError, storage
from stillhouse.students.adapters import merged
from stillhouse.teachers.weights import read_model, without_bars

if TYPE_CHECKING:
    from pathlib import Path

    from stillhouse.teachers.weights import Precision


def save_student(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model, tokenizer, template and generation config to `folder`.

    Adapters are merged into a copy first. Weights are safetensors in the model's own precision.
    The folder appears by one rename, after everything is on the disk. Raises `InputError` for a
    full or unwritable disk, and where a folder stands already: what it holds may have cost hours.
    """
    if folder.exists():
        raise InputError(
            "a student stands here already", place=str(folder), repair="remove or rename it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with storage.replacing(folder) as temporary, without_bars():
        merged(model).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def load_student(folder: Path, *, dtype: Precision = "float32") -> tuple[Any, Any]:
    """Return the model (in evaluation mode) and the tokenizer of a folder; GGUF files work too."""
    model, tokenizer, _ = read_model(folder, dtype=dtype)
    return model, tokenizer
