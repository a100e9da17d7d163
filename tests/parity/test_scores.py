"""Every metric against values worked out by hand, or a slow reference."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.fields import (
    count_fields,
    count_fields_published,
    parse_published,
    schema_fields,
)
from stillhouse.parity.functions import load_measure
from stillhouse.parity.items import Item, Task
from stillhouse.parity.outcomes import read_outcomes, read_reference
from stillhouse.parity.ranking import auc_contributions, label_margin
from stillhouse.parity.rouge import common_subsequence, rouge_l
from stillhouse.parity.scores import (
    MEASURES,
    Answered,
    Metric,
    bits_per_byte,
    contributions,
    estimate,
    find_measure,
)
from stillhouse.teachers.chat import Failure, Message, Reply

SCHEMA = (
    '{"type":"object","properties":{"who":{"type":["string","null"]},'
    '"day":{"type":["string","null"],"format":"date"},"sum":{"type":["number","null"]}},'
    '"required":["who"]}'
)


def answered(task: Task, pairs: list[tuple[str, Reply | Failure]]) -> Answered:
    items = [
        Item(id=str(n), messages=(Message("user", "?"),), variable="?", group=str(n), gold=gold)
        for n, (gold, _) in enumerate(pairs)
    ]
    answers = {str(n): answer for n, (_, answer) in enumerate(pairs)}
    return Answered(
        task=task,
        items=items,
        outcomes=read_outcomes(task, items, answers, name="student"),
        references=[read_reference(task, item) for item in items],
    )


def says(text: str, **fields: Any) -> Reply:
    return Reply(**{"text": text, "finish_reason": "stop", "model": "m"} | fields)


def values(task: Task, metric: Metric, *pairs: tuple[str, Reply | Failure]) -> list[float]:
    found = find_measure(metric, task.kind).values(answered(task, list(pairs)))
    return [float(value) for value in found[:, 0]] if found.shape[1] == 1 else [estimate(found)]


LABEL = Task(kind="label", labels=("no", "yes"))
JSON = Task(kind="json", schema=SCHEMA)
TEXT = Task(kind="text")
FAILED = Failure(code="timeout", message="late")


def test_accuracy_counts_every_kind_of_failure_as_wrong() -> None:
    got = values(
        LABEL,
        "accuracy",
        ("yes", says("Yes")),
        ("yes", says("no")),
        ("yes", says("yes, sure")),
        ("yes", says("I'm sorry, I can't")),
        ("yes", FAILED),
    )
    assert got == [1, 0, 0, 0, 0]


def test_exact_match_trims_and_nothing_else() -> None:
    got = values(TEXT, "exact_match", ("a b", says(" a b\n")), ("a b", says("A b")), ("a", FAILED))
    assert got == [1, 0, 0]


def test_field_f1_by_hand() -> None:
    gold = '{"a": "x", "b": 2, "c": null, "d": {"e": [1, 2]}}'  # four fields
    got = values(
        JSON,
        "field_f1",
        (gold, says('{"a": "x", "b": 2.0, "d": {"e": [1, 3]}, "f": "more"}')),  # 3 of 5
        (gold, says("nothing")),
    )
    assert np.mean(got) == pytest.approx(2 * 3 / (5 + 4 + 0 + 4))


@pytest.mark.parametrize(
    ("predicted", "reference", "equal"),
    [
        ("a  b", "a b", True),
        ("A", "a", False),
        (1, 1.0, True),
        (1, "1", False),
        (True, 1, False),
        (0.1 + 0.2, 0.3, False),
        ("e\u0301", "\u00e9", True),
    ],
)
def test_equality_of_strict_fields(predicted: object, reference: object, equal: bool) -> None:
    assert count_fields({"x": predicted}, {"x": reference}).match is equal


def test_a_document_matches_only_without_extra_fields() -> None:
    assert count_fields({"a": 1, "b": None}, {"a": 1}).match
    assert not count_fields({"a": 1, "b": 2}, {"a": 1}).match
    assert not count_fields({}, {"a": 1}).match
    assert count_fields({}, {"a": None}).match
    assert not count_fields(None, {}).match


def test_the_published_definition_by_hand() -> None:
    fields = schema_fields(SCHEMA)
    assert fields == ("who", "day", "sum")
    gold = {"who": "ACME  Ltd", "day": "2024-01-02", "sum": 1.0}
    near = {"who": "acme ltd", "day": "2024-01-02T10:00", "sum": 1.005, "extra": 1}
    assert count_fields_published(near, gold, fields).match
    off = {"who": "acme", "day": None, "sum": 1.006}
    counts = count_fields_published(off, gold, fields)
    assert (counts.equal, counts.predicted, counts.reference) == (0, 2, 3)
    null = count_fields_published({"who": "x"}, {"who": "x", "day": None}, fields)
    assert (null.equal, null.predicted, null.reference, null.match) == (1, 1, 1, True)
    assert count_fields_published(None, {}, fields).match is False


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"who": "x"}', True),
        ('Sure! {"who": "x"} {that is all}', True),
        ('```json\n{"who": "x"}\n```', True),
        ('{"day": "2024-01-02"}', False),
        ('{"who": "x", "day": "2.1.2024"}', False),
        ('{"who": "x", "sum": 1e999}', False),
        ("{", False),
    ],
)
def test_the_published_parser_needs_a_valid_object_somewhere(text: str, found: bool) -> None:
    assert (parse_published(text, SCHEMA) is not None) is found


def test_published_and_strict_f1_differ_where_they_should() -> None:
    pair = ('{"who": "ACME", "sum": 2}', says('{"who": "acme", "sum": 2.004}'))
    assert np.mean(values(JSON, "field_f1", pair)) == 0
    assert np.mean(values(JSON, "field_f1_published", pair)) == 1
    assert values(JSON, "document_match_published", pair) == [1]
    assert values(JSON, "document_match", pair) == [0]


def test_rouge_l_by_hand() -> None:
    assert rouge_l("the cat sat", "The cat on the mat") == pytest.approx(2 * 2 / (3 + 5))
    assert rouge_l("", "!") == 1
    assert rouge_l("", "word") == 0
    assert values(TEXT, "rouge_l", ("a b", says("a b")), ("a b", FAILED)) == [1, 0]


@given(st.lists(st.integers(0, 3), max_size=9), st.lists(st.integers(0, 3), max_size=9))
def test_the_common_subsequence_equals_its_definition(a: list[int], b: list[int]) -> None:
    def is_within(part: tuple[int, ...], whole: list[int]) -> bool:
        rest = iter(whole)
        return all(word in rest for word in part)

    lengths = range(len(a), -1, -1)
    slow = next(n for n in lengths if any(is_within(p, b) for p in itertools.combinations(a, n)))
    assert common_subsequence(a, b) == slow


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_ranked_right(pairs: list[tuple[int, bool]]) -> None:
    positive = [s for s, is_positive in pairs if is_positive]
    negative = [s for s, is_positive in pairs if not is_positive]
    scores, classes = np.array([float(s) for s, _ in pairs]), np.array([c for _, c in pairs])
    if not positive or not negative:
        with pytest.raises(ValueError, match="both classes"):
            auc_contributions(scores, classes)
        return
    slow = np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative])
    assert auc_contributions(scores, classes).mean() == pytest.approx(slow)


def test_auc_contributions_carry_delongs_variance() -> None:
    rng = np.random.default_rng(3)
    classes = rng.random(400) < 0.3
    scores = rng.normal(size=400) + classes
    v10 = [(scores[i] > scores[~classes]).mean() for i in np.flatnonzero(classes)]
    v01 = [(scores[classes] > scores[i]).mean() for i in np.flatnonzero(~classes)]
    delong = np.var(v10, ddof=1) / len(v10) + np.var(v01, ddof=1) / len(v01)
    ours = auc_contributions(scores, classes).var(ddof=1) / 400
    assert ours == pytest.approx(delong, rel=0.02)


def test_a_failure_ranks_at_the_wrong_end() -> None:
    def scored(no: float, yes: float) -> Reply:
        return says("", label_scores=(no, yes))

    right = [("yes", scored(-2, -1)), ("no", scored(-1, -2)), ("no", scored(-1, -3))]
    assert np.mean(values(LABEL, "auc", *right)) == 1
    assert np.mean(values(LABEL, "auc", *right, ("yes", FAILED))) == 0.5
    assert np.mean(values(LABEL, "auc", *right, ("no", FAILED))) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="label scores"):
        values(LABEL, "auc", ("yes", says("yes")), ("no", says("no")))


def test_auc_of_three_labels_is_the_mean_of_one_against_the_rest() -> None:
    task = Task(kind="label", labels=("a", "b", "c"))
    rng = np.random.default_rng(0)
    pairs = [
        ("abc"[k % 3], says("", label_scores=tuple(rng.normal(size=3) - 3))) for k in range(30)
    ]
    scores = np.array([p[1].label_scores for p in pairs])
    share = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    parts = []
    for k in range(3):
        own = np.array([p[0] == "abc"[k] for p in pairs])
        parts.append(np.mean([a > b for a in share[own, k] for b in share[~own, k]]))
    assert np.mean(values(task, "auc", *pairs)) == pytest.approx(np.mean(parts))


@pytest.mark.parametrize(
    ("scores", "margin"),
    [
        ((-1.0, -3.0), 2.0),
        ((-1.0, -math.inf), math.inf),
        ((-math.inf, -1.0), -math.inf),
        ((0.0, -1.0, -1.0), 1.0 - math.log(2)),
    ],
)
def test_label_margins_are_log_odds(scores: tuple[float, ...], margin: float) -> None:
    assert label_margin(np.array(scores), 0) == pytest.approx(margin)


def test_bits_per_byte_by_hand() -> None:
    assert bits_per_byte(-8 * math.log(2), 4) == pytest.approx(2)
    with pytest.raises(ValueError, match="no bytes"):
        bits_per_byte(-1.0, 0)
    got = values(
        TEXT,
        "bits_per_byte",
        ("ab", says("", extra={"reference_logprob": -3 * math.log(2)})),
        ("äbc", says("", extra={"reference_logprob": -3 * math.log(2)})),
    )
    assert np.mean(got) == pytest.approx(6 / 6)
    with pytest.raises(InputError, match="item '0'"):
        values(TEXT, "bits_per_byte", ("ab", FAILED))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=20))
def test_contributions_average_to_the_ratio(pairs: list[tuple[int, int]]) -> None:
    values_N2 = np.array(pairs, dtype=float)
    top, bottom = values_N2.sum(axis=0)
    assert estimate(values_N2) == pytest.approx(top / bottom)
    assert contributions(values_N2).mean() == pytest.approx(top / bottom)


def test_a_ratio_over_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="not defined"):
        values(JSON, "field_f1", ("{}", says("{}")))


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=60))
def test_no_reply_breaks_a_metric(text: str) -> None:
    for task, gold in ((LABEL, "yes"), (JSON, '{"who": "x"}'), (TEXT, "some words")):
        for measure in MEASURES.values():
            if task.kind in measure.kinds and measure.name not in ("auc", "bits_per_byte"):
                got = measure.values(answered(task, [(gold, says(text))]))
                assert 0 <= estimate(got) <= 1


def test_an_unknown_or_misplaced_metric_is_an_error() -> None:
    with pytest.raises(InputError, match="there is no metric"):
        find_measure("f2", "label")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not apply to label"):
        find_measure("rouge_l", "label")


FUNCTIONS = """
def half(text, item):
    "Half marks for anything."
    return 0.5

