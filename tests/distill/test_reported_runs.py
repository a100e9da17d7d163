"""What a run says of itself: who taught, under which terms, with what reasoning, at what cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.distill.run_orders import RECORDED
from tests.distill.test_judged_runs import Task, read, server, task
from tests.teachers.conftest import Asked, Endpoint

from stillhouse.distill import Recipe, Stopped, judge_pair, read_judging, read_recipe, run_recipe
from stillhouse.distill.distribution import DivergenceConfig
from stillhouse.exchanges import InputError, Journal, iterate_journal, read_journal
from stillhouse.students import save_student

__all__ = ["server", "task"]  # fixtures


def unpermitted(path: Path, teacher: str) -> Recipe:
    """The recipe at `path` with another teacher, and without the permission."""
    text = path.read_text()
    start = text.index("teacher: {")
    end = text.index("student: ")
    path.write_text(f"{text[:start]}teacher: {{{teacher}, max_tokens: 8}}\n{text[end:]}")
    return read_recipe(path)


def test_the_terms_of_an_address_that_was_changed_after_planning_are_asked_for(
    task: Task, tmp_path: Path, server: Endpoint
) -> None:
    task()
    live = f"kind: endpoint, model: m, url: '{server.url}', terms: mit, canaries: false"
    recipe = unpermitted(tmp_path / "recipe.yaml", live)
    run_recipe(recipe, folder=tmp_path / "run", until="plan")
    moved = dataclasses.replace(recipe.teacher, url="https://api.openai.com/v1")
    with pytest.raises(Stopped, match=r"endpoint api\.openai\.com") as stopped:
        run_recipe(
            dataclasses.replace(recipe, teacher=moved), folder=tmp_path / "run", until="label"
        )
    assert stopped.value.reason == "terms"
    run_recipe(recipe, folder=tmp_path / "run", until="label")
    assert len(server.asked) == 48


def test_the_terms_of_the_model_that_answered_count_whatever_name_was_asked_for(
    task: Task, tmp_path: Path, server: Endpoint
) -> None:
    def disguised(asked: Asked) -> Any:
        return asked.reply("positive", model="gemma-3-1b-it")

    task()
    server.handler = disguised
    live = f"kind: endpoint, model: m, url: '{server.url}', terms: mit, canaries: false"
    recipe = unpermitted(tmp_path / "recipe.yaml", live)
    with pytest.raises(Stopped, match="gemma-3-1b-it") as stopped:
        run_recipe(recipe, folder=tmp_path / "run", until="label")
    assert stopped.value.reason == "terms"
    assert not (tmp_path / "run" / "label" / "train.jsonl").exists()


def test_every_model_of_a_recording_must_be_permitted(task: Task, tmp_path: Path) -> None:
    task()
    lines = [orjson.loads(line) for line in (tmp_path / "replies.jsonl").read_bytes().splitlines()]
    for number, line in enumerate(lines):
        line["model"] = "gemma-3-1b-it" if number == 40 else "a-model-of-ours"
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = unpermitted(tmp_path / "recipe.yaml", f"{RECORDED}, terms: mit")
    with pytest.raises(Stopped, match="gemma-3-1b-it") as stopped:
        run_recipe(recipe, folder=tmp_path / "run", until="plan")
    assert stopped.value.reason == "terms"


def test_the_model_whose_distributions_are_learned_must_be_permitted(
    task: Task, tmp_path: Path
) -> None:
    task()
    learned = (tmp_path / "small-model").rename(tmp_path / "their-model")
    (learned / "README.md").write_text("---\nlicense: llama3\n---\n")
    recipe = unpermitted(tmp_path / "recipe.yaml", f"{RECORDED}, terms: mit")
    train = dataclasses.replace(recipe.train, divergence=DivergenceConfig(model=learned))
    with pytest.raises(Stopped, match="licence llama3") as stopped:
        run_recipe(dataclasses.replace(recipe, train=train), folder=tmp_path / "run", until="plan")
    assert stopped.value.reason == "terms"


def test_a_recording_that_was_changed_is_noticed_on_resume(task: Task, tmp_path: Path) -> None:
    recipe = task()
    run_recipe(recipe, folder=tmp_path / "run", until="label")
    replies = tmp_path / "replies.jsonl"
    replies.write_text(replies.read_text().replace("negative", "positive", 1))
    with pytest.raises(InputError, match=r"begun with other values of: teacher\.model"):
        run_recipe(recipe, folder=tmp_path / "run")


def thoughtful(folder: Path) -> None:
    """Put reasoning in front of every recorded reply, with the teacher's count of it."""
    replies = folder / "replies.jsonl"
    lines = [orjson.loads(line) for line in replies.read_bytes().splitlines()]
    for line in lines:
        line["reply"] = f"<think>\nlet me see\n</think>\n\n{line['reply']}"
    replies.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_declared_reasoning_is_no_part_of_an_answer(
    task: Task, tmp_path: Path, policy: str
) -> None:
    declared = f'reasoning: {policy}, reasoning_delimiters: ["<think>", "</think>"]'
    recipe = task(f"{RECORDED}, {declared}", min_parseable="min_parseable")
    thoughtful(tmp_path)
    run = tmp_path / "run"
    run_recipe(recipe, folder=run)
    assert read(run, "curate/gate.json")["parseable"] == 1.0
    teacher = read(run, "judge/judgement.json")["sheets"][0]
    assert teacher["scores"][0]["value"] == 100.0
    lines = (run / "curate" / "targets.jsonl").read_bytes().splitlines()
    targets = [orjson.loads(line) for line in lines]
    assert {target["reply"] for target in targets} == {"negative", "positive"}
    kept = {target.get("reasoning") for target in targets}
    assert kept == ({"let me see"} if policy == "keep" else {None})
    page = (run / "report" / "report.html").read_text()
    words = {"drop": "dropped", "keep": "kept beside"}[policy]
    asked = read(run, "curate/report.json")["items"]
    assert f"{words}; 0 tokens by the teacher&#39;s count, {asked} replies say none" in page


