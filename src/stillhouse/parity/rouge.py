"""ROUGE-L: the F-measure of the longest common subsequence of words (Lin, 2004).

Words are runs of letters, digits and underscores after NFKC and case folding; no stemming, one
reference. With L the length of the subsequence, p and r words in reply and reference:
F = 2 L / (p + r). Two texts without a word agree fully.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Sequence

_WORD = re.compile(r"\w+")


def rouge_l(reply: str, reference: str) -> float:
    """ROUGE-L F-measure of a reply, in [0, 1]."""
    found, wanted = _words(reply), _words(reference)
    if not found and not wanted:
        return 1.0
    return 2 * common_subsequence(found, wanted) / (len(found) + len(wanted))


def common_subsequence(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence.

    Bit-parallel over `a` (Hyyro, 2004): one pass over `b` with integers of len(a) bits.
    """
    positions: dict[Hashable, int] = {}
    for index, word in enumerate(a):
        positions[word] = positions.get(word, 0) | 1 << index
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        hits = row & positions.get(word, 0)
        row = (row + hits | row - hits) & full
    return len(a) - row.bit_count()


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
