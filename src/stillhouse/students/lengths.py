"""What a trimmed vocabulary costs in length: tokens of each document, before and after."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens per document under the parent's tokenizer and under the trimmed one, in order."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def as_json(self) -> dict[str, float]:
        """Return counts, means, the largest growth of a document, and how many grew."""
        pairs = list(zip(self.before, self.after, strict=True))
        return {
            "documents": len(self.before),
            "tokens_before": statistics.fmean(self.before),
            "tokens_after": statistics.fmean(self.after),
            "longest_before": max(self.before),
            "longest_after": max(self.after),
            "largest_growth": max(
                a / max(1, b) for a, b in zip(self.after, self.before, strict=True)
            ),
            "documents_longer": sum(after > before for before, after in pairs),
        }


def measure_lengths(texts: Sequence[str], parent: Any, trimmed: Any) -> Lengths:
    """Count the tokens of each text under both tokenizers (special tokens are in the text).

    Raises `InputError` when the trimmed tokenizer writes a text back differently than the parent:
    such a vocabulary must not be used.
    """
    counts: dict[str, list[int]] = {"before": [], "after": []}
    for text in texts:
        written = []
        for name, tokenizer in (("before", parent), ("after", trimmed)):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            counts[name].append(len(ids))
            written.append(tokenizer.decode(ids, skip_special_tokens=False))
        if written[0] != written[1]:
            raise InputError(
                f"the trimmed tokenizer writes {written[1][:80]!r} for {written[0][:80]!r}",
                repair="keep the whole vocabulary, and report this tokenizer",
            )
    return Lengths(before=tuple(counts["before"]), after=tuple(counts["after"]))
