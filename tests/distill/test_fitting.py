"""What planning finds wrong with data, teacher and student, before anything is spent."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.conftest import CHATML
from tests.distill.run_orders import RECORDED, write_task

from stillhouse.cli.progress import LiveProgress
from stillhouse.distill import fitting, machine, read_recipe, run_recipe
from stillhouse.distill.fitting import check_head, compare_heads, compare_tokenizers
from stillhouse.exchanges import InputError
from stillhouse.statistics import required_n, required_n_continuous
from stillhouse.students import save_student
from stillhouse.teachers.local import LocalModel

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


def test_an_end_of_text_of_another_id_is_said(tiny_tokenizer: Build) -> None:
    teacher, student = tiny_tokenizer(), tiny_tokenizer()
    student.add_special_tokens({"eos_token": "<end>"})
    teacher.add_tokens(["<other>"])
    teacher.add_special_tokens({"eos_token": "<end>"})
    told = compare_tokenizers(teacher, student)
    first = len(tiny_tokenizer())
    ends = f"has the id {first + 1} for the teacher and {first} for the student"
    assert [line for line in told if ends in line]


def test_heads_of_other_sizes_are_said_and_one_that_is_too_small_is_refused(
    tiny_model: Build, tiny_tokenizer: Build
) -> None:
    def local(rows: int) -> LocalModel:
        model = tiny_model()
        model.resize_token_embeddings(rows, mean_resizing=False)
        return LocalModel(model, tiny_tokenizer(), name="m", fingerprint="")

    tokens = len(tiny_tokenizer())
    padded, whole, few = local(384), local(tokens), local(tokens - 2)
    assert compare_heads(whole, whole) == []
    (told,) = compare_heads(padded, whole)
    assert f"384 rows for {tokens} tokens, the student's {tokens} for {tokens}" in told
    check_head(padded, "student", "here")
    with pytest.raises(InputError, match=f"head has {tokens - 2} rows, its tokenizer {tokens}"):
        check_head(few, "student", "here")


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


def test_a_prompt_beyond_the_local_teachers_window_stops_the_plan(
    recipe: Path, tmp_path: Path, tiny_model: Build, tiny_tokenizer: Build
) -> None:
    save_student(tiny_model(window=24, seed=2), tiny_tokenizer(), tmp_path / "narrow")
    text = recipe.read_text().replace(RECORDED, "kind: local, model: narrow, answer: score")
    recipe.write_text(text)
    with pytest.raises(InputError, match="the teacher's window is 24") as caught:
        run_recipe(read_recipe(recipe), folder=tmp_path / "run", until="plan")
    assert "ask a model with a longer window" in str(caught.value)


def test_the_plan_predicts_and_says_what_a_run_takes(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LiveProgress() as progress:
        run_recipe(read_recipe(recipe), folder=tmp_path / "run", until="plan", progress=progress)
    told = capsys.readouterr().err
    plan = orjson.loads((tmp_path / "run" / "plan" / "plan.json").read_bytes())
    assumed = "10 % of the answers differ in rightness"
    needed = plan["power"]["needed"][assumed]
    assert needed == required_n(0.05, 0.1)
    assert f"{needed:,} if {assumed} (more than there are)" in told
    for predicted in ("training 0 s", "everything else 75 s", "memory about", "disk about"):
        assert predicted in told
    assert plan["memory_bytes"] > 0
    assert plan["disk_bytes"] > 0


@pytest.mark.parametrize(
    ("metric", "assumed", "needed"),
    [
        ("rouge_l", "an item's scores differ by 20 points (standard deviation)",
         required_n_continuous(0.05, 0.2)),
        ("exact_match", "20 % of the answers differ in rightness", required_n(0.05, 0.2)),
    ],
)  # fmt: skip
def test_the_items_that_a_margin_needs_are_planned_by_the_kind_of_score(
    recipe: Path, tmp_path: Path, metric: str, assumed: str, needed: int
) -> None:
    text = recipe.read_text().replace("kind: label, labels: [negative, positive]", "kind: text")
    recipe.write_text(text.replace("margin: 5", f"metric: {metric}, margin: 5"))
    run_recipe(read_recipe(recipe), folder=tmp_path / "run", until="plan")
    plan = orjson.loads((tmp_path / "run" / "plan" / "plan.json").read_bytes())
    assert plan["power"]["needed"][assumed] == needed


def test_the_forecast_of_training_counts_replies(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "measure_speed", lambda *_, **__: 1000.0)
    text = recipe.read_text().replace("kind: label, labels: [negative, positive]", "kind: text")
    recipe.write_text(text)
    replies = tmp_path / "replies.jsonl"
    rows = [orjson.loads(line) for line in replies.read_bytes().splitlines()]
    found = []
    for words in (1, 31):
        said = [row | {"reply": "good" + " good" * (words - 1)} for row in rows]
        replies.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in said))
        run_recipe(read_recipe(recipe), folder=tmp_path / str(words), until="plan")
        plan = orjson.loads((tmp_path / str(words) / "plan" / "plan.json").read_bytes())
        found.append((plan["tokens"]["example"], plan["seconds"]["train"]))
    (few, short), (many, long) = found
    assert many - few == 30, "a token a word"
    assert long / short == pytest.approx(many / few)


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_a_template_that_drops_the_system_prompt_stops_the_plan(
    recipe: Path, tmp_path: Path, tiny_model: Build, tiny_tokenizer: Build, whose: str
) -> None:
    drops = CHATML.replace("{{ '<|im_start|>'", "{% if m['role'] != 'system' %}{{ '<|im_start|>'")
    drops = drops.replace("}}{% endfor %}", "}}{% endif %}{% endfor %}", 1)
    save_student(tiny_model(seed=2), tiny_tokenizer(drops), tmp_path / "deaf")
    text = recipe.read_text().replace("data: {", "data: {system: Be brief., ")
    if whose == "student":
        text = text.replace("start: small-model", "start: deaf")
    else:
        text = text.replace(RECORDED, "kind: local, model: deaf, answer: score")
    recipe.write_text(text)
    with pytest.raises(InputError, match="system"):
        run_recipe(read_recipe(recipe), folder=tmp_path / "run", until="plan")
    recipe.write_text(text.replace("system: Be brief., ", ""))
    run_recipe(read_recipe(recipe), folder=tmp_path / "run", until="plan")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("judge: {", "judge: {metric: rouge_l, ", "rouge_l does not apply to label tasks"),
        ("judge: {", "judge: {metric: function, function: nowhere:f, ", "cannot import nowhere"),
        ("curate: {", "curate: {function: nowhere:f, ", "cannot import nowhere"),
        ("curate: {", "curate: {pattern: '(', ", "not a regular expression"),
    ],
)
def test_what_only_a_later_stage_would_refuse_stops_the_plan(
    recipe: Path, tmp_path: Path, old: str, new: str, says: str
) -> None:
    recipe.write_text(recipe.read_text().replace(old, new))
    with pytest.raises(InputError, match=says):
        run_recipe(read_recipe(recipe), folder=tmp_path / "run", until="plan")


def test_labels_that_begin_alike_stop_the_plan_where_soft_targets_need_others(
    recipe: Path, tmp_path: Path
) -> None:
    text = recipe.read_text().replace(RECORDED, "kind: local, model: small-model, answer: score")
    text = text.replace("labels: [negative, positive]", "labels: [very bad, very good]")
    gold = "gold: label, gold_map: {negative: very bad, positive: very good}"
    hard = text.replace("gold: label", gold)
    recipe.write_text(hard.replace("label_targets: hard", "label_targets: soft"))
    with pytest.raises(InputError, match="differ in their first token"):
        run_recipe(read_recipe(recipe), folder=tmp_path / "run", until="plan")
    recipe.write_text(hard)
    run_recipe(read_recipe(recipe), folder=tmp_path / "run", until="plan")


def test_the_plan_goes_by_the_memory_that_a_container_leaves(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "MEMORY_LIMITS", (tmp_path / "none", limit))
    whole = machine.describe_machine(tmp_path).memory_bytes
    for text, found in (("max", whole), (str(1 << 60), whole), ("1048576", 1 << 20)):
        limit.write_text(text + "\n")
        assert machine.describe_machine(tmp_path).memory_bytes == found
    with pytest.raises(InputError, match=r"of memory, this machine has 0\.0"):
        run_recipe(read_recipe(recipe), folder=tmp_path / "run", until="plan")
