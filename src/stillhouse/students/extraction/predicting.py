"""What an extracting student answers."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

from stillhouse.students.extraction.examples import Example, make_batch, options_of
from stillhouse.students.extraction.fields import Field, days_later

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from stillhouse.students.extraction.model import Extractor


@torch.inference_mode()
def predict(
    model: Extractor, examples: Sequence[Example], batch_size: int = 32
) -> list[dict[str, Any]]:
    """One value per field and document: the likeliest value, summed over the places that say it.

    Values are str, float, date or None. Dates counted in days use the base date that was
    predicted.
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
            found[index] = _values(model.fields, examples[index], scores, row, batch.real)
    return found


def _values(
    fields: Sequence[Field], example: Example, scores: dict[str, Tensor], row: int, real: Any
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in sorted(fields, key=lambda f: f.days_after is not None):
        score = scores[field.name][row]
        if field.kind == "choice":
            values[field.name] = field.choices[int(score.argmax())]
            continue
        own = len(example.readings[field.kind])
        first = real[field.kind].shape[1]
        chance: dict[Any, float] = defaultdict(float)
        logs = score.tolist()
        for index, option in enumerate(options_of(example, field)):
            value = None if option is None else option.value
            if option is not None and option.kind == "days":
                base = values[field.days_after or ""]
                if base is None:
                    continue
                value = days_later(base, int(option.value))  # type: ignore[arg-type]
            chance[value] += math.exp(logs[index if index <= own else index - own + first])
        values[field.name] = max(chance, key=lambda v: chance[v])
    return {field.name: values[field.name] for field in fields}