def many(text, item):
    return 3

def breaks(text, item):
    raise KeyError(text)

number = 1
"""


def test_a_users_function_scores_replies_and_not_failures(tmp_path: Any) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    measure = load_measure(f"{tmp_path / 'mine.py'}:half")
    sheet = answered(TEXT, [("x", says("a")), ("x", FAILED), ("x", says("I'm sorry, no"))])
    assert measure.values(sheet)[:, 0].tolist() == [0.5, 0, 0]
    assert measure.definition.startswith("Half marks for anything.")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "does not name a function"),
        ("no.such.module:f", "cannot import"),
        ("{}/absent.py:f", "there is no file"),
        ("{}/mine.py:absent", "it has breaks, half, many"),
        ("{}/mine.py:number", "has no function"),
        ("{}/broken.py:f", "ZeroDivisionError"),
    ],
)
def test_a_function_that_cannot_be_found_is_explained(tmp_path: Any, name: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(InputError) as caught:
        load_measure(name.format(tmp_path))
    assert said in str(caught.value)


@pytest.mark.parametrize(("name", "said"), [("many", "returned 3"), ("breaks", "KeyError: 'a'")])
def test_a_function_that_misbehaves_names_the_item(tmp_path: Any, name: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    measure = load_measure(f"{tmp_path / 'mine.py'}:{name}")
    with pytest.raises(InputError) as caught:
        measure.values(answered(TEXT, [("x", says("a"))]))
    assert said in str(caught.value)
    assert "item '0'" in str(caught.value)
