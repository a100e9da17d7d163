"""Documents prepared for an extracting student, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stillhouse.students.extraction.fields import days_later
from stillhouse.students.extraction.model import Batch
from stillhouse.students.extraction.orders import in_order, known_order
from stillhouse.students.extraction.pieces import Cutter, Pieces, longest
from stillhouse.students.extraction.readings import Reading, read_all, same

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stillhouse.students.extraction.fields import Field

Reply = dict[str, Any]  # parsed values by field


@dataclass(frozen=True, slots=True)
class Example:
    """A document, its readings that the pieces hold, and the teacher's values if there are any."""

    text: str
    pieces: Pieces
    readings: dict[str, list[Reading]]
    reply: Reply | None


def prepare_example(text: str, reply: Reply | None, cutter: Cutter) -> Example:
    """Cut and read one document."""
    pieces = cutter.cut(text)
    end = pieces.starts[-1] if len(pieces.ids) < 512 else pieces.starts[-2]
    readings = {
        kind: [one for one in found if one.end <= end] for kind, found in read_all(text).items()
    }
    return Example(text, pieces, {str(kind): found for kind, found in readings.items()}, reply)


def make_batch(examples: Sequence[Example], fields: Sequence[Field]) -> Batch:
    """Tensors of some examples; see `Batch`.

    With replies, all-number dates have the readings of the document's order only, where the reply
    or the calendar says which that is: pointers learn the place, the order is no matter of theirs.
    """
    known = all(one.reply is not None for one in examples)
    if known:
        examples = [_settled(one) for one in examples]
    wide = longest([one.pieces for one in examples])
    kinds = ("text", "number", "date", "days")
    numbers = {
        kind: [
            [(one.pieces.at(r.start), one.pieces.at(r.end - 1)) for r in one.readings[kind]]
            for one in examples
        ]
        for kind in kinds
    }
    columns = {kind: _padded(rows) for kind, rows in numbers.items()}
    targets = {f.name: _target(examples, f, columns) for f in fields} if known else {}
    return Batch(
        ids=_ints([one.pieces.ids for one in examples], wide),
        shapes=_ints([one.pieces.shapes for one in examples], wide),
        here=_ints([[1] * len(one.pieces.ids) for one in examples], wide),
        starts={kind: columns[kind][:, :, 0] for kind in kinds},
        ends={kind: columns[kind][:, :, 1] for kind in kinds},
        real={kind: columns[kind][:, :, 0] > 0 for kind in kinds},
        targets=targets,
    )


def options_of(example: Example, field: Field) -> list[Reading | None]:
    """The options of a pointed field in the order of its scores, without padding in between."""
    found: list[Reading | None] = [None, *example.readings[field.kind]]
    return found + (list(example.readings["days"]) if field.days_after else [])


def is_right(option: Reading | None, field: Field, reply: Reply) -> bool:
    """Whether this option says what the reply says."""
    wanted = reply[field.name]
    if option is None or wanted is None:
        return option is None and wanted is None
    if option.kind != "days":
        return same(option.kind, option.value, wanted)
    base = reply[field.days_after or ""]
    return base is not None and days_later(base, int(option.value)) == wanted  # type: ignore[arg-type]


def right_options(options: Sequence[Reading | None], field: Field, reply: Reply) -> list[int]:
    """Which options say what the reply says. A stated date goes before a count of days: other
    small numbers often happen to be the right count."""
    right = [i for i, option in enumerate(options) if is_right(option, field, reply)]
    stated = [i for i in right if options[i] is None or options[i].kind != "days"]  # type: ignore[union-attr]
    return stated or right


def _settled(example: Example) -> Example:
    order = known_order(example.readings["date"], example.reply or {})
    if not order:
        return example
    dates = in_order(example.readings["date"], order)
    return replace(example, readings={**example.readings, "date": dates})


def _target(examples: Sequence[Example], field: Field, columns: Mapping[str, Tensor]) -> Tensor:
    replies = [one.reply or {} for one in examples]
    if field.kind == "choice":
        found = [reply.get(field.name) for reply in replies]
        return torch.tensor([field.choices.index(v) if v in field.choices else -1 for v in found])
    first = columns[field.kind].shape[1]
    more = columns["days"].shape[1] if field.days_after else 0
    target = torch.zeros(len(examples), 1 + first + more, dtype=torch.bool)
    for row, (one, reply) in enumerate(zip(examples, replies, strict=True)):
        own = len(one.readings[field.kind])
        options = options_of(one, field)
        for index in right_options(options, field, reply):
            target[row, index if index <= own else index - own + first] = True
    return target


def _padded(rows: list[list[tuple[int, int]]]) -> Tensor:
    wide = max(1, max(len(row) for row in rows))
    return torch.tensor([[*row, *[(0, 0)] * (wide - len(row))] for row in rows])


def _ints(rows: Sequence[Sequence[int]], wide: int) -> Tensor:
    return torch.tensor([[*row, *[0] * (wide - len(row))] for row in rows])
