"""All all-number dates of a document are read in one order of day and month."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from stillhouse.students import extraction
from stillhouse.students.extraction.examples import Example, make_batch, options_of
from stillhouse.students.extraction.orders import (
    in_order,
    known_order,
    likely_orders,
    possible_orders,
)
from stillhouse.students.extraction.pieces import Pieces
from stillhouse.students.extraction.readings import DAY_FIRST, MONTH_FIRST, Reading, read_all
from stillhouse.students.extraction.redating import redate

SCHEMA = {
    "properties": {
        "sent": {"type": "string", "format": "date"},
        "due": {"type": ["string", "null"], "format": "date"},
    }
}
FIELDS = extraction.read_fields(SCHEMA, {"due": "sent"})
MAY, AUGUST = date(2026, 5, 8), date(2026, 8, 5)


def dates_of(text: str) -> list[Reading]:
    return read_all(text)["date"]


def example_of(text: str, reply: dict[str, Any] | None = None) -> Example:
    readings = {str(kind): found for kind, found in read_all(text).items()}
    count = len(text)
    pieces = Pieces((1,) * (count + 2), (0,) * (count + 2), (-1, *range(count), count))
    return Example(text, pieces, readings, reply)


@pytest.mark.parametrize(
    ("text", "orders"),
    [
        ("of 05/08/2026", (DAY_FIRST, MONTH_FIRST)),
        ("of 05/08/2026, paid 28/01/2026", (DAY_FIRST,)),
        ("of 05/08/2026, paid 01/28/2026", (MONTH_FIRST,)),
        ("of 05/08/2026, paid 28 January 2026 or 2026-01-28", (DAY_FIRST, MONTH_FIRST)),
        ("of 05/08/2026, paid 01/28/2026, sent 28/01/2026", (DAY_FIRST, MONTH_FIRST)),
    ],
)
def test_a_date_that_can_be_read_one_way_settles_the_others(
    text: str, orders: tuple[int, ...]
) -> None:
    assert possible_orders(dates_of(text)) == orders


def test_without_an_all_number_date_there_is_nothing_to_weigh() -> None:
    assert len(possible_orders(dates_of("of 2026-08-05"))) == 1
    assert len(possible_orders([])) == 1


def test_readings_of_one_order_keep_every_date() -> None:
    found = dates_of("of 05/08/2026, paid 28/01/2026, due 2026-09-01")
    kept = {order: [one.value for one in in_order(found, order)] for order in (1, 2)}
    assert kept[DAY_FIRST] == [AUGUST, date(2026, 1, 28), date(2026, 9, 1)]
    assert kept[MONTH_FIRST] == [MAY, date(2026, 1, 28), date(2026, 9, 1)]


@pytest.mark.parametrize(
    ("text", "sent", "order"),
    [
        ("of 05/08/2026", MAY, MONTH_FIRST),
        ("of 05/08/2026", AUGUST, DAY_FIRST),
        ("of 05/05/2026", date(2026, 5, 5), 0),
        ("of 05/08/2026", date(2020, 1, 1), 0),
        ("of 2026-08-05", AUGUST, 0),
        ("of 2026-08-05, paid 31/01/2026", AUGUST, DAY_FIRST),
        ("of 05/08/2026, paid 31/01/2026", MAY, 0),
        ("of 05/08/2026, not 08/05/2026", MAY, 0),
        ("of 05/08/2026", None, 0),
    ],
)
def test_a_reply_tells_the_order_where_it_can(text: str, sent: date | None, order: int) -> None:
    assert known_order(dates_of(text), {"sent": sent, "code": "A"}) == order


@pytest.mark.parametrize(
    ("text", "orders"),
    [
        ("of 05/08/2026 (dates MM/DD/YYYY)", (MONTH_FIRST,)),
        ("Datum TT/MM/JJJJ: 05/08/2026", (DAY_FIRST,)),
        ("of 05-08-2026, dd-mm-yyyy", (DAY_FIRST,)),
        ("of 05/08/2026, dd/mm or mm/dd", (DAY_FIRST, MONTH_FIRST)),
        ("of 05/08/2026, paid 01/28/2026 (DD/MM/YYYY)", (MONTH_FIRST,)),
        ("of 05.08.2026", (DAY_FIRST,)),
        ("of 05.08.2026, paid 01.28.2026", (MONTH_FIRST,)),
        ("of 05.08.2026, paid 05/07/2026", (DAY_FIRST, MONTH_FIRST)),
    ],
)
def test_what_a_document_says_and_dots_settle_what_the_calendar_leaves(
    text: str, orders: tuple[int, ...]
) -> None:
    assert likely_orders(text, dates_of(text)) == orders


class Pointing(extraction.Extractor):
    """Points at the n-th date for the n-th field."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), 2, FIELDS)
        self.example = example_of("")

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        scores = {}
        places = sorted({one.start for one in self.example.readings["date"]})
        for number, field in enumerate(FIELDS):
            options = options_of(self.example, field)
            right = [
                one is not None
                and one.kind == "date"
                and number < len(places)
                and one.start == places[number]
                for one in options
            ]
            if not any(right):
                right[0] = True
            scores[field.name] = torch.tensor([[0.0 if one else -50.0 for one in right]])
        return scores

    def values(self, text: str) -> dict[str, Any]:
        self.example = example_of(text)
        [found] = extraction.predict(self, [self.example])
        return found


