"""What a judgement is asked for (`JudgeConfig`) and what it holds (`Judgement`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from stillhouse.parity.comparisons import Comparison, SeedSpread
from stillhouse.parity.findings import Disagreement, SliceRow, Tally
from stillhouse.parity.items import Task
from stillhouse.parity.outcomes import Counts, LabelRule
from stillhouse.parity.plain import plain
from stillhouse.parity.scores import Metric
from stillhouse.parity.sheets import ChannelScore
from stillhouse.parity.verdict import LEAD, PARSEABLE, MarginRecord, TeacherGate, Verdict
from stillhouse.statistics import Interval

Role = Literal["teacher", "student", "baseline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeConfig:
    """What is judged and how.

    `margin`, in the primary metric's unit (5.0 is five points), is the loss that still counts as
    equal. `metrics` are measured beside the primary one; by default all that apply. `function` is
    `module:function` for the metric "function". `reference`: judge the items with `gold` by it, or,
    where there is none, those that the `teacher` answered by its own answers. `constrained` names
    the sheets that were obtained under a response schema. `validation` is the gate found on
    validation items; without it the gate is computed on the judged items.
    """

    task: Task
    margin: float
    primary: Metric | None = None
    metrics: tuple[Metric, ...] | None = None
    function: str | None = None
    label_rule: LabelRule = "exact"
    reference: Literal["gold", "teacher"] = "gold"
    constrained: tuple[str, ...] = ()
    teacher_name: str = "teacher"
    student_name: str = "student"
    margin_record: MarginRecord | None = None
    validation: TeacherGate | None = None
    teacher_lead: float | None = LEAD
    min_parseable: float = PARSEABLE
    alpha: float = 0.05
    resamples: int = 4000
    seed: int = 0
    disagreements: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One metric of one sheet, in its unit, with its two-sided interval at 1 - 2 alpha."""

    metric: str
    value: float
    interval: Interval
    seeds: SeedSpread


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetResult:
    """What was measured on one model's answers. `counts` has one entry a seed.

    `agreement` is the share of items answered as the teacher does; None for the teacher itself.
    """

    name: str
    role: Role
    scores: tuple[Score, ...]
    agreement: float | None
    counts: tuple[Counts, ...]
    channels: tuple[ChannelScore, ...]

    def score(self, metric: str) -> Score | None:
        """The score on one metric; None where it was not measured."""
        return next((score for score in self.scores if score.metric == metric), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricNote:
    """How a metric is defined, or why it was not measured on a sheet."""

    metric: str
    title: str
    unit: str
    better: str
    definition: str
    skipped: dict[str, str] = field(default_factory=dict)  # sheet -> why


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What `judge` found. Comparisons are on the primary metric, the verdict's own first.

    `absent`: baselines on which that metric is not defined, and why.
    """

    verdict: Verdict
    sheets: tuple[SheetResult, ...]
    comparisons: tuple[Comparison, ...]
    slices: tuple[SliceRow, ...]
    disagreements: tuple[Disagreement, ...]
    tally: Tally
    gate: TeacherGate
    gate_on: Literal["validation", "test"]
    warnings: tuple[str, ...]
    metrics: tuple[MetricNote, ...]
    config: JudgeConfig
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def teacher(self) -> SheetResult:
        """The teacher's sheet."""
        return self.sheets[0]

    @property
    def student(self) -> SheetResult:
        """The student's sheet."""
        return self.sheets[1]

    def to_json(self) -> dict[str, Any]:
        """The judgement as plain JSON values; a number that is not finite becomes null."""
        return dict(plain(self))
