"""What planning finds wrong with data, teacher and student, before anything is spent."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.distill.run_orders import RECORDED, write_task

from stillhouse.distill import fitting, read_recipe, run_recipe
from stillhouse.distill.fitting import compare_tokenizers
from stillhouse.exchanges import InputError

Build = Callable[..., Any]


def test_one_tokenizer_agrees_with_itself(tiny_tokenizer: Build) -> None:
    tokenizer = tiny_tokenizer()
    assert compare_tokenizers(tokenizer, copy.deepcopy(tokenizer)) == []


def test_each_way_that_tokenizers_disagree_is_said(tiny_tokenizer: Build) -> None:
    teacher, student = tiny_tokenizer(), tiny_tokenizer()
    student.add_tokens(["naïve"])
    student.eos_token = "<|endoftext|>"  # noqa: S105 (no password)
    student.chat_template = "{{ messages }}"
    split, end, template = compare_tokenizers(teacher, student)
    assert split.startswith("teacher and student split 1 of 5 probe strings differently")
    assert "'<|im_end|>' for the teacher and '<|endoftext|>' for the student" in end
    assert "templates differ" in template


@pytest.fixture
def recipe(
    tmp_path: Path, tiny_model: Build, tiny_tokenizer: Build, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr(fitting, "PROBE_S", 0.0)
    return write_task(tmp_path, tiny_model(window=128), tiny_tokenizer(), teacher=RECORDED)


def test_a_prompt_beyond_the_students_window_stops_the_plan(recipe: Path, tmp_path: Path) -> None:
    run_recipe(read_recipe(recipe), folder=tmp_path / "short", until="plan")
    reviews = tmp_path / "reviews.jsonl"
    rows = [orjson.loads(line) for line in reviews.read_bytes().splitlines()]
    rows[7]["text"] = "the film was good " * 40
    reviews.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    with pytest.raises(InputError, match=r"item r7 .*window is 128") as caught:
        run_recipe(read_recipe(recipe), folder=tmp_path / "long", until="plan")
    assert "shorten it, or start from a model with a longer window" in str(caught.value)


def test_a_student_that_is_not_there_stops_the_plan(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text().replace("start: small-model", "start: no-such-model"))
    with pytest.raises(InputError, match="no-such-model"):
        run_recipe(read_recipe(recipe), folder=tmp_path / "run", until="plan")
