"""Metrics: what each item adds to a number.

A metric is either a mean over items, `values` (N, 1), or a ratio of sums, `values` (N, 2) holding
each item's share of numerator and denominator (field-F1, bits per byte). AUC is written as a mean
(see `ranking`). So one function compares any two sheets on any metric (`comparisons.compare`).
Refusals, failures, absent answers and answers that do not parse count as errors: 0 where higher is
better, the wrong end of the ranking for AUC. Bits per byte has no such value: there they are
an error of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.fields import (
    FieldCounts,
    count_fields,
    count_fields_published,
    parse_published,
    schema_fields,
)
from stillhouse.parity.items import Item, Task, TaskKind
from stillhouse.parity.outcomes import Outcome
from stillhouse.parity.ranking import auc_contributions, label_margin
from stillhouse.parity.rouge import rouge_l

Floats = NDArray[np.float64]
Metric = Literal[
    "accuracy",
    "auc",
    "exact_match",
    "rouge_l",
    "field_f1",
    "document_match",
    "field_f1_published",
    "document_match_published",
    "bits_per_byte",
    "function",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One sheet ready for scoring: outcomes and references, in the order of the items."""

    task: Task
    items: Sequence[Item]
    outcomes: Sequence[Outcome]
    references: Sequence[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A metric: its name, what it means, for which kinds of task, and which way is better.

    `values` gives (N, 1) for a mean and (N, 2) for a ratio of sums. `span` is the largest
    difference one item can make to a mean, or the range of a ratio; None where it has no limit.
    """

    name: Metric
    title: str
    definition: str
    kinds: tuple[TaskKind, ...]
    values: Callable[[Answered], Floats]
    better: Literal["higher", "lower"] = "higher"
    unit: Literal["points", "bits/byte"] = "points"
    span: Callable[[Task, Sequence[Any]], float | None] = lambda _task, _references: 1.0

    @property
    def scale(self) -> float:
        """What turns a value into its unit: points are hundredths of a perfect score."""
        return 100.0 if self.unit == "points" else 1.0

    @property
    def gain(self) -> float:
        """What turns a difference into its unit, positive being better."""
        return self.scale if self.better == "higher" else -self.scale


def find_measure(name: Metric, kind: TaskKind) -> Measure:
    """The metric of that name. Raises InputError when there is none, or not for this task."""
    measure = MEASURES.get(name)
    if measure is None:
        raise InputError(
            f"there is no metric {name!r}",
            repair=f"choose one of {', '.join(MEASURES)}, or `function` with a function of yours",
        )
    if kind not in measure.kinds:
        fitting = ", ".join(name for name, other in MEASURES.items() if kind in other.kinds)
        raise InputError(f"{name} does not apply to {kind} tasks", repair=f"choose from {fitting}")
    return measure


def default_metric(kind: TaskKind) -> Metric:
    """The primary metric where the user names none."""
    defaults: dict[TaskKind, Metric] = {
        "label": "accuracy",
        "json": "field_f1",
        "text": "rouge_l",
    }
    return defaults[kind]


def estimate(values_NK: Floats) -> float:
    """The metric over all items: the mean, or the ratio of sums."""
    if values_NK.shape[1] == 1:
        return float(values_NK.mean())
    total = float(values_NK[:, 1].sum())
    if total <= 0:
        raise InputError("the metric is not defined: its denominator is zero over all items")
    return float(values_NK[:, 0].sum()) / total


def contributions(values_NK: Floats, around_NK: Floats | None = None) -> Floats:
    """What each item adds (N,); their mean is the metric.

    A ratio F = sum A / sum B is expanded to first order: F + (A_i - F B_i) / mean(B). With
    `around_NK`, F and B are those of another sheet, so that equal items add equally.
    """
    if values_NK.shape[1] == 1:
        return values_NK[:, 0]
    centre_NK = values_NK if around_NK is None else around_NK
    ratio, mean = estimate(centre_NK), float(centre_NK[:, 1].mean())
    return np.asarray(ratio + (values_NK[:, 0] - ratio * values_NK[:, 1]) / mean)


def bits_per_byte(logprob_nats: float, n_bytes: int) -> float:
    """Bits that a model needs for each byte of a text, from the text's natural-log probability."""
    if n_bytes <= 0:
        raise ValueError("a text of no bytes has no bits per byte")
    return -logprob_nats / math.log(2) / n_bytes


def same_answer(task: Task, a: Outcome, b: Outcome) -> bool:
    """Whether two answers agree; one that does not parse agrees with nothing."""
    if a.status != "answered" or b.status != "answered":
        return False
    if task.kind == "json":
        return count_fields(a.value, b.value).match
    return bool(a.value == b.value)


def _accuracy(sheet: Answered) -> Floats:
    pairs = zip(sheet.outcomes, sheet.references, strict=True)
    return _column([_is(o, r) for o, r in pairs])


def _is(outcome: Outcome, reference: Any) -> bool:
    return outcome.status == "answered" and reference is not None and outcome.value == reference


def _document_match(sheet: Answered) -> Floats:
    return _column([c.match for c in _strict_counts(sheet)])


def _field_f1(sheet: Answered) -> Floats:
    return _micro_f1(_strict_counts(sheet))


def _document_match_published(sheet: Answered) -> Floats:
    return _column([c.match for c in _published_counts(sheet)])


def _field_f1_published(sheet: Answered) -> Floats:
    return _micro_f1(_published_counts(sheet))


def _strict_counts(sheet: Answered) -> list[FieldCounts]:
    pairs = zip(sheet.outcomes, sheet.references, strict=True)
    return [count_fields(outcome.value, reference) for outcome, reference in pairs]


def _published_counts(sheet: Answered) -> list[FieldCounts]:
    if sheet.task.schema is None:
        raise InputError(
            "the published field-F1 needs the task's JSON Schema",
            repair="add `schema` to the task, or use field_f1",
        )
    schema, fields = sheet.task.schema, schema_fields(sheet.task.schema)
    counts = []
    for outcome, reference in zip(sheet.outcomes, sheet.references, strict=True):
        replied = outcome.status in ("answered", "unparsed", "refused")
        found = parse_published(outcome.shown, schema) if replied else None
        counts.append(count_fields_published(found, reference or {}, fields))
    return counts


def _micro_f1(counts: Sequence[FieldCounts]) -> Floats:
    pairs = [(2 * c.equal, c.predicted + c.reference) for c in counts]
    return np.array(pairs, dtype=np.float64)


def _rouge_l(sheet: Answered) -> Floats:
    pairs = zip(sheet.outcomes, sheet.references, strict=True)
    return _column(
        [rouge_l(o.value, r) if o.value is not None and r is not None else 0.0 for o, r in pairs]
    )


def _auc(sheet: Answered) -> Floats:
    if not any(outcome.label_scores is not None for outcome in sheet.outcomes):
        raise InputError(
            "the area under the ROC curve needs label scores, and these answers have none",
            repair="let the model score the labels, or use accuracy",
        )
    parts = [
        auc_contributions(_margins(sheet, label, positive_N), positive_N)
        for label, positive_N in _classes(sheet.task, sheet.references)
    ]
    if not parts:
        raise InputError("the area under the ROC curve needs reference labels of two classes")
    return _column(np.mean(parts, axis=0))


def _classes(task: Task, references: Sequence[Any]) -> list[tuple[int, NDArray[np.bool_]]]:
    """Labels to rank by, each with its items (N,); those that all or no items have are left out."""
    judged = range(1, 2) if len(task.labels) == 2 else range(len(task.labels))
    classes = [(k, np.array([r == task.labels[k] for r in references])) for k in judged]
    return [(k, own_N) for k, own_N in classes if 0 < own_N.sum() < len(own_N)]


def _auc_span(task: Task, references: Sequence[Any]) -> float:
    sizes = [min(own_N.sum(), (~own_N).sum()) for _, own_N in _classes(task, references)]
    return len(references) / float(min(sizes, default=len(references)))


def _margins(sheet: Answered, label: int, positive_N: NDArray[np.bool_]) -> Floats:
    """Log-odds of a label; an answer without scores is ranked at the wrong end."""
    worst_N = np.where(positive_N, -np.inf, np.inf)
    return np.array(
        [
            worst
            if outcome.status != "answered" or outcome.label_scores is None
            else label_margin(np.asarray(outcome.label_scores), label)
            for outcome, worst in zip(sheet.outcomes, worst_N, strict=True)
        ]
    )


def _bits_per_byte(sheet: Answered) -> Floats:
    nats, sizes = [], []
    for item, outcome in zip(sheet.items, sheet.outcomes, strict=True):
        nat = (outcome.extra or {}).get("reference_logprob")
        if not isinstance(nat, int | float) or not math.isfinite(nat) or not item.gold:
            raise InputError(
                f"bits per byte needs a gold text and its log-probability: item {item.id!r}",
                repair="set `reference_logprob` in `extra`: the natural log of P(gold | prompt)",
            )
        nats.append(float(nat))
        sizes.append(len(item.gold.encode()))
    return np.column_stack([-np.array(nats) / math.log(2), np.array(sizes, dtype=np.float64)])


def _column(values: Sequence[float] | Floats) -> Floats:
    return np.array(values, dtype=np.float64)[:, None]


_TAIL = "Refusals, failures, absent and unparseable answers count as wrong."
MEASURES: dict[Metric, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            name="accuracy",
            title="Label accuracy",
            definition=f"Share of items whose label is the reference label. {_TAIL}",
            kinds=("label",),
            values=_accuracy,
        ),
        Measure(
            name="auc",
            title="Area under the ROC curve",
            definition="Chance that an item of a label is scored above one without it; two labels: "
            "binary, more: the mean over labels of one against the rest. Answers without scores "
            "are ranked at the wrong end.",
            kinds=("label",),
            values=_auc,
            span=_auc_span,
        ),
        Measure(
            name="exact_match",
            title="Exact match",
            definition=f"Share of items whose reply equals the reference, both trimmed. {_TAIL}",
            kinds=("text",),
            values=_accuracy,
        ),
        Measure(
            name="rouge_l",
            title="ROUGE-L",
            definition="Mean F-measure of the longest common subsequence of words, case folded, "
            f"no stemming. {_TAIL}",
            kinds=("text",),
            values=_rouge_l,
        ),
        Measure(
            name="field_f1",
            title="Field-F1",
            definition="2 x equal fields / (predicted + reference fields), summed over documents; "
            "a field is a non-null leaf of the document, equal means the same value and type. "
            f"{_TAIL}",
            kinds=("json",),
            values=_field_f1,
        ),
        Measure(
            name="document_match",
            title="Whole-document match",
            definition=f"Share of documents with every field right and none extra. {_TAIL}",
            kinds=("json",),
            values=_document_match,
        ),
        Measure(
            name="field_f1_published",
            title="Field-F1, as published for invoices",
            definition="The definition of taskdistill 0.1.1: top-level fields of a document valid "
            "under the schema; case ignored, numbers within 0.005, dates by the day.",
            kinds=("json",),
            values=_field_f1_published,
        ),
        Measure(
            name="document_match_published",
            title="Whole-document match, as published for invoices",
            definition="The definition of taskdistill 0.1.1: every top-level field alike, null "
            "where the reference has null.",
            kinds=("json",),
            values=_document_match_published,
        ),
        Measure(
            name="bits_per_byte",
            title="Bits per byte",
            definition="Bits the model needs for the reference texts, divided by their bytes "
            "(UTF-8); comparable across tokenizers.",
            kinds=("text",),
            values=_bits_per_byte,
            better="lower",
            unit="bits/byte",
            span=lambda _task, _references: None,
        ),
    )
}
