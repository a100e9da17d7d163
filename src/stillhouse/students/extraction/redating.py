"""A training document with all its dates in another form, all-number dates in either order.

Few layouts write 05/08/2026. Here every layout does, in both orders, so that the place of a date is
known by what stands around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillhouse.students.extraction.orders import in_order, known_order, possible_orders
from stillhouse.students.extraction.readings import DAY_FIRST, MONTH_FIRST, read_all
from stillhouse.students.extraction.rendering import render_date

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

_PLAIN = ("2026-03-01", "5 March 2026", "5 Mar 2026", "March 5, 2026", "05-Mar-2026", "01.02.2026")


def redate(
    text: str,
    reply: Mapping[str, Any],
    random: Random,
    *,
    slashed: float = 0.5,
) -> str:
    """`text` with its dates in one other form; the dates themselves stay.

    `slashed` is the probability of an all-number form with slashes. Of dates that can be read in
    two ways, `reply` decides.
    """
    dates = read_all(text)["date"]
    order = known_order(dates, reply) or possible_orders(dates)[0]
    slash = random.choice((DAY_FIRST, MONTH_FIRST)) if random.random() < slashed else 0
    like = random.choice(_PLAIN)
    at = 0
    parts = []
    for one in in_order(dates, order):
        if one.start < at:
            continue
        value: Any = one.value
        if slash:
            first, second = value.day, value.month
            if slash == MONTH_FIRST:
                first, second = second, first
            written = f"{first:02}/{second:02}/{value.year}"
        else:
            written = render_date(value, like) or text[one.start : one.end]
        parts += [text[at : one.start], written]
        at = one.end
    return "".join([*parts, text[at:]])
