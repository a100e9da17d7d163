"""Test items in the training data are found, honest items are left alone, and both are measured."""

import math
import unicodedata
from collections import Counter

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.exchanges import InputError
from stillhouse.parity.contamination import check_contamination
from stillhouse.parity.items import Item
from stillhouse.parity.likeness import (
    COMMON,
    ENOUGH,
    GAP,
    MOST,
    SHORTEST,
    Rarity,
    likeness,
    likeness_of_pairs,
    words_of,
)
from stillhouse.parity.planting import PLANTERS, change_numbers, drop_words


def item(name: str, text: str, group: str | None = None) -> Item:
    return Item(id=name, messages=(), variable=text, group=group or name)


def items(prefix: str, texts: list[str]) -> list[Item]:
    return [item(f"{prefix}{i}", text) for i, text in enumerate(texts)]


def syllables(rng: np.random.Generator, count: int) -> list[str]:
    parts = ["ba", "ko", "ri", "tel", "mu", "san", "do", "fi", "ler", "po", "gra", "nit", "u", "ve"]
    return ["".join(rng.choice(parts, rng.integers(1, 5))) for _ in range(count)]


def prose(rng: np.random.Generator, count: int, low: int = 10, high: int = 20) -> list[str]:
    """Short texts whose words have the frequencies of real ones (Zipf)."""
    vocabulary = list(dict.fromkeys(syllables(rng, 6000)))
    share = 1 / np.arange(1, len(vocabulary) + 1)
    share /= share.sum()
    texts = []
    for _ in range(count):
        words = list(rng.choice(vocabulary, rng.integers(low, high + 1), p=share))
        if rng.random() < 0.3:
            words.insert(len(words) // 2, str(rng.integers(2, 5000)))
        texts.append(" ".join(words).capitalize() + ".")
    return texts


def forms(rng: np.random.Generator, count: int, layout: int) -> list[str]:
    """Documents of one layout: about two words in three are the form's own."""
    own = syllables(np.random.default_rng(layout), 45)
    names = syllables(np.random.default_rng(99), 400)
    texts = []
    for _ in range(count):
        a, b, c, d = (f"{x} {y}".title() for x, y in rng.choice(names, (4, 2)))
        texts.append(
            f"{' '.join(own[:15])} {a}\n{' '.join(own[15:25])}: {b}, {rng.integers(10**5)}\n"
            f"{' '.join(own[25:35])} {c} ({rng.integers(400)}.{rng.integers(100):02d} EUR)\n"
            f"{' '.join(own[35:])} {d} on {rng.integers(1, 29)}.{rng.integers(1, 13)}.2026"
        )
    return texts


def data(kind: str, rng: np.random.Generator, count: int = 600) -> tuple[list[str], list[str]]:
    if kind == "prose":
        texts = prose(rng, count)
    else:
        texts = [t for layout in range(10) for t in forms(rng, count // 10, layout)]
        rng.shuffle(texts)
    cut = len(texts) * 3 // 4
    return texts[:cut], texts[cut:]


@pytest.mark.parametrize("kind", ["prose", "forms"])
def test_both_rates_are_within_what_is_promised_and_true(kind: str) -> None:
    rng = np.random.default_rng(5)
    train, test = data(kind, rng, 1400)
    report = check_contamination(items("a", train), items("b", test), seed=3)
    assert report.clean
    assert report.sharp
    assert report.numbers == "ignored"
    assert report.recall is not None
    assert report.recall.low >= 0.95
    assert report.false_alarms is not None
    assert report.false_alarms.high <= 0.01
    assert set(report.recall_by_kind) == set(PLANTERS)

    # The same threshold on copies and honest texts that the check has not seen.
    copies = [PLANTERS["all of these"](text, rng) for text in test]
    dirty = check_contamination(items("a", [*train, *copies]), items("b", test), seed=3)
    own = {f"a{len(train) + i}" for i in range(len(copies))}
    assert len(dirty.test_ids) >= 0.95 * len(test)
    assert set(dirty.train_ids) <= own


@pytest.mark.parametrize("kind", ["prose", "forms"])
@pytest.mark.parametrize("way", [*PLANTERS, "word for word", "inside a longer text"])
def test_a_copy_of_any_kind_is_found_and_both_items_are_named(kind: str, way: str) -> None:
    rng = np.random.default_rng(6)
    train, test = data(kind, rng)
    text = next(t for t in test if any(map(str.isdigit, t)))
    if way == "word for word":
        copy = f" {text}\n"
    elif way == "inside a longer text":
        copy = f"{train[0]} {text} {train[1]}"
    else:
        copy = PLANTERS[way](text, rng)
    report = check_contamination(items("a", [*train, copy]), items("b", test))
    assert [(hit.train_id, hit.test_text) for hit in report.hits] == [(f"a{len(train)}", text)]
    expected = {"word for word": "exact", "case": "normalised", "punctuation": "normalised"}
    assert report.hits[0].kind == expected.get(way, "near")
    with pytest.raises(InputError, match=f"test {report.test_ids[0]} ") as caught:
        report.require_clean()
    assert f"training prompt a{len(train)} " in caught.value.message
    assert "drop" in str(caught.value.repair)


def test_a_check_that_ignored_what_is_rare_would_take_forms_for_copies() -> None:
    one, other = forms(np.random.default_rng(7), 2, layout=3)
    shared = set(words_of(one, numbers=False)) & set(words_of(other, numbers=False))
    assert len(shared) / len(set(words_of(one, numbers=False))) > 0.75


def test_a_reply_that_repeats_a_test_item_is_found() -> None:
    train, test = data("prose", np.random.default_rng(8))
    replies = {"a0": f"You could say: {test[5]}", "a1": "positive"}
    report = check_contamination(items("a", train), items("b", test), replies=replies)
    assert [(hit.source, hit.train_id, hit.test_id) for hit in report.hits] == [
        ("reply", "a0", "b5")
    ]


def test_where_only_numbers_differ_they_are_compared() -> None:
    rng = np.random.default_rng(9)
    pairs = rng.permutation(1000 * 1000)[:800]
    texts = [f"What is the sum of {p // 1000} and {p % 1000}, please?" for p in pairs]
    train, test = items("a", texts[:600]), items("b", texts[600:])
    report = check_contamination(train, test)
    assert report.numbers == "compared"
    assert report.clean
    assert "changed numbers" not in report.recall_by_kind
    dirty = check_contamination([*train, item("copy", texts[700].upper())], test)
    assert dirty.train_ids == ("copy",)


def test_short_texts_are_compared_whole_and_counted() -> None:
    train, test = data("prose", np.random.default_rng(10))
    short = [item("s0", "so good"), item("s1", "so very good")]
    one = check_contamination(
        [*items("a", train), item("c", "So good!")], [*items("b", test), *short]
    )
    assert one.short_test_items == 2
    assert "under 5 words" in one.summary()
    # of one or two words the signs count too
    assert one.clean
    two = check_contamination(
        [*items("a", train), item("c", "So VERY good!")], [*items("b", test), *short]
    )
    assert [(hit.kind, hit.test_id) for hit in two.hits] == [("normalised", "s1")]


def test_a_common_phrase_inside_a_long_text_is_no_copy() -> None:
    rng = np.random.default_rng(11)
    train, test = data("prose", rng)
    phrase = "you get what you pay for"
    train = [f"{text} {phrase}" if i % 40 == 0 else text for i, text in enumerate(train)]
    assert check_contamination(items("a", train), items("b", [*test, phrase])).clean


def test_scripts_without_spaces_are_compared_too() -> None:
    rng = np.random.default_rng(12)
    signs = [chr(c) for c in range(0x4E00, 0x4E00 + 1500)]
    texts = ["".join(rng.choice(signs, rng.integers(12, 25))) for _ in range(600)]
    train, test = items("a", texts[:450]), items("b", texts[450:])
    copy = drop_words(texts[500], rng)
    report = check_contamination([*train, item("copy", copy)], test)
    assert report.sharp
    assert [(hit.train_id, hit.test_id) for hit in report.hits] == [("copy", "b50")]


def test_texts_that_share_nothing_rare_are_said_to_hide_copies() -> None:
    words = ["good", "bad", "fair"]
    texts = [f"the film number {n} was {words[n % 3]} to us" for n in range(240)]
    train, test = items("a", texts[:180]), items("b", texts[180:])
    report = check_contamination(train, test)
    assert report.clean
    assert report.recall is not None
    assert report.false_alarms is not None
    assert report.false_alarms.estimate <= 0.01, "having nothing in common is no likeness"
    dropped = report.recall_by_kind["dropped words"].estimate
    copies = [item(f"c{n}", drop_words(one.variable, np.random.default_rng(n)))
              for n, one in enumerate(test)]  # fmt: skip
    found = check_contamination([*train, *copies], test)
    own = {one.id for one in copies}
    assert len(own & set(found.train_ids)) <= len(own) * (dropped + 0.15), "what is said is true"
    if not report.sharp:
        assert "fewer than the promised 95 %" in report.summary()


def test_true_duplicates_within_a_split_are_shown_and_do_not_blind_the_check() -> None:
    rng = np.random.default_rng(13)
    train, test = data("prose", rng)
    doubled = [*train, *(drop_words(text, rng) for text in train[:150])]
    report = check_contamination(items("a", [*doubled, test[0].upper()]), items("b", test))
    assert report.false_alarms is not None
    assert report.false_alarms.estimate > 0.01
    assert not report.sharp
    assert "may be true near-duplicates" in report.summary()
    assert report.honest_matches
    assert report.recall is not None
    assert report.recall.low > 0.95
    assert report.test_ids == ("b0",)


def test_items_of_one_group_are_never_honest_pairs() -> None:
    rng = np.random.default_rng(14)
    train, test = data("prose", rng)
    grouped = [item(f"a{i}", t, group=f"g{i}") for i, t in enumerate(train)]
    grouped += [item(f"c{i}", drop_words(t, rng), group=f"g{i}") for i, t in enumerate(train[:150])]
    assert check_contamination(grouped, items("b", test)).sharp


def test_planted_copies_of_three_texts_are_not_800_draws() -> None:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 6)) for _ in range(3000)]
    made = [item(str(n), " ".join(rng.choice(words, 20))) for n in range(303)]
    found = check_contamination(made[3:], made[:3])
    assert found.recall is not None
    assert found.recall.estimate > 0.95
    assert found.recall.low < 0.9
    assert {one.n for one in found.recall_by_kind.values()} == {3}


