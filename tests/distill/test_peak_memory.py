"""Training's real peak memory against what the plan foresees, and a plan that does not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.distill.whitebox_task import write_whitebox_task

from stillhouse.distill import fitting, read_recipe, run_recipe
from stillhouse.distill.machine import Machine
from stillhouse.distill.steps import plan as planning
from stillhouse.exchanges import InputError

STUDENT = {"layers": 6, "vocabulary": 8192}  # 13 million parameters
SMALL, LARGE = (4, "float32"), (12, "bfloat16")  # sequences a pass, and the products' precision
LEARNING: dict[str, tuple[dict[str, Any], list[tuple[int, str]]]] = {
    "plain": ({"divergence": None}, [SMALL, LARGE]),
    "live teacher": ({"divergence": {}}, [SMALL, LARGE]),
    "sampled cache": ({"divergence": {"source": "cache"}}, [SMALL]),
    "hidden cache": ({"divergence": {"source": "cache", "keep": "hidden"}}, [LARGE]),
    "adapters": ({"divergence": None, "lora_rank": 8}, [SMALL]),
    "adapters, live teacher": ({"divergence": {}, "lora_rank": 8}, [LARGE]),
}
RUNS = [(name, *size) for name, (_, sizes) in LEARNING.items() for size in sizes]


@pytest.mark.parametrize(("learning", "batch_size", "dtype"), RUNS)
def test_the_peak_is_foreseen_within_a_fifth(
    tiny_tokenizer: Callable[..., Any],
    tmp_path: Path,
    learning: str,
    batch_size: int,
    dtype: str,
) -> None:
    how, _ = LEARNING[learning]
    found = peak(tmp_path, tiny_tokenizer, **how, batch_size=batch_size, dtype=dtype)
    assert found["predicted"] == pytest.approx(found["peak"], rel=0.2)


def test_a_large_teachers_reading_is_foreseen_too(
    tiny_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    cache = {"divergence": {"source": "cache"}, "batch_size": 1, "dtype": "float32"}
    found = peak(tmp_path, tiny_tokenizer, **cache, teacher_layers=64)
    assert found["predicted"] == pytest.approx(found["peak"], rel=0.2)
    assert found["peak"] > 1.2 * peak(tmp_path, tiny_tokenizer, **cache, teacher_layers=6)["peak"]


def peak(tmp_path: Path, tiny_tokenizer: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Train in a process of its own."""
    tiny_tokenizer().save_pretrained(tmp_path)
    given = {
        **STUDENT,
        "tokenizer": str(tmp_path),
        "teacher_layers": 2 * STUDENT["layers"],
        "lora_rank": None,
        **options,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.distill.memory_run", json.dumps(given)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("free", ["memory_bytes", "free_disk_bytes"])
def test_plan_refuses_what_does_not_fit_and_says_the_repair(
    tiny_model: Callable[..., Any],
    tiny_tokenizer: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: str,
) -> None:
    monkeypatch.setattr(fitting, "PROBE_S", 0.0)
    path = write_whitebox_task(tmp_path, tiny_model(), tiny_tokenizer(), "{source: cache}")
    recipe, real = read_recipe(path), planning.describe_machine

    def with_(room: int) -> Callable[[Path], Machine]:
        return lambda folder: dataclasses.replace(real(folder), **{free: room})

    run_recipe(recipe, folder=tmp_path / "run", until="plan")
    plan = json.loads((tmp_path / "run/plan/plan.json").read_text())
    needed = plan["memory_bytes" if free == "memory_bytes" else "disk_bytes"]
    monkeypatch.setattr(planning, "describe_machine", with_(needed))
    run_recipe(recipe, folder=tmp_path / "fits", until="plan")
    monkeypatch.setattr(planning, "describe_machine", with_(needed - 1))
    with pytest.raises(InputError, match="would need about") as refused:
        run_recipe(recipe, folder=tmp_path / "too-large", until="plan")
    repair = str(refused.value.repair)
    assert ("micro_batch_tokens" if free == "memory_bytes" else "--run") in repair
