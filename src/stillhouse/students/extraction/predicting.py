"""What an extracting student answers."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

from stillhouse.students.extraction.examples import Example, make_batch, options_of
from stillhouse.students.extraction.fields import days_later
from stillhouse.students.extraction.orders import in_order, likely_orders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillhouse.students.extraction.fields import Field
    from stillhouse.students.extraction.model import Extractor

_CANDIDATES = 12  # values of a field that are weighed against those of another
_LEAST = 1e-9  # of a probability


@torch.inference_mode()
def predict(
    model: Extractor, examples: Sequence[Example], batch_size: int = 32
) -> list[dict[str, Any]]:
    """One value per field and document: the likeliest value, summed over the places that say it.

    Values are str, float, date or None. A field and its base are chosen together: by how likely
    each is alone, and how usual the gap or share between them is. All all-number dates of a
    document are read in one order of day and month (`likely_orders`), and of two in the one that
    those gaps make likelier.
    """
    model.eval()
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].pieces.ids))
    found: list[dict[str, Any]] = [{} for _ in examples]
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        some = [examples[i] for i in rows]
        batch = make_batch([Example(e.text, e.pieces, e.readings, None) for e in some], ())
        scores = model(batch)
        for row, index in enumerate(rows):
            one = {name: score[row].tolist() for name, score in scores.items()}
            wide = {kind: real.shape[1] for kind, real in batch.real.items()}
            found[index] = _likeliest(model, examples[index], one, wide)
    return found


def _likeliest(
    model: Extractor, example: Example, scores: dict[str, list[float]], wide: dict[str, int]
) -> dict[str, Any]:
    """The values in the likeliest order of day and month; `wide` is the padded count per kind."""
    found = [
        _Choice(model, example, scores, wide, order).values()
        for order in likely_orders(example.text, example.readings["date"])
    ]
    return max(found, key=lambda one: one[0])[1]


class _Choice:
    """The values of one document when all-number dates are of one order."""

    def __init__(
        self,
        model: Extractor,
        example: Example,
        scores: dict[str, list[float]],
        wide: dict[str, int],
        order: int,
    ) -> None:
        self._model, self._example, self._scores, self._wide = model, example, scores, wide
        self._standing = set(in_order(example.readings["date"], order))

    def values(self) -> tuple[float, dict[str, Any]]:
        """The likeliest values together, and the log-probability of those with a relation."""
        values: dict[str, Any] = {}
        total = 0.0
        for field in self._model.fields:
            if field.kind == "choice":
                logs = self._scores[field.name]
                values[field.name] = field.choices[logs.index(max(logs))]
            elif field.base is None:
                related = [one for one in self._model.related if one.base == field.name]
                score, found = self._together(field, related)
                total += score if related else 0.0
                values |= found
        return total, {field.name: values[field.name] for field in self._model.fields}

    def _together(self, base: Field, related: Sequence[Field]) -> tuple[float, dict[str, Any]]:
        """The likeliest value of `base` and of the fields that stand in a relation to it."""
        best: tuple[float, dict[str, Any]] = (-math.inf, {})
        for value, score in self._likely(base, None):
            values = {base.name: value}
            for field in related:
                beside = [
                    (one + self._model.relation(field, other, value), other)
                    for other, one in self._likely(field, value)
                ]
                more, values[field.name] = max(beside, key=lambda one: one[0])
                score += more
            best = max(best, (score, values), key=lambda one: one[0])
        return best

    def _likely(self, field: Field, base: Any) -> list[tuple[Any, float]]:
        """The values of a field with their log-probabilities, summed over the places that say
        them; the likeliest of them only."""
        example, logs = self._example, self._scores[field.name]
        own = len(example.readings[field.kind])
        chance: dict[Any, float] = defaultdict(float)
        for index, option in enumerate(options_of(example, field)):
            value = None if option is None else option.value
            if option is not None and option.kind == "date" and option not in self._standing:
                continue
            if option is not None and option.kind == "days":
                if base is None:
                    continue
                value = days_later(base, int(option.value))  # type: ignore[arg-type]
            at = index if index <= own else index - own + self._wide[field.kind]
            chance[value] += math.exp(logs[at])
        found = sorted(chance.items(), key=lambda one: -one[1])[:_CANDIDATES]
        return [(value, math.log(max(one, _LEAST))) for value, one in found]
