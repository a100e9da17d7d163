"""The order of day and month: one for all the all-number dates of a document.

Calendar first: 28/01/2026 has its day in front, and so has every other date of its document. Then
what the document says (MM/DD/YYYY), then the way of writing: with dots, the day is in front. Where
both orders are left, the gap between two dates decides.
"""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any

from stillhouse.students.extraction.readings import DAY_FIRST, MONTH_FIRST, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ORDERS = (DAY_FIRST, MONTH_FIRST)
_DAY = "(?:DD|TT|JJ|GG)"  # English, German, French, Italian
_STATED = re.compile(rf"\b(?:(?P<day>{_DAY})[/.-]MM|MM[/.-]{_DAY})\b", re.IGNORECASE)


def likely_orders(text: str, dates: Sequence[Reading]) -> tuple[int, ...]:
    """The orders that calendar, words and way of writing leave for a document."""
    orders = possible_orders(dates)
    if len(orders) == 1:
        return orders
    stated = {DAY_FIRST if found["day"] else MONTH_FIRST for found in _STATED.finditer(text)}
    if len(stated) == 1:
        return tuple(stated)
    dotted = all("." in text[start:end] for start, end in _spans(dates))
    return (DAY_FIRST,) if dotted else orders


def possible_orders(dates: Sequence[Reading]) -> tuple[int, ...]:
    """The orders in which each all-number date among a document's readings is a date.

    Both where the dates contradict one another, and any one where there is no such date.
    """
    spans = _spans(dates)
    if not spans:
        return ORDERS[:1]
    return tuple(o for o in ORDERS if all(o in read for read in spans.values())) or ORDERS


def in_order(dates: Sequence[Reading], order: int) -> list[Reading]:
    """The readings that stand when all-number dates are of this order.

    A date that can be read one way only is kept whatever the order.
    """
    spans = _spans(dates)
    return [one for one in dates if one.order in (0, order) or len(spans[one.start, one.end]) == 1]


def known_order(dates: Sequence[Reading], reply: Mapping[str, Any]) -> int:
    """The only order that the calendar and a reply's dates allow; 0 where it is not one.

    An order is allowed if each of the reply's dates that some reading says is said in that order.
    """
    if not _spans(dates):
        return 0
    said = {one.value for one in dates} & {v for v in reply.values() if isinstance(v, date)}
    allowed = [
        order
        for order in possible_orders(dates)
        if said <= {one.value for one in in_order(dates, order)}
    ]
    return allowed[0] if len(allowed) == 1 else 0


def _spans(dates: Sequence[Reading]) -> dict[tuple[int, int], set[int]]:
    """Per all-number date the orders in which it can be read."""
    spans: dict[tuple[int, int], set[int]] = {}
    for one in dates:
        if one.order:
            spans.setdefault((one.start, one.end), set()).add(one.order)
    return spans
