"""Several processes that train one student: each takes its part of every batch.

Rank 0 is the process that runs the recipe; the others only follow it into training. They come from
`train.processes` (started here, over loopback) or from torchrun, on one machine or several:

    torchrun --nproc-per-node 2 -m stillhouse distill recipe.yaml

With DDP each holds the whole student; with FSDP2 (`train.shard`) its part. Losses are divided by
the reply tokens of the whole batch, so how unequal the parts are makes no difference.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import pickle
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any, NoReturn, Self

import torch
from torch.distributed import FileStore, PrefixStore  # type: ignore[attr-defined]

from stillhouse.exchanges import InputError
from stillhouse.students.depth import find_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from stillhouse.distill.recipe import Recipe

_WAIT = datetime.timedelta(seconds=2)  # for the next job, before looking whether rank 0 lives
_END = "end"


class Ranks:
    """This process's place among `size`; alone by default."""

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None, *, shard: bool = False):
        self.rank, self.size, self.store = rank, size, store
        self.shard = shard and size > 1
        self._jobs = 0
        # Groups of the last job. Whoever lets go of a group waits, without giving up the
        # interpreter, for its threads, and these need the interpreter to let go of their last
        # work: so not straight after that work, but when the next job begins.
        self._groups: list[Any] = []

    @classmethod
    def from_environment(cls, *, shard: bool = False) -> Self:
        """The place that torchrun gave this process."""
        from torch.distributed.rendezvous import rendezvous

        store, rank, size = next(rendezvous("env://"))
        return cls(rank, size, store, shard=shard)

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def announce(self, job: str) -> None:
        """Rank 0: tell the others what comes next."""
        if self.size > 1:
            self.store.set(f"job-{self._jobs}", job)

    def dismiss(self) -> None:
        """Rank 0: let the others end."""
        self.announce(_END)

    def next_job(self) -> str | None:
        """The others: wait for what comes next; None at the end, or when rank 0 is gone."""
        parent = os.getppid()
        while os.getppid() == parent:
            with contextlib.suppress(torch.distributed.DistStoreError, RuntimeError):
                self.store.wait([f"job-{self._jobs}"], _WAIT)
                job: str = self.store.get(f"job-{self._jobs}").decode()
                return None if job == _END else job
        return None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Form the group for one job; every rank enters."""
        if self.size == 1:
            yield
            return
        self._groups.clear()
        store = PrefixStore(f"group-{self._jobs}", self.store)
        self._jobs += 1
        threads = torch.get_num_threads()
        torch.distributed.init_process_group(
            "gloo", store=store, rank=self.rank, world_size=self.size
        )
        self._groups.append(torch.distributed.group.WORLD)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()
            torch.set_num_threads(threads)

    def mine(self, parts: Sequence[list[int]]) -> list[list[int] | None]:
        """This rank's parts of a batch; None where it has none in a round that others work."""
        own: list[list[int] | None] = list(parts[self.rank :: self.size])
        return own + [None] * (math.ceil(len(parts) / self.size) - len(own))

    def wrap(self, objective: torch.nn.Module) -> torch.nn.Module:
        """The module to call in training, whose gradients are averaged over the ranks."""
        if self.size == 1:
            return objective
        if not self.shard:
            ddp = torch.nn.parallel.DistributedDataParallel
            wrapped: torch.nn.Module = ddp(objective, forward_sync_buffers=False)
            return wrapped
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        model: Any = objective.model
        if hasattr(model, "peft_config"):
            raise InputError(
                "adapters are small and are not divided among processes",
                repair="set train.shard to false",
            )
        mesh = init_device_mesh("cpu", (self.size,))
        self._groups.append(mesh.get_group())
        prefix, _ = find_blocks(model)
        for block in model.get_submodule(prefix):
            fully_shard(block, mesh=mesh)
        fully_shard(objective, mesh=mesh)
        return objective

    def collecting(self, module: torch.nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Around a backward pass: DDP averages at the last one of a step alone."""
        if self.size > 1 and not self.shard and not last:
            quiet: AbstractContextManager[Any] = module.no_sync()  # type: ignore[operator]
            return quiet
        return contextlib.nullcontext()

    def total(self, *values: float) -> list[float]:
        """Sums over the ranks."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def share(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""
        if self.size == 1:
            return value
        held = [value]
        torch.distributed.broadcast_object_list(held, src=0)
        return held[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on all ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found


def leave() -> NoReturn:
    """End a process that only followed, at once.

    An ordinary end takes the interpreter down, and aborts the process when one of gloo's threads
    asks for the interpreter just then, to let go of its last work.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextlib.contextmanager
def started(count: int, recipe: Recipe, folder: Path, *, shard: bool) -> Iterator[Ranks]:
    """Start `count` - 1 processes that follow this one through a run's training."""
    if count == 1:
        yield Ranks()
        return
    threads = torch.get_num_threads()
    own = os.environ.get("GLOO_SOCKET_IFNAME")
    with tempfile.TemporaryDirectory() as meeting:
        place = f"{meeting}/store"
        each = max(1, threads // count)
        others = []
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # nothing is reachable from outside
        torch.set_num_threads(each)
        ranks = Ranks(0, count, FileStore(place, count), shard=shard)
        try:
            for rank in range(1, count):
                other = subprocess.Popen(
                    [sys.executable, "-m", "stillhouse.distill.following"],
                    stdin=subprocess.PIPE,
                    env={**os.environ, "OMP_NUM_THREADS": str(each)},
                )
                others.append(other)
                assert other.stdin is not None  # noqa: S101
                with other.stdin as pipe:
                    pipe.write(pickle.dumps((rank, count, place, shard, recipe, folder)))
            yield ranks
            ranks.dismiss()
            for other in others:
                other.wait()
        finally:
            for other in others:
                if other.poll() is None:
                    other.kill()
                    other.wait()
            torch.set_num_threads(threads)
            if own is None:
                del os.environ["GLOO_SOCKET_IFNAME"]
            else:
                os.environ["GLOO_SOCKET_IFNAME"] = own
