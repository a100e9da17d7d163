"""Answer sheets survive being written and read; every mistake names its line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.answers import answer_lines, read_answers, write_answers
from stillhouse.teachers.chat import Failure, Reply, TokenLogprob

TEXTS = st.text(alphabet=st.characters(), max_size=30)
LOGPROBS = st.floats(max_value=0, allow_nan=False, allow_infinity=False)
COUNTS = st.none() | st.integers(0, 10**12)
REPLIES = st.builds(
    Reply,
    text=TEXTS,
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "content_filter", "unknown"]),
    model=TEXTS,
    tokens_in=COUNTS,
    price_nano=COUNTS,
    reasoning=st.none() | TEXTS,
    label_scores=st.none() | st.tuples(LOGPROBS | st.just(-math.inf), LOGPROBS),
    logprobs=st.none()
    | st.tuples(
        st.builds(
            TokenLogprob,
            token=TEXTS,
            logprob=LOGPROBS | st.just(-math.inf),
            top=st.tuples(st.tuples(TEXTS, LOGPROBS | st.just(-math.inf))),
        )
    ),
    extra=st.dictionaries(TEXTS, st.booleans() | TEXTS, max_size=2),
)
FAILURES = st.builds(
    Failure, code=TEXTS, message=TEXTS, attempts=st.integers(1, 9), charged_nano=COUNTS
)


@given(st.dictionaries(st.text(min_size=1), REPLIES | FAILURES, min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, answers: dict[str, Reply | Failure]
) -> None:
    path = tmp_path_factory.mktemp("sheet") / "answers.jsonl"
    write_answers(path, answers)
    again = read_answers(path)
    assert again == answers
    assert list(again) == list(answers)


def test_a_lone_surrogate_survives(tmp_path: Path) -> None:
    reply = Reply(text="\ud83d", finish_reason="stop", model="m")
    write_answers(tmp_path / "a.jsonl", {"1": reply})
    assert read_answers(tmp_path / "a.jsonl") == {"1": reply}


def test_what_json_cannot_hold_is_refused_with_the_item(tmp_path: Path) -> None:
    reply = Reply(text="x", finish_reason="stop", model="m", extra={"score": math.nan})
    with pytest.raises(InputError, match="the answer to 'i7' holds what JSON cannot"):
        write_answers(tmp_path / "a.jsonl", {"i7": reply})


def test_id_and_text_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "gpt.jsonl"
    path.write_text('{"id": "7", "text": "yes"}\n\n{"id": "8", "text": ""}\r\n')
    assert read_answers(path) == {
        "7": Reply(text="yes", finish_reason="unknown", model="gpt"),
        "8": Reply(text="", finish_reason="unknown", model="gpt"),
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not a JSON line"),
        ("[1]", "expected a JSON object"),
        ('{"text": "a"}', "`id` must be"),
        ('{"id": 3, "text": "a"}', "`id` must be"),
        ('{"id": "x"}', "`text` must be a string"),
        ('{"id": "x", "txt": "a"}', "did you mean 'text'?"),
        ('{"id": "x", "text": "a", "finish_reason": "done"}', "finish_reason 'done'"),
        ('{"id": "x", "text": "a", "tokens_in": 1.5}', "whole number"),
        ('{"id": "x", "text": "a", "label_scores": ["a"]}', "list of numbers"),
        ('{"id": "x", "text": "a", "label_scores": [NaN]}', "NaN is not JSON"),
        ('{"id": "x", "text": "a", "model": 3}', "`model` must be a string"),
        ('{"id": "x", "text": "a", "extra": []}', "`extra` must be an object"),
        ('{"id": "x", "text": "a", "logprobs": [1]}', "`logprobs` must be"),
        ('{"id": "x", "failure": {"code": "a"}}', "needs `message`"),
        ('{"id": "x", "failure": {"code": "a", "message": "b"}, "text": "c"}', "nothing else"),
        ('{"id": "ok", "text": "again"}', "answered twice, first in line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "ok", "text": "a"}\n' + line + "\n")
    with pytest.raises(InputError) as caught:
        read_answers(path)
    assert said in str(caught.value)
    assert f"{path}:2" in str(caught.value)


def test_no_file_and_no_answers_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_answers(tmp_path / "absent.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="no answer"):
        read_answers(tmp_path / "empty.jsonl")


def test_lines_are_compact_and_leave_out_what_is_unknown() -> None:
    lines = answer_lines([("1", Reply(text="ä", finish_reason="stop", model="m"))])
    assert lines == '{"id":"1","text":"ä","finish_reason":"stop","model":"m"}\n'.encode()
