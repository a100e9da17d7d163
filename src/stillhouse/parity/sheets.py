"""The judged items with their references, and each model's answers to them, ready for scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.answers import Answers
from stillhouse.parity.items import Item, Task
from stillhouse.parity.outcomes import (
    Channel,
    LabelRule,
    Outcome,
    read_outcomes,
    read_reference,
)
from stillhouse.parity.scores import Answered, Measure, estimate, same_answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One model's parsed answers, one tuple of outcomes a training seed."""

    name: str
    seeds: tuple[tuple[Outcome, ...], ...]

    def subset(self, rows: Sequence[int]) -> Self:
        """The same sheet on some of the items."""
        parts = tuple(tuple(outcomes[row] for row in rows) for outcomes in self.seeds)
        return type(self)(name=self.name, seeds=parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every sheet is judged on: items and their reference answers."""

    task: Task
    items: tuple[Item, ...]
    references: tuple[Any, ...]

    @property
    def clusters(self) -> tuple[str, ...]:
        """The cluster of each item."""
        return tuple(item.group for item in self.items)

    def subset(self, rows: Sequence[int]) -> Self:
        """Some of the items."""
        return type(self)(
            task=self.task,
            items=tuple(self.items[row] for row in rows),
            references=tuple(self.references[row] for row in rows),
        )

    def values(self, sheet: Sheet, measure: Measure) -> NDArray[np.float64]:
        """Values of a measure for S seeds and N items (S, N, K), before scaling to its unit.

        Raises InputError where it is not defined.
        """
        return np.stack(
            [
                measure.values(
                    Answered(
                        task=self.task,
                        items=self.items,
                        outcomes=outcomes,
                        references=self.references,
                    )
                )
                for outcomes in sheet.seeds
            ]
        )

    def agreement(self, sheet: Sheet, teacher: Sheet) -> float:
        """Share of items on which a sheet answers as the teacher does, over all its seeds."""
        pairs = [
            same_answer(self.task, own, other)
            for outcomes in sheet.seeds
            for own, other in zip(outcomes, teacher.seeds[0], strict=True)
        ]
        return float(np.mean(pairs))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelScore:
    """A metric on the answers of one sheet that were obtained in one way.

    `value` is None where the metric is not defined on so few of them.
    """

    channel: Channel
    answers: int
    value: float | None


def read_sheets(
    task: Task,
    items: Sequence[Item],
    answers: Mapping[str, Sequence[Answers]],
    *,
    label_rule: LabelRule,
    constrained: Sequence[str],
) -> dict[str, Sheet]:
    """Parse every model's answers (one mapping a seed). Raises InputError."""
    unknown = sorted(set(constrained) - set(answers))
    if unknown:
        raise InputError(
            f"`constrained` names {unknown[0]!r}, which is not judged",
            repair=f"the answer sheets are {', '.join(answers)}",
        )
    return {
        name: Sheet(
            name=name,
            seeds=tuple(
                read_outcomes(
                    task,
                    items,
                    one,
                    name=name,
                    label_rule=label_rule,
                    constrained=name in constrained,
                )
                for one in seeds
            ),
        )
        for name, seeds in answers.items()
    }


def judged_rows(
    items: Sequence[Item], teacher: Sheet, reference: Literal["gold", "teacher"]
) -> list[int]:
    """The items that have a reference: a gold answer, or one of the teacher's that can be read.

    Raises InputError where none has.
    """
    if reference == "gold":
        rows = [row for row, item in enumerate(items) if item.gold is not None]
        if not rows:
            raise InputError(
                f"none of the {len(items)} items has a gold answer, the first is {items[0].id!r}",
                repair='add gold answers, or judge against the teacher: reference "teacher"',
            )
        return rows
    outcomes = teacher.seeds[0]
    rows = [row for row, outcome in enumerate(outcomes) if outcome.status == "answered"]
    if not rows:
        raise InputError(
            f"there is no gold, and none of {teacher.name}'s {len(items)} answers can be read:"
            " nothing can be compared",
            place=f"the first is {outcomes[0].shown[:60]!r} ({outcomes[0].status})",
            repair="look at its answers and the label rule, or add gold answers",
        )
    return rows


def open_bench(
    task: Task, items: tuple[Item, ...], teacher: Sheet, reference: Literal["gold", "teacher"]
) -> Bench:
    """Items with their references: gold, or the teacher's own answers; None where there is none.

    Raises InputError for a gold answer that cannot be read.
    """
    references = (
        tuple(outcome.value for outcome in teacher.seeds[0])
        if reference == "teacher"
        else tuple(None if item.gold is None else read_reference(task, item) for item in items)
    )
    return Bench(task=task, items=items, references=references)


def reference_of(items: Sequence[Item]) -> Literal["gold", "teacher"]:
    """What to judge by: gold answers, or the teacher's where there are none."""
    return "gold" if any(item.gold is not None for item in items) else "teacher"


def channel_scores(bench: Bench, sheet: Sheet, measure: Measure) -> tuple[ChannelScore, ...]:
    """Score free text, constrained and label-scored answers apart (first seed)."""
    first = Sheet(name=sheet.name, seeds=sheet.seeds[:1])
    (outcomes,) = first.seeds
    scores = []
    for channel in sorted({outcome.channel for outcome in outcomes} - {"none"}):
        rows = [row for row, outcome in enumerate(outcomes) if outcome.channel == channel]
        value = mean_of(bench.subset(rows), first.subset(rows), measure)
        scores.append(ChannelScore(channel=channel, answers=len(rows), value=value))
    return tuple(scores)


def mean_of(bench: Bench, sheet: Sheet, measure: Measure) -> float | None:
    """A metric averaged over seeds, in its unit; None where it is not defined on these items."""
    try:
        values_SNK = bench.values(sheet, measure)
        return measure.scale * float(np.mean([estimate(values_NK) for values_NK in values_SNK]))
    except InputError:
        return None
