"""Judge: every model answers the test items, and one code scores them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.distill.baselines import absent_students, gold_baselines, trivial_baselines
from stillhouse.distill.claims import margin_record
from stillhouse.distill.costing import not_measured, time_models, unconstrained
from stillhouse.distill.parsing import build
from stillhouse.distill.references import scores_references, with_references
from stillhouse.distill.run import ModelPlace, Run, choose, reading_us, write_json
from stillhouse.distill.steps.label import answered_by_one, labelling_us
from stillhouse.distill.steps.train import PLAIN
from stillhouse.parity import (
    Answers,
    CostReport,
    Item,
    JudgeConfig,
    Judgement,
    Price,
    TeacherGate,
    TrainingCost,
    answers_price,
    cost_report,
    judge,
    read_answers,
    time_price,
    write_answers,
)
from stillhouse.parity.scores import default_metric
from stillhouse.parity.sheets import reference_of
from stillhouse.parity.standing import standing
from stillhouse.teachers import answers_alone

if TYPE_CHECKING:
    from stillhouse.teachers.local import LocalModel

BASELINES = "baselines.json"


def run_judge(run: Run, folder: Path) -> None:
    """Write every answer sheet, `cost.json`, `judgement.json`, and how the baselines came about."""
    items = judged_items(run)
    dtype = run.decided["precision"]["judge"]
    for seed in seeds_of(run):
        _ask(run, folder / f"student-{seed}.jsonl", run.student(seed), dtype, items)
    _ask(run, folder / "untrained.jsonl", None, dtype, items)
    if run.trains_gold and run.gold_absent is None:
        place = ModelPlace(run.folder / "train" / "gold" / "student")
        _ask(run, folder / "gold_trained.jsonl", place, dtype, items)
    if run.recipe.train.divergence is not None:
        place = ModelPlace(run.folder / "train" / PLAIN / "student")
        _ask(run, folder / f"{PLAIN}.jsonl", place, dtype, items)
    if scores_labels(run) and run.recipe.judge.writing:
        first = run.student(seeds_of(run)[0])
        _ask(run, folder / "student_writing.jsonl", first, dtype, items, write=True)
    run.progress.now("baselines")
    write_json(folder / BASELINES, _ask_baselines(run, folder, items))
    run.progress.now("intervals")
    judgement = judge_sheets(run)
    run.progress.now("speed and memory")
    write_json(folder / "cost.json", measure_cost(run, dtype))
    write_json(folder / "judgement.json", judgement.to_json())
    run.progress.say(judgement.verdict.sentence)


def judge_sheets(run: Run, *, alpha: float = 0.05) -> Judgement:
    """Judge the sheets that the stage has written, with bounds at 1 - `alpha`; asks no model."""
    items = judged_items(run)
    folder, label = run.folder / "judge", run.folder / "label"
    metric = run.recipe.judge.metric or default_metric(run.task.kind)
    sheets = {
        name: _scored(run, folder / f"{name}.jsonl")
        for name in (*standing(run.task.kind, metric), "student_writing")
        if (folder / f"{name}.jsonl").exists()
    }
    students = [_scored(run, folder / f"student-{seed}.jsonl") for seed in seeds_of(run)]
    answers = _scored(run, label / "test.jsonl")
    teacher = {item.id: answers[item.id] for item in items}
    config = dataclasses.replace(judge_config(run), alpha=alpha)
    return judge(items, teacher, students, sheets, config)


def _scored(run: Run, path: Path) -> Answers:
    """A sheet as it is scored: without the reasoning that the recipe declares."""
    return answers_alone(read_answers(path), run.recipe.teacher.reasoning_delimiters)


def _ask_baselines(run: Run, folder: Path, items: Sequence[Item]) -> dict[str, dict[str, str]]:
    """Write the sheets of what is no model of the run; say how they came about, and why not."""
    label = run.folder / "label"
    trivial = trivial_baselines(
        run, items, _scored(run, label / "train.jsonl"), _scored(run, label / "validation.jsonl")
    )
    gold = gold_baselines(run, items)
    for name, answers in (trivial.sheets | gold.sheets).items():
        write_answers(folder / f"{name}.jsonl", answers)
    return {
        "fitted": trivial.fitted | gold.fitted,
        "absent": trivial.absent | gold.absent | absent_students(run),
    }


def judged_items(run: Run) -> tuple[Item, ...]:
    """The test items, without those that another teacher answered (`teacher.on_change: split`)."""
    answers = read_answers(run.folder / "label" / "test.jsonl")
    return answered_by_one(run.splits.test.items, answers)


def seeds_of(run: Run) -> list[int]:
    """The seeds that students were trained from."""
    return [run.recipe.seed + number for number in range(run.recipe.seeds)]


def scores_labels(run: Run) -> bool:
    """Whether answers are the likeliest label instead of written text."""
    return run.task.kind == "label" and run.recipe.teacher.answer == "score"


def judge_config(run: Run) -> JudgeConfig:
    """What is claimed, with the record of when it was fixed."""
    spec = run.recipe.judge
    gate = run.read("curate", "gate.json")
    return JudgeConfig(
        task=run.task,
        margin=spec.margin,
        primary=spec.metric,
        function=spec.function,
        label_rule=run.recipe.curate.label_rule,
        reference=reference_of(judged_items(run)),
        margin_record=margin_record(run),
        validation=None if gate is None else build(TeacherGate, gate, place="gate.json"),
        constrained=("teacher",) if run.recipe.teacher.constrain else (),
        teacher_lead=spec.teacher_lead,
        min_parseable=spec.min_parseable,
        seed=run.recipe.seed,
    )


def _ask(
    run: Run,
    path: Path,
    place: ModelPlace | None,
    dtype: str,
    items: Sequence[Item],
    *,
    write: bool = False,
) -> None:
    """Let the model at `place` (None: the untrained student) answer `items`; kept when there."""
    if path.exists():
        return
    model = _untrained(run, dtype) if place is None else run.load(place, dtype)
    write_answers(path, _answer(run, model, items, path.stem, write=write))


def _untrained(run: Run, dtype: str) -> LocalModel:
    from stillhouse.distill.steps.train import build_student
    from stillhouse.students import merged
    from stillhouse.teachers.local import LocalModel

    model, tokenizer = build_student(run, dtype)
    return LocalModel(merged(model), tokenizer, name="untrained", fingerprint="")


def _answer(
    run: Run, model: LocalModel, items: Sequence[Item], what: str, *, write: bool = False
) -> Answers:
    requests = [unconstrained(run.request(item)) for item in items]
    names = [f"item {item.id}" for item in items]
    size = run.recipe.judge.batch_size

    def show(done: int, total: int) -> None:
        run.progress.advance(what, done, total)

    if scores_labels(run) and not write:
        replies = model.reply_labels(requests, run.task.labels, size, names=names, progress=show)
    else:
        replies = model.reply_batch(requests, size, names=names, progress=show)
    if scores_references(run):
        replies = with_references(model, items, requests, replies, size)
    return {item.id: reply for item, reply in zip(items, replies, strict=True)}


def measure_cost(run: Run, dtype: str) -> CostReport:
    """Size, speed and price of both; speed only where both run here, in turn, on the same work."""
    spec, label = run.recipe.judge, run.read("label", "summary.json")
    hourly = None if spec.machine_usd_per_hour is None else round(spec.machine_usd_per_hour * 1e9)
    kind = run.recipe.teacher.kind
    place = run.student(seeds_of(run)[0])
    models, weights = {"student": run.load(place, dtype)}, {"student": place.weights}
    if kind == "local":
        models["teacher"] = run.load(run.teacher_place, dtype)
        weights["teacher"] = run.teacher_place.weights
    items = choose(judged_items(run), spec.latency_items, run.recipe.seed)
    costs, timed = time_models(
        models,
        weights,
        [run.request(item) for item in items],
        labels=run.task.labels if scores_labels(run) else (),
        batch_size=spec.batch_size,
        hourly_nano=hourly,
    )
    if "teacher" not in costs:
        costs["teacher"] = not_measured(
            "teacher",
            f"a teacher of kind {kind}",
            answers_price(read_answers(run.folder / "label" / "test.jsonl"), "prices of the recipe")
            if kind == "endpoint"
            else Price(nano_per_thousand=None, basis="unknown: recorded replies have no price"),
        )
    asked_us, read_us = labelling_us(run), reading_us(run)
    asked_nano = time_price(asked_us, hourly) if kind == "local" else label["spent_nano"]
    read_nano = time_price(read_us, hourly) if read_us else 0
    training_us = round(1e6 * _mean_training_seconds(run))
    training = TrainingCost(
        labelling_us=asked_us + read_us,
        labelling_nano=(
            None if asked_nano is None or read_nano is None else asked_nano + read_nano
        ),
        teacher_tokens=label["tokens_in"] + label["tokens_out"],
        training_us=training_us,
        training_nano=time_price(training_us, hourly),
    )
    return cost_report(costs["teacher"], costs["student"], training, timed=timed)


def _mean_training_seconds(run: Run) -> float:
    """Training of one student, all attempts at it included; those for comparison do not count."""
    seconds = [run.read("train", f"seed-{seed}/result.json")["seconds"] for seed in seeds_of(run)]
    return float(sum(seconds) / len(seconds))
