"""What a run's judgement holds: gold student, seeds, bits per byte, memory, endpoints."""

from __future__ import annotations

import dataclasses
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
from tests.teachers.conftest import Asked, Endpoint

from stillhouse.distill import (
    Recipe,
    Stopped,
    fitting,
    judge_pair,
    read_judging,
    read_recipe,
    run_recipe,
)
from stillhouse.distill.asking import open_endpoint
from stillhouse.distill.baselines import absent_students
from stillhouse.distill.examples import build_examples
from stillhouse.distill.recipe import TeacherSpec
from stillhouse.distill.run import Run
from stillhouse.distill.steps.train import gold_target
from stillhouse.exchanges import InputError
from stillhouse.parity import read_answers
from stillhouse.teachers.chat import Failure, Reply
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


def test_a_gold_trained_student_stands_beside_wherever_there_is_gold(
    task: Task, tmp_path: Path
) -> None:
    run_recipe(task(), folder=tmp_path / "run")
    assert (tmp_path / "run" / "train" / "gold" / "student" / "model.safetensors").exists()
    judgement = read(tmp_path / "run", "judge/judgement.json")
    assert "gold_trained" in [sheet["name"] for sheet in judgement["sheets"]]
    pairs = [(one["left"], one["right"]) for one in judgement["comparisons"]]
    assert ("student", "gold_trained") in pairs
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "the same student trained on gold answers" in page


def test_gold_of_training_items_reaches_a_baseline_and_never_the_student(
    task: Task, tmp_path: Path
) -> None:
    recipe = task(margin="gold_student: true, margin")
    data = tmp_path / "reviews.jsonl"
    live = Run(recipe, tmp_path / "one")
    training = {item.id for item in live.splits.train.items}
    weights = {}
    for name in ("one", "other"):
        run_recipe(recipe, folder=tmp_path / name, until="train")
        for student in ("seed-1", "gold"):
            place = tmp_path / name / "train" / student / "student" / "model.safetensors"
            weights[name, student] = place.read_bytes()
        rows = [orjson.loads(line) for line in data.read_bytes().splitlines()]
        other = {"positive": "negative", "negative": "positive"}
        for row in rows:
            if row["id"] in training:
                row["label"] = other[row["label"]]
        data.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    assert weights["one", "seed-1"] == weights["other", "seed-1"], "every gold label was turned"
    assert weights["one", "gold"] != weights["other", "gold"], "or nothing would have been turned"


def test_gold_labels_are_trained_on_by_the_same_loss_as_a_teachers_scores(
    task: Task, tmp_path: Path
) -> None:
    local = task("kind: local, model: small-model, answer: score")
    run = Run(local, tmp_path / "run")
    items = run.splits.train.items
    targets = {item.id: gold_target(run, item.gold or "") for item in items}
    template = LocalModel.load(tmp_path / "small-model").template
    found = build_examples(items, targets, template, window=64, labels=run.task.labels).examples
    for example, item in zip(found, items, strict=True):
        sure = tuple(float(label == item.gold) for label in run.task.labels)
        assert example.label_probabilities == sure
    recorded = dataclasses.replace(local.teacher, kind="recording", answer="write")
    written = Run(dataclasses.replace(local, teacher=recorded), tmp_path)
    assert gold_target(written, "positive").label_scores is None


def test_what_does_not_stand_beside_a_verdict_says_why(task: Task, tmp_path: Path) -> None:
    run_recipe(task(margin="gold_student: false, margin"), folder=tmp_path / "run")
    sheets = [sheet["name"] for sheet in read(tmp_path / "run", "judge/judgement.json")["sheets"]]
    assert sheets == ["teacher", "student", "majority", "tfidf", "tfidf_gold", "untrained"]
    found = read(tmp_path / "run", "report/report.json")
    assert found["absent"].keys() == {"gold_trained", "plain"}
    assert "judge.gold_student is false" in found["absent"]["gold_trained"]
    assert "the teacher" in found["baselines"]["tfidf"]
    assert "items with gold" in found["baselines"]["tfidf_gold"]
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "Baselines that are not here" in page
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "Not beside it: the same student trained on gold answers" in card


