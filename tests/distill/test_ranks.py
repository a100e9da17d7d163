"""Several processes train the student of one process: DDP, FSDP2, and from one to the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from stillhouse.students import save_student

STEPS, LEAVE, CHECKPOINT = 50, 23, 20
JOBS: list[dict[str, Any]] = [
    {"folder": "alone", "size": 1, "shard": False},
    {"folder": "ddp", "size": 2, "shard": False},
    {"folder": "fsdp2", "size": 2, "shard": True},
    {"folder": "fsdp2-one", "size": 2, "shard": True, "leave": LEAVE},
    {"folder": "ddp-one", "size": 2, "shard": False, "leave": LEAVE},
    {"folder": "fsdp2-two", "size": 2, "shard": True, "leave": LEAVE},
    {"folder": "one-fsdp2", "size": 1, "shard": False, "leave": LEAVE},
    {"folder": "fsdp2-one", "size": 1, "shard": False},
    {"folder": "ddp-one", "size": 1, "shard": False},
    {"folder": "fsdp2-two", "size": 2, "shard": True},
    {"folder": "one-fsdp2", "size": 2, "shard": True},
]
FIRST = {job["folder"]: number for number, job in reversed([*enumerate(JOBS)])}
LAST = {job["folder"]: number for number, job in enumerate(JOBS)}


@pytest.fixture(scope="module")
def done(
    tiny_model: Callable[..., Any],
    tiny_tokenizer: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder in which every job has been done by two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    save_student(tiny_model(), tiny_tokenizer(), folder / "start")
    save_student(tiny_model(seed=1, layers=3), tiny_tokenizer(), folder / "teacher")
    given = {
        "start": str(folder / "start"),
        "teacher": str(folder / "teacher"),
        "divergence": {"kind": "jensen_shannon", "beta": 0.3},
        "steps": STEPS,
        "jobs": [{**job, "folder": str(folder / job["folder"])} for job in JOBS],
    }
    processes = []
    for rank in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.distill.rank_run"],
            stdin=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        )
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(json.dumps({**given, "rank": rank}).encode())
        processes.append(process)
    assert [process.wait(300) for process in processes] == [0, 0]
    return folder


def read(done: Path, name: str) -> Any:
    return json.loads((done / name).read_text())


def result(done: Path, job: str) -> Any:
    return read(done, f"{job}/result.json")


def check_student(done: Path, job: str) -> None:
    ours, theirs = (load_file(done / name / "student/model.safetensors") for name in (job, "alone"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], atol=2e-3, err_msg=name)


@pytest.mark.parametrize("job", ["ddp", "fsdp2"])
def test_two_ranks_follow_the_curve_of_one_process(done: Path, job: str) -> None:
    alone = read(done, f"{FIRST['alone']}-0.json")
    assert len(alone) == STEPS
    assert alone[-1] < 0.8 * alone[0]
    for rank in range(2):
        np.testing.assert_allclose(
            read(done, f"{FIRST[job]}-{rank}.json"), alone, atol=1e-5, rtol=0
        )
    found, expected = result(done, job), result(done, "alone")
    assert (found["processes"], expected["processes"]) == ([2], [1])
    for ours, theirs in zip(found["curve"], expected["curve"], strict=True):
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], abs=1e-5)
        assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte"], abs=1e-4)
    check_student(done, job)


@pytest.mark.parametrize("job", ["fsdp2-one", "ddp-one", "fsdp2-two", "one-fsdp2"])
def test_what_one_number_of_ranks_left_another_finishes(done: Path, job: str) -> None:
    shards = [f"shards-{CHECKPOINT}"] if job.startswith("fsdp2") else []
    left = read(done, f"{FIRST[job]}-0.left")
    assert [name for name in left if name.startswith("shards")] == shards
    begun, ended = (read(done, f"{number}-0.json") for number in (FIRST[job], LAST[job]))
    assert (len(begun), len(ended)) == (LEAVE, STEPS - CHECKPOINT)
    alone = read(done, f"{FIRST['alone']}-0.json")
    np.testing.assert_allclose([*begun[:CHECKPOINT], *ended], alone, atol=1e-5, rtol=0)
    check_student(done, job)
    assert read(done, f"{LAST[job]}-0.left") == [".lock", "result.json", "student"]
