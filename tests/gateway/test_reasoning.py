"""Reasoning is found at its place only, and the same for every way the text is cut up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.exchanges import InputError
from stillhouse.gateway.reasoning import ReasoningFormat, ReasoningSplitter

THINK = ReasoningFormat((("<think>", "</think>"),))
OPEN = ReasoningFormat((("<think>", "</think>"),), starts_open=True)
SEVERAL = ReasoningFormat((("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|a|>", "<|b|>")))
SAME = ReasoningFormat((("::", "::"),))
FORMATS = [THINK, OPEN, SEVERAL, SAME, ReasoningFormat()]

TEXT = st.lists(
    st.sampled_from(
        [" ", "\n", "\u3000", "\U0001f600", "é", "a", ":", "::", "<", "</", "<thi", "nk>", "<|a|>"]
        + [tag for pair in SEVERAL.tags for tag in pair]
    ),
    max_size=12,
).map("".join)


def reference(form: ReasoningFormat, text: str) -> tuple[str, str]:
    """The slow oracle: the whole text at once."""
    space = " \t\r\n"
    if form.starts_open:
        body, closing = text, form.tags[0][1]
    else:
        for opening, closing in form.tags:  # noqa: B007
            if text.lstrip(space).startswith(opening):
                body = text.lstrip(space)[len(opening) :]
                break
        else:
            return text, ""
    if closing not in body:
        return "", body
    thought, answer = body.split(closing, 1)
    return answer.lstrip(space), thought


def split(form: ReasoningFormat, pieces: list[str]) -> tuple[str, str]:
    splitter = ReasoningSplitter(form)
    parts = [*map(splitter.feed, pieces), splitter.finish()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@given(st.sampled_from(FORMATS), TEXT, st.lists(st.integers(0, 60), max_size=6))
def test_any_cutting_gives_what_the_whole_text_gives(form, text, cuts):
    at = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(at)]
    assert split(form, pieces) == reference(form, text)
    assert split(form, list(text)) == reference(form, text)


@pytest.mark.parametrize(
    ("form", "text", "answer", "thought"),
    [
        (THINK, "<think>a</think>\n\nb", "b", "a"),
        (THINK, "  <think>a</think>b", "b", "a"),
        (THINK, "<think>a</think><think>b</think>", "<think>b</think>", "a"),
        (THINK, "x <think>a</think>", "x <think>a</think>", ""),
        (THINK, "<think>a", "", "a"),
        (THINK, "<think>a</thin", "", "a</thin"),
        (THINK, "<thin", "<thin", ""),
        (THINK, "\n ", "\n ", ""),
        (THINK, "a</think>b", "a</think>b", ""),
        (OPEN, "a</think>b", "b", "a"),
        (OPEN, "<think>a</think>b", "b", "<think>a"),
        (OPEN, "a", "", "a"),
        (SEVERAL, "[THINK]</think>[/THINK]b", "b", "</think>"),
        (SAME, "::a::b::c", "b::c", "a"),
        (ReasoningFormat(), "<think>a</think>", "<think>a</think>", ""),
    ],
)
def test_reasoning_is_what_stands_at_the_start(form, text, answer, thought):
    assert split(form, [text]) == (answer, thought)


def test_reasoning_is_given_as_soon_as_it_is_certain():
    splitter = ReasoningSplitter(THINK)
    assert splitter.undecided
    assert splitter.feed("<think>long reasoning <") == ("", "long reasoning ")
    assert not splitter.undecided
    assert splitter.feed("b") == ("", "<b")
    assert splitter.feed("</think> ok") == ("ok", "")
    assert splitter.feed("<think>") == ("<think>", "")


@pytest.mark.parametrize(
    ("tags", "starts_open", "said"),
    [
        ((("<think>", ""),), False, "empty"),
        (((" <think>", "</think>"),), False, "white space"),
        ((("<think", "a"), ("<thinking>", "b")), False, "begins another"),
        ((("<t>", "a"), ("<t>", "b")), False, "begins another"),
        ((), True, "starts_open"),
    ],
)
def test_a_format_that_cannot_work_is_refused(tags, starts_open, said):
    with pytest.raises(InputError, match=said):
        ReasoningFormat(tags, starts_open)
