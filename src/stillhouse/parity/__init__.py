"""Parity: student against teacher, on items neither has seen, by code that treats both alike.

Start from `judge(items, teacher_answers, student_answers, baselines, JudgeConfig(...))` and hand
its `Judgement` to `write_report`. Answers come from `read_answers` (JSON Lines) or from any model;
items from `read_splits`; baselines from `majority_answers`, `tfidf_answers`, `nearest_answers`.
`check_contamination` says whether test items leaked into training.
What is judged: docs/parity.md. Refuses (InputError): a test split used for training (the types do
not allow it), items without the reference they need, sheets that answer other items, a margin of 0,
metrics that do not fit the task. It asks no model: whoever calls it brings the answers.
"""

from __future__ import annotations

from stillhouse.parity.answers import Answers, read_answers, write_answers
from stillhouse.parity.comparisons import Comparison
from stillhouse.parity.contamination import ContaminationReport, Hit, check_contamination
from stillhouse.parity.items import (
    Item,
    Task,
    TaskKind,
    TestSplit,
    TrainSplit,
    ValidationSplit,
)
from stillhouse.parity.judgement import JudgeConfig, Judgement, SheetResult
from stillhouse.parity.judging import judge
from stillhouse.parity.outcomes import Outcome, count, read_outcomes
from stillhouse.parity.reading import DataSpec, read_items
from stillhouse.parity.scores import MEASURES, Metric, bits_per_byte
from stillhouse.parity.splitting import Split, Splits, divide, find_seed, read_splits
from stillhouse.parity.verdict import MarginRecord, TeacherGate, Verdict, teacher_gate

__all__ = [
    "MEASURES",
    "Answers",
    "Comparison",
    "ContaminationReport",
    "DataSpec",
    "Hit",
    "Item",
    "JudgeConfig",
    "Judgement",
    "MarginRecord",
    "Metric",
    "Outcome",
    "SheetResult",
    "Split",
    "Splits",
    "Task",
    "TaskKind",
    "TeacherGate",
    "TestSplit",
    "TrainSplit",
    "ValidationSplit",
    "Verdict",
    "bits_per_byte",
    "check_contamination",
    "count",
    "divide",
    "find_seed",
    "judge",
    "read_answers",
    "read_items",
    "read_outcomes",
    "read_splits",
    "teacher_gate",
    "write_answers",
]
