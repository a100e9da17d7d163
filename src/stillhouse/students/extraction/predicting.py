"""What an extracting student answers."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

from stillhouse.students.extraction.examples import Example, make_batch, options_of
from stillhouse.students.extraction.fields import days_later
from stillhouse.students.extraction.model import ORDER
from stillhouse.students.extraction.orders import ORDERS, in_order, possible_orders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillhouse.students.extraction.model import Extractor


@torch.inference_mode()
def predict(
    model: Extractor, examples: Sequence[Example], batch_size: int = 32
) -> list[dict[str, Any]]:
    """One value per field and document: the likeliest value, summed over the places that say it.

    Values are str, float, date or None. Dates counted in days use the base date that was
    predicted. All all-number dates of a document are read in one order of day and month: one that
    the calendar allows, and of two the one that the student's belief and the gaps between the
    dates make likelier.
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
    orders = possible_orders(example.readings["date"])
    found = [_values(model, example, scores, wide, order) for order in orders]
    gaps = [model.gap_score(values) for values in found]
    # A missing date has no gap to weigh against that of the other order.
    compared = [0.0 if None in gaps else gap or 0.0 for gap in gaps]
    beliefs = [scores[ORDER][ORDERS.index(order)] for order in orders]
    return found[max(range(len(orders)), key=lambda i: beliefs[i] + compared[i])]


def _values(
    model: Extractor,
    example: Example,
    scores: dict[str, list[float]],
    wide: dict[str, int],
    order: int,
) -> dict[str, Any]:
    """The likeliest value of each field when all-number dates are of this order."""
    values: dict[str, Any] = {}
    standing = set(in_order(example.readings["date"], order))
    for field in sorted(model.fields, key=lambda f: f.days_after is not None):
        logs = scores[field.name]
        if field.kind == "choice":
            values[field.name] = field.choices[logs.index(max(logs))]
            continue
        own = len(example.readings[field.kind])
        chance: dict[Any, float] = defaultdict(float)
        for index, option in enumerate(options_of(example, field)):
            value = None if option is None else option.value
            if option is not None and option.kind == "date" and option not in standing:
                continue
            if option is not None and option.kind == "days":
                base = values[field.days_after or ""]
                if base is None:
                    continue
                value = days_later(base, int(option.value))  # type: ignore[arg-type]
            at = index if index <= own else index - own + wide[field.kind]
            chance[value] += math.exp(logs[at])
        values[field.name] = max(chance, key=lambda v: chance[v])
    return {field.name: values[field.name] for field in model.fields}