def test_where_few_items_have_gold_a_student_of_it_is_trained_when_asked_for(
    task: Task, tmp_path: Path
) -> None:
    recipe = task()
    lines = (tmp_path / "reviews.jsonl").read_bytes().splitlines()
    rows = [orjson.loads(line) for line in lines]
    for row in rows[len(rows) // 3 :]:
        del row["label"]
    (tmp_path / "reviews.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n")
    few = Run(recipe, tmp_path / "run")
    few.__dict__["decided"] = {"train_items": len(few.splits.train.items)}
    assert not few.trains_gold
    assert "only" in (why := absent_students(few)["gold_trained"])
    assert "judge.gold_student: true" in why
    asked = dataclasses.replace(recipe.judge, gold_student=True)
    assert Run(dataclasses.replace(recipe, judge=asked), tmp_path / "run").trains_gold


@pytest.mark.parametrize("asked", [False, True])
def test_gold_answers_that_are_all_too_long_stop_a_run_only_where_they_were_asked_for(
    task: Task, tmp_path: Path, asked: bool
) -> None:
    text = {
        "kind: label, labels: [negative, positive]": "kind: text",
        "steps: 4,": "steps: 4, max_tokens: 64,",
    }
    recipe = task(**text, **({"margin": "gold_student: true, margin"} if asked else {}))
    path = tmp_path / "reviews.jsonl"
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    long = [row | {"label": " ".join([row["label"]] * 400)} for row in rows]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in long))
    if asked:
        with pytest.raises(InputError, match=r"no example is left.*overlong"):
            run_recipe(recipe, folder=tmp_path / "run")
        return
    run_recipe(recipe, folder=tmp_path / "run")
    found = read(tmp_path / "run", "report/report.json")
    assert "gold answers no example is left" in found["absent"]["gold_trained"]
    assert "gold_trained" not in [
        sheet["name"] for sheet in read(tmp_path / "run", "judge/judgement.json")["sheets"]
    ]


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
    assert scores.keys() == {"teacher", "student", "ngram", "untrained", "gold_trained"}
    assert scores["student"] != scores["untrained"]
    # The same figure from plain transformers, token by token.
    model = LocalModel.load(run / "student")
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


def test_two_endpoints_are_paid_from_one_budget(
    task: Task, tmp_path: Path, server: Endpoint
) -> None:
    task()
    path = tmp_path / "judge.yaml"
    path.write_text(
        "name: pair\ntask: {kind: label, labels: [negative, positive]}\n"
        'data: {path: reviews.jsonl, id: id, prompt: "{text}", gold: label}\n'
        "judge: {margin: 5}\nbudget: {requests: 60}\n"
    )
    for name in ("teacher", "student"):
        (tmp_path / f"{name}.yaml").write_text(
            f"{{kind: endpoint, model: teacher-1, url: {server.url}, canaries: false}}"
        )
    sources = {name: str(tmp_path / f"{name}.yaml") for name in ("teacher", "student")}
    for requests in (60, 70):  # the second time both journals are there
        path.write_text(path.read_text().replace("requests: 60", f"requests: {requests}"))
        with pytest.raises(Stopped, match=r"Raise budget\.requests"):
            judge_pair(read_judging(path), **sources, out=tmp_path / "out")
        assert len(server.asked) == requests
    (tmp_path / "out" / "teacher.journal").unlink()
    path.write_text(path.read_text().replace("requests: 70", "requests: 60"))
    with pytest.raises(Stopped, match=r"Raise budget\.requests"):
        judge_pair(read_judging(path), **sources, out=tmp_path / "out")
    assert len(server.asked) == 70 + 38, "what the student cost counts for the teacher too"


def test_a_long_timeout_is_waited_for() -> None:
    spec = TeacherSpec(kind="endpoint", model="m", url="http://127.0.0.1:9/v1", timeout_s=600)
    limits = open_endpoint(spec, 0).settings.timeouts
    assert limits.read_s == limits.total_s == 600


