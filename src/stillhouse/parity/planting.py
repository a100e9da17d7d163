"""Near-copies of a text, made to measure whether they are found again."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from stillhouse.parity.likeness import NUMBER, WORD

DROPPED = (0.1, 0.2)  # share of words that a copy lacks
PUNCTUATION = re.compile(r"[^\w\s]")

Planter = Callable[[str, np.random.Generator], str]


def change_case(text: str, rng: np.random.Generator) -> str:
    """All upper, all lower, every word capitalised, or each letter swapped."""
    ways: list[Callable[[str], str]] = [str.upper, str.lower, str.title, str.swapcase]
    return ways[int(rng.integers(len(ways)))](text)


def change_punctuation(text: str, rng: np.random.Generator) -> str:
    """Each mark between words gone or another (not in a number), each space another."""
    spans = [match.span() for match in NUMBER.finditer(text)]

    def mark(match: re.Match[str]) -> str:
        inside = any(start <= match.start() < end for start, end in spans)
        return match[0] if inside else (" ", " - ", ", ", "... ")[int(rng.integers(4))]

    spaces = (" ", "  ", "\n", "\t")
    return re.sub(
        r"\s+", lambda _: spaces[int(rng.integers(len(spaces)))], PUNCTUATION.sub(mark, text)
    )


def drop_words(text: str, rng: np.random.Generator) -> str:
    """Between a tenth and a fifth of the words gone, at least one, not all."""
    spans = [match.span() for match in WORD.finditer(text)]
    count = min(max(1, round(float(rng.uniform(*DROPPED)) * len(spans))), len(spans) - 1)
    gone = sorted(rng.choice(len(spans), count, replace=False)) if count > 0 else []
    for index in reversed(gone):
        start, end = spans[index]
        text = text[:start] + text[end:]
    return text


def change_numbers(text: str, rng: np.random.Generator) -> str:
    """Every run of digits another number, at times a digit longer or shorter."""

    def other(match: re.Match[str]) -> str:
        digits = max(1, len(match[0]) + int(rng.integers(-1, 2)))
        made = "".join(str(d) for d in rng.integers(0, 10, digits))
        return made if made != match[0] else str((int(made) + 1) % 10**digits)

    return re.sub(r"[0-9]+", other, text)


def change_everything(text: str, rng: np.random.Generator) -> str:
    """All of the above, one after the other."""
    for way in (change_numbers, drop_words, change_punctuation, change_case):
        text = way(text, rng)
    return text


PLANTERS: dict[str, Planter] = {
    "case": change_case,
    "punctuation": change_punctuation,
    "dropped words": drop_words,
    "changed numbers": change_numbers,
    "all of these": change_everything,
}
