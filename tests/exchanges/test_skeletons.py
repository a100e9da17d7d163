import itertools
import signal
import string
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stillhouse.exchanges import shingles, skeleton, skeleton_of_messages, skeletons

QUOTES = "\"'`“”„«»‘’「」『』"
ADVERSARIAL = (
    QUOTES + " \n\t.,;:!?-_/#@\\\1\2\0aAzZéÉßİıǅ09٣½²①ﬁ東ひกक्\u0301\u0316\u200b\u00ad\ufeff\ud800"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # numbers
        ("It took 3 days, 1,000.50 USD on 2024-05-01 at 10:30.", "it took # days # @ on # at #"),
        ("Use gpt-4o, item_12x and f47ac10b-58cc.", "use gpt # item # and #"),
        ("Scores: 1, 2, 3, 4", "scores #"),
        ("٣ or ½ or x² or ①", "# or # or # or #"),
        # names
        ("Ask John Smith of Acme about it.", "ask @ of @ about it"),
        ("Here, Jack's dog ran. Spot was there.", "here @ dog ran spot was there"),
        ("- Write\n- Read", "write read"),
        ("она сказала Ивану Петрову да", "она сказала @ да"),
        # quotes
        ("Sort \"a b c\", 'd e' and `f(g)`; don't stop", 'sort " and " dont stop'),
        ("Read “some\nlines” or «ça» or 「これ」", 'read " or " or "'),
        ('Text: """two\n"lines" of""" end', 'text " end'),
        ("Code:\n```\nx = `y`\n```\nend", 'code " end'),
        ('A 5" disk\nand a 3" one', "a # disk and a # one"),
        ('List "a", "b", "c" now', 'list " now'),
        # letters
        ("ＦＵＬＬ ﬁne café naïve", "full fine cafe naive"),
        ("in\u200bvis\u00adible", "invisible"),
        ("cafe\u0301 = café", "cafe cafe"),
        ("…—•!?", ""),
        ("", ""),
        # writing without spaces
        ("请回答 x", "请 回 答 x"),
    ],
)
def test_the_rules(text: str, expected: str) -> None:
    assert skeleton(text) == expected


@pytest.mark.parametrize(
    "template",
    [
        'You rate replies. The customer of {name} wrote on {date}: "{span}" Rate it from 1 to 10.',
        "Translate «{span}» for {name}, order {date}, politely.",
        "请把「{span}」翻译成英文，日期 {date}。",
    ],
)
def test_filled_in_templates_have_one_skeleton(template: str) -> None:
    filled = [
        template.format(name=name, date=date, span=span)
        for name, date, span in (
            ("Globex", "3 March", "It was fine."),
            ("Jean-Luc", "2025-12-31", "Never again!\tNot once, he said"),
            ("New York", "12", "東京 42 Éa"),
        )
    ]
    kept = {skeleton(text).replace("@ # @", "#").replace("# @", "#") for text in filled}
    assert len({k.replace("@ @", "@").replace("@ luc", "@") for k in kept}) == 1


def test_the_messages_of_a_request_have_one_skeleton() -> None:
    assert skeleton_of_messages(["You are Bob.", "Say 5"]) == "you are @ say #"


texts = st.text(st.sampled_from(ADVERSARIAL), max_size=60) | st.text(st.characters(), max_size=40)


@given(texts)
def test_a_skeleton_is_masks_and_words_without_case_numbers_or_punctuation(text: str) -> None:
    result = skeleton(text)
    words = result.split(" ") if result else []
    assert "" not in words
    for word in words:
        assert word in {"#", "@", '"'} or all(unicodedata.category(c)[0] in "LMN" for c in word)
        assert not any(c.isdecimal() for c in word)
        assert not any("A" <= c <= "Z" for c in word)
    assert not any(a == b and a in '#@"' for a, b in itertools.pairwise(words))


ascii_texts = st.text(st.sampled_from("\"'`# @.,;\n-_abAB01" + string.printable), max_size=80)


