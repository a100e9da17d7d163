"""A run's folder and the order of its stages.

Each stage has a folder of its own under the run. Its `done.json`, written last and atomically,
holds the digests of what went in and of every file that came out: a stage whose inputs are
unchanged and whose files are whole is skipped, so a run killed anywhere is continued by starting
it again.
"""

from __future__ import annotations

import datetime
import fnmatch
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import orjson

from stillhouse.exchanges import (
    InputError,
    content_digest,
    make_folder,
    sha256_file,
    storage,
    write_atomic,
)

Context = TypeVar("Context")

DONE = "done.json"
STARTED = "started.json"


@dataclass(frozen=True, slots=True)
class Stage(Generic[Context]):
    """One step of a run.

    `inputs` gives, from the context, every value that the step's result depends on (plain JSON
    values; digests for files); `run` writes the result into the folder it is handed. `reads` are
    patterns of the earlier stages' files (`stage/name`) that it depends on. When inputs have
    changed and the user accepts that, what an earlier attempt left is removed first, unless
    `keeps_work`: then the step itself tells what of it still holds (journaled replies do). A stage
    that is `cheap` is redone without asking until a later one has begun: a user corrects a recipe
    and plans again. Inputs that it only `tells` of count until then, and until then a finished
    stage runs again where its result is not `whole`.
    """

    name: str
    inputs: Callable[[Context], Mapping[str, Any]]
    run: Callable[[Context, Path], None]
    reads: Sequence[str] = ("*",)
    keeps_work: bool = False
    cheap: bool = False
    tells: frozenset[str] = frozenset()
    whole: Callable[[Context], bool] = lambda _: True


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What `done.json` holds. `seconds` is wall time of the attempt that finished."""

    name: str
    inputs: dict[str, str]
    files: dict[str, str]
    seconds: float
    finished: str


def check_unchanged(folder: Path, stages: Sequence[Stage[Context]], context: Context) -> None:
    """Raise InputError when any stage was begun with other values of its own inputs.

    What earlier stages handed on is left out (it may not be there yet), so this can be asked
    before anything is written.
    """
    for place, stage in enumerate(stages):
        before = _started(folder / stage.name)
        if before is not None and not _freely_redone(folder, stages, place):
            inputs = _own_inputs(folder, stages, place, context)
            own = {key: value for key, value in before.items() if "/" not in key}
            if own != inputs:
                raise _changed(folder / stage.name, own, inputs)


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
    for place, stage in enumerate(stages):
        here = folder / stage.name
        inputs = _own_inputs(folder, stages, place, context)
        handed = {
            f"{name}/{file}": digest
            for name, record in records.items()
            for file, digest in record.files.items()
        }
        inputs |= {
            path: digest
            for path, digest in handed.items()
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in stage.reads)
        }
        earlier = _finished(here)
        stands = earlier is not None and earlier.inputs == inputs and _unaltered(here, earlier)
        if stands and (accept_changes or not _built_on(folder, stages, place)):
            stands = stage.whole(context)
        if earlier is not None and stands:
            on_stage(stage.name, "skipped", earlier.seconds)
            records[stage.name] = earlier
        else:
            accepted = accept_changes or _freely_redone(folder, stages, place)
            _start(here, stage, inputs, accept_changes=accepted)
            on_stage(stage.name, "started", 0.0)
            started = time.monotonic()
            stage.run(context, here)
            records[stage.name] = _finish(here, stage.name, inputs, time.monotonic() - started)
            on_stage(stage.name, "finished", records[stage.name].seconds)
        if stage.name == until:
            break
    return records


def _own_inputs(
    folder: Path, stages: Sequence[Stage[Context]], place: int, context: Context
) -> dict[str, str]:
    """Digests of the values that a stage takes from the context.

    What it only tells of keeps the digest that it was begun with, once a later stage has begun.
    """
    stage = stages[place]
    inputs = {key: content_digest(value) for key, value in stage.inputs(context).items()}
    if stage.tells and _built_on(folder, stages, place):
        before = _started(folder / stage.name) or {}
        inputs |= {key: before[key] for key in stage.tells & before.keys()}
    return inputs


def _freely_redone(folder: Path, stages: Sequence[Stage[Any]], place: int) -> bool:
    """Whether the stage at `place` costs nothing to redo and nothing was built on it yet."""
    return stages[place].cheap and not _built_on(folder, stages, place)


def _built_on(folder: Path, stages: Sequence[Stage[Any]], place: int) -> bool:
    return any((folder / stage.name / STARTED).exists() for stage in stages[place + 1 :])


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


def _start(
    folder: Path, stage: Stage[Any], inputs: dict[str, str], *, accept_changes: bool
) -> None:
    """Note what an attempt is made of, after checking that an earlier one was made of the same."""
    before = _started(folder)
    if before is not None and before != inputs:
        if not accept_changes:
            raise _changed(folder, before, inputs)
        if not stage.keeps_work:
            remove_folder(folder)
    if (folder / DONE).exists():
        storage.remove(folder / DONE)
    make_folder(folder)
    write_atomic(folder / STARTED, orjson.dumps(inputs, option=orjson.OPT_INDENT_2) + b"\n")


def _started(folder: Path) -> dict[str, str] | None:
    """What the attempt that stands in a stage's folder is made of."""
    note = folder / STARTED
    if not note.exists():
        return None
    try:
        found: dict[str, str] = orjson.loads(note.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"the record of a begun stage is damaged: {error}",
            place=str(note),
            repair=f"delete {folder}: the stage runs again",
        ) from error
    return found


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a kill leaves the whole of it or nothing under its name.

    A part of what an attempt with other inputs left would be taken for work of this one. The
    temporary name is cleared away by the run's lock, if a kill keeps us from it.
    """
    if not folder.exists():
        return
    temporary = folder.with_name(f".{os.getpid()}-removed-{folder.name}{storage.TEMPORARY_SUFFIX}")
    storage.on_step(f"rename:{folder.name}")
    folder.rename(temporary)
    storage.on_step(f"rename:{folder.name}:done")
    shutil.rmtree(temporary)


def _unaltered(folder: Path, record: StageRecord) -> bool:
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
    """What serves resuming is not a result of a stage."""
    return relative.suffix in {".journal", ".pt", ".times"} or relative.name == STARTED


def _changed(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> InputError:
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return InputError(
        f"the stage {folder.name!r} was begun with other values of: {', '.join(keys)}",
        place=str(folder / STARTED),
        repair=(
            "restore them, start a new run with --run FOLDER, or redo this stage and those after "
            "it with --accept-changes (journaled replies to unchanged requests are kept)"
        ),
    )


class Stopped(Exception):  # noqa: N818 (a stop is not an error of the program)
    """A run ended early for a reason that its user decides about; nothing done is lost."""

    def __init__(self, reason: Literal["terms", "budget", "teacher", "check"], message: str):
        self.reason = reason
        super().__init__(message)
