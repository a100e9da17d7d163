"""White-box training killed anywhere, in the teacher's cache or the student's steps."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.distill.run_orders import KILLED, MEMORY, Undisturbed, Worker
from tests.distill.test_run_kills import KILLS_IN_A_ROW, RANDOM_KILLS, kill_at_steps
from tests.distill.whitebox_task import write_whitebox_task


@pytest.fixture(scope="module")
def trained(
    tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> Iterator[Undisturbed]:
    """A run up to its training that nothing happened to."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name, Worker(Path(name)) as worker:
        folder = Path(name)
        recipe = write_whitebox_task(folder, tiny_model(), tiny_tokenizer(), "{source: cache}")
        command = ("distill", recipe, "--until", "train", "--run")
        assert worker.order(*command, folder / "warm")["code"] == 0
        steps, run = folder / "steps.json", folder / "undisturbed"
        found = worker.order(*command, run, steps=str(steps))
        assert found["code"] == 0, found["output"]
        yield Undisturbed(worker, recipe, run, [tuple(s) for s in json.loads(steps.read_text())])


def test_kills_at_every_named_step_change_nothing(trained: Undisturbed) -> None:
    names = {name for stage, name in trained.steps if stage == "train"}
    assert {"write:cache-block", "rename:train.cache", "rename:validation.cache"} <= names
    assert {"rename:checkpoint.pt", "rename:student", "rename:result.json"} <= names
    assert kill_at_steps(trained, "train") == []


def test_fifty_kills_at_random_times_change_nothing(trained: Undisturbed) -> None:
    rng = random.Random(5)
    longest = trained.go_on(trained.begin("train"), "train")["seconds"]
    kills = 0
    while kills < RANDOM_KILLS:
        run = trained.begin("train")
        for _ in range(KILLS_IN_A_ROW):
            found = trained.go_on(run, "train", kill_after=rng.uniform(0, longest))
            kills += found["code"] == KILLED
            assert found["code"] in (0, KILLED), found["output"]
        found = trained.go_on(run, "train")
        assert found["code"] == 0, found["output"]
        assert trained.difference(run, "train") == []
