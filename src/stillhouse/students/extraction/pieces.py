"""Text cut into pieces that an encoder reads, each with its place and its shape.

Line breaks, gaps of two blanks and more, and ruled lines are pieces of their own: in a document
without markup they are the layout. Letters and digits never share a piece, so every reading starts
and ends at a piece.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_PIECE = re.compile(r"\n|[ \t]{2,}|\t|([-=_*+.~#])\1{3,}|\d+|[^\W\d_]+|[^ \t]")
SHAPES = 20
_BREAK, _GAP, _RULE = "[unused1]", "[unused2]", "[unused3]"


@dataclass(frozen=True, slots=True)
class Pieces:
    """Ids, shapes (0 to SHAPES - 1) and first characters of the pieces, special ones included."""

    ids: tuple[int, ...]
    shapes: tuple[int, ...]
    starts: tuple[int, ...]

    def at(self, character: int) -> int:
        """The piece that holds this character."""
        return bisect.bisect_right(self.starts, character) - 1


class Cutter:
    """Cuts text with a WordPiece tokenizer (of the `tokenizers` package), remembering words."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, tuple[list[int], list[int]]] = {}
        self._first = self._id("[CLS]")
        self._last = self._id("[SEP]")
        self._special = {one: self._id(one) for one in (_BREAK, _GAP, _RULE)}
        self.mask = self._id("[MASK]")

    def cut(self, text: str, limit: int = 512) -> Pieces:
        """The pieces of `text`, at most `limit` of them; what does not fit is not read."""
        ids, shapes, starts = [self._first], [0], [-1]
        for found in _PIECE.finditer(text):
            word, at = found.group(), found.start()
            glued = at > 0 and not text[at - 1].isspace()
            shape = _shape(word) + (SHAPES // 2 if glued else 0)
            special = self._layout(word)
            if special is not None:
                ids.append(special)
                shapes.append(shape)
                starts.append(at)
                continue
            for number, offset in zip(*self._words(word), strict=True):
                ids.append(number)
                shapes.append(shape)
                starts.append(at + offset)
        ids, shapes, starts = ids[: limit - 1], shapes[: limit - 1], starts[: limit - 1]
        return Pieces((*ids, self._last), (*shapes, 0), (*starts, len(text)))

    def _layout(self, word: str) -> int | None:
        if word == "\n":
            return self._special[_BREAK]
        if word[0] in " \t":
            return self._special[_GAP]
        return self._special[_RULE] if len(word) > 3 and not word[0].isalnum() else None

    def _words(self, word: str) -> tuple[list[int], list[int]]:
        if word not in self._known:
            made = self._tokenizer.encode(word, add_special_tokens=False)
            ids, offsets = list(made.ids), [start for start, _ in made.offsets]
            self._known[word] = (ids, offsets) if ids else ([self._id("[UNK]")], [0])
        return self._known[word]

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(
                f"the tokenizer has no {token}: a WordPiece tokenizer of BERT is meant"
            )
        return int(number)


def _shape(word: str) -> int:
    if word == "\n":
        return 1
    if word[0] in " \t":
        return 2
    if len(word) > 3 and not word[0].isalnum():
        return 3
    if word.isdigit():
        return 4
    if not word[0].isalpha():
        return 5
    if word.islower():
        return 6
    if word.isupper():
        return 7 if len(word) > 1 else 8
    return 9


def longest(pieces: Sequence[Pieces]) -> int:
    """Length of the longest."""
    return max(len(one.ids) for one in pieces)
