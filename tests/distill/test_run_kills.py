"""A run killed anywhere, in any stage, and continued ends as if nothing had happened."""

from __future__ import annotations

import random

import pytest
from tests.distill.run_orders import KILLED, STAGES, Undisturbed

RANDOM_KILLS = 50
KILLS_IN_A_ROW = 10  # then the run may end, and another is begun


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
