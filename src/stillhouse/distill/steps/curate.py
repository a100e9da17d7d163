"""Curate: what may train, checked against the test items, and whether the teacher is worth it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from stillhouse.distill.baselines import trivial_baselines
from stillhouse.distill.curate import Curated, curate, decontaminate
from stillhouse.distill.examples import Target
from stillhouse.distill.run import Run, write_json
from stillhouse.distill.stages import Stopped
from stillhouse.distill.steps.label import answered_by_one
from stillhouse.exchanges import InputError, write_atomic
from stillhouse.parity import (
    Answers,
    JudgeConfig,
    TeacherGate,
    TrainSplit,
    ValidationSplit,
    judge,
    read_answers,
)
from stillhouse.teachers import ReplyPolicy, answers_alone

TARGETS = "targets.jsonl"


def run_curate(run: Run, folder: Path) -> None:
    """Write the targets of training and validation, and a report of everything left out."""
    recipe, splits = run.recipe, run.splits
    train_replies = read_answers(run.folder / "label" / "train.jsonl")
    validation_replies = read_answers(run.folder / "label" / "validation.jsonl")
    delimiters = recipe.teacher.reasoning_delimiters
    run.progress.now("teacher against baselines")
    gate = teacher_worth(
        run, answers_alone(validation_replies, delimiters), answers_alone(train_replies, delimiters)
    )
    write_json(folder / "gate.json", gate)
    if gate is not None and not gate.passes:
        raise Stopped(
            "check",
            "this teacher is not worth distilling for this task:\n  - "
            + "\n  - ".join(gate.reasons)
            + "\n  repair: choose a task it is good at, a better prompt, or set"
            " judge.teacher_lead: null to go on all the same",
        )
    policy = ReplyPolicy(reasoning=recipe.teacher.reasoning, delimiters=delimiters)
    run.progress.now("filters and duplicates")
    curated = curate(
        run.train_split,
        train_replies,
        task=run.task,
        config=recipe.curate,
        validation=splits.validation,
        policy=policy,
        folder=recipe.data.path.parent,
    )
    run.progress.now("contamination")
    curated, found = decontaminate(
        curated, splits.test, train_replies, config=recipe.curate, seed=recipe.seed
    )
    run.progress.now("validation replies")
    # Validation replies steer early stopping, so they pass the same rules.
    held_out = curate(
        TrainSplit(splits.validation.items),
        validation_replies,
        task=run.task,
        config=recipe.curate,
        policy=policy,
        folder=recipe.data.path.parent,
    )
    write_json(folder / "report.json", curated.report.as_json())
    write_json(folder / "contamination.json", found.as_json())
    for line in (*curated.report.summary().splitlines(), *found.summary().splitlines()):
        run.progress.say(line)
    try:
        found.require_clean()
    except InputError as error:
        if recipe.curate.contamination == "fail":
            raise Stopped("check", str(error)) from error
    _write_targets(folder / TARGETS, curated, held_out)


def read_targets(run: Run) -> tuple[TrainSplit, ValidationSplit, dict[str, Target]]:
    """The curated splits and their targets, as the stage left them."""
    targets: dict[str, Target] = {}
    for line in (run.folder / "curate" / TARGETS).read_bytes().splitlines():
        record: dict[str, Any] = orjson.loads(line)
        scores = record["label_scores"]
        targets[record["id"]] = Target(
            reply=record["reply"],
            complete=record["complete"],
            label_scores=None if scores is None else tuple(scores),
        )
    train = tuple(item for item in run.train_split.items if item.id in targets)
    validation = tuple(item for item in run.splits.validation.items if item.id in targets)
    return TrainSplit(train), ValidationSplit(validation), targets


def teacher_worth(
    run: Run, validation_replies: Answers, train_replies: Answers
) -> TeacherGate | None:
    """Judge the teacher on validation items against trivial methods that learn from its replies.

    None where fewer than two validation items have a gold answer to judge it by.
    """
    answered = answered_by_one(run.splits.validation.items, validation_replies)
    items = tuple(item for item in answered if item.gold is not None)
    if len(items) < len(answered):
        run.progress.say(
            f"{len(items):,} of {len(answered):,} validation items have a gold answer: "
            + ("the teacher is judged on these" if len(items) > 1 else "no check of the teacher")
        )
    if len(items) < 2:
        return None
    baselines = trivial_baselines(run, items, train_replies).sheets
    config = JudgeConfig(
        task=run.task,
        margin=run.recipe.judge.margin,
        primary=run.recipe.judge.metric,
        function=run.recipe.judge.function,
        metrics=(),
        label_rule=run.recipe.curate.label_rule,
        teacher_lead=run.recipe.judge.teacher_lead,
        min_parseable=run.recipe.judge.min_parseable,
        seed=run.recipe.seed,
        resamples=200,
    )
    replies = {item.id: validation_replies[item.id] for item in items}
    return judge(items, replies, replies, baselines, config).gate


def _write_targets(path: Path, curated: Curated, held_out: Curated) -> None:
    lines = []
    for part in (curated, held_out):
        for item in part.train.items:
            target = part.targets[item.id]
            lines.append(
                orjson.dumps(
                    {
                        "id": item.id,
                        "reply": target.reply,
                        "complete": target.complete,
                        "label_scores": target.label_scores,
                        **(
                            {"reasoning": part.reasoning[item.id]}
                            if item.id in part.reasoning
                            else {}
                        ),
                    }
                )
            )
    write_atomic(path, b"\n".join(lines) + b"\n")