def test_a_usual_gap_decides_where_nothing_else_does() -> None:
    text = "of 05/08/2026, due 07/08/2026"  # 61 days month first, 2 days day first
    month_first = {"sent": MAY, "due": date(2026, 7, 8)}
    day_first = {"sent": AUGUST, "due": date(2026, 8, 7)}
    model = Pointing()
    assert model.values(text) == day_first
    model.learn_relations(
        [{"sent": MAY, "due": MAY + timedelta(61)}] * 50 + [{"sent": MAY, "due": None}]
    )
    assert model.values(text) == month_first
    assert model.values(f"{text} (DD/MM/YYYY)") == day_first
    assert model.values(f"{text}, paid 28/01/2026") == day_first
    assert model.values("of 05/08/2026") == {"sent": AUGUST, "due": None}


def test_pointers_learn_places_in_the_order_that_the_reply_tells() -> None:
    text = "of 05/08/2026, due 07/08/2026"
    replies: list[dict[str, Any]] = [
        {"sent": MAY, "due": date(2026, 7, 8)},
        {"sent": AUGUST, "due": date(2026, 8, 7)},
        {"sent": MAY, "due": date(2026, 8, 7)},
    ]
    batch = make_batch([example_of(text, reply) for reply in replies], FIELDS)
    assert batch.real["date"].sum(1).tolist() == [2, 2, 4]
    assert [row.nonzero().flatten().tolist() for row in batch.targets["sent"]] == [[1], [1], [2]]
    unanswered = make_batch([example_of(text)], ())
    assert unanswered.real["date"].sum().item() == 4


def test_a_redated_document_keeps_its_dates_and_says_their_order() -> None:
    text = "Bill (dates MM/DD/YYYY)\nof 05/08/2026\n\nnet 30, due 06/07/2026"
    reply = {"sent": MAY, "due": date(2026, 6, 7)}
    random = Random(2)
    seen: Counter[str] = Counter()
    for _ in range(300):
        made = redate(text, reply, random)
        assert {MAY, date(2026, 6, 7)} <= {one.value for one in dates_of(made)}, made
        written = ("08/05/2026" in made and "day") or ("05/08/2026" in made and "month") or "plain"
        seen[written] += 1
        orders = likely_orders(made, dates_of(made))
        if written != "plain" and len(orders) == 1:
            seen[f"{written} hinted"] += 1
            assert orders == ({"day": DAY_FIRST, "month": MONTH_FIRST}[written],), made
    assert 110 < seen["plain"] < 190
    assert min(seen["day"], seen["month"]) > 50
    assert 0.65 < seen["day hinted"] / seen["day"] < 0.95


def test_redating_by_chance_alone() -> None:
    text, reply = "of 28.01.2026", {"sent": date(2026, 1, 28), "due": None}
    plain = {redate(text, reply, Random(seed), slashed=0) for seed in range(60)}
    assert "of 28 January 2026" in plain
    assert not any("/" in one for one in plain)
    bare = {redate(text, reply, Random(seed), slashed=1, hinted=0) for seed in range(60)}
    assert bare == {"of 28/01/2026", "of 01/28/2026"}
