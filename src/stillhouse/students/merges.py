"""How a byte-pair tokenizer makes each of its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Merges:
    """The vocabulary (token: id), and the rank of each pair of pieces that may be merged."""

    names: dict[str, int]
    ranks: dict[tuple[str, str], int]
    products: tuple[int, ...]
    _made: frozenset[int] = field(repr=False)
    _pieces: dict[int, str] = field(repr=False)
    _known: dict[int, frozenset[int]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: Any) -> Self:
        """Read the `model` part of a tokenizer.json; `products` are ids in order of their merge."""
        names: dict[str, int] = model["vocab"]
        ranks: dict[tuple[str, str], int] = {}
        for rank, merge in enumerate(model["merges"]):
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            ranks.setdefault((left, right), rank)
        products = dict.fromkeys(names[left + right] for left, right in ranks)
        return cls(
            names,
            ranks,
            tuple(products),
            frozenset(products),
            {number: piece for piece, number in names.items()},
        )

    def needed(self, token: int) -> frozenset[int]:
        """Return `token` and every piece that exists while it is merged out of single symbols.

        The order in which pieces inside a token are merged does not depend on what stands around
        it, as long as nothing is merged across its ends: this is the token's part of any text.
        """
        found = self._known.get(token)
        if found is None:
            found = frozenset(self._derive(token))
            self._known[token] = found
        return found

    def _derive(self, token: int) -> set[int]:
        needed = {token}
        if token not in self._made:
            return needed  # a single symbol, or one that is found whole, like special tokens
        pieces = list(self._pieces[token])
        needed |= {self.names[piece] for piece in pieces if piece in self.names}
        while len(pieces) > 1:
            ranks = [self.ranks.get(pair) for pair in pairwise(pieces)]
            possible = [rank for rank in ranks if rank is not None]
            if not possible:
                break
            best = ranks.index(min(possible))
            pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
            needed.add(self.names[pieces[best]])
        return needed
