"""Is any test item, or a near-copy of it, among what is trained on?

Compared is the variable part of the prompt: exactly; without case, punctuation and spacing; and by
`likeness` above a threshold. The threshold is set on half of, and both error rates are measured on
the other half of, the very data that is checked: recall on copies of test items that are planted
here, false alarms on items that belong together in one split and are compared across groups.
Two things this cannot see: paraphrase, and near-copies of texts under five words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.items import Item
from stillhouse.parity.likeness import (
    FEWEST_WORDS,
    Rarity,
    likeness,
    likeness_of_pairs,
    words_of,
)
from stillhouse.parity.planting import PLANTERS
from stillhouse.statistics import Interval, binomial_interval

PLANTED_PER_KIND = 400
HONEST = 4_000
USUAL_THRESHOLD = 0.8  # where honest texts of two unlike data sets end, see docs/data.md
HIGHEST_THRESHOLD = 0.9
LOWEST_THRESHOLD = 0.05  # below, two texts share next to nothing that is rare: nothing is told
RECALL_WANTED = 0.95
FALSE_ALARMS_WANTED = 0.01
LISTED = 1_000

Kind = Literal["exact", "normalised", "near"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A test item and the training text (a prompt, or a teacher's reply) that holds it."""

    kind: Kind
    likeness: float
    train_id: str
    test_id: str
    train_text: str
    test_text: str
    source: Literal["prompt", "reply"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContaminationReport:
    """What was found, and how well this check finds things on this data.

    `recall` is over all kinds of planted copies, `false_alarms` over honest items; None where the
    data has nothing to measure it on. With `numbers` "compared", items differ in little but
    numbers: a copy with other numbers is then another item, and is not planted. `hits` lists the
    first 1,000; `train_ids` and `test_ids` are complete.
    """

    hits: tuple[Hit, ...]
    train_ids: tuple[str, ...]
    test_ids: tuple[str, ...]
    threshold: float
    numbers: Literal["ignored", "compared"]
    recall: Interval | None
    recall_by_kind: Mapping[str, Interval]
    false_alarms: Interval | None
    honest_matches: tuple[tuple[str, str], ...]
    train_items: int
    test_items: int
    short_test_items: int
    seed: int

    @property
    def clean(self) -> bool:
        """No test item was found in training."""
        return not self.train_ids

    @property
    def sharp(self) -> bool:
        """Both rates, as measured on this data, are what the check promises."""
        return (
            self.recall is not None
            and self.recall.estimate >= RECALL_WANTED
            and self.false_alarms is not None
            and self.false_alarms.estimate <= FALSE_ALARMS_WANTED
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values for the run's files."""
        return dataclasses.asdict(self) | {"clean": self.clean, "sharp": self.sharp}

    def summary(self) -> str:
        """A few lines for the terminal."""
        found = f"{len(self.test_ids)} test items in {len(self.train_ids)} training items"
        kept = f"{self.test_items} test items against {self.train_items} training items"
        lines = [
            f"contamination: {'none found' if self.clean else found} ({kept})",
            f"  planted near-copies found: {_rate(self.recall)}"
            + "".join(f"; {k} {v.estimate:.1%}" for k, v in self.recall_by_kind.items()),
            f"  false alarms on honest items: {_rate(self.false_alarms)}",
        ]
        if self.recall is not None and self.recall.estimate < RECALL_WANTED:
            lines.append(
                "  fewer than the promised 95 %: these texts are too alike or too short for near-"
                "copies to be told from others; exact ones are always found"
            )
        if self.numbers == "compared":
            lines.append("  items differ in their numbers only: copies with others are not copies")
        if self.false_alarms is not None and self.false_alarms.estimate > FALSE_ALARMS_WANTED:
            lines.append("  those may be true near-duplicates within one split, for example:")
            lines += [
                f"    {one[:60]!r} ~ {other[:60]!r}" for one, other in self.honest_matches[:3]
            ]
        if self.short_test_items:
            lines.append(
                f"  {self.short_test_items} test items have under {FEWEST_WORDS} words:"
                " of these only exact copies are found"
            )
        lines += [
            f"  {hit.kind}: test {hit.test_id} {hit.test_text[:60]!r} = training {hit.source}"
            f" {hit.train_id} {hit.train_text[:60]!r}"
            for hit in self.hits[:10]
        ]
        return "\n".join(lines)

    def require_clean(self) -> None:
        """Raise InputError listing the pairs when there is any."""
        if not self.clean:
            raise InputError(
                self.summary(),
                repair="drop these training items (curate.contamination: drop), or set data.group"
                " to what the copies share, so that a split keeps them together",
            )


def check_contamination(
    train: Sequence[Item],
    test: Sequence[Item],
    *,
    replies: Mapping[str, str] | None = None,
    seed: int = 0,
) -> ContaminationReport:
    """Look for the test items in the training items, and in the teacher's `replies` to them by id.

    Deterministic for a seed. Cost grows with what texts share beyond the common: 10,000 training
    items against 3,000 test items of twenty words take seconds.
    """
    rng = np.random.default_rng(seed)
    corpus = [(item.id, item.variable, "prompt") for item in train]
    if replies:
        corpus += [(i.id, replies[i.id], "reply") for i in train if i.id in replies]
    texts = [item.variable for item in (*train, *test)]
    first = _Check(train, test, texts, rng, numbers=False)
    check = first
    if not first.adequate:
        second = _Check(train, test, texts, rng, numbers=True)
        fewer = sum(second.alarms) * 4 <= sum(first.alarms)  # numbers are what tells items apart
        if second.adequate and (fewer or not first.recalls):
            check = second
        elif not first.recalls and second.share(second.found) > first.share(second.found):
            check = second  # neither is good enough, and this one is better at the same copies
    found = check.matches([text for _, text, _ in corpus])
    hits = [
        Hit(
            kind=kind,
            likeness=round(score, 4),
            train_id=corpus[at][0],
            test_id=test[q].id,
            train_text=corpus[at][1],
            test_text=test[q].variable,
            source="prompt" if corpus[at][2] == "prompt" else "reply",
        )
        for (q, at), (kind, score) in sorted(found.items())
    ]
    return ContaminationReport(
        hits=tuple(hits[:LISTED]),
        train_ids=tuple(dict.fromkeys(hit.train_id for hit in hits)),
        test_ids=tuple(dict.fromkeys(hit.test_id for hit in hits)),
        threshold=round(check.threshold, 4),
        numbers="compared" if check.numbers else "ignored",
        recall=_interval(
            [hit for found in check.found.values() for hit in found], sum(check.texts.values())
        ),
        recall_by_kind={
            kind: interval
            for kind, found in check.found.items()
            if (interval := _interval(found, check.texts[kind])) is not None
        },
        false_alarms=_interval(check.alarms, len(check.alarms)),
        honest_matches=check.honest_matches,
        train_items=len(train),
        test_items=len(test),
        short_test_items=sum(not _is_long(item.variable) for item in test),
        seed=seed,
    )


class _Check:
    """One way to compare (numbers ignored or not), calibrated and measured on the data."""

    def __init__(
        self,
        train: Sequence[Item],
        test: Sequence[Item],
        texts: Sequence[str],
        rng: np.random.Generator,
        *,
        numbers: bool,
    ) -> None:
        self.numbers = numbers
        self.test = test
        self.rarity = Rarity(texts, numbers=numbers)
        self.texts: dict[str, int] = {}  # test items that copies of a kind were measured on
        planted = self._plant(rng)
        honest, pairs = self._honest(train, test, rng)
        near = [score for kind in planted.values() for score, equal in kind[::2] if not equal]
        self.threshold = _threshold(np.array(near), honest[::2])
        self.found = {
            name: [equal or score >= self.threshold for score, equal in kind[1::2]]
            for name, kind in planted.items()
        }
        self.alarms = [bool(score >= self.threshold) for score in honest[1::2]]
        self.honest_matches = tuple(
            pair for score, pair in zip(honest, pairs, strict=True) if score >= self.threshold
        )[:10]
        measured = [hit for found in self.found.values() for hit in found]
        self.recalls = bool(measured) and float(np.mean(measured)) >= RECALL_WANTED
        self.adequate = self.recalls and (
            not self.alarms or float(np.mean(self.alarms)) <= FALSE_ALARMS_WANTED
        )

    def share(self, kinds: Iterable[str]) -> float:
        """How many of the planted copies of these kinds are found; 0 where there are none."""
        hits = [hit for kind in kinds for hit in self.found.get(kind, ())]
        return float(np.mean(hits)) if hits else 0.0

    def _plant(self, rng: np.random.Generator) -> dict[str, list[tuple[float, bool]]]:
        """For each kind: (likeness of a test item to its copy, whether the words are equal)."""
        long = [item.variable for item in self.test if _is_long(item.variable)]
        out: dict[str, list[tuple[float, bool]]] = {}
        for name, plant in PLANTERS.items():
            if self.numbers and name in ("changed numbers", "all of these"):
                continue
            usable = [t for t in long if name != "changed numbers" or any(map(str.isdigit, t))]
            if not usable:
                continue
            few = len(usable) < PLANTED_PER_KIND
            chosen = rng.choice(len(usable), PLANTED_PER_KIND, replace=few)
            originals = [usable[int(i)] for i in chosen]
            copies = [plant(text, rng) for text in originals]
            scores = likeness_of_pairs(self.rarity.encode(originals), self.rarity.encode(copies))
            equal = [_key(a) == _key(b) for a, b in zip(originals, copies, strict=True)]
            out[name] = list(zip(scores.tolist(), equal, strict=True))
            self.texts[name] = len(set(chosen[1::2].tolist()))
        return out

    def _honest(
        self, train: Sequence[Item], test: Sequence[Item], rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], list[tuple[str, str]]]:
        """The best likeness of sampled items to their own split's other groups, and those pairs.

        Items with the same words elsewhere are left out: they are copies whatever the threshold.
        """
        scores: list[float] = []
        pairs: list[tuple[str, str]] = []
        for split in (train, test):
            long = [n for n, item in enumerate(split) if _is_long(item.variable)]
            count = HONEST * len(long) // max(1, len(train) + len(test)) + 1
            chosen = np.array(rng.permutation(long)[:count], dtype=np.int64)
            best, other = _best_elsewhere(split, chosen, self.rarity)
            scores += best.tolist()
            pairs += [
                (split[int(i)].variable, split[int(o)].variable if o >= 0 else "")
                for i, o in zip(chosen, other, strict=True)
            ]
        order = rng.permutation(len(scores))
        return np.array(scores)[order], [pairs[i] for i in order]

    def matches(self, corpus: Sequence[str]) -> dict[tuple[int, int], tuple[Kind, float]]:
        """(test index, corpus index) -> how they match."""
        found: dict[tuple[int, int], tuple[Kind, float]] = {}
        queries = [item.variable for item in self.test]
        long_q = np.array([_is_long(text) for text in queries], dtype=bool)
        for rows, cols, scores in likeness(self.rarity.encode(queries), self.rarity.encode(corpus)):
            hit = (scores >= self.threshold) & long_q[rows]
            for q, c, score in zip(rows[hit], cols[hit], scores[hit], strict=True):
                found[int(q), int(c)] = ("near", float(score))
        for kind, key in (("normalised", _key), ("exact", str.strip)):
            where: dict[str, list[int]] = {}
            for at, text in enumerate(corpus):
                where.setdefault(key(text), []).append(at)
            for q, text in enumerate(queries):
                for at in where.get(key(text), ()) if key(text) else ():
                    found[q, at] = ("exact" if kind == "exact" else "normalised", 1.0)
        return found


def _best_elsewhere(
    split: Sequence[Item], chosen: NDArray[np.int64], rarity: Rarity
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The best likeness of `chosen` items to items of other groups and words, and which (or -1)."""
    best = np.zeros(len(chosen))
    other = np.full(len(chosen), -1, dtype=np.int64)
    group_N = _numbered([item.group for item in split])
    words_N = _numbered([_key(item.variable) for item in split])
    corpus = rarity.encode([item.variable for item in split])
    for rows, cols, scores in likeness(corpus.rows(chosen), corpus):
        me = chosen[rows]
        apart = (group_N[me] != group_N[cols]) & (words_N[me] != words_N[cols])
        rows, cols, scores = rows[apart], cols[apart], scores[apart]
        order = np.argsort(scores, kind="stable")
        best[rows[order]] = scores[order]  # the last one written is the largest
        other[rows[order]] = cols[order]
    return best, other


def _numbered(names: Sequence[str]) -> NDArray[np.int64]:
    """Equal names, equal numbers."""
    numbers = {name: n for n, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def _threshold(planted: NDArray[np.float64], honest: NDArray[np.float64]) -> float:
    """Midway between the two; where they overlap, where 98 % of copies are found.

    A missed copy spoils a verdict silently, a false alarm is looked at: so recall goes first, and
    true near-duplicates among the honest never raise the threshold above HIGHEST_THRESHOLD. Copies
    that share nothing rare with their originals never lower it to where all texts are alike.
    """
    if not len(planted):
        return USUAL_THRESHOLD
    high = float(np.quantile(planted, 0.02))
    low = float(np.quantile(honest, 0.995)) if len(honest) else 0.0
    high = min(max(high, LOWEST_THRESHOLD), HIGHEST_THRESHOLD)
    return max((low + high) / 2, min(USUAL_THRESHOLD, high)) if low < high else high


def _key(text: str) -> str:
    """What equal texts share: their words, or, of one or two words, the signs as well."""
    words = words_of(text, numbers=True)
    return " ".join(words) if len(words) > 2 else "".join(text.casefold().split())


def _is_long(text: str) -> bool:
    return len(words_of(text, numbers=True)) >= FEWEST_WORDS


def _interval(hits: Sequence[bool], texts: int) -> Interval | None:
    """The share of hits; its bounds are those of `texts` draws: copies of one text are no more."""
    if not hits:
        return None
    share = sum(hits) / len(hits)
    return dataclasses.replace(binomial_interval(round(share * texts), texts), estimate=share)


def _rate(interval: Interval | None) -> str:
    if interval is None:
        return "nothing to measure it on"
    return f"{interval.estimate:.2%} [{interval.low:.2%}, {interval.high:.2%}] of {interval.n}"
