"""Which files make a local model: what is read, and what tells one model from another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.exchanges.canonical import content_digest
from stillhouse.exchanges.errors import InputError
from stillhouse.exchanges.storage import sha256_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_IDENTITY = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)


def fingerprint(files: tuple[Path, ...], digest: Callable[[Path], str] = sha256_file) -> str:
    """Return one SHA-256 over the names and digests of a model's files."""
    return content_digest(sorted([file.name, digest(file)] for file in files))


def model_files(path: Path, gguf_file: str | None = None) -> tuple[Path, ...]:
    """The files of a model folder, or the one GGUF file in it; raises `InputError` without any."""
    if not path.is_dir():
        raise InputError(
            "no model here: not a folder and not a .gguf file",
            place=str(path),
            repair="give a transformers model folder or a GGUF file",
        )
    if gguf_file is not None:
        if not (path / gguf_file).is_file():
            raise InputError("no such GGUF file", place=str(path / gguf_file))
        return (path / gguf_file,)
    if not (path / "config.json").is_file():
        single = sorted(path.glob("*.gguf"))
        raise InputError(
            "the folder has no config.json",
            place=str(path),
            repair=f"give the file: {single[0]}" if single else "give a transformers model folder",
        )
    found = {file for pattern in _IDENTITY for file in path.glob(pattern) if file.is_file()}
    if not any(file.suffix in {".safetensors", ".bin"} for file in found):
        raise InputError("the folder has no weights (*.safetensors)", place=str(path))
    return tuple(sorted(found))