def test_the_report_is_the_same_every_time_and_is_json() -> None:
    train, test = data("forms", np.random.default_rng(15))
    one, two = (check_contamination(items("a", train), items("b", test), seed=4) for _ in range(2))
    assert one == two
    assert orjson.loads(orjson.dumps(one.as_json()))["clean"] is True
    assert one.recall is not None
    assert 375 < one.recall.n < 750, "five kinds of copies of 150 texts, measured on most of them"
    assert f" of {one.recall.n}" in one.summary()


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ([], []),
        (["a b c d e f"], []),
        ([], ["a b c d e f"]),
        (["", "!"], ["?", " "]),
        (["x"], ["y"]),
    ],
)
def test_next_to_nothing_is_checked_without_a_false_word(train: list[str], test: list[str]) -> None:
    report = check_contamination(items("a", train), items("b", test))
    assert report.clean
    assert report.false_alarms is None or report.false_alarms.n <= 1
    assert "contamination: none found" in report.summary()


def test_planted_copies_differ_as_their_name_says() -> None:
    rng = np.random.default_rng(16)
    text = "Call 555-0199 before 14.03.2026, order No. 7, at the latest by noon of that day."
    for name, plant in PLANTERS.items():
        copies = {plant(text, rng) for _ in range(20)}
        assert text not in copies or name in ("case", "punctuation"), name
        assert len(copies) > 3, name
    assert words_of(PLANTERS["punctuation"](text, rng), numbers=True) == words_of(
        text, numbers=True
    )
    assert words_of(change_numbers(text, rng), numbers=False) == words_of(text, numbers=False)
    for _ in range(50):
        kept = words_of(drop_words(text, rng), numbers=True)
        assert 1 <= len(words_of(text, numbers=True)) - len(kept) <= 5


