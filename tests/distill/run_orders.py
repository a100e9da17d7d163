"""Orders to `run_worker`, from the tests' side, and a small run to give orders about."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from stillhouse.students import save_student

STAGES = ("plan", "label", "curate", "train", "judge", "report")
KILLED = -9
# SIGKILL loses nothing that the kernel has, on a disk or not; a busy disk is slow to sync.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


class Worker:
    """The process that runs command lines in forks."""

    def __init__(self, cwd: Path):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.distill.run_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            cwd=cwd,
        )

    def order(self, *argv: str | Path, **how: Any) -> dict[str, Any]:
        """Run `stillhouse ARGV` and return its exit code, output and seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"argv": [*map(str, argv)], **how}), file=self._process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(120)  # a busy machine takes its time to end a process
        self._process.stdout.close()


def write_task(
    folder: Path, model: Any, tokenizer: Any, *, teacher: str, items: int = 48, more: str = ""
) -> Path:
    """Write what a user has (reviews, a small model, a recipe); return the recipe's path."""
    save_student(model, tokenizer, folder / "small-model")
    rows = [
        {
            "id": f"r{i}",
            "text": f"the film number {i} was {('bad', 'good', 'very good')[i % 3]}",
            "label": "positive" if i % 3 else "negative",
        }
        for i in range(items)
    ]
    (folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    replies = [
        {"prompt": row["text"], "reply": row["label"], "finish_reason": "stop"} for row in rows
    ]
    (folder / "replies.jsonl").write_text("".join(json.dumps(line) + "\n" for line in replies))
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
name: small
task: {{kind: label, labels: [negative, positive]}}
data: {{path: reviews.jsonl, id: id, prompt: "{{text}}", gold: label}}
split: {{validation: 0.2, test: 0.25}}
teacher: {{{teacher}, max_tokens: 8, dtype: float32, permission: {{granted_by: us,
  date: 2026-01-31, purpose: tests, document: this file}}}}
student: {{start: small-model, layers: 1, choose: even}}
curate: {{near_duplicates: null, contamination: drop}}
train: {{steps: 4, batch_size: 4, dtype: float32, evaluate_every: 2, checkpoint_steps: 1,
  label_targets: hard}}
judge: {{margin: 5, teacher_lead: null, min_parseable: 0, latency_items: 3}}
{more}"""
    )
    return recipe


RECORDED = "kind: recording, model: replies.jsonl"


def copy_run(run: Path, target: Path, stages: tuple[str, ...]) -> Path:
    """A run's folder as it was when only `stages` were done."""
    if not stages:
        return target
    target.mkdir()
    shutil.copy2(run / "manifest.json", target)
    for stage in stages:
        shutil.copytree(run / stage, target / stage)
    if "report" in stages:
        shutil.copytree(run / "student", target / "student")
    return target


def results(run: Path) -> dict[str, str]:
    """Digest of everything in a run's folder that must not depend on what interrupted it."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and path.name not in NOT_RESULTS and path.name not in MEASURED:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name in MEASURED:
            value = json.loads(path.read_text())
            found[name] = json.dumps(
                {k: v for k, v in value.items() if k not in MEASURED[path.name]}
            )
    return found


# An attempt's own notes; and what times and free space are measured anew by each attempt.
NOT_RESULTS = {"started.json", "done.json", "reading.times", ".lock"}
MEASURED = {
    "manifest.json": {"started", "machine", "claims"},
    "plan.json": {"machine", "speeds", "seconds"},
    "result.json": {"seconds"},
    "cost.json": {"teacher", "student", "training", "speedup"},
}


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
