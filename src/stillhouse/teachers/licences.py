"""What a model's own files say about its licence: a wheel's metadata, a GGUF header, a model card.

Only what is written there is returned; nothing is guessed from a licence's text.
"""

from __future__ import annotations

import email.parser
import struct
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

from stillhouse.exchanges.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

_GGUF_KEYS = ("general.license", "general.name", "general.architecture", "general.organization")
_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY = 8, 9
_MOST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Evidence:
    """One statement: the licence as written, and the file that says so."""

    licence: str
    place: str


def read_licences(path: Path) -> tuple[Evidence, ...]:
    """Return the licences that a wheel, a GGUF file or a model folder states about itself.

    Empty when it says nothing. Raises `InputError` for a file that is damaged or of another kind.
    """
    if path.is_dir():
        card = path / "README.md"
        return _from_card(card) if card.exists() else ()
    if path.suffix == ".whl":
        return _from_wheel(path)
    if path.suffix == ".gguf" or path.suffix.startswith(".part0"):
        header = read_gguf_header(path)
        licence = header.get("general.license")
        return (Evidence(licence, f"{path.name}: general.license"),) if licence else ()
    raise InputError(
        "no licence can be read from this kind of file",
        place=str(path),
        repair="give a wheel, a .gguf file or a model folder",
    )


def read_gguf_header(path: Path) -> dict[str, str]:
    """Return the general text fields of a GGUF file's header (name, organisation, licence)."""
    found: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            magic, version, _, count = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or version < 2:
                raise InputError("this is not a GGUF file of version 2 or 3", place=str(path))
            for _ in range(count):
                key = _string(file)
                kind = struct.unpack("<I", file.read(4))[0]
                if kind == _GGUF_STRING:
                    value = _string(file)
                    if key in _GGUF_KEYS:
                        found[key] = value
                else:
                    _skip(file, kind)
    except (struct.error, UnicodeDecodeError, OSError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the GGUF header is damaged: {error}", place=str(path)) from error
    return found


def _from_wheel(path: Path) -> tuple[Evidence, ...]:
    try:
        with zipfile.ZipFile(path) as wheel:
            name = next(n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
            metadata = email.parser.Parser().parsestr(wheel.read(name).decode("utf-8"))
    except (zipfile.BadZipFile, StopIteration, OSError, UnicodeDecodeError) as error:
        raise InputError(f"this is not a sound wheel: {error}", place=str(path)) from error
    found = []
    for field in ("License-Expression", "License"):
        value = metadata.get(field)
        if value and value.strip().upper() != "UNKNOWN":
            found.append(Evidence(value.strip(), f"{path.name}: METADATA {field}"))
    return tuple(found)


def _from_card(card: Path) -> tuple[Evidence, ...]:
    text = card.read_text(encoding="utf-8-sig", errors="replace")
    if not text.startswith("---\n"):
        return ()
    try:
        front: Any = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError as error:
        raise InputError(f"the card's header is not YAML: {error}", place=str(card)) from error
    if not isinstance(front, dict):
        return ()
    licence = front.get("license_name") or front.get("license")
    return (Evidence(str(licence), f"{card.name}: license"),) if licence else ()


def _string(file: BinaryIO) -> str:
    size = struct.unpack("<Q", file.read(8))[0]
    if size > _MOST_BYTES:
        raise ValueError(f"a text of {size} bytes")
    data = file.read(size)
    if len(data) < size:
        raise ValueError("it ends early")
    return data.decode("utf-8")


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _GGUF_STRING:
        _string(file)
    elif kind == _GGUF_ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in _GGUF_SIZES:
            file.seek(_GGUF_SIZES[inner] * count, 1)
        else:
            for _ in range(count):
                _skip(file, inner)
    else:
        file.seek(_GGUF_SIZES[kind], 1)
