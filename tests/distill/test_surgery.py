"""Students cut by a recipe: planned, chosen once, trained, judged, and told in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from stillhouse.distill import read_recipe, run_recipe
from stillhouse.exchanges import InputError

Task = Callable[..., Path]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_a_student_is_cut_in_every_way_and_judged(cut_task: Task, tmp_path: Path) -> None:
    recipe = read_recipe(
        cut_task("layers: 2, cut: {heads: 2, feed_forward: 20, hidden: 24, vocabulary: 290}")
    )
    run = tmp_path / "run"
    run_recipe(recipe, folder=run, until="plan")
    planned = read(run, "plan/plan.json")["parameters"]
    result = run_recipe(recipe, folder=run)
    assert result.verdict is not None
    student = transformers.AutoModelForCausalLM.from_pretrained(run / "student")
    config = student.config
    assert (config.num_hidden_layers, config.num_attention_heads) == (2, 2)
    assert (config.num_key_value_heads, config.head_dim) == (1, 8)
    assert (config.intermediate_size, config.hidden_size) == (20, 24)
    assert sum(p.numel() for p in student.parameters()) == planned["student"] < planned["start"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "student")
    assert config.vocab_size == len(tokenizer) <= 290
    page = (run / "report" / "report.html").read_text()
    for fact in ("tokens per test document", "kept of each layer", "of 330 tokens"):
        assert fact in page


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("cut: {heads: 3}", r"(?s)3 query heads cannot share 2.*keep one of \[2, 4\]"),
        ("cut: {hidden: 33}", r"(?s)cannot keep 33 of 32 \(hidden\).*keep 1 to 32"),
        ("cut: {vocabulary: 100}", r"(?s)100 cannot hold.*keep at least 259"),
        ("cut: {width: 3}", "student.cut.width"),
    ],
)
def test_impossible_cuts_are_refused_while_planning(
    student: str, message: str, cut_task: Task, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run_recipe(read_recipe(cut_task(student)), folder=tmp_path / "run", until="plan")
    assert not (tmp_path / "run" / "plan" / "plan.json").exists()


def learning(path: Path, divergence: str) -> Path:
    text = path.read_text()
    assert "train: {" in text
    path.write_text(text.replace("train: {", f"train: {{divergence: {divergence}, ", 1))
    return path


@pytest.mark.parametrize("more", ["", ", source: cache, keep: hidden, kind: jensen_shannon"])
def test_a_trimmed_student_learns_distributions_with_a_tail(
    cut_task: Task, tmp_path: Path, more: str
) -> None:
    path = learning(cut_task("cut: {vocabulary: 290}"), f"{{model: small-model{more}}}")
    text = path.read_text()
    assert "steps: 4" in text
    path.write_text(text.replace("steps: 4", "steps: 12", 1))
    run = tmp_path / "run"
    run_recipe(read_recipe(path), folder=run)
    result = read(run, "train/seed-1/result.json")
    assert result["curve"][-1]["validation_loss"] < result["curve"][0]["validation_loss"]
    student = transformers.AutoModelForCausalLM.from_pretrained(run / "student")
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "student")
    assert student.config.vocab_size == len(tokenizer) <= 290, "the tail is gone"


@pytest.mark.parametrize(
    ("student", "divergence", "message"),
    [
        ("cut: {vocabulary: 300}", "{model: small-model, source: cache}", "(?s)does not have.*hid"),
        ("cut: {vocabulary: 300}, lora_rank: 2", "{model: small-model}", "(?s)adapters.*leave"),
    ],
)
def test_what_has_no_tail_is_refused_beside_a_trimmed_vocabulary(
    cut_task: Task, tmp_path: Path, student: str, divergence: str, message: str
) -> None:
    path = learning(cut_task(student), divergence)
    with pytest.raises(InputError, match=message):
        run_recipe(read_recipe(path), folder=tmp_path / "run", until="plan")