@given(ascii_texts)
@example("''a'b' A B, C's")
@example('"""a""b""" "\n" ```x``')
def test_the_fast_path_of_ascii_is_the_general_one(text: str) -> None:
    clean = text.replace("\1", " ").replace("\2", " ")
    general = skeletons._tidy(skeletons._unicode_words(clean)).decode()
    assert skeleton(text) == general


@given(ascii_texts)
def test_words_become_masks_as_a_plain_reading_of_the_rules_says(text: str) -> None:
    """Rules 3 to 5 word by word, for texts without quotes and capitals."""
    text = "".join(c for c in text.lower() if c not in "\"'`")
    spaced = "".join(c if c.isalnum() else " " for c in text)
    words = ["#" if any(c.isdigit() for c in word) else word for word in spaced.split()]
    tidy = [w for i, w in enumerate(words) if w != "#" or words[i - 1 : i] != ["#"]]
    assert skeleton(text) == " ".join(tidy)


@given(st.integers(0, sys.maxunicode))
def test_no_character_breaks_it(code: int) -> None:
    for text in (chr(code), f"a{chr(code)}b", f"x {chr(code) * 3} y 5"):
        assert shingles(skeleton(text)) is not None
        skeleton(text).encode()


@pytest.fixture
def cpu_limit() -> Iterator[Callable[[float], None]]:
    """Raise in the test when it has used so many seconds of processor time."""

    def expired(*_: Any) -> None:
        raise TimeoutError("used too much processor time")

    previous = signal.signal(signal.SIGPROF, expired)
    yield lambda seconds: signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, previous)


UNITS = [
    *"\"'`“”„«»‘’「」『a1 \n.A",
    '"""',
    "```",
    '""" "',
    "`` `",
    "''a",
    "'a ",
    "“ ‘ « 「 ",
    "“‘",
    "„“",
    "A ",
    "Aa ",
    "a A",
    "a A b",
    ", A",
    "a1",
    "1a",
    "1 ",
    "a1 b ",
    "# ",
    "\1 ",
    "\1",
    "\2 \1 ",
    "A'",
    "é",
    "É ",
    "東",
    "\u0301\u0316",
    "ﷺ",
    "\u200b",
    "\ud800",
]


def test_any_text_takes_time_in_proportion_to_its_length(
    cpu_limit: Callable[[float], None],
) -> None:
    # 400,000 characters: what is linear takes a fraction of a second each, what is quadratic takes
    # minutes each. The limit is for all of them together and far from both.
    cpu_limit(60)
    for unit in UNITS:
        for start, end in (("", ""), ('"', "'"), ('"""', "a"), ("é“", "1")):
            length = 400_000 if len(unit) > 1 or not start else 100_000
            skeleton(start + unit * (length // len(unit)) + end)


@settings(max_examples=15, deadline=None)
@given(st.text(st.sampled_from(ADVERSARIAL), min_size=1, max_size=6), texts)
def test_repeated_pieces_of_any_kind_take_linear_time(piece: str, start: str) -> None:
    def expired(*_: Any) -> None:
        raise TimeoutError("used too much processor time")

    previous = signal.signal(signal.SIGPROF, expired)
    signal.setitimer(signal.ITIMER_PROF, 20)
    try:
        skeleton(start + piece * (100_000 // len(piece)))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def test_a_quadratic_search_would_be_noticed(cpu_limit: Callable[[float], None]) -> None:
    import re

    cpu_limit(0.2)
    with pytest.raises(TimeoutError):
        re.sub(r"\w*\d\w*", "#", "a" * 400_000)


def test_shingles_are_runs_of_five_words() -> None:
    assert shingles("") == frozenset()
    assert shingles("a b") == {"a b"}
    assert shingles("a b c d e") == {"a b c d e"}
    assert shingles("a b c d e f") == {"a b c d e", "b c d e f"}
    assert len(shingles("a a a a a a a")) == 1
