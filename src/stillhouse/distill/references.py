"""Bits per byte: what a local model gives the reference texts, beside its own replies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.exchanges import InputError
from stillhouse.parity import Item, Metric
from stillhouse.parity.functions import load_measure
from stillhouse.parity.ngram import REFERENCE_LOGPROB
from stillhouse.parity.scores import find_measure
from stillhouse.teachers import RecordedTeacher
from stillhouse.teachers.chat import ChatRequest, Reply

if TYPE_CHECKING:
    from stillhouse.distill.run import Run
    from stillhouse.teachers.local import LocalModel


def scores_references(run: Run) -> bool:
    """Whether the primary metric needs the models' likelihood of the gold texts."""
    return run.recipe.judge.metric == "bits_per_byte"


def with_references(
    model: LocalModel,
    items: Sequence[Item],
    requests: Sequence[ChatRequest],
    replies: Sequence[Reply],
    batch_size: int,
) -> list[Reply]:
    """The replies, each with the natural log of P(gold | prompt) where the item has a gold text."""
    rows = [place for place, item in enumerate(items) if item.gold]
    logs = model.score_references(
        [requests[place] for place in rows],
        [items[place].gold or "" for place in rows],
        batch_size,
        names=[f"item {items[place].id}" for place in rows],
    )
    found = list(replies)
    for place, nats in zip(rows, logs, strict=True):
        extra = {**found[place].extra, REFERENCE_LOGPROB: nats}
        found[place] = dataclasses.replace(found[place], extra=extra)
    return found


def check_metric(run: Run, metric: Metric) -> None:
    """Raise InputError where the primary metric is none of this task, or lacks what it needs."""
    if metric != "function":
        find_measure(metric, run.task.kind)
    elif run.recipe.judge.function is not None:
        load_measure(run.recipe.judge.function)
    if metric == "auc" and run.recipe.teacher.answer != "score":
        raise InputError(
            "judge.metric: auc needs label scores, and these models write their answers",
            repair="set teacher.answer to score (local models), or judge.metric to accuracy",
        )
    if metric == "function" and run.recipe.judge.function is None:
        raise InputError(
            "judge.metric: function needs a function", repair="set judge.function: module:function"
        )
    if metric != "bits_per_byte":
        return
    held_out = (*run.splits.validation.items, *run.splits.test.items)
    bare = next((item for item in held_out if not item.gold), None)
    if bare is not None:
        raise InputError(
            f"judge.metric: bits_per_byte needs gold texts, and item {bare.id} has none",
            place=str(run.recipe.data.path),
            repair="name their column as data.gold, or judge by rouge_l or exact_match",
        )
    if run.recipe.teacher.kind == "recording":
        _check_recording(run, held_out, run.recipe.teacher.model)
    elif run.recipe.teacher.kind == "endpoint":
        raise InputError(
            "judge.metric: bits_per_byte needs the teacher's likelihood of the gold texts, which an"
            " endpoint does not tell",
            repair="use a local teacher, or judge by rouge_l or exact_match",
        )


def _check_recording(run: Run, items: Sequence[Item], place: str) -> None:
    recording = RecordedTeacher.open(Path(place))
    for item in items:
        reply = recording.find(run.request(item))
        if not isinstance(reply, Reply) or REFERENCE_LOGPROB not in reply.extra:
            raise InputError(
                f"judge.metric: bits_per_byte needs the teacher's likelihood of the gold texts, and"
                f" the recorded reply to item {item.id} has no `{REFERENCE_LOGPROB}` in `extra`",
                place=str(place),
                repair="record it, use a local teacher, or judge by rouge_l or exact_match",
            )