def test_a_prompt_that_the_endpoint_adds_can_be_allowed_for(
    task: Task, tmp_path: Path, server: Endpoint
) -> None:
    usage = {"prompt_tokens": 900, "completion_tokens": 1}
    server.handler = lambda asked: asked.reply("positive", usage=usage)
    live = f"kind: endpoint, model: teacher-1, url: {server.url}, canaries: false"
    recipe = task(live)
    with pytest.raises(Stopped, match=r"raise teacher\.template_allowance"):
        run_recipe(recipe, folder=tmp_path / "run", until="label")
    allowing = dataclasses.replace(recipe.teacher, template_allowance=1000)
    recipe = dataclasses.replace(recipe, teacher=allowing)
    run_recipe(recipe, folder=tmp_path / "run", until="label")


def test_what_is_drawn_at_a_temperature_is_drawn_anew_for_every_item(
    task: Task, tmp_path: Path, tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> None:
    run = Run(task(**{"max_tokens: 8": "max_tokens: 1, temperature: 1.0"}), tmp_path / "run")
    items = run.splits.train.items
    requests = [run.request(item) for item in items]
    assert len({request.sampling.seed for request in requests}) == len(items)
    again = dataclasses.replace(items[0], id="another name of the same prompt")
    assert run.request(again) == requests[0]
    model = LocalModel(tiny_model(), tiny_tokenizer(), name="tiny", fingerprint="f")
    # The prompts hardly differ, so one seed for all draws one token for all.
    assert len({reply.text for reply in model.reply_batch(requests)}) > 5


def test_where_data_are_split_one_teacher_is_learned_from_and_judged(
    task: Task, tmp_path: Path, server: Endpoint
) -> None:
    first = 42  # of 48: the test items are asked last

    def changing(asked: Asked) -> Any:
        name = "teacher-1" if asked.number <= first else "teacher-2"
        return asked.reply("positive" if "good" in asked.prompt else "negative", model=name)

    server.handler = changing
    live = f"kind: endpoint, model: teacher-1, url: {server.url}, canaries: false, on_change: split"
    recipe, run = task(live), tmp_path / "run"
    run_recipe(recipe, folder=run)
    answers = {
        name: answer
        for split in ("train", "validation", "test")
        for name, answer in read_answers(run / "label" / f"{split}.jsonl").items()
    }
    others = {n for n, answer in answers.items() if isinstance(answer, Failure)}
    assert len(others) == len(answers) - first
    assert {a.model for a in answers.values() if isinstance(a, Reply)} == {"teacher-1"}
    test = [item.id for item in Run(recipe, run).splits.test.items]
    left = [name for name in test if name not in others]
    assert 0 < len(left) < len(test), "or nothing would be left out"
    lines = (run / "curate" / "targets.jsonl").read_bytes().splitlines()
    assert others.isdisjoint(orjson.loads(line)["id"] for line in lines)
    judgement = read(run, "judge/judgement.json")
    assert judgement["verdict"]["items"] == len(left)
    assert judgement["sheets"][0]["counts"][0]["failed"] == 0
    teachers = read(run, "label/summary.json")["teachers"]
    assert list(teachers.values()) == [first, len(answers) - first]
    page = (run / "report" / "report.html").read_text()
    assert "items that another one answered are left out" in page
    server.asked.clear()
    first = 30
    with pytest.raises(Stopped, match="answered no test item") as stopped:
        run_recipe(recipe, folder=tmp_path / "too-early")
    assert stopped.value.reason == "teacher"


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


def sheets_to_judge(folder: Path, rows: list[dict[str, str]], judging: str) -> dict[str, str]:
    """Items, a recipe for `stillhouse judge`, and two sheets: 70 % and 90 % right."""
    for name, wrong in (("items", []), ("teacher", range(30)), ("student", range(30, 40))):
        answers = [
            {"id": r["id"], "text": "no" if n in wrong else "yes"} for n, r in enumerate(rows)
        ]
        lines = rows if name == "items" else answers
        (folder / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in lines))
    (folder / "judge.yaml").write_text(
        "name: j\ntask: {kind: label, labels: ['no', 'yes']}\n"
        f'data: {{path: items.jsonl, id: id, prompt: "{{id}}", gold: gold}}\njudge: {{{judging}}}\n'
    )
    return {name: str(folder / f"{name}.jsonl") for name in ("teacher", "student")}


