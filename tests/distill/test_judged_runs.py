"""What a run's judgement holds: gold student, seeds, bits per byte, memory, endpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from tests.distill.run_orders import RECORDED, write_task
from tests.distill.test_pipeline import sentiment
from tests.teachers.conftest import Endpoint

from stillhouse.distill import (
    Recipe,
    Stopped,
    fitting,
    judge_pair,
    read_judging,
    read_recipe,
    run_recipe,
)
from stillhouse.exchanges import InputError
from stillhouse.parity import read_answers
from stillhouse.teachers.local import LocalModel
from stillhouse.teachers.memory import peak_memory

Task = Callable[..., Recipe]


@pytest.fixture
def task(
    tmp_path: Path,
    tiny_model: Callable[..., Any],
    tiny_tokenizer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Task:
    monkeypatch.setattr(fitting, "PROBE_S", 0.0)

    def write(teacher: str = RECORDED, **changes: str) -> Recipe:
        path = write_task(tmp_path, tiny_model(), tiny_tokenizer(), teacher=teacher)
        text = path.read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new, 1)
        path.write_text(text)
        return read_recipe(path)

    return write


def read(folder: Path, name: str) -> Any:
    return orjson.loads((folder / name).read_bytes())


def test_a_gold_trained_student_is_trained_judged_and_shown(task: Task, tmp_path: Path) -> None:
    recipe = task(margin="gold_student: true, margin")
    run_recipe(recipe, folder=tmp_path / "run")
    assert (tmp_path / "run" / "train" / "gold" / "student" / "model.safetensors").exists()
    judgement = read(tmp_path / "run", "judge/judgement.json")
    assert "gold_trained" in [sheet["name"] for sheet in judgement["sheets"]]
    pairs = [(one["left"], one["right"]) for one in judgement["comparisons"]]
    assert ("student", "gold_trained") in pairs
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "the same student trained on gold answers" in page


def test_three_seeds_are_judged_by_their_mean_with_their_spread_and_none_is_picked(
    task: Task, tmp_path: Path
) -> None:
    recipe = task(name="seeds: 3\nname")
    run_recipe(recipe, folder=tmp_path / "run")
    run = tmp_path / "run"
    rows = map(orjson.loads, (tmp_path / "reviews.jsonl").read_bytes().splitlines())
    gold = {row["id"]: row["label"] for row in rows}
    shares = []
    for seed in (1, 2, 3):
        answers = read_answers(run / "judge" / f"student-{seed}.jsonl")
        right = [answer.text.strip() == gold[name] for name, answer in answers.items()]
        shares.append(100 * sum(right) / len(right))
    student = next(s for s in read(run, "judge/judgement.json")["sheets"] if s["name"] == "student")
    score = student["scores"][0]
    assert score["value"] == pytest.approx(sum(shares) / 3)
    assert score["seeds"]["values"] == pytest.approx(shares)
    assert len(student["counts"]) == 3
    first = (run / "train" / "seed-1" / "student" / "model.safetensors").read_bytes()
    assert (run / "student" / "model.safetensors").read_bytes() == first, "the first, not the best"
    assert read(run, "judge/judgement.json")["verdict"]["seeds"] == 3
    assert "Over 3 training seeds" in (run / "report" / "report.html").read_text()


TEXT = {
    "task: {kind: label, labels: [negative, positive]}": "task: {kind: text}",
    "margin: 5,": "margin: 5, metric: bits_per_byte,",
    # An untrained teacher never ends its replies.
    "curate: {": "curate: {allow: [length], ",
    "label_targets: hard": "cut_replies: train",
}


def test_bits_per_byte_judges_a_local_teacher_and_its_student_by_the_gold_texts(
    task: Task, tmp_path: Path
) -> None:
    recipe = task("kind: local, model: small-model", **TEXT)
    run = tmp_path / "run"
    result = run_recipe(recipe, folder=run)
    assert result.verdict in {"non-inferior", "inferior", "not shown"}
    judgement = read(run, "judge/judgement.json")
    assert judgement["verdict"]["unit"] == "bits/byte"
    scores = {sheet["name"]: sheet["scores"][0]["value"] for sheet in judgement["sheets"]}
    assert scores.keys() == {"teacher", "student", "untrained"}
    assert scores["student"] != scores["untrained"]
    # The same figure from plain transformers, token by token.
    model = LocalModel.load(run / "student")
    from stillhouse.distill.run import Run

    live = Run(recipe, run)
    nats = sizes = 0.0
    for item in live.splits.test.items:
        prompt = model.template.prompt(item.messages, "x")
        ids = model.template.encode(prompt)
        whole = model.template.encode(prompt + item.gold)
        with torch.no_grad():
            logits = model.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        nats += sum(float(logits[t - 1, whole[t]]) for t in range(len(ids), len(whole)))
        sizes += len(item.gold.encode())
    assert scores["student"] == pytest.approx(-nats / math.log(2) / sizes, rel=1e-4)


def test_bits_per_byte_is_refused_while_planning_where_the_teacher_cannot_tell(
    task: Task, tmp_path: Path
) -> None:
    recorded = task(**TEXT)
    with pytest.raises(InputError, match=r"recorded reply to item .* has no `reference_logprob`"):
        run_recipe(recorded, folder=tmp_path / "run", until="plan")
    path = tmp_path / "recipe.yaml"
    live = "kind: endpoint, model: m, url: http://127.0.0.1:9/v1"
    path.write_text(path.read_text().replace(RECORDED, live))
    with pytest.raises(InputError, match="which an endpoint does not tell"):
        run_recipe(read_recipe(path), folder=tmp_path / "other", until="plan")


def test_an_auc_that_no_model_here_gives_scores_for_is_refused_while_planning(
    task: Task, tmp_path: Path
) -> None:
    recipe = task(margin="metric: auc, margin")
    with pytest.raises(InputError, match="auc needs label scores"):
        run_recipe(recipe, folder=tmp_path / "run", until="plan")


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
def test_the_memory_of_both_models_is_measured_for_the_cost_table(
    task: Task, tmp_path: Path
) -> None:
    recipe = task("kind: local, model: small-model, answer: score")
    run_recipe(recipe, folder=tmp_path / "run")
    cost = read(tmp_path / "run", "judge/cost.json")
    for name in ("teacher", "student"):
        weights = 4 * cost[name]["parameters"]
        assert weights <= cost[name]["speed"]["peak_memory_bytes"] < weights + 2**30
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "Peak memory" in page


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
def test_peak_memory_counts_weights_and_what_the_work_takes_on_top(
    tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> None:
    model = LocalModel(tiny_model(), tiny_tokenizer(), name="m", fingerprint="")
    idle = peak_memory(model, lambda: None)
    busy = peak_memory(model, lambda: torch.ones(2**24).sum())
    assert idle is not None
    assert busy is not None
    assert 4 * model.parameters <= idle < 4 * model.parameters + 2**24
    assert 0.9 * 2**26 < busy - idle < 1.5 * 2**26


@pytest.fixture
def server() -> Iterator[Endpoint]:
    server = Endpoint()
    server.handler = sentiment
    server.start()
    yield server
    server.stop()


def test_an_endpoint_and_a_recording_are_judged_and_a_budget_holds(
    task: Task, tmp_path: Path, server: Endpoint
) -> None:
    task()
    (tmp_path / "judge.yaml").write_text(
        "name: pair\ntask: {kind: label, labels: [negative, positive]}\n"
        'data: {path: reviews.jsonl, id: id, prompt: "{text}", gold: label}\n'
        "judge: {margin: 5}\nbudget: {requests: 20}\n"
    )
    (tmp_path / "live.yaml").write_text(
        f"{{kind: endpoint, model: teacher-1, url: {server.url}, canaries: false}}"
    )
    (tmp_path / "recorded.yaml").write_text("{kind: recording, model: replies.jsonl}")
    sources = {"teacher": str(tmp_path / "live.yaml"), "student": str(tmp_path / "recorded.yaml")}
    judging = read_judging(tmp_path / "judge.yaml")
    with pytest.raises(Stopped, match=r"Raise budget\.requests"):
        judge_pair(judging, **sources, out=tmp_path / "out")
    assert len(server.asked) == 20
    path = tmp_path / "judge.yaml"
    path.write_text(path.read_text().replace("requests: 20", "requests: 48"))
    result = judge_pair(read_judging(path), **sources, out=tmp_path / "out")
    assert len(server.asked) == 48, "what was paid for is not asked again"
    assert result.judgement is not None
    assert result.judgement["comparisons"][0]["interval"]["estimate"] == 0


def test_a_folder_is_judged_by_bits_per_byte(task: Task, tmp_path: Path) -> None:
    task()
    (tmp_path / "judge.yaml").write_text(
        "name: pair\ntask: {kind: text}\n"
        'data: {path: reviews.jsonl, id: id, prompt: "{text}", gold: label}\n'
        "judge: {margin: 0.1, metric: bits_per_byte}\nmax_tokens: 4\n"
    )
    folder = str(tmp_path / "small-model")
    result = judge_pair(
        read_judging(tmp_path / "judge.yaml"), teacher=folder, student=folder, out=tmp_path / "out"
    )
    assert result.judgement is not None
    assert result.verdict == "non-inferior"
    assert result.judgement["verdict"]["unit"] == "bits/byte"
