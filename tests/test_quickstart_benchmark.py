"""What the quickstart's benchmark says of a finished run, on a run that is small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from benchmarks import quickstart, rows
from tests.distill.run_orders import RECORDED, write_task

from stillhouse.distill import fitting, read_recipe, run_recipe


def test_rows_and_further_students_come_from_a_finished_run(
    tmp_path: Path,
    tiny_model: Callable[..., Any],
    tiny_tokenizer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fitting, "PROBE_S", 0.0)
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    recipe = read_recipe(write_task(tmp_path, tiny_model(), tiny_tokenizer(), teacher=RECORDED))
    finished = tmp_path / "run"
    run_recipe(recipe, folder=finished)
    path = finished / "judge" / "cost.json"
    cost = orjson.loads(path.read_bytes())  # a recording has no speed
    cost["speedup"] = {"estimate": 2.0, "low": 1.9, "high": 2.1, "level": 0.9, "df": 4.0}
    path.write_bytes(orjson.dumps(cost))
    quickstart.append(recipe, finished, 60.0)
    before = (finished / "train" / "seed-1" / "student" / "model.safetensors").read_bytes()
    quickstart.append_more(recipe, finished, tmp_path / "more")
    found = rows.newest("quickstart")
    assert found.keys() == quickstart.TITLES.keys()
    for name in ("seed-1", "seed-2", "seed-3", "gold"):
        assert (tmp_path / "more" / "train" / name / "student").is_dir()
    after = (tmp_path / "more" / "train" / "seed-1" / "student" / "model.safetensors").read_bytes()
    assert after == before, "the finished run's own student is one of the three"
    assert found["three_seeds_minus_teacher"].peer == "its teacher, accuracy"
    spread = found["three_seeds_deviation"]
    assert spread.peer_value is not None
    gap = found["three_seeds_minus_teacher"]
    assert gap.peer_value is not None
    assert spread.peer_value - gap.peer_value == pytest.approx(gap.value, abs=1e-3), "the mean"
    speed = found["speedup_over_teacher"]
    assert speed.low is not None
    assert speed.low < 1.9, "at 95 instead of 90 %"