def test_reasoning_that_is_trained_on_stands_in_the_target(task: Task, tmp_path: Path) -> None:
    declared = 'reasoning: train, reasoning_delimiters: ["<think>", "</think>"]'
    recipe = task(
        f"{RECORDED}, {declared}",
        **{"task: {kind: label, labels: [negative, positive]}": "task: {kind: text}"},
    )
    thoughtful(tmp_path)
    run_recipe(recipe, folder=tmp_path / "run", until="curate")
    lines = (tmp_path / "run" / "curate" / "targets.jsonl").read_bytes().splitlines()
    replies = {orjson.loads(line)["reply"] for line in lines}
    assert all(reply.startswith("<think>\nlet me see\n</think>\n\n") for reply in replies)


def test_the_report_names_teacher_student_and_command(
    task: Task, tmp_path: Path, server: Endpoint
) -> None:
    live = f"kind: endpoint, model: teacher-1, url: '{server.url}', canaries: false"
    recipe = task(live)
    run_recipe(recipe, folder=tmp_path / "run", place="mine/recipe.yaml")
    facts = read(tmp_path / "run", "report/report.json")["data"]
    assert facts["teacher"] == "teacher-1 at 127.0.0.1; answered as teacher-1 (48)"
    assert facts["student"].endswith("started from 26,080")
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "answered as teacher-1" in card
    assert "stillhouse distill mine/recipe.yaml" in card


def test_students_for_comparison_are_no_part_of_what_the_student_cost(
    task: Task, tmp_path: Path
) -> None:
    recipe = task(name="seeds: 2\nname", margin="gold_student: true, margin")
    run = tmp_path / "run"
    run_recipe(recipe, folder=run)
    own = [read(run, f"train/seed-{seed}/result.json")["seconds"] for seed in (1, 2)]
    training = read(run, "judge/cost.json")["training"]
    assert training["training_us"] == pytest.approx(1e6 * sum(own) / 2, abs=1)


def test_a_teachers_time_is_that_of_all_attempts(task: Task, tmp_path: Path) -> None:
    recipe = task("kind: local, model: small-model, answer: score")
    run = tmp_path / "run"
    run_recipe(recipe, folder=run, until="label")
    (run / "label" / "done.json").unlink()
    run_recipe(recipe, folder=run)  # what is journaled is not computed again
    spent = [record["us"] for record in iterate_journal(run / "label" / "replies.journal")]
    assert min(spent) > 0
    assert read(run, "judge/cost.json")["training"]["labelling_us"] == sum(spent)


