"""Two ranks with unequal reply tokens and accumulation are one process with all the data."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillhouse.distill.divergences import (
    Divergence,
    Head,
    HiddenStates,
    divergence_loss,
    normaliser,
)
from stillhouse.distill.ranks import leave

STEPS, ACCUMULATION, WIDTH, VOCABULARY = 50, 3, 6, 20


class Student(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(WIDTH, WIDTH)
        self.head = torch.nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, inputs: torch.Tensor, target: HiddenStates, divisor: float) -> torch.Tensor:
        hidden = torch.tanh(self.body(inputs))
        head = Head(weight_VD=self.head.weight)
        return divergence_loss(hidden, head, target, Divergence(), reply_tokens=divisor)


def micro_batches(step: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Six micro-batches of unequal sizes, the same wherever they are made."""
    rng = np.random.default_rng([9, step])
    sizes = rng.integers(1, 12, size=2 * ACCUMULATION)
    return [
        (
            torch.from_numpy(rng.normal(size=(n, WIDTH))).float(),
            torch.from_numpy(rng.normal(size=(n, WIDTH))).float(),
        )
        for n in sizes
    ]


def curve(model: Any, ranks: int, rank: int, called: Any = None) -> list[float]:
    """The losses of a training; `called` is what is called in place of the wrapped model."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    teacher = torch.from_numpy(np.random.default_rng(3).normal(size=(VOCABULARY, WIDTH))).float()
    losses = []
    for step in range(STEPS):
        mine = micro_batches(step)[rank::ranks]
        divisor = normaliser(sum(len(inputs) for inputs, _ in mine))
        total = torch.zeros(())
        for inputs, states in mine:
            target = HiddenStates(hidden_MD=states, head=Head(weight_VD=teacher))
            loss = (called or model)(inputs, target, divisor)
            loss.backward()
            total += loss.detach()
        if ranks > 1:
            torch.distributed.all_reduce(total)
            total /= ranks
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses


def student() -> Student:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Student()


def work(rank: int, folder: str, bypass: bool) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(student())
    losses = curve(model, 2, rank, model.module if bypass else None)
    Path(folder, f"{rank}.json").write_text(json.dumps(losses))
    torch.distributed.barrier()  # the other has all that it needs of this one
    leave()


def by_two(folder: Path, *, bypass: bool = False) -> list[list[float]]:
    """The curves that two processes saw."""
    torch.set_num_threads(1)
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=work, args=(rank, str(folder), bypass)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_ranks_follow_the_curve_of_one_process(tmp_path: Path) -> None:
    theirs = by_two(tmp_path)
    alone = curve(student(), 1, 0)
    assert alone[-1] < 0.85 * alone[0]
    for one in theirs:
        np.testing.assert_allclose(one, alone, atol=1e-5, rtol=0)


def test_a_wrapper_that_is_bypassed_is_noticed(tmp_path: Path) -> None:
    """`model.module(...)` in place of `model(...)` averages no gradients (DistillKit)."""
    theirs, alone = by_two(tmp_path, bypass=True), curve(student(), 1, 0)
    assert theirs[0][0] == pytest.approx(alone[0], abs=1e-5), "the first step has no gradients yet"
    assert max(abs(a - b) for a, b in zip(theirs[0], alone, strict=True)) > 1e-3
