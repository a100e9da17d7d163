"""A training run on disk: one checkpoint that is always whole, the best weights, the result."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import orjson
import torch

from stillhouse.distill.disk import disk_errors
from stillhouse.distill.training import CurvePoint, TrainResult
from stillhouse.exchanges import InputError, storage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CHECKPOINT, RESULT, STUDENT = "checkpoint.pt", "result.json", "student"


class CheckpointFolder:
    """Reads and writes the state of one run, whose inputs `key` names part by part.

    The best weights are a file of their own (`best-STEP.pt`), written before the checkpoint that
    names it and removed after the next one: at every instant the checkpoint's best file exists.
    """

    def __init__(self, folder: Path, key: Mapping[str, str]):
        self._folder = folder
        self._key = dict(key)
        self._best_written: int | None = None

    def read_result(self) -> TrainResult | None:
        """Return the finished run's result, or None; `InputError` when it is of other inputs."""
        path = self._folder / RESULT
        if not path.exists():
            return None
        stored = orjson.loads(path.read_bytes())
        self._check_key(stored.pop("key"), path)
        stored["curve"] = tuple(CurvePoint(**point) for point in stored["curve"])
        stored["threads"] = tuple(stored["threads"])
        return TrainResult(**{**stored, "student": self._folder / STUDENT})

    def write_result(self, result: TrainResult) -> None:
        """Keep the result, then drop the checkpoint: nothing is left to resume."""
        plain = {**dataclasses.asdict(result), "student": STUDENT, "key": self._key}
        storage.write_atomic(self._folder / RESULT, orjson.dumps(plain, option=orjson.OPT_INDENT_2))
        self.drop_checkpoint()

    def drop_checkpoint(self) -> None:
        """Remove the checkpoint and the best weights of a finished run."""
        for path in (self._folder / CHECKPOINT, *self._folder.glob("best-*.pt")):
            if path.exists():
                storage.remove(path)

    def read(self) -> tuple[dict[str, Any], dict[str, torch.Tensor] | None] | None:
        """Return the newest state and the best weights so far, or None for a fresh run."""
        path = self._folder / CHECKPOINT
        if not path.exists():
            return None
        state = _read_tensors(path)
        self._check_key(state["key"], path)
        if state["best_step"] is None:
            return state, None
        self._best_written = state["best_step"]
        return state, _read_tensors(self._best_path(state["best_step"]))

    def write(self, state: Mapping[str, Any], best: Mapping[str, torch.Tensor] | None) -> None:
        """Make `state` (and `best`, the weights at `state["best_step"]`) durable."""
        step = state["best_step"]
        if best is not None and step != self._best_written:
            _write_tensors(self._best_path(step), dict(best))
            self._best_written = step
        _write_tensors(self._folder / CHECKPOINT, {**state, "key": self._key})
        for path in self._folder.glob("best-*.pt"):
            if step is None or path != self._best_path(step):
                storage.remove(path)

    def _best_path(self, step: int) -> Path:
        return self._folder / f"best-{step}.pt"

    def _check_key(self, stored: Mapping[str, str], path: Path) -> None:
        names = sorted(stored.keys() | self._key.keys())
        changed = [name for name in names if stored.get(name) != self._key.get(name)]
        if changed:
            name = changed[0]
            raise InputError(
                f"this folder holds a run with another {', '.join(changed)} "
                f"({name}: there {stored.get(name)}, now {self._key.get(name)})",
                place=str(path),
                repair="train into a new folder, or delete this one to start afresh",
            )


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_tensors(path: Path, value: dict[str, Any]) -> None:
    with disk_errors(path), storage.replacing(path) as temporary:
        storage.on_step(f"write:{path.name}")
        # By a file of ours: by a path torch would not say what the system refused.
        with temporary.open("wb") as file:
            torch.save(value, file)
        storage.on_step(f"write:{path.name}:done")


def _read_tensors(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:
        raise InputError(
            f"the checkpoint cannot be read: {type(error).__name__}: {error}",
            place=str(path),
            repair="restore it from a copy, or delete the folder to train from the start",
        ) from error
    return value