def test_labels_of_a_version_that_timed_no_chunks_are_named(task: Task, tmp_path: Path) -> None:
    recipe = task("kind: local, model: small-model, answer: score")
    run = tmp_path / "run"
    run_recipe(recipe, folder=run, until="train")
    path = run / "label" / "replies.journal"
    records = [{k: v for k, v in one.items() if k != "us"} for one in iterate_journal(path)]
    header = read_journal(path).header
    path.unlink()
    with Journal.open(path, header=header) as journal:
        for record in records:
            journal.append(record)
    with pytest.raises(InputError, match=r"(?s)how long each chunk took.*remove the folder label/"):
        run_recipe(recipe, folder=run)


def judged(folder: Path, more: str = "") -> Any:
    (folder / "judge.yaml").write_text(
        "name: pair\ntask: {kind: label, labels: [negative, positive]}\n"
        'data: {path: reviews.jsonl, id: id, prompt: "{text}", gold: label}\n'
        f"judge: {{margin: 5, latency_items: 6, machine_usd_per_hour: 1.0}}\nmax_tokens: 4\n{more}"
    )
    return read_judging(folder / "judge.yaml")


def test_two_folders_that_are_judged_are_timed_on_the_same_work(
    task: Task, tmp_path: Path, tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> None:
    task()
    save_student(tiny_model(layers=4, seed=2), tiny_tokenizer(), tmp_path / "big-model")
    big, small = str(tmp_path / "big-model"), str(tmp_path / "small-model")
    judge_pair(judged(tmp_path), teacher=big, student=small, out=tmp_path / "out")
    cost = read(tmp_path, "out/cost.json")
    assert cost["teacher"]["parameters"] > cost["student"]["parameters"]
    for name in ("teacher", "student"):
        assert cost[name]["speed"]["requests"] == 6
        assert cost[name]["price"]["nano_per_thousand"] > 0
    assert cost["speedup"]["n"] > 1
    assert cost["training"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Training was not part of this run" in page
    assert "Throughput, requests/s" in page


def test_an_endpoint_that_is_judged_has_a_price_and_no_speed_and_its_constraint_is_said(
    task: Task, tmp_path: Path, server: Endpoint
) -> None:
    task()
    server.handler = lambda asked: asked.reply('{"stars": 3}')
    rows = [{"id": f"r{i}", "text": f"text {i}", "gold": {"stars": 3 + i % 2}} for i in range(12)]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    schema = {"type": "object", "properties": {"stars": {"type": "integer"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    (tmp_path / "judge.yaml").write_text(
        "name: pair\ntask: {kind: json, schema: schema.json}\n"
        'data: {path: documents.jsonl, id: id, prompt: "{text}", gold: gold}\n'
        "judge: {margin: 5, latency_items: 6}\nmax_tokens: 4\n"
    )
    (tmp_path / "live.yaml").write_text(
        f"{{kind: endpoint, model: teacher-1, url: '{server.url}', canaries: false,"
        " constrain: true, price_in_nano: 100, price_out_nano: 400}"
    )
    found = judge_pair(
        read_judging(tmp_path / "judge.yaml"),
        teacher=str(tmp_path / "live.yaml"),
        student=str(tmp_path / "small-model"),
        out=tmp_path / "out",
    )
    assert "response_format" in server.asked[0].body
    cost = read(tmp_path, "out/cost.json")
    assert cost["teacher"]["speed"] is None
    assert cost["teacher"]["speed_note"] == "not measured here: of kind endpoint"
    assert cost["teacher"]["price"]["nano_per_thousand"] == 1000 * (20 * 100 + 5 * 400)
    assert cost["speedup"] is None
    assert cost["student"]["speed"]["requests"] == 6
    assert found.judgement is not None
    teacher, student = found.judgement["sheets"][:2]
    assert [one["channel"] for one in teacher["channels"]] == ["constrained"]
    assert [one["channel"] for one in student["channels"]] == ["free text"]
