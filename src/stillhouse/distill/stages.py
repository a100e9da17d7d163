"""A run's folder and the order of its stages.

Each stage has a folder of its own under the run. Its `done.json`, written last and atomically,
holds the digests of what went in and of every file that came out: a stage whose inputs are
unchanged and whose files are whole is skipped, so a run killed anywhere is continued by starting
it again.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson

from stillhouse.exchanges import InputError, content_digest, sha256_file, write_atomic

Context = TypeVar("Context")

MANIFEST = "manifest.json"
DONE = "done.json"


@dataclass(frozen=True, slots=True)
class Stage(Generic[Context]):
    """One step of a run.

    `inputs` gives, from the context, every value that the step's result depends on (plain JSON
    values; digests for files); `run` writes the result into the folder it is handed.
    """

    name: str
    inputs: Callable[[Context], Mapping[str, Any]]
    run: Callable[[Context, Path], None]


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What `done.json` holds. `seconds` is wall time of the attempt that finished."""

    name: str
    inputs: dict[str, str]
    files: dict[str, str]
    seconds: float
    finished: str


def run_stages(
    folder: Path,
    stages: Sequence[Stage[Context]],
    context: Context,
    *,
    accept_changes: bool = False,
    until: str | None = None,
    on_stage: Callable[[str, str, float], None] = lambda *_: None,
) -> dict[str, StageRecord]:
    """Run `stages` in order inside `folder`, skipping what is done; returns every record.

    `on_stage(name, "skipped" | "started" | "finished", seconds)` is told of each step. Raises
    InputError when a finished stage's inputs have changed and `accept_changes` is false: earlier
    work may have cost money, so it is redone only when the user says so.
    """
    records: dict[str, StageRecord] = {}
    for stage in stages:
        here = folder / stage.name
        inputs = {key: content_digest(value) for key, value in stage.inputs(context).items()}
        inputs |= {
            f"{name}/{file}": digest
            for name, record in records.items()
            for file, digest in record.files.items()
        }
        earlier = _finished(here)
        if earlier is not None and earlier.inputs == inputs and _whole(here, earlier):
            on_stage(stage.name, "skipped", earlier.seconds)
            records[stage.name] = earlier
        else:
            if earlier is not None and earlier.inputs != inputs and not accept_changes:
                raise _changed(here, earlier.inputs, inputs)
            (here / DONE).unlink(missing_ok=True)
            here.mkdir(parents=True, exist_ok=True)
            on_stage(stage.name, "started", 0.0)
            started = time.monotonic()
            stage.run(context, here)
            records[stage.name] = _finish(here, stage.name, inputs, time.monotonic() - started)
            on_stage(stage.name, "finished", records[stage.name].seconds)
        if stage.name == until:
            break
    return records


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the run's manifest: what was asked, with which versions, on which machine."""
    manifest = {
        "stillhouse": importlib.metadata.version("stillhouse"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {
            name: _version(name) for name in ("torch", "transformers", "numpy", "scikit-learn")
        },
        **values,
    }
    write_atomic(folder / MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _finished(folder: Path) -> StageRecord | None:
    path = folder / DONE
    if not path.exists():
        return None
    try:
        return StageRecord(**orjson.loads(path.read_bytes()))
    except (orjson.JSONDecodeError, TypeError) as error:
        raise InputError(
            f"the record of a finished stage is damaged: {error}",
            place=str(path),
            repair="delete this file: the stage runs again from what it has kept",
        ) from error


def _whole(folder: Path, record: StageRecord) -> bool:
    return all(
        (folder / name).is_file() and sha256_file(folder / name) == digest
        for name, digest in record.files.items()
    )


def _finish(folder: Path, name: str, inputs: dict[str, str], seconds: float) -> StageRecord:
    files = {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _is_scratch(path.relative_to(folder))
    }
    record = StageRecord(
        name=name,
        inputs=inputs,
        files=files,
        seconds=round(seconds, 3),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    body = {field: getattr(record, field) for field in StageRecord.__slots__}
    write_atomic(folder / DONE, orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n")
    return record


def _is_scratch(relative: Path) -> bool:
    """Journals and checkpoints serve resuming; they are not results of a stage."""
    return relative.suffix in {".journal", ".lock"} or "checkpoints" in relative.parts


def _changed(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> InputError:
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return InputError(
        f"the stage {folder.name!r} was finished with other values of: {', '.join(keys)}",
        place=str(folder / DONE),
        repair=(
            "restore them, start a new run with --run FOLDER, or redo this stage and those after "
            "it with --accept-changes (journaled replies to unchanged requests are kept)"
        ),
    )
