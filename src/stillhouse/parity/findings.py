"""What a reader looks at after the verdict: slices, worst disagreements, who is right where.

Slices are for finding trouble, not for claims: their intervals are not adjusted for their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.scores import Measure
from stillhouse.parity.sheets import Bench, Sheet, mean_of
from stillhouse.statistics import Interval

SMALLEST_SLICE = 10  # fewer items give no interval worth printing
MOST_SLICES = 60

Compare = Callable[[Bench, Sheet, Sheet], Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """One slice: both models on the primary metric; `difference` is None below ten items."""

    name: str
    items: int
    teacher: float | None
    student: float | None
    difference: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """An item on which the student loses against the teacher. `lost` is in the metric's unit."""

    id: str
    group: str
    prompt: str
    reference: str
    teacher: str
    student: str
    teacher_status: str
    student_status: str
    lost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Items by who scores full marks on them (first seed)."""

    both: int
    only_teacher: int
    only_student: int
    neither: int


def slice_rows(
    bench: Bench, teacher: Sheet, student: Sheet, measure: Measure, compare: Compare
) -> tuple[SliceRow, ...]:
    """Each slice of the items, the largest first; at most `MOST_SLICES`. None if unsliced."""
    names = [item.slice for item in bench.items]
    sizes = Counter(name for name in names if name is not None)
    rows = []
    for name, size in sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_SLICES]:
        at = [row for row, other in enumerate(names) if other == name]
        part, left, right = bench.subset(at), student.subset(at), teacher.subset(at)
        rows.append(
            SliceRow(
                name=name,
                items=size,
                teacher=mean_of(part, right, measure),
                student=mean_of(part, left, measure),
                difference=_difference(compare, part, left, right),
            )
        )
    return tuple(rows)


def worst_disagreements(
    bench: Bench, teacher: Sheet, student: Sheet, lost_N: NDArray[np.float64], limit: int
) -> tuple[Disagreement, ...]:
    """The items on which the student loses most, by loss and then by order; first seed shown."""
    order_N = np.argsort(-lost_N, kind="stable")
    rows = [int(row) for row in order_N[:limit] if lost_N[row] > 1e-9]
    found = []
    for row in rows:
        item, t, s = bench.items[row], teacher.seeds[0][row], student.seeds[0][row]
        reference = item.gold if item.gold is not None else t.shown
        found.append(
            Disagreement(
                id=item.id,
                group=item.group,
                prompt=item.variable,
                reference=reference,
                teacher=t.shown,
                student=s.shown,
                teacher_status=t.status,
                student_status=s.status,
                lost=float(lost_N[row]),
            )
        )
    return tuple(found)


def tally(right_teacher_N: NDArray[np.bool_], right_student_N: NDArray[np.bool_]) -> Tally:
    """Count who is fully right where."""
    return Tally(
        both=int((right_teacher_N & right_student_N).sum()),
        only_teacher=int((right_teacher_N & ~right_student_N).sum()),
        only_student=int((~right_teacher_N & right_student_N).sum()),
        neither=int((~right_teacher_N & ~right_student_N).sum()),
    )


def _difference(compare: Compare, part: Bench, left: Sheet, right: Sheet) -> Interval | None:
    if len(part.items) < SMALLEST_SLICE:
        return None
    try:
        return compare(part, left, right)
    except InputError:  # the metric is not defined on this slice, such as AUC of one class
        return None
