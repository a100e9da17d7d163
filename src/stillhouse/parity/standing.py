"""Which baselines should stand beside a verdict; a report says of each absent one why it is."""

from __future__ import annotations

from stillhouse.parity.items import TaskKind

STUDENTS = ("untrained", "gold_trained", "plain")
TRIVIAL: dict[TaskKind, tuple[str, ...]] = {
    "label": ("majority", "tfidf", "tfidf_gold"),
    "text": ("majority", "nearest"),
    "json": ("majority", "nearest", "regex"),
}


def standing(kind: TaskKind, metric: str) -> tuple[str, ...]:
    """The names of baselines for this task, judged by this metric.

    Methods that repeat a training answer give no likelihood, so bits per byte has its own.
    """
    return (*(("ngram",) if metric == "bits_per_byte" else TRIVIAL[kind]), *STUDENTS)
