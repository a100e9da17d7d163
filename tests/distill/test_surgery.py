"""Students cut by a recipe: planned, chosen once, trained, judged, and told in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tests.distill.run_orders import RECORDED, write_task

from stillhouse.distill import read_recipe, run_recipe
from stillhouse.distill import surgery as room
from stillhouse.distill.run import Run
from stillhouse.exchanges import InputError

Build = Callable[..., Any]
Task = Callable[..., Path]


@pytest.fixture
def task(tiny_model: Build, tiny_tokenizer: Build, tmp_path: Path) -> Task:
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


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_a_student_is_cut_in_every_way_and_judged(task: Task, tmp_path: Path) -> None:
    recipe = read_recipe(
        task("layers: 2, cut: {heads: 2, feed_forward: 20, hidden: 24, vocabulary: 290}")
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


def test_what_is_kept_hangs_on_training_items_alone(task: Task, tmp_path: Path) -> None:
    path = task("cut: {heads: 2, hidden: 16, vocabulary: 280}")
    recipe = read_recipe(path)
    data, replies = path.parent / "reviews.jsonl", path.parent / "replies.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    training = {item.id for item in Run(recipe, tmp_path / "x").splits.train.items}
    assert 0 < len(training) < len(rows)
    found = []
    # Only test and validation texts differ between the two runs.
    for name, words in (("first", "zzzz qqqq ÿÿÿÿ"), ("second", "xxxx wwww þþþþ")):
        changed = [
            row if row["id"] in training else dict(row, text=f"{words} {row['text']} {words}")
            for row in rows
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in changed))
        said = [
            {"prompt": row["text"], "reply": row["label"], "finish_reason": "stop"}
            for row in changed
        ]
        replies.write_text("".join(json.dumps(line) + "\n" for line in said))
        run_recipe(recipe, folder=tmp_path / name, until="train")
        found.append(read(tmp_path / name, f"train/{room.PARTS}"))
    assert found[0] == found[1]
    assert found[0]["vocabulary"]["kept"]


def test_choices_of_layers_are_ranked_again_after_a_short_training(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(task("layers: 2, choose: data, try_steps: 3", layers=5))
    run = tmp_path / "run"
    run_recipe(recipe, folder=run)
    tried = read(run, f"train/{room.PARTS}")["tried"]
    assert len(tried) >= 2
    assert len({tuple(one["layers"]) for one in tried}) == len(tried)
    best = min(tried, key=lambda one: one["validation_loss"])
    assert read(run, "train/layers.json")["layers"] == best["layers"]
    assert not (run / "train" / room.TRIES).exists()
    page = (run / "report" / "report.html").read_text()
    before = ", ".join(
        f"{one['rule']} {one['divergence']:.3f}"
        for one in sorted(tried, key=lambda one: one["divergence"])
    )
    assert before in page
    assert "layer choices after 3 steps" in page
    # A flip: the choice that looks best before training is kept unless it is the best after it.
    monkeypatch.setattr(room, "_try_layers", lambda *_: [dict(tried[0], validation_loss=0.0)])
    run_recipe(recipe, folder=tmp_path / "other", until="train")
    assert read(tmp_path / "other", "train/layers.json")["layers"] == tried[0]["layers"]


def test_a_killed_choice_is_not_made_twice(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(task("layers: 2, choose: data, try_steps: 2", layers=4))
    run = tmp_path / "run"
    real, asked = room.remove_tries, []

    def stop(folder: Path) -> None:
        asked.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "remove_tries", stop)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, folder=run)
    chosen = (run / "train" / room.PARTS).read_bytes()
    monkeypatch.setattr(room, "remove_tries", real)
    monkeypatch.setattr(room, "_try_layers", lambda *_: pytest.fail("chosen again"))
    run_recipe(recipe, folder=run)
    assert (run / "train" / room.PARTS).read_bytes() == chosen
    assert not (run / "train" / room.TRIES).exists()


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
    student: str, message: str, task: Task, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run_recipe(read_recipe(task(student)), folder=tmp_path / "run", until="plan")
    assert not (tmp_path / "run" / "plan" / "plan.json").exists()


def learning(path: Path, divergence: str) -> Path:
    text = path.read_text()
    assert "train: {" in text
    path.write_text(text.replace("train: {", f"train: {{divergence: {divergence}, ", 1))
    return path


@pytest.mark.parametrize("more", ["", ", source: cache, keep: hidden, kind: jensen_shannon"])
def test_a_trimmed_student_learns_distributions_with_a_tail(
    task: Task, tmp_path: Path, more: str
) -> None:
    path = learning(task("cut: {vocabulary: 290}"), f"{{model: small-model{more}}}")
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
    task: Task, tmp_path: Path, student: str, divergence: str, message: str
) -> None:
    path = learning(task(student), divergence)
    with pytest.raises(InputError, match=message):
        run_recipe(read_recipe(path), folder=tmp_path / "run", until="plan")
