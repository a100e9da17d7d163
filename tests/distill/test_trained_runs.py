"""What a run trains on, and for how long."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.distill.test_judged_runs import Task, read, task

from stillhouse import students
from stillhouse.distill import run_recipe
from stillhouse.distill.run import Run
from stillhouse.exchanges import InputError

__all__ = ["task"]  # a fixture

TEXT = {"kind: label, labels: [negative, positive]": "kind: text"}


def change_lines(path: Path, edit: Callable[[int, dict[str, Any]], None]) -> None:
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for number, row in enumerate(rows):
        edit(number, row)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def cut_two_of_three(number: int, row: dict[str, Any]) -> None:
    if number % 3:
        row["finish_reason"] = "length"


def test_epochs_are_passes_over_what_curation_left(task: Task, tmp_path: Path) -> None:
    recipe = task(**{"train: {steps: 4, ": "train: {epochs: 2, patience: null, "})
    change_lines(tmp_path / "replies.jsonl", cut_two_of_three)
    run_recipe(recipe, folder=tmp_path / "run", until="train")
    result, gold = (read(tmp_path / "run/train", f"{n}/result.json") for n in ("seed-1", "gold"))
    assert result["steps"] == math.ceil(2 * result["examples"] / 4)
    assert gold["planned_steps"] == result["planned_steps"]


@pytest.mark.parametrize("reason", ["length", "unknown"])
def test_replies_that_are_allowed_train(task: Task, tmp_path: Path, reason: str) -> None:
    recipe = task(**TEXT, **{"curate: {": f"curate: {{allow: [{reason}], "})

    def edit(number: int, row: dict[str, Any]) -> None:
        if reason == "length":
            cut_two_of_three(number, row)
        else:
            del row["finish_reason"]

    change_lines(tmp_path / "replies.jsonl", edit)
    run_recipe(recipe, folder=tmp_path / "run", until="train")
    result = read(tmp_path / "run", "train/seed-1/result.json")
    assert result["examples"] == read(tmp_path / "run", "curate/report.json")["kept"]


def merging(tokenizer: Any) -> Any:
    """The same tokenizer, with one token for two line breaks."""
    core = orjson.loads(tokenizer.backend_tokenizer.to_str())
    core["model"]["vocab"]["\u010a\u010a"] = len(core["model"]["vocab"])
    core["model"]["merges"].insert(0, ["\u010a", "\u010a"])
    return type(tokenizer)(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(orjson.dumps(core).decode()),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=tokenizer.chat_template,
    )


@pytest.mark.parametrize(
    ("reply", "reason"),
    [("so <|im_end|> it goes", "end token inside"), ("\n\ngood film", "boundary")],
)
def test_one_odd_reply_stops_no_run(
    task: Task,
    tmp_path: Path,
    tiny_tokenizer: Callable[..., Any],
    reply: str,
    reason: str,
) -> None:
    recipe = task(**TEXT)
    merging(tiny_tokenizer()).save_pretrained(tmp_path / "small-model")
    odd = Run(recipe, tmp_path / "run").splits.train.items[0].variable

    def edit(_: int, row: dict[str, Any]) -> None:
        if row["prompt"] == odd:
            row["reply"] = reply

    change_lines(tmp_path / "replies.jsonl", edit)
    run_recipe(recipe, folder=tmp_path / "run", until="train")
    assert read(tmp_path / "run", "train/seed-1/result.json")["skipped"]["train"] == {reason: 1}


@pytest.mark.parametrize("asked", [False, True])
def test_gold_answers_that_curation_left_none_of_stop_a_run_only_where_asked_for(
    task: Task, tmp_path: Path, asked: bool
) -> None:
    recipe = task(**({"margin": "gold_student: true, margin"} if asked else {}))
    held_out = [i.variable for i in Run(recipe, tmp_path / "run").splits.validation.items]
    with_gold = held_out[: (len(held_out) + 1) // 2]

    def cut(_: int, row: dict[str, Any]) -> None:
        if row["prompt"] in with_gold:
            row["finish_reason"] = "length"

    def drop_gold(_: int, row: dict[str, Any]) -> None:
        if row["text"] in held_out and row["text"] not in with_gold:
            row["label"] = None

    change_lines(tmp_path / "replies.jsonl", cut)
    change_lines(tmp_path / "reviews.jsonl", drop_gold)
    if asked:
        with pytest.raises(InputError, match="curation left no validation item that has one"):
            run_recipe(recipe, folder=tmp_path / "run", until="train")
        return
    run_recipe(recipe, folder=tmp_path / "run", until="train")
    assert "no validation item" in read(tmp_path / "run", "train/gold/absent.json")["why"]


def test_every_seed_draws_its_own_adapter(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    add = students.add_adapter

    def seen(model: Any, *, rank: int, seed: int) -> Any:
        drawn.append(seed)
        return add(model, rank=rank, seed=seed)

    monkeypatch.setattr(students, "add_adapter", seen)
    changes = {"name: small": "name: small\nseeds: 2", "layers: 1, choose: even": "lora_rank: 2"}
    run_recipe(
        task(**changes, margin="gold_student: false, margin"), folder=tmp_path, until="train"
    )
    assert drawn == [1, 2]
