"""A training document with all its dates in another form, all-number dates in either order.

Few layouts write 05/08/2026. Here every layout does, in both orders, so that the place of a date is
known by what stands around it; and it mostly says the order, so that MM/DD/YYYY is known for no
value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from stillhouse.students.extraction.orders import in_order, known_order, possible_orders
from stillhouse.students.extraction.readings import DAY_FIRST, MONTH_FIRST, read_all
from stillhouse.students.extraction.rendering import render_date

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

_PLAIN = ("2026-03-01", "5 March 2026", "5 Mar 2026", "March 5, 2026", "05-Mar-2026", "01.02.2026")
_HINTS = {
    DAY_FIRST: ("DD/MM/YYYY", "dd/mm/yyyy", "DD/MM"),
    MONTH_FIRST: ("MM/DD/YYYY", "mm/dd/yyyy", "MM/DD"),
}
_AROUND = ("(dates {})", "dates: {}", "({})", "dates {}", "date format {}", "all dates {}")
_SAID = re.compile(r" ?\((?:all )?dates?:? (?:MM/DD|DD/MM)/YYYY\)", re.IGNORECASE)


def redate(
    text: str,
    reply: Mapping[str, Any],
    random: Random,
    *,
    slashed: float = 0.5,
    hinted: float = 0.8,
) -> str:
    """`text` with its dates in one other form; the dates themselves stay.

    `slashed` is the probability of an all-number form with slashes, `hinted` that of a hint beside
    it. An old hint goes. Of dates that can be read in two ways, `reply` decides.
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
    text = _SAID.sub("", "".join([*parts, text[at:]]))
    if not slash or random.random() >= hinted:
        return text
    hint = random.choice(_AROUND).format(random.choice(_HINTS[slash]))
    rows = text.split("\n")
    place = random.choice([i for i, row in enumerate(rows) if row.strip()])
    if random.random() < 0.5:
        rows.insert(place, hint)
    else:
        rows[place] += " " + hint
    return "\n".join(rows)
