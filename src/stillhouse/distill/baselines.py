"""What stands beside a run's verdict: which baselines, how each was fitted, why one is absent.

Gold answers of training items are read here, and where `judge.gold_student` asks for a student of
that name; no other training sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stillhouse.distill.references import scores_references
from stillhouse.distill.run import Run
from stillhouse.parity import (
    Answers,
    Fitted,
    Item,
    examples_of,
    majority_answers,
    nearest_answers,
    regex_answers,
    tfidf_answers,
)
from stillhouse.parity.ngram import ngram_answers


@dataclass(frozen=True, slots=True)
class Baselines:
    """Answer sheets by name; `fitted` says how each was made, `absent` why another is not there."""

    sheets: dict[str, Answers] = field(default_factory=dict)
    fitted: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def trivial_baselines(
    run: Run,
    items: Sequence[Item],
    train_replies: Answers,
    validation_replies: Answers | None = None,
) -> Baselines:
    """Methods that anyone can have for free, learned from the teacher's own replies."""
    found = Baselines()
    rule = run.recipe.curate.label_rule
    train = examples_of(run.task, run.train_split, train_replies, label_rule=rule)
    count = f"{len(train):,} answers of the teacher"
    if scores_references(run):
        found.sheets["ngram"] = ngram_answers(train, items)
        found.fitted["ngram"] = f"counted in {count}; it does not read the prompt"
        return found
    found.sheets["majority"] = majority_answers(run.task, train, items)
    found.fitted["majority"] = f"the commonest of {count}"
    if run.task.kind == "label":
        validation = (
            examples_of(run.task, run.splits.validation, validation_replies, label_rule=rule)
            if validation_replies is not None
            else []
        )
        fitted = tfidf_answers(run.task, train, validation, items)
        found.sheets["tfidf"] = fitted.answers
        found.fitted["tfidf"] = _how(fitted, count)
        return found
    found.sheets["nearest"] = nearest_answers(train, items)
    found.fitted["nearest"] = f"the answer to the most similar prompt, of {count}"
    if run.task.kind == "json":
        found.sheets["regex"] = regex_answers(train, items)
        found.fitted["regex"] = f"what stands before each field, of {count}"
    return found


def gold_baselines(run: Run, items: Sequence[Item]) -> Baselines:
    """TF-IDF on the gold labels of the student's own training items, where some have one."""
    found = Baselines()
    if run.task.kind != "label":
        return found
    train = examples_of(run.task, run.train_split, None)
    if not train:
        found.absent["tfidf_gold"] = _no_gold(run)
        return found
    validation = examples_of(run.task, run.splits.validation, None)
    fitted = tfidf_answers(run.task, train, validation, items, name="tfidf_gold")
    found.sheets["tfidf_gold"] = fitted.answers
    count = f"the {len(train):,} of the student's {len(run.train_split.items):,} items with gold"
    found.fitted["tfidf_gold"] = _how(fitted, count)
    return found


def absent_students(run: Run) -> dict[str, str]:
    """Why a student that is trained for comparison alone is not there."""
    why = {}
    if run.recipe.train.divergence is None:
        why["plain"] = "the student itself was trained on replies alone: it is this baseline"
    if run.trains_gold and (absent := run.gold_absent) is not None:
        why["gold_trained"] = absent
    if not run.trains_gold:
        items = (*run.train_split.items, *run.splits.validation.items)
        known = sum(item.gold is not None for item in items)
        if known and run.recipe.judge.gold_student is None:
            why["gold_trained"] = (
                f"only {known:,} of {len(items):,} items have a gold answer; it learns from these"
                " alone with judge.gold_student: true"
            )
        elif known:
            seconds = run.plan["seconds"]["train"] / run.recipe.seeds
            why["gold_trained"] = (
                "judge.gold_student is false: it would take one more training, about"
                f" {seconds:,.0f} s here"
            )
        else:
            why["gold_trained"] = _no_gold(run)
    return why


def _no_gold(run: Run) -> str:
    return f"none of the {len(run.train_split.items):,} training items has a gold answer"


def _how(fitted: Fitted, what: str) -> str:
    if fitted.strength is None:
        return f"{what} say the same: it answers that"
    chosen = (
        "C is not chosen"
        if fitted.validation_accuracy is None
        else f"chosen on validation ({100 * fitted.validation_accuracy:.1f} % right there)"
    )
    return f"learned from {what}; features {fitted.features}, C {fitted.strength:g}, {chosen}"
