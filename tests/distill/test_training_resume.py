"""A training run that is killed at any time and resumed ends with the very same weights."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stillhouse.students import save_student

PROGRAM = Path(__file__).with_name("training_run.py")
KILLED = -9


@pytest.fixture(scope="module")
def runs(
    tiny_model: Callable[..., Any],
    tiny_tokenizer: Callable[..., Any],
) -> Iterator[dict[str, Any]]:
    """Return what came of an undisturbed run and of all the killed ones, by name."""
    # SIGKILL loses nothing that the kernel has, on a disk or not; a busy disk takes long to sync.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        student = Path(folder) / "start"
        save_student(tiny_model(attention_dropout=0.2), tiny_tokenizer(), student)
        yield _run_all(student)


def _run_all(student: Path) -> dict[str, Any]:
    rng = random.Random(7)
    plan = {
        "torn": [["torn", 1], ["torn", 3], ["torn", 2], ["torn", 1]],
        "random": [["after", rng.uniform(0.01, 0.6)] for _ in range(50)],
    }
    done = subprocess.run(
        [sys.executable, str(PROGRAM)],
        input=json.dumps({"student": str(student), "runs": plan}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_kill_at_every_named_step_changes_nothing(runs: dict[str, Any]) -> None:
    undisturbed = runs["undisturbed"]
    names = undisturbed["events"]
    assert {name.split(":")[0] for name in names} >= {"write", "fsync", "rename", "remove"}
    assert {"rename:checkpoint.pt:done", "rename:student", "rename:result.json"} <= set(names)
    killed = {name: found for name, found in runs.items() if name.startswith("event")}
    assert len(killed) > len(set(names))
    for name, found in killed.items():
        assert found["codes"] == [KILLED, 0], name
        assert found["outcome"] == undisturbed["outcome"], name
        assert found["left"] == undisturbed["left"], name


def test_a_checkpoint_torn_in_the_middle_is_never_read(runs: dict[str, Any]) -> None:
    assert runs["torn"]["codes"] == [KILLED] * 4 + [0]
    assert runs["torn"]["outcome"] == runs["undisturbed"]["outcome"]
    assert runs["torn"]["left"] == runs["undisturbed"]["left"]


def test_fifty_kills_at_random_times_change_nothing(runs: dict[str, Any]) -> None:
    assert set(runs["random"]["codes"]) == {KILLED, 0}
    assert runs["random"]["outcome"] == runs["undisturbed"]["outcome"]
    assert runs["random"]["left"] == runs["undisturbed"]["left"]
