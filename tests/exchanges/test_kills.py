import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RANDOM_POINTS = 50


def kill_everywhere(scenario: str, folder: Path, points: int) -> dict[str, Any]:
    program = Path(__file__).parent / "killed.py"
    done = subprocess.run(
        [sys.executable, program, scenario, folder, "11", str(points)],
        capture_output=True,
        text=True,
        # No threads of libraries in a process that forks.
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def kinds(steps: list[str]) -> set[str]:
    return {step.split(":")[0] for step in steps}


@pytest.mark.parametrize(
    ("scenario", "steps"),
    [
        ("journal", {"write", "fsync", "sync-folder"}),
        ("atomic", {"write", "fsync", "rename", "sync-folder"}),
        ("compaction", {"write", "fsync", "rename", "sync-folder", "remove"}),
    ],
)
def test_nothing_acknowledged_is_lost_wherever_the_writer_is_killed(
    tmp_path: Path, scenario: str, steps: set[str]
) -> None:
    result = kill_everywhere(scenario, tmp_path, RANDOM_POINTS)
    assert result["failures"] == []
    assert kinds(result["steps"]) == steps
    assert result["points"] == len(result["steps"]) + RANDOM_POINTS
    # A late random kill may find the writer done; each kill at a step must have hit.
    assert result["killed"] >= len(result["steps"]) + RANDOM_POINTS // 3


def test_a_writer_that_acknowledges_too_early_is_caught(tmp_path: Path) -> None:
    assert kill_everywhere("careless", tmp_path, 0)["failures"] != []