@pytest.mark.parametrize("name", ["score.py:f", "score:f"])
def test_a_score_is_looked_for_beside_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, name: str
) -> None:
    rows = [{"id": f"r{n}", "gold": "yes"} for n in range(100)]
    sources = sheets_to_judge(tmp_path, rows, f"margin: 5, metric: function, function: '{name}'")
    (tmp_path / "score.py").write_text("def f(text, item):\n    return float(text == item.gold)\n")
    monkeypatch.chdir("/")
    found = judge_pair(read_judging(tmp_path / "judge.yaml"), out=tmp_path / "out", **sources)
    assert found.verdict == "non-inferior"
    recipe = task(margin=f"metric: function, function: '{name}', margin")
    assert recipe.judge.function == f"{tmp_path / 'score.py'}:f"


def test_one_item_without_gold_does_not_change_what_is_judged(tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", "gold": "yes"} for n in range(100)]
    del rows[50]["gold"]
    sources = sheets_to_judge(tmp_path, rows, "margin: 5")
    found = judge_pair(read_judging(tmp_path / "judge.yaml"), out=tmp_path / "out", **sources)
    assert found.verdict == "non-inferior", "70 % right against 90 %"
    assert found.judgement is not None
    assert found.judgement["verdict"]["items"] == 99
    assert "1 of 100 items have no gold answer" in found.page.read_text()  # type: ignore[union-attr]


def test_one_validation_item_without_gold_does_not_switch_the_check_of_the_teacher_off(
    task: Task, tmp_path: Path
) -> None:
    recipe = task()
    bare = Run(recipe, tmp_path / "run").splits.validation.items[0].id
    rows = [orjson.loads(line) for line in (tmp_path / "reviews.jsonl").read_bytes().splitlines()]
    for row in rows:
        if row["id"] == bare:
            del row["label"]
    (tmp_path / "reviews.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n")
    run_recipe(recipe, folder=tmp_path / "run", until="curate")
    assert read(tmp_path / "run", "curate/gate.json")["lead_over"]


def test_a_margin_that_was_moved_after_results_is_not_called_fixed_before_the_run(
    task: Task, tmp_path: Path
) -> None:
    recipe = task()

    def judged(margin: float, until: str | None = None) -> Any:
        claim = dataclasses.replace(recipe.judge, margin=margin)
        found = run_recipe(
            dataclasses.replace(recipe, judge=claim),
            folder=tmp_path / "run",
            until=until,
            accept_changes=True,
        )
        return found.judgement and (found.judgement["verdict"], found.page)

    judged(5, until="plan")
    first, page = judged(40)  # nothing was answered yet: this is the claim
    assert "the margin fixed before the run allows 40.0 points" in first["sentence"]
    assert "Margin fixed" in page.read_text()
    manifest = read(tmp_path / "run", "manifest.json")
    del manifest["claims"]  # as earlier versions wrote it
    (tmp_path / "run" / "manifest.json").write_bytes(orjson.dumps(manifest))
    moved, page = judged(99)
    told = "the margin, changed after results were there (before: 40 by accuracy), allows 99.0"
    assert told in moved["sentence"]
    assert moved["margin_record"]["recorded_at"] == first["margin_record"]["recorded_at"]
    assert "after results were there</strong>; fixed before them" in page.read_text()
    assert judged(40)[0]["sentence"] == first["sentence"]


def test_a_run_may_be_judged_by_auc(task: Task, tmp_path: Path) -> None:
    local = "kind: local, model: small-model, answer: score"
    found = run_recipe(task(local, margin="metric: auc, margin"), folder=tmp_path / "run")
    assert found.judgement is not None
    assert "needs label scores" in found.judgement["absent"]["majority"]


def test_the_file_of_judge_says_how_labels_are_read(tmp_path: Path) -> None:
    rows = [{"id": f"r{n}", "gold": "yes"} for n in range(100)]
    sources = sheets_to_judge(tmp_path, rows, "margin: 5")
    chatty = (tmp_path / "student.jsonl").read_text().replace('"yes"', '"Yes, it is."')
    (tmp_path / "student.jsonl").write_text(chatty)
    path = tmp_path / "judge.yaml"
    assert judge_pair(read_judging(path), out=tmp_path / "one", **sources).verdict == "inferior"
    path.write_text(path.read_text() + "label_rule: first_word\n")
    assert judge_pair(read_judging(path), out=tmp_path / "two", **sources).verdict == "non-inferior"
