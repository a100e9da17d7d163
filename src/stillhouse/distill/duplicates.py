"""Prompts that say the same: exactly, without case and punctuation, or nearly.

Numbers count: an invoice over another amount is another example. Two texts are near-duplicates when
each is in the other (`stillhouse.parity.likeness`, both directions), so that a snippet and the
longer text that quotes it both stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stillhouse.parity.likeness import FEWEST_WORDS, Rarity, likeness, words_of

Sameness = Literal["exact", "normalised", "near"]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Text `index` repeats the text `first`, which is kept; `likeness` is the lesser direction."""

    index: int
    first: int
    sameness: Sameness
    likeness: float


def find_duplicates(
    texts: Sequence[str], near: float | None, *, kept: int = 0
) -> tuple[Duplicate, ...]:
    """Which texts repeat an earlier one that is itself kept, in the order of `texts`.

    `near` is the least likeness of near-duplicates; None looks for equal words only. Texts under
    five words are compared whole. The first `kept` texts are kept whatever they repeat.
    """
    found: dict[int, Duplicate] = {}
    first_exact: dict[str, int] = {}
    first_words: dict[str, int] = {}
    for index, text in enumerate(texts):
        plain = text.strip()
        words = " ".join(words_of(text, numbers=True)) or plain
        if index < kept:
            first_exact.setdefault(plain, index)
            first_words.setdefault(words, index)
        elif plain in first_exact:
            found[index] = Duplicate(index, first_exact[plain], "exact", 1.0)
        elif words in first_words:
            found[index] = Duplicate(index, first_words[words], "normalised", 1.0)
        else:
            first_exact[plain] = first_words[words] = index
    if near is not None:
        left = [
            index
            for index, text in enumerate(texts)
            if index not in found and len(words_of(text, numbers=True)) >= FEWEST_WORDS
        ]
        for later, earlier, score in _near_pairs([texts[index] for index in left], near):
            index, first = left[later], left[earlier]
            if index >= kept and index not in found and first not in found:
                found[index] = Duplicate(index, first, "near", score)
    return tuple(found[index] for index in sorted(found))


def _near_pairs(texts: Sequence[str], near: float) -> list[tuple[int, int, float]]:
    """(later, earlier, likeness) of every two texts that are each in the other, in order."""
    encoded = Rarity(texts, numbers=True).encode(texts)
    directed: dict[tuple[int, int], float] = {}
    for rows, cols, scores in likeness(encoded, encoded):
        hit = (scores >= near) & (rows != cols)
        for row, col, score in zip(rows[hit], cols[hit], scores[hit], strict=True):
            directed[int(row), int(col)] = float(score)
    return sorted(
        (one, other, min(score, directed[other, one]))
        for (one, other), score in directed.items()
        if other < one and (other, one) in directed
    )
