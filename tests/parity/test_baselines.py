"""Baselines learn from the student's own examples and are scored like any model."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.parity.sheets_for_tests import JSON, LABEL, TEXT, documents, items_of, sheet

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.baselines import (
    Example,
    examples_of,
    majority_answers,
    nearest_answers,
    tfidf_answers,
)
from stillhouse.parity.items import Item, Task, TrainSplit
from stillhouse.parity.judgement import JudgeConfig
from stillhouse.parity.judging import judge
from stillhouse.parity.ngram import ByteNgrams, ngram_answers
from stillhouse.parity.patterns import regex_answers

GOOD = ["lovely", "brilliant", "warm", "fine", "superb"]
BAD = ["dull", "awful", "cold", "weak", "boring"]


def reviews(count: int, seed: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    answers = ["yes" if rng.random() < 0.6 else "no" for _ in range(count)]
    texts = [" ".join(rng.choice(GOOD if a == "yes" else BAD, 3)) for a in answers]
    return texts, answers


def items_with(texts: list[str], golds: list[str]) -> list[Item]:
    return [
        Item(id=f"i{n}", messages=(), variable=text, group=f"i{n}", gold=gold)
        for n, (text, gold) in enumerate(zip(texts, golds, strict=True))
    ]


TEXTS, GOLDS = reviews(120, 1)
ITEMS = items_with(TEXTS, GOLDS)
TRAINING = [Example(t, a) for t, a in zip(*reviews(200, 2), strict=True)]
VALIDATION = [Example(t, a) for t, a in zip(*reviews(60, 3), strict=True)]


def test_tfidf_learns_what_the_words_say_and_reports_its_choice() -> None:
    fitted = tfidf_answers(LABEL, TRAINING, VALIDATION, ITEMS)
    right = [fitted.answers[item.id].text == item.gold for item in ITEMS]
    assert np.mean(right) > 0.98
    assert fitted.examples == 200
    assert fitted.features in ("words", "words and characters")
    assert fitted.validation_accuracy is not None
    assert fitted.validation_accuracy > 0.98
    scores = fitted.answers["i0"].label_scores
    assert scores is not None
    assert np.exp(scores).sum() == pytest.approx(1)
    assert tfidf_answers(LABEL, TRAINING, [], ITEMS).strength == 1.0


def test_a_label_that_never_occurred_scores_minus_infinity() -> None:
    task = Task(kind="label", labels=("maybe", "no", "yes"))
    scores = tfidf_answers(task, TRAINING, [], ITEMS).answers["i0"].label_scores
    assert scores is not None
    assert scores[0] == -np.inf
    assert scores[1] + scores[2] > -np.inf


def test_a_teacher_of_one_label_leaves_the_majority() -> None:
    same = [Example(e.prompt, "no") for e in TRAINING]
    fitted = tfidf_answers(LABEL, same, [], ITEMS)
    assert {reply.text for reply in fitted.answers.values()} == {"no"}
    assert fitted.strength is None


def test_majority_counts_answers_and_fields() -> None:
    assert majority_answers(LABEL, TRAINING, ITEMS)["i0"].text == "yes"
    texts = ['{"a": 1, "b": null}', '{"a": 2, "b": 5}', '{"a": 1}']
    common = majority_answers(JSON, [Example("", text) for text in texts], ITEMS)
    assert json.loads(common["i0"].text) == {"a": 1, "b": None}


def test_nearest_repeats_the_answer_to_the_most_similar_prompt() -> None:
    training = [Example(f"invoice {word} total", word) for word in ("acme", "globex", "initech")]
    items = items_with(["Total of the GLOBEX invoice", "acme"], ["globex", "acme"])
    answers = nearest_answers(training, items)
    assert [answers[item.id].text for item in items] == ["globex", "acme"]


def bill(vendor: str, amount: str, day: str, order: str | None) -> str:
    lines = ["Dear all,", f"Invoice from {vendor}", f"Total due: {amount} EUR", f"Date: {day}"]
    return "\n".join([*lines, f"Your order: {order}"] if order else lines)


def test_regex_finds_fields_by_what_stands_before_them() -> None:
    training = [
        Example(
            bill(vendor, f"{n}.{n:02d}0,50", f"{n} March 2025", order),
            json.dumps(
                {
                    "vendor": vendor,
                    "total": float(f"{n}{n:02d}0.5"),
                    "day": f"2025-03-{n:02d}",
                    "order": order,
                    "kind": "invoice",
                }
            ),
        )
        for n in range(1, 29)
        for order in [f"PO-{n}" if n % 2 else None]
        for vendor in [f"Maker{chr(96 + n % 26)} Ltd"]
    ]
    prompts = [
        bill("Acme Ltd", "4,321.75", "2025-01-31", "PO-99"),
        bill("Brown Ltd", "7", "1/2/2025", None),
    ]
    answers = regex_answers(training, items_with(prompts, ["{}", "{}"]))
    assert [json.loads(answers[f"i{n}"].text) for n in range(2)] == [
        {
            "vendor": "Acme Ltd",
            "total": 4321.75,
            "day": "2025-01-31",
            "order": "PO-99",
            "kind": "invoice",
        },
        {
            "vendor": "Brown Ltd",
            "total": 7.0,
            "day": "2025-02-01",
            "order": None,
            "kind": "invoice",
        },
    ]
    with pytest.raises(InputError, match="no training document"):
        regex_answers([Example("a", "b")], [])


@given(st.text(max_size=80))
@settings(deadline=None)
def test_regex_takes_any_prompt(text: str) -> None:
    training = [Example("sum: 3", '{"sum": 3}'), Example(text, '{"sum": 4}')]
    (reply,) = regex_answers(training, items_with([text], ["{}"])).values()
    assert set(json.loads(reply.text)) == {"sum"}


def test_examples_leave_out_what_was_not_answered() -> None:
    split = TrainSplit(tuple(items_of(["yes", "no", "yes", None])))
    teacher = sheet(["no", None, "I'm sorry, I can't", "YES"])
    assert [e.answer for e in examples_of(LABEL, split, teacher)] == ["no", "yes"]
    assert [e.answer for e in examples_of(LABEL, split, None)] == ["yes", "no", "yes"]
    documents_split = TrainSplit(tuple(items_of(documents(2))))
    (first, _) = examples_of(JSON, documents_split, None)
    assert json.loads(first.answer) == {"a": 0, "b": 0}


def test_baselines_enter_a_judgement_like_any_model() -> None:
    teacher = sheet(GOLDS)
    baselines = {
        "majority": majority_answers(LABEL, TRAINING, ITEMS),
        "tfidf": tfidf_answers(LABEL, TRAINING, VALIDATION, ITEMS).answers,
    }
    config = JudgeConfig(task=LABEL, margin=5.0, resamples=400)
    found = judge(ITEMS, teacher, teacher, baselines, config)
    auc = found.sheets[3].score("auc")
    assert auc is not None
    assert auc.value > 98
    assert found.gate.lead_over["majority"] > 20


def test_a_baseline_without_examples_or_labels_is_an_error() -> None:
    with pytest.raises(InputError, match="no training example"):
        majority_answers(LABEL, [], ITEMS)
    with pytest.raises(InputError, match="no training example"):
        nearest_answers([], ITEMS)
    with pytest.raises(InputError, match="no training example"):
        ngram_answers([], ITEMS)
    with pytest.raises(InputError, match="needs labels"):
        tfidf_answers(TEXT, TRAINING, [], ITEMS)


def test_byte_ngrams_are_what_a_plain_reading_of_the_formula_gives() -> None:
    texts = ["abab", "abc", "\u00e9b"]

    def plain(byte: int, context: bytes) -> float:
        after = Counter(
            data[place]
            for data in (text.encode() for text in texts)
            for place in range(len(context), len(data))
            if data[place - len(context) : place] == context
        )
        below = 1 / 256 if not context else plain(byte, context[1:])
        seen = sum(after.values())
        return (after[byte] + len(after) * below) / (seen + len(after)) if seen else below

    model = ByteNgrams(texts)
    for context in (b"", b"a", b"ab", b"ba", b"aba", b"zz", b"za", "\u00e9".encode()):
        for byte in range(256):
            assert model.probability(byte, context) == pytest.approx(plain(byte, context))
        assert sum(model.probability(b, context) for b in range(256)) == pytest.approx(1)
    assert model.probability(ord("b"), b"a") > 0.5 > model.probability(ord("a"), b"a")


def test_byte_ngrams_enter_a_judgement_by_bits_per_byte() -> None:
    golds = [f"the answer to {n} is {n % 7}" for n in range(40)]
    items = items_of(golds)
    training = [Example(f"q{n}", f"the answer to {n} is {n % 7}") for n in range(100, 300)]
    found = ngram_answers(training, items)
    own = {
        name: dataclasses.replace(reply, extra={"reference_logprob": -20.0})
        for name, reply in found.items()
    }
    config = JudgeConfig(task=TEXT, margin=0.1, primary="bits_per_byte", metrics=(), resamples=200)
    sheets = {s.name: s for s in judge(items, own, own, {"ngram": found}, config).sheets}
    score = sheets["ngram"].scores[0].value
    sizes = sum(len(gold) for gold in golds)
    nats = sum(ByteNgrams(e.answer for e in training).logprob(gold) for gold in golds)
    assert score == pytest.approx(-nats / math.log(2) / sizes)
    assert 0.2 < score < 2.5, "English text of one form is far below 8 bits a byte"
