"""A training document with its labelled lines laid out otherwise.

Most layouts of a training set put a label and its value on one line. Here the same labels and
values also stand under each other, in tables with a row of labels over a row of values, in one
line, as keys of markup, and paragraphs stand beside each other. No word is added but the names of
markup; values are not read, so every line that looks like a label and a value takes part.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

Pair = tuple[str, str]  # label, value

_MARKS = r"[\s\-*|>\u2022]*"
_PAIR = re.compile(
    r"(?!>)[\s\-*|\u2022]*(?P<label>[^\W\d_][^:=|]{0,44}?)[*\s]*"
    r"(?:(?P<mark>[:=|])[*\s]*|\s{2,}|\t)(?P<value>[^\s|](?:.{0,70}?[^\s|])?)[\s|]*$"
)
_ALONE = re.compile(r"(?!>)[\s*#|]*(?P<label>[^\W\d_][^:=|\d]{0,40}?)[*\s]*:[\s*|]*$")
_ROW = 4  # labels in a row of a table
_WIDE = 46  # characters of a line that can stand beside another


def relay(text: str, random: Random, *, blocks: float = 0.8, beside: float = 0.3) -> str:
    """`text` with most of its blocks of labelled lines in one other style; values stay.

    `blocks` is the probability that a block is changed, `beside` that two paragraphs are put
    side by side.
    """
    lines = text.split("\n")
    style = random.choice(_STYLES)
    case = random.choice(_CASES)
    made: list[str] = []
    block: list[Pair] = []
    as_were: list[str] = []

    def close() -> None:
        if block:
            changed = random.random() < blocks
            pairs = [(case(label), value) for label, value in block]
            made.extend(style(pairs, random) if changed else as_were)
            block.clear()
            as_were.clear()

    skip = False
    for line, after in zip_longest(lines, lines[1:], fillvalue=""):
        if skip:
            skip = False
            continue
        pair = _pair(line, after)
        if pair is None:
            close()
            made.append(line)
            continue
        skip = pair[1] == after.strip() and not _PAIR.match(line)
        block.append(pair)
        as_were.extend([line, after] if skip else [line])
    close()
    if random.random() < beside:
        made = _side_by_side(made, random)
    return "\n".join(made)


def _pair(line: str, after: str) -> Pair | None:
    """Label and value of a line, or of a line that is a label alone and the one after it."""
    found = _PAIR.match(line)
    if found:
        value = found["value"]
        table = re.search(r"\s{2,}| \| ", value) or (
            not found["mark"] and not any(c.isdigit() for c in value)
        )
        return None if table else (found["label"], value)
    alone = _ALONE.match(line)
    below = after.strip()
    if alone and 0 < len(below) < _WIDE and not re.search(r"\s{2,}|[:=|]|^[>\-+]", below):
        return alone["label"], below
    return None


def _stacked(pairs: Sequence[Pair], random: Random) -> list[str]:
    colon = random.choice(("", "", ":"))
    between = random.choice(([], [], [""]))
    indent = random.choice(("", "", "  "))
    return [line for label, value in pairs for line in (label + colon, indent + value, *between)]


def _table(pairs: Sequence[Pair], random: Random) -> list[str]:
    wide = random.choice((2, 3, _ROW, _ROW, 5))
    bars = random.choice((False, False, True))
    rule = random.choice(("", "-", "="))
    made: list[str] = []
    for at in range(0, len(pairs), wide):
        some = pairs[at : at + wide]
        sizes = [max(len(label), len(value)) for label, value in some]
        rows = [
            [text.ljust(size) for text, size in zip(row, sizes, strict=True)]
            for row in zip(*some, strict=True)
        ]
        if bars:
            shown = [f"| {' | '.join(row)} |" for row in rows]
        else:
            gap = " " * random.choice((2, 3, 4))
            shown = [gap.join(row).rstrip() for row in rows]
        if rule:
            line = "".join("|" if bars and c == "|" else rule for c in shown[0])
            shown.insert(1, line if bars else rule * max(len(one) for one in shown))
        made += shown
        if at + wide < len(pairs) and random.random() < 0.5:
            made.append("")
    return made


def _aligned(pairs: Sequence[Pair], random: Random) -> list[str]:
    mark = random.choice(("", ":", " :", " =", " |"))
    wide = max(len(label) for label, _ in pairs) + len(mark) + random.choice((1, 2, 3))
    right = max(len(value) for _, value in pairs) if random.random() < 0.4 else 0
    dots = random.choice((" ", " ", "."))
    return [
        f"{label}{mark}{dots * (wide - len(label) - len(mark) - 1 + right - len(value))} {value}"
        if dots == "." and not mark
        else f"{(label + mark).ljust(wide)}{'' if not mark else ' '}{value.rjust(right)}"
        for label, value in pairs
    ]


def _plain(pairs: Sequence[Pair], random: Random) -> list[str]:
    mark = random.choice((": ", ":", " = ", " - ", " ", "\t", ": \t", " | ", ";"))
    front = random.choice(("", "", "- ", "* ", "  "))
    return [front + label + mark + value for label, value in pairs]


def _in_line(pairs: Sequence[Pair], random: Random) -> list[str]:
    mark = random.choice((": ", " ", " "))
    between = random.choice((" | ", "   ", "; ", ", ", " / ", " - "))
    wide = random.choice((2, 2, 3, 4))
    said = [label + mark + value for label, value in pairs]
    return [between.join(said[at : at + wide]) for at in range(0, len(said), wide)]


def _markup(pairs: Sequence[Pair], random: Random) -> list[str]:
    keys = [
        (re.sub(r"\W+", random.choice("_-"), label).strip("_-") or "value", value)
        for label, value in pairs
    ]
    form = random.choice(
        (
            '  "{0}": "{1}",',
            "  <{0}>{1}</{0}>",
            "{0}: {1}",
            "{0}={1}",
            "{0};{1}",
            "<tr><td>{0}</td><td>{1}</td></tr>",
            "<b>{0}</b> {1}<br>",
        )
    )
    return [form.format(key, value) for key, value in keys]


def _value_first(pairs: Sequence[Pair], random: Random) -> list[str]:
    form = random.choice(("{1}  ({0})", "{1} {0}", "{1}\n{0}"))
    return [line for pair in pairs for line in form.format(*pair).split("\n")]


_STYLES: tuple[Callable[[Sequence[Pair], Random], list[str]], ...] = (
    _stacked,
    _stacked,
    _table,
    _table,
    _aligned,
    _plain,
    _in_line,
    _markup,
    _value_first,
)


def _title(label: str) -> str:
    return label[:1].upper() + label[1:]


_CASES: tuple[Callable[[str], str], ...] = (str, str, str, str.upper, str.lower, _title)


def _side_by_side(lines: Sequence[str], random: Random) -> list[str]:
    """Two neighbouring paragraphs of short lines become two columns."""
    paragraphs = [one.split("\n") for one in re.split(r"\n\s*\n", "\n".join(lines))]
    spots = [
        at
        for at in range(len(paragraphs) - 1)
        if all(
            1 < len(one) < 9 and all(len(s) < _WIDE and s[:1] != ">" for s in one)
            for one in paragraphs[at : at + 2]
        )
    ]
    if not spots:
        return list(lines)
    at = random.choice(spots)
    left, right = paragraphs[at : at + 2]
    if random.random() < 0.3:
        left, right = right, left
    wide = max(len(one) for one in left) + random.choice((3, 6, 10))
    both = [
        (one.ljust(wide) + other).rstrip() for one, other in zip_longest(left, right, fillvalue="")
    ]
    return "\n\n".join(
        "\n".join(one) for one in [*paragraphs[:at], both, *paragraphs[at + 2 :]]
    ).split("\n")
