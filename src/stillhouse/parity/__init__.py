"""Parity: student against teacher, on items neither has seen, by code that treats both alike.

Start from `judge(items, teacher_answers, student_answers, baselines, JudgeConfig(...))` and hand
its `Judgement` to `write_report`. Answers come from `read_answers` (JSON Lines) or from any model;
items from `read_splits`; baselines from `majority_answers`, `tfidf_answers`, `nearest_answers` and
`regex_answers`.
`check_contamination` says whether test items leaked into training.
What is judged: docs/parity.md. Refuses (InputError): a test split used for training (the types do
not allow it), items without the reference they need, sheets that answer other items, a margin of 0,
metrics that do not fit the task. It asks no model: whoever calls it brings the answers.
"""

from __future__ import annotations

from stillhouse.parity.answers import Answers, read_answers, write_answers
from stillhouse.parity.baselines import (
    Example,
    Fitted,
    examples_of,
    majority_answers,
    nearest_answers,
    tfidf_answers,
)
from stillhouse.parity.card import write_model_card
from stillhouse.parity.comparisons import Comparison
from stillhouse.parity.contamination import ContaminationReport, Hit, check_contamination
from stillhouse.parity.cost import (
    NOT_MEASURED,
    CostReport,
    ModelCost,
    Price,
    Speed,
    TrainingCost,
    answers_price,
    break_even,
    cost_report,
    machine_price,
    speed_of,
    speedup_of,
    time_price,
)
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
from stillhouse.parity.patterns import regex_answers
from stillhouse.parity.plots import Curve
from stillhouse.parity.reading import DataSpec, read_items
from stillhouse.parity.report import ReportFiles, ReportInputs, write_report
from stillhouse.parity.scores import MEASURES, Metric, bits_per_byte
from stillhouse.parity.splitting import Split, Splits, divide, find_seed, read_splits
from stillhouse.parity.verdict import MarginRecord, TeacherGate, Verdict, teacher_gate

__all__ = [
    "MEASURES",
    "NOT_MEASURED",
    "Answers",
    "Comparison",
    "ContaminationReport",
    "CostReport",
    "Curve",
    "DataSpec",
    "Example",
    "Fitted",
    "Hit",
    "Item",
    "JudgeConfig",
    "Judgement",
    "MarginRecord",
    "Metric",
    "ModelCost",
    "Outcome",
    "Price",
    "ReportFiles",
    "ReportInputs",
    "SheetResult",
    "Speed",
    "Split",
    "Splits",
    "Task",
    "TaskKind",
    "TeacherGate",
    "TestSplit",
    "TrainSplit",
    "TrainingCost",
    "ValidationSplit",
    "Verdict",
    "answers_price",
    "bits_per_byte",
    "break_even",
    "check_contamination",
    "cost_report",
    "count",
    "divide",
    "examples_of",
    "find_seed",
    "judge",
    "machine_price",
    "majority_answers",
    "nearest_answers",
    "read_answers",
    "read_items",
    "read_outcomes",
    "read_splits",
    "regex_answers",
    "speed_of",
    "speedup_of",
    "teacher_gate",
    "tfidf_answers",
    "time_price",
    "write_answers",
    "write_model_card",
    "write_report",
]
