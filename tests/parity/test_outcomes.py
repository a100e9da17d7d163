"""The parse rules: what counts as an answer, and what is counted as an error."""

from __future__ import annotations

import math

import pytest

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.items import Item, Task
from stillhouse.parity.outcomes import (
    Outcome,
    count,
    looks_like_refusal,
    parse_document,
    parse_label,
    read_outcomes,
    read_reference,
)
from stillhouse.teachers.chat import Failure, Message, Reply

LABELS = ("positive", "negative", "not sure", "not")
SENTIMENT = Task(kind="label", labels=LABELS)
INVOICE = Task(kind="json")
PROSE = Task(kind="text")


def item(name: str = "1", gold: str | None = "positive") -> Item:
    return Item(id=name, messages=(Message("user", "?"),), variable="?", group=name, gold=gold)


def reply(text: str, **fields: object) -> Reply:
    return Reply(**{"text": text, "finish_reason": "stop", "model": "m"} | fields)  # type: ignore[arg-type]


def outcome(task: Task, answer: Reply | Failure, gold: str = "positive") -> Outcome:
    return read_outcomes(task, [item(gold=gold)], {"1": answer}, name="student")[0]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positive", "positive"),
        ("  POSITIVE\n", "positive"),
        ("ｐｏｓｉｔｉｖｅ", "positive"),
        ("Not Sure", "not sure"),
        ("positive.", None),
        ("positive because", None),
        ("", None),
    ],
)
def test_the_exact_rule(text: str, label: str | None) -> None:
    assert parse_label(text, LABELS) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("**Positive.** It praises", "positive"),
        ("not sure, honestly", "not sure"),
        ("not at all", "not"),
        ("positively", None),
        ("It is positive", None),
        ("", None),
    ],
)
def test_the_first_word_rule_takes_the_longest_label_at_a_word_boundary(
    text: str, label: str | None
) -> None:
    assert parse_label(text, LABELS, "first_word") == label


@pytest.mark.parametrize(
    ("text", "labels", "label"),
    [
        ("-1, it is bad", ("-1", "0", "1"), "-1"),
        ("**-1**", ("-1", "0", "1"), "-1"),
        ("-1", ("0", "1"), None),
        ("(+)", ("+", "-"), "+"),
        (".NET", (".NET", "Java"), ".NET"),
        ("`<b>` is bold", ("<b>", "<i>"), "<b>"),
    ],
)
def test_a_sign_belongs_to_its_label(text: str, labels: tuple[str, ...], label: str | None) -> None:
    assert parse_label(text, labels, "first_word") == label


def test_label_scores_answer_with_the_best_and_break_ties_by_order() -> None:
    best = outcome(SENTIMENT, reply("x", label_scores=(-2.0, -1.0, -3.0, -9.0)))
    assert (best.value, best.channel) == ("negative", "label scores")
    tie = outcome(SENTIMENT, reply("x", label_scores=(-2.0, -1.0, -1.0, -9.0)))
    assert tie.value == "negative"
    assert outcome(SENTIMENT, reply("x", label_scores=(-math.inf,) * 4)).status == "unparsed"


@pytest.mark.parametrize("scores", [(-1.0,), (math.nan, 0.0, 0.0, 0.0), (math.inf,) * 4])
def test_label_scores_that_do_not_fit_are_an_error(scores: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="label scores"):
        outcome(SENTIMENT, reply("x", label_scores=scores))


@pytest.mark.parametrize(
    "text", ['{"a": 1}', ' {"a": 1}\n', '```json\n{"a": 1}\n```', '```\n{"a": 1}```']
)
def test_a_document_may_stand_alone_or_in_one_fence(text: str) -> None:
    assert parse_document(text) == {"a": 1}


@pytest.mark.parametrize(
    "text",
    [
        'Here: {"a": 1}',
        "[1]",
        '{"a": 1',
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": 1e999}',
        "[" * 100_000,
        "",
    ],
)
def test_what_is_not_one_document(text: str) -> None:
    assert parse_document(text) is None


def test_refusals_failures_and_absence_are_told_apart() -> None:
    items = [item(str(n)) for n in range(7)]
    answers = {
        "0": reply("positive"),
        "1": reply("I'm sorry, but I cannot help with that."),
        "2": reply("positive", finish_reason="content_filter"),
        "3": reply("hmm"),
        "4": Failure(code="timeout", message="no reply in 10 s"),
        "6": reply("posit", finish_reason="length"),
    }
    outcomes = read_outcomes(SENTIMENT, items, answers, name="student")
    counts = count(outcomes)
    assert [outcome.status for outcome in outcomes] == [
        "answered",
        "refused",
        "refused",
        "unparsed",
        "failed",
        "missing",
        "unparsed",
    ]
    assert (counts.answered, counts.refused, counts.unparsed) == (1, 2, 2)
    assert (counts.failed, counts.missing, counts.cut) == (1, 1, 1)
    assert counts.parseable == pytest.approx(1 / 7)
    assert "timeout" in outcomes[4].shown


def test_an_apology_that_the_reference_makes_too_is_an_answer() -> None:
    assert outcome(PROSE, reply("I'm sorry I was late"), gold="Hello").status == "refused"
    assert outcome(PROSE, reply("Sorry, I was late"), gold="Sorry, I am late").status == "answered"


@pytest.mark.parametrize("text", ["I can do that", "Sorrento", "As an aid", "Unfortunate events"])
def test_ordinary_openings_are_no_refusals(text: str) -> None:
    assert not looks_like_refusal(text)


def test_channels_are_marked() -> None:
    assert outcome(INVOICE, reply("{}")).channel == "free text"
    assert outcome(INVOICE, reply("{}", extra={"constrained": True})).channel == "constrained"
    declared = read_outcomes(INVOICE, [item()], {"1": reply("{}")}, name="s", constrained=True)
    assert declared[0].channel == "constrained"


def test_a_sheet_for_other_items_is_an_error() -> None:
    with pytest.raises(InputError, match="share no item id"):
        read_outcomes(PROSE, [item("1")], {"one": reply("x")}, name="student")


def test_a_gold_answer_must_fit_the_task() -> None:
    with pytest.raises(InputError, match="not a label"):
        read_reference(SENTIMENT, item(gold="great"))
    with pytest.raises(InputError, match="not a JSON object"):
        read_reference(INVOICE, item(gold="[]"))
    with pytest.raises(InputError, match="no gold"):
        read_reference(PROSE, item(gold=None))
    assert read_reference(SENTIMENT, item(gold=" Positive ")) == "positive"
