"""The skeleton of a prompt: what stays when a template is filled in with other values.

The rules, in this order:

1. Quoted spans become `"`: between straight quotes (double, single, back-tick) within a line,
   between tripled quotes or back-ticks over lines, between directed quotes (“” „“ «» ‘’ 「」 『』)
   over lines.
2. Names become `@`: a run of words with a capital first letter, unless it starts a sentence (then
   its first letter says nothing). Scripts without capitals have no names here.
3. Letters lose case, accents and compatibility forms (full width, ligatures); invisible characters
   go; punctuation and symbols become spaces; apostrophes go.
4. A word with a digit in it becomes `#`.
5. Runs of one mask become one mask. Writing without spaces (Han, kana, Thai, Lao, Khmer, Burmese)
   counts as one word a character.

What it does not see: names at the start of a sentence, number words, look-alike letters of other
scripts. Every step is linear in the length of the text, whatever the text is.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SHINGLE_WORDS = 5
_NAME, _QUOTE = "\1", "\2"  # stand-ins until punctuation is gone; the input's own are removed

# Each alternative fails only after a scan that no later attempt of its kind repeats: a body never
# holds its own opener, and nothing backtracks (possessive quantifiers).
_STRAIGHT = (
    r'"""(?:[^"]|"(?!""))*+"""'
    r"|```(?:[^`]|`(?!``))*+```"
    r'|"[^"\n]*+"'
    r"|`[^`\n]*+`"
    r"|'(?<!\w')[^'\n]*+'(?!\w)"
)
_QUOTED = re.compile(_STRAIGHT)
_QUOTED_ASCII = re.compile(_STRAIGHT.encode())
_DIRECTED = re.compile(
    r"“[^“”]*+”|„[^„“”]*+[“”]|«[^«»]*+»|‘(?<!\w‘)[^‘’]*+’(?!\w)|「[^「」]*+」|『[^『』]*+』"
)
# The capital comes first so that the search can skip to it.
_NAMES = r"[{0}](?<=[\w,;\2] [{0}])[\w']*+(?: [{0}][\w']*+)*+"
_NAMES_ASCII = re.compile(_NAMES.format("A-Z").encode())
_MASK_RUNS = [(m + b" " + m, m, re.compile(m + b"(?: " + m + b")++")) for m in (b"#", b"@", b'"')]
_DIGIT_WORD = re.compile(rb"#[^ ]++")
_COMMON = {"\u2019": "'", "\u2013": "-", "\u2014": "-", "\u2026": ".", "\u00a0": " ", "\u2022": "*"}
_REMEMBERED = 0x20000
_NO_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x9FFF),  # Han
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def skeleton(text: str) -> str:
    """Return the masked words of `text`, lower case, one space apart."""
    if _NAME in text or _QUOTE in text:
        text = text.replace(_NAME, " ").replace(_QUOTE, " ")
    if not text.isascii():
        text = _DIRECTED.sub(f" {_QUOTE} ", text)
        for found, plain in _COMMON.items():
            text = text.replace(found, plain)
    words = _ascii_words(text.encode()) if text.isascii() else _unicode_words(text)
    return _tidy(words).decode()


def skeleton_of_messages(contents: Iterable[str]) -> str:
    """Return one skeleton for the texts of several messages, in order."""
    return skeleton("\n\n".join(contents))


def shingles(skeleton_text: str) -> frozenset[str]:
    """Return the runs of five words of a skeleton; of a shorter one, all its words as one run.

    The similarity of two prompts is the Jaccard index of these sets. Plain and slow: it defines
    what signatures estimate.
    """
    words = skeleton_text.split()
    if not words:
        return frozenset()
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(words[i : i + SHINGLE_WORDS]) for i in range(count))


def _ascii_words(text: bytes) -> bytes:
    if b'"' in text or b"'" in text or b"`" in text:
        text = _QUOTED_ASCII.sub(b" \2 ", text)
    text = _NAMES_ASCII.sub(b"\1", text)
    return text.translate(_ASCII_TABLE, b"'")


def _unicode_words(text: str) -> bytes:
    text = _QUOTED.sub(f" {_QUOTE} ", text)
    text = _unicode_names().sub(_NAME, text)
    return text.translate(_FOLDED).encode()


def _tidy(words: bytes) -> bytes:
    if b"#" in words:
        # To the right of the first digit, then to the left of it, back to the space before.
        *before, last = _DIGIT_WORD.sub(b"#", words).split(b"#")
        words = b"#".join([*(part[: part.rfind(b" ") + 1] for part in before), last])
    # Each pass halves every run of spaces, so all passes together are linear.
    while b"  " in words:
        words = words.replace(b"  ", b" ")
    words = words.strip(b" ")
    for pair, mask, run in _MASK_RUNS:
        if pair in words:
            words = run.sub(mask, words)
    return words


def _fold(character: str) -> str:
    """Return what rules 3 to 5 make of one character."""
    category = unicodedata.category(character)
    if character in (_NAME, _QUOTE):
        return "@" if character == _NAME else '"'
    if category == "Cf" or character == "'" or "\ufe00" <= character <= "\ufe0f":
        return ""
    parts = (c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    plain = unicodedata.normalize("NFKC", "".join(parts)).lower()
    folded = "".join(_fold_part(part) for part in plain)
    if any(low <= ord(character) <= high for low, high in _NO_SPACES):
        return f" {folded} "
    return folded


def _fold_part(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return "#"
    if unicodedata.combining(character):
        return ""
    return character if category[0] in "LMN" else " "


class _Folded(dict[int, str]):
    """Folded characters, worked out when first met."""

    def __missing__(self, code: int) -> str:
        folded = _fold(chr(code))
        # Bounded, so that rare characters cannot fill the memory.
        if code < _REMEMBERED:
            self[code] = folded
        return folded


_FOLDED = _Folded()
_ASCII_TABLE = bytes(ord(_fold(chr(code)) or " ") if code < 128 else 32 for code in range(256))


@functools.cache
def _unicode_names() -> re.Pattern[str]:
    # Beyond the first plane the set would lose the compact form that makes the search fast.
    capitals = [c for c in map(chr, range(0x10000)) if c.isupper() or c.istitle()]
    return re.compile(_NAMES.format("".join(capitals)))
