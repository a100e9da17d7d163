"""A run killed anywhere, in any stage, and continued ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.distill.run_orders import (
    KILLED,
    MEMORY,
    RECORDED,
    STAGES,
    Worker,
    copy_run,
    results,
    write_task,
)

RANDOM_KILLS = 50
KILLS_IN_A_ROW = 10  # then the run may end, and another is begun


@dataclass
class Undisturbed:
    """A run that nothing happened to, and how to begin others like it."""

    worker: Worker
    recipe: Path
    run: Path
    steps: list[tuple[str, str]]
    begun: int = 0

    def begin(self, stage: str) -> Path:
        """The folder of a new run in which everything before `stage` is done."""
        self.begun += 1
        done = STAGES[: STAGES.index(stage)]
        return copy_run(self.run, self.recipe.parent / f"run-{self.begun}", done)

    def go_on(self, run: Path, stage: str, **how: Any) -> dict[str, Any]:
        """One attempt at a stage."""
        command = ("distill", self.recipe, "--run", run, "--until", stage)
        return self.worker.order(*command, **how)

    def difference(self, run: Path, stage: str) -> list[str]:
        """What is not as in the undisturbed run."""
        places = (*STAGES[: STAGES.index(stage) + 1], *(["student"] if stage == "report" else []))
        wanted, found = (
            {name: value for name, value in results(folder).items() if name.startswith(places)}
            for folder in (self.run, run)
        )
        names = sorted(wanted.keys() | found.keys())
        return [name for name in names if wanted.get(name) != found.get(name)]


@pytest.fixture(scope="module")
def undisturbed(
    tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> Iterator[Undisturbed]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name, Worker(Path(name)) as worker:
        folder = Path(name)
        recipe = write_task(folder, tiny_model(), tiny_tokenizer(), teacher=RECORDED)
        assert worker.order("distill", recipe, "--run", folder / "warm")["code"] == 0
        steps = folder / "steps.json"
        run = folder / "undisturbed"
        found = worker.order("distill", recipe, "--run", run, steps=str(steps))
        assert found["code"] == 0, found["output"]
        yield Undisturbed(worker, recipe, run, [tuple(s) for s in json.loads(steps.read_text())])


def kill_at_steps(undisturbed: Undisturbed, stage: str, mutant: str | None = None) -> list[str]:
    """Kill one run at each named step of a stage in turn; say what is wrong in the end."""
    names = [name for of, name in undisturbed.steps if of == stage and not name.endswith(":done")]
    run = undisturbed.begin(stage)
    missed = []
    for name in dict.fromkeys(name.replace(undisturbed.run.name, run.name) for name in names):
        found = undisturbed.go_on(run, stage, kill=[stage, name], mutant=mutant)
        if found["code"] != KILLED:
            missed.append(f"{name}: {found['code']}")
    found = undisturbed.go_on(run, stage, mutant=mutant)
    if found["code"] != 0:
        missed.append(found["output"])
    return [*missed, *undisturbed.difference(run, stage)]


@pytest.mark.parametrize("stage", STAGES)
def test_kills_at_every_named_step_change_nothing(undisturbed: Undisturbed, stage: str) -> None:
    assert kill_at_steps(undisturbed, stage) == []


@pytest.mark.parametrize("stage", STAGES)
def test_fifty_kills_at_random_times_change_nothing(undisturbed: Undisturbed, stage: str) -> None:
    rng = random.Random(STAGES.index(stage))
    run = undisturbed.begin(stage)
    longest = undisturbed.go_on(run, stage)["seconds"]
    kills = 0
    while kills < RANDOM_KILLS:
        run = undisturbed.begin(stage)
        for _ in range(KILLS_IN_A_ROW):
            found = undisturbed.go_on(run, stage, kill_after=rng.uniform(0, longest))
            kills += found["code"] == KILLED
            assert found["code"] in (0, KILLED), found["output"]
        found = undisturbed.go_on(run, stage)
        assert found["code"] == 0, found["output"]
        assert undisturbed.difference(run, stage) == []


@pytest.mark.parametrize(
    ("mutant", "stage"), [("writes in place", "judge"), ("done too early", "curate")]
)
def test_a_run_that_writes_carelessly_is_caught(
    undisturbed: Undisturbed, mutant: str, stage: str
) -> None:
    assert kill_at_steps(undisturbed, stage, mutant) != []
