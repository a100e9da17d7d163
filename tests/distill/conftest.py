"""A whole run that nothing happened to, made once; tests begin others like it and disturb them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.distill.run_orders import MEMORY, RECORDED, Undisturbed, Worker, write_task


@pytest.fixture(scope="session")
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


@pytest.fixture
def cut_task(
    tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any], tmp_path: Path
) -> Callable[..., Path]:
    """Return a writer of a task whose recipe has the given keys of a student cut from a model."""

    def write(student: str, *, layers: int = 3) -> Path:
        folder = tmp_path / "task"
        folder.mkdir()
        path = write_task(folder, tiny_model(layers=layers), tiny_tokenizer(), teacher=RECORDED)
        text = path.read_text()
        old = "student: {start: small-model, layers: 1, choose: even}"
        assert old in text
        path.write_text(text.replace(old, f"student: {{start: small-model, {student}}}"))
        return path

    return write
