"""kill -9 of the durable limiter: no request is free, none is charged twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RANDOM_POINTS = 20


def kill_everywhere(scenario: str, folder: Path, points: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.limits.killed", scenario, str(folder), "5", str(points)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("scenario", ["ledger", "held", "fold"])
def test_wherever_it_is_killed_the_cells_hold_what_was_acknowledged(
    tmp_path: Path, scenario: str
) -> None:
    result = kill_everywhere(scenario, tmp_path, RANDOM_POINTS)
    assert result["failures"] == []
    steps = {step.split(":")[0] for step in result["steps"]}
    assert steps == {"write", "fsync", "rename", "sync-folder", "remove"}, "no turn was killed"
    assert result["killed"] >= len(result["steps"]) + RANDOM_POINTS // 3


def test_a_ledger_that_loses_a_line_is_caught(tmp_path: Path) -> None:
    assert kill_everywhere("careless", tmp_path, 0)["failures"] != []