def slow_likeness(query: str, other: str, texts: list[str]) -> float:
    """The formula of likeness.py, word by word."""

    def near(text: str, gap: int) -> set[tuple[str, ...]]:
        words = words_of(text, numbers=False)
        found: set[tuple[str, ...]] = {(word,) for word in words}
        for i in range(len(words)):
            found |= {(words[i], words[j]) for j in range(i + 1, min(i + gap, len(words) - 1) + 1)}
        return found

    df = Counter(feature for text in texts for feature in near(text, GAP))
    n = len(texts)

    def weight(features: set[tuple[str, ...]]) -> float:
        total = 0.0
        for feature in features:
            count = df.get(feature)
            if count is None:
                total += math.log(max(n, 2))
            elif count <= min(max(10, COMMON * n), MOST):
                total += math.log(n / count)
        return total

    shared = weight({f for f in near(query, GAP) & near(other, 1) if f in df})
    q, c = weight(near(query, 1)), weight(near(other, 1))
    whole = min(max(c, SHORTEST * q), max(q, ENOUGH * math.log(max(n, 2))))
    return shared / max(whole, 1e-9)


SMALL = st.lists(st.sampled_from(["a", "b", "c", "7", "É", "d1"]), max_size=9).map(" ".join)


@settings(deadline=None)
@given(st.lists(SMALL, min_size=1, max_size=14), SMALL)
def test_likeness_is_its_formula(texts: list[str], copy: str) -> None:
    rarity = Rarity(texts, numbers=False)
    corpus = rarity.encode([*texts, copy])
    found = {}
    for rows, cols, scores in likeness(rarity.encode(texts), corpus):
        found |= {(q, c): s for q, c, s in zip(rows, cols, scores, strict=True)}
    for q, query in enumerate(texts):
        for c, other in enumerate([*texts, copy]):
            expected = slow_likeness(query, other, texts)
            assert found.get((q, c), 0.0) == pytest.approx(expected, abs=1e-9)
    paired = likeness_of_pairs(rarity.encode(texts), rarity.encode([copy] * len(texts)))
    assert paired == pytest.approx([slow_likeness(text, copy, texts) for text in texts])


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_words_do_not_depend_on_case_or_unicode_form(text: str) -> None:
    words = words_of(text, numbers=True)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert words_of(unicodedata.normalize(form, text), numbers=True) == words
