import pytest

from stillhouse.exchanges import InputError
from stillhouse.teachers.admissible import (
    Admitted,
    Rejected,
    ReplyPolicy,
    admit,
    admit_all,
)
from stillhouse.teachers.chat import Failure, Reply

THINK = ("<think>", "</think>")


def reply(text="answer", finish="stop", **more):
    return Reply(text=text, finish_reason=finish, model="m", **more)


@pytest.mark.parametrize("finish", ["stop", "tool_calls"])
def test_a_finished_reply_trains_and_may_end(finish):
    got = admit(reply(finish=finish), ReplyPolicy())
    assert got == Admitted("answer", True, None, None)


@pytest.mark.parametrize("finish", ["length", "content_filter", "unknown"])
def test_other_endings_do_not_train_unless_the_recipe_says_so_and_then_never_end(finish):
    rejected = admit(reply(finish=finish), ReplyPolicy())
    assert isinstance(rejected, Rejected)
    assert rejected.code == f"finish_{finish}"
    allowed = admit(reply(finish=finish), ReplyPolicy(finish_reasons=frozenset({finish})))
    assert isinstance(allowed, Admitted)
    assert not allowed.complete


def test_a_failure_and_an_empty_reply_do_not_train():
    assert admit(Failure(code="timeout", message=""), ReplyPolicy()).code == "no_reply"
    assert admit(reply(" \n"), ReplyPolicy()).code == "empty"
    assert isinstance(admit(reply(""), ReplyPolicy(allow_empty=True)), Admitted)


def test_spans_are_plain_text_until_the_recipe_declares_them():
    text = "<think>hm</think>\n\nyes"
    undeclared = admit(reply(text), ReplyPolicy())
    assert isinstance(undeclared, Admitted)
    assert undeclared.text == text
    declared = admit(reply(text), ReplyPolicy(delimiters=THINK))
    assert declared == Admitted("yes", True, None, None)


@pytest.mark.parametrize(
    ("text", "answer", "inner"),
    [
        ("<think>\nhm\n</think>\n\nyes", "yes", "hm"),
        ("  <think>hm</think>yes", "yes", "hm"),
        ("hm\n</think>\n\nyes", "yes", "hm"),
        ("say <think> aloud", "say <think> aloud", None),
        ("yes", "yes", None),
        ("<think></think>yes", "yes", ""),
    ],
)
def test_reasoning_is_cut_out_and_kept_beside(text, answer, inner):
    got = admit(reply(text), ReplyPolicy(delimiters=THINK, reasoning="keep"))
    assert isinstance(got, Admitted)
    assert (got.text, got.reasoning) == (answer, inner)


@pytest.mark.parametrize("finish", ["length", "stop"])
@pytest.mark.parametrize("reasoning", ["drop", "keep", "train"])
def test_a_reply_that_ends_inside_its_reasoning_has_no_answer(finish, reasoning):
    policy = ReplyPolicy(
        delimiters=THINK, finish_reasons=frozenset({"stop", "length"}), reasoning=reasoning
    )
    assert admit(reply("<think>first, I", finish), policy).code == "reasoning_cut"


def test_training_on_reasoning_keeps_the_text_verbatim_or_writes_it_with_the_delimiters():
    policy = ReplyPolicy(delimiters=THINK, reasoning="train")
    inside = "<think>\nhm\n</think>\n\nyes"
    assert admit(reply(inside), policy).text == inside
    assert admit(reply("yes", reasoning="hm"), policy).text == inside


def test_training_on_reasoning_beside_the_text_needs_delimiters():
    with pytest.raises(InputError, match="no delimiters") as error:
        admit(reply("yes", reasoning="hm"), ReplyPolicy(reasoning="train"))
    assert "reasoning_delimiters" in str(error.value)


def test_reasoning_is_dropped_by_default_and_its_tokens_are_counted():
    answers = {
        "a": reply("yes", reasoning="hm", tokens_reasoning=30),
        "b": reply("no"),
        "c": reply("cut", "length", tokens_reasoning=12),
        "d": Failure(code="timeout", message=""),
    }
    admission = admit_all(answers, ReplyPolicy())
    assert set(admission.admitted) == {"a", "b"}
    assert admission.admitted["a"].reasoning is None
    assert {i: r.code for i, r in admission.rejected.items()} == {
        "c": "finish_length",
        "d": "no_reply",
    }
    assert admission.reasoning_tokens == 42
    assert admission.without_reasoning_count == 1


def test_an_empty_delimiter_is_refused():
    with pytest.raises(InputError, match="delimiter is empty"):
        ReplyPolicy(delimiters=("<think>", ""))
