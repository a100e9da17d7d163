"""A training run on disk: one checkpoint that is always whole, the best weights, the result."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import orjson
import torch
import transformers
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.tensor import DTensor, distribute_tensor

from stillhouse.distill.disk import disk_errors
from stillhouse.distill.stages import remove_folder
from stillhouse.distill.training import CurvePoint, TrainResult
from stillhouse.exchanges import InputError, storage
from stillhouse.students import merged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stillhouse.distill.ranks import Ranks

    Parameters = Mapping[str, torch.nn.Parameter]

CHECKPOINT, RESULT, STUDENT = "checkpoint.pt", "result.json", "student"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class CheckpointFolder:
    """Reads and writes the state of one run, whose inputs `key` names part by part.

    The best weights are a file of their own (`best-STEP.pt`), written before the checkpoint that
    names it and removed after the next one: at every instant the checkpoint's best file exists.
    """

    def __init__(self, folder: Path, key: Mapping[str, str], ranks: Ranks):
        self._folder = folder
        self._key = dict(key)
        self._ranks = ranks
        self._best_written: int | None = None

    def read_result(self) -> TrainResult | None:
        """Return the finished run's result, or None; `InputError` when it is of other inputs."""
        path = self._folder / RESULT
        if not path.exists():
            return None
        stored = orjson.loads(path.read_bytes())
        self._check_key(stored.pop("key"), path)
        stored["curve"] = tuple(CurvePoint(**point) for point in stored["curve"])
        stored |= {name: tuple(stored[name]) for name in ("threads", "processes")}
        return TrainResult(**{**stored, "student": self._folder / STUDENT})

    def write_result(self, result: TrainResult) -> None:
        """Keep the result, then drop the checkpoint: nothing is left to resume."""
        if not self._ranks.leads:
            return
        plain = {**dataclasses.asdict(result), "student": STUDENT, "key": self._key}
        storage.write_atomic(self._folder / RESULT, orjson.dumps(plain, option=orjson.OPT_INDENT_2))
        self.drop_checkpoint()

    def drop_checkpoint(self) -> None:
        """Remove the checkpoint and the best weights of a finished run."""
        if not self._ranks.leads:
            return
        for path in (self._folder / CHECKPOINT, *self._folder.glob("best-*.pt")):
            if path.exists():
                storage.remove(path)
        self._drop_shards()

    def read(
        self, parameters: Parameters, optimizer: torch.optim.Optimizer
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor] | None] | None:
        """Fill weights and optimiser; return the newest state and the best weights so far.

        None for a fresh run. What several processes wrote in parts is read by any number of them.
        """
        path = self._folder / CHECKPOINT
        if not path.exists():
            return None
        state = _read_tensors(path)
        self._check_key(state.pop("key"), path)
        held, best = state.pop("held"), None
        shards, best_step = state.pop("shards"), state["best_step"]
        if shards is not None:
            held = _templates(parameters, with_best=best_step is not None)
            load_shards(held, checkpoint_id=self._folder / shards, no_dist=self._ranks.size == 1)
            best = _named(held, "best") or None
        elif best_step is not None:
            best = _read_tensors(self._best_path(best_step))
            self._best_written = best_step
        load(parameters, _named(held, "weights"))
        for name, parameter in parameters.items():
            optimizer.state[parameter] = {
                "step": torch.tensor(float(state["step"])),
                **{what: _placed(held[f"{what}/{name}"], parameter) for what in _MOMENTS},
            }
        return state, None if best is None else {
            name: _placed(best[name], parameter) for name, parameter in parameters.items()
        }

    def write(
        self,
        state: Mapping[str, Any],
        parameters: Parameters,
        optimizer: torch.optim.Optimizer,
        best: Mapping[str, torch.Tensor] | None,
    ) -> None:
        """Make everything durable; `best` are the weights at `state["best_step"]`."""
        held = {f"weights/{name}": p.detach() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            held |= {f"{what}/{name}": optimizer.state[parameter][what] for what in _MOMENTS}
        if self._ranks.shard:
            held |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
            self._write_shards(state, held)
            return
        if not self._ranks.leads:
            return
        step = state["best_step"]
        if best is not None and step != self._best_written:
            _write_tensors(self._best_path(step), dict(best))
            self._best_written = step
        self._write_state({**state, "held": held, "shards": None})
        for path in self._folder.glob("best-*.pt"):
            if step is None or path != self._best_path(step):
                storage.remove(path)
        self._drop_shards()

    def _write_shards(self, state: Mapping[str, Any], held: dict[str, torch.Tensor]) -> None:
        """Every process writes its parts into one folder, named by a checkpoint written after."""
        name = f"shards-{state['step']}"
        place = self._folder / name
        with contextlib.ExitStack() as stack:
            temporary = None
            if self._ranks.leads:
                remove_folder(place)  # of a kill between its rename and the checkpoint
                stack.enter_context(disk_errors(place))
                temporary = stack.enter_context(storage.replacing(place))
            temporary = self._ranks.share(temporary)
            save_shards(held, storage_writer=FileSystemWriter(temporary, sync_files=False))
        if self._ranks.leads:
            self._write_state({**state, "held": None, "shards": name})
            self._drop_shards(but=name)
            for path in self._folder.glob("best-*.pt"):
                storage.remove(path)

    def _write_state(self, state: Mapping[str, Any]) -> None:
        _write_tensors(self._folder / CHECKPOINT, {**state, "key": self._key})

    def _drop_shards(self, *, but: str | None = None) -> None:
        for place in self._folder.glob("shards-*"):
            if place.name != but:
                remove_folder(place)

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


@torch.no_grad()
def load(parameters: Parameters, weights: Mapping[str, torch.Tensor]) -> None:
    """Fill parameters, whole or sharded, with weights of either kind."""
    for name, parameter in parameters.items():
        parameter.copy_(_placed(weights[name], parameter))


def whole(model: Any, ranks: Ranks) -> Any:
    """The trained model as an ordinary one on this process, adapters merged."""
    if not ranks.shard:
        return merged(model)
    weights = {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in model.state_dict().items()
    }
    with torch.random.fork_rng(devices=[]):
        auto: Any = transformers.AutoModelForCausalLM
        ordinary = auto.from_config(model.config, dtype=torch.float32)
    ordinary.load_state_dict(weights)
    ordinary.generation_config = model.generation_config
    return ordinary.eval()


def _placed(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`value` divided as `parameter` is."""
    if isinstance(parameter, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


def _templates(parameters: Parameters, *, with_best: bool) -> dict[str, torch.Tensor]:
    kinds = ("weights", *_MOMENTS, *(("best",) if with_best else ()))
    return {
        f"{kind}/{name}": torch.zeros_like(parameter, requires_grad=False)
        for kind in kinds
        for name, parameter in parameters.items()
    }


def _named(held: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(f"{kind}/"): tensor
        for name, tensor in held.items()
        if name.startswith(f"{kind}/")
    }


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
