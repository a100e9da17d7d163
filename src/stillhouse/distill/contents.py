"""A recipe as plain values, for digests: of a file or a model its content counts, not its place."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.exchanges import InputError, sha256_file
from stillhouse.teachers.model_files import fingerprint, model_files

if TYPE_CHECKING:
    from stillhouse.distill.recipe import Recipe


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Every key of a recipe, with digests in place of files, model folders and functions' files."""
    values: dict[str, Any] = _values(recipe)
    teacher, student = recipe.teacher, recipe.student
    if teacher.kind != "endpoint" and teacher.package is None:
        values["teacher"]["model"] = _content(Path(teacher.model))
    if student.start != "teacher" and student.package is None:
        values["student"]["start"] = _content(Path(student.start))
    for part in ("curate", "judge"):
        source, _, name = (values[part]["function"] or "").rpartition(":")
        if source.endswith(".py"):
            values[part]["function"] = [_content(Path(source)), name]
    return values


def _values(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _values(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return _content(value)
    if isinstance(value, Mapping):
        return {str(key): _values(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_values(item) for item in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value


def _content(path: Path) -> str:
    """The digest of a file or model folder; the path of what is neither, which planning refuses."""
    try:
        return _digest(path) if path.is_file() else fingerprint(model_files(path), _digest)
    except InputError:
        return str(path)


def _digest(file: Path) -> str:
    found = file.stat()
    return _read_once(file, found.st_size, found.st_mtime_ns)


@functools.cache
def _read_once(file: Path, size: int, mtime_ns: int) -> str:
    """Several stages ask for the same files, which may be large."""
    del size, mtime_ns
    return sha256_file(file)
