"""What trivial methods reach with the same training data, as answer sheets scored like any other.

`majority` always gives the commonest training answer; `tfidf` is logistic regression on TF-IDF
features; `nearest` repeats the answer to the most similar training prompt. Each learns from the
same examples as the student: the teacher's answers to the training split (or gold answers, for a
second sheet), and reads only the variable part of a prompt. Needs scikit-learn.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.answers import Answers
from stillhouse.parity.items import Item, Task, TrainSplit, ValidationSplit
from stillhouse.parity.outcomes import LabelRule, parse_document, read_outcomes, read_reference
from stillhouse.teachers.chat import Reply

Sheet = dict[str, Reply]
Features = Literal["words", "words and characters"]

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # C of the logistic regression
_WORD = r"(?u)\b\w+\b"  # single letters too
_ROWS = 256  # test prompts compared with all training prompts at once


@dataclass(frozen=True, slots=True)
class Example:
    """A training prompt's variable part and its answer: a label, a document's text, or a text."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A baseline's answers and how it was fitted. `validation_accuracy` chose C and features."""

    answers: Sheet
    examples: int
    strength: float | None
    features: Features | None
    validation_accuracy: float | None


def examples_of(
    task: Task,
    split: TrainSplit | ValidationSplit,
    answers: Answers | None,
    *,
    label_rule: LabelRule = "exact",
) -> list[Example]:
    """Examples from a teacher's answers, or from gold where `answers` is None.

    Answers that failed, were refused or do not parse are left out, and so are items without gold.
    """
    if answers is None:
        known = [item for item in split.items if item.gold is not None]
        return [_example(task, item, read_reference(task, item)) for item in known]
    outcomes = read_outcomes(task, split.items, answers, name="the teacher", label_rule=label_rule)
    return [
        _example(task, item, outcome.value)
        for item, outcome in zip(split.items, outcomes, strict=True)
        if outcome.status == "answered"
    ]


def majority_answers(task: Task, training: Sequence[Example], items: Sequence[Item]) -> Sheet:
    """The commonest training answer for every item; of documents, each field's commonest value."""
    need_examples(training)
    if task.kind == "json":
        answer = _common_document([parse_document(e.answer) or {} for e in training])
    else:
        answer = Counter(example.answer for example in training).most_common(1)[0][0]
    return {item.id: _reply(answer, "majority") for item in items}


def tfidf_answers(
    task: Task,
    training: Sequence[Example],
    validation: Sequence[Example],
    items: Sequence[Item],
    *,
    name: str = "tfidf",
) -> Fitted:
    """Logistic regression on TF-IDF features; C and features are chosen on `validation`.

    Features: words and pairs of words, or these and 3 to 5 characters within words. Without
    validation examples: words, C = 1. Replies carry label scores in the task's order, so that AUC
    can be measured. Raises InputError unless the task has labels.
    """
    if task.kind != "label":
        raise InputError("TF-IDF with logistic regression needs labels", repair="use nearest")
    need_examples(training)
    seen = sorted({example.answer for example in training})
    if len(seen) == 1:
        answers = majority_answers(task, training, items)
        return Fitted(
            answers=answers,
            examples=len(training),
            strength=None,
            features=None,
            validation_accuracy=None,
        )
    options: tuple[Features, ...] = ("words", "words and characters") if validation else ("words",)
    strengths = STRENGTHS if validation else (1.0,)
    best: tuple[float, Any, Any, float, Features] | None = None
    for features in options:
        vectors = _vectors(features)
        training_matrix = vectors.fit_transform([example.prompt for example in training])
        held_out = vectors.transform([example.prompt for example in validation] or [""])
        for strength in strengths:
            model = _regression(strength)
            model.fit(training_matrix, [example.answer for example in training])
            right = model.predict(held_out) == np.array([e.answer for e in validation] or [""])
            accuracy = float(right.mean())
            if best is None or accuracy > best[0]:
                best = (accuracy, vectors, model, strength, features)
    assert best is not None  # noqa: S101 - there is at least one option
    accuracy, vectors, model, strength, features = best
    logprobs_NL = model.predict_log_proba(vectors.transform([item.variable for item in items]))
    return Fitted(
        answers=_scored(task, items, list(model.classes_), logprobs_NL, name),
        examples=len(training),
        strength=strength,
        features=features,
        validation_accuracy=accuracy if validation else None,
    )


def nearest_answers(training: Sequence[Example], items: Sequence[Item]) -> Sheet:
    """The answer to the training prompt with the highest TF-IDF cosine (the first of a tie)."""
    need_examples(training)
    vectors = _vectors("words and characters")
    known = vectors.fit_transform([example.prompt for example in training])
    asked = vectors.transform([item.variable for item in items])
    nearest = [
        int(row)
        for start in range(0, len(items), _ROWS)
        for row in (asked[start : start + _ROWS] @ known.T).toarray().argmax(axis=1)
    ]
    return {
        item.id: _reply(training[row].answer, "nearest")
        for item, row in zip(items, nearest, strict=True)
    }


def _example(task: Task, item: Item, value: Any) -> Example:
    text = json.dumps(value, ensure_ascii=False) if task.kind == "json" else str(value)
    return Example(item.variable, text)


def need_examples(training: Sequence[Example]) -> None:
    """Raise InputError when there is nothing to learn from."""
    if not training:
        raise InputError(
            "a baseline has no training example to learn from",
            repair="check that the teacher's answers to the training split parse",
        )


def _common_document(documents: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for document in documents for name in document))
    common = {}
    for name in names:
        values = [json.dumps(document.get(name), ensure_ascii=False) for document in documents]
        common[name] = json.loads(Counter(values).most_common(1)[0][0])
    return json.dumps(common, ensure_ascii=False)


def _vectors(features: Features) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORD)
    if features == "words":
        return FeatureUnion([("words", words)])
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    return FeatureUnion([("words", words), ("characters", characters)])


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=2000)


def _scored(
    task: Task, items: Sequence[Item], classes: list[str], logprobs_NL: NDArray[Any], name: str
) -> Sheet:
    column = {label: classes.index(label) for label in classes}
    answers = {}
    for item, row in zip(items, logprobs_NL, strict=True):
        scores = tuple(
            float(row[column[label]]) if label in column else -math.inf for label in task.labels
        )
        best = task.labels[int(np.argmax(scores))]
        answers[item.id] = _reply(best, name, scores)
    return answers


def _reply(text: str, name: str, scores: tuple[float, ...] | None = None) -> Reply:
    return Reply(text=text, finish_reason="stop", model=name, label_scores=scores)
