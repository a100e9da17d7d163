"""What is read where: formats, places and fields of an extracting student."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.exchanges import InputError
from stillhouse.students.extraction import parse_value, read_fields
from stillhouse.students.extraction.fields import days_later
from stillhouse.students.extraction.readings import DAY_FIRST, MONTH_FIRST, month_named, read_all


def values(text: str, kind: str) -> list[object]:
    return [one.value for one in read_all(text)[kind]]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Total: 1.234,56 zł", 1234.56),
        ("Total: 1,234.56", 1234.56),
        ("€1,234.56.", 1234.56),
        ("7 910,10 PLN", 7910.10),
        ("Fr. 1'234.50", 1234.50),
        ("EUR1.250", 1250.0),
        ("8774.76", 8774.76),
        ("12,345,678.90", 12345678.90),
        ("deposit 816", 816.0),
    ],
)
def test_an_amount_is_read_in_the_usual_separators(text: str, value: float) -> None:
    assert value in values(text, "number")


@pytest.mark.parametrize("text", ["INV-9K8-89391", "2025-03-01", "99269/W25", "PO0253EV"])
def test_no_amount_is_read_inside_a_code_or_a_date(text: str) -> None:
    assert values(text, "number") == []


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-05",
        "5 March 2026",
        "5. März 2026",
        "March 5, 2026",
        "5th of March 2026",
        "05-Mar-2026",
        "5 mars 2026",
        "2026/03/05",
    ],
)
def test_a_date_whose_form_settles_it_is_read_once(text: str) -> None:
    assert values(f"issued {text}, thanks", "date") == [date(2026, 3, 5)]


def test_an_all_number_date_is_read_in_both_orders() -> None:
    both = {(one.value, one.order) for one in read_all("on 05/08/2026.")["date"]}
    assert both == {(date(2026, 8, 5), DAY_FIRST), (date(2026, 5, 8), MONTH_FIRST)}


def test_a_day_that_no_month_has_is_not_read() -> None:
    assert values("31.04.2026 30 February 2026", "date") == []


def test_an_ambiguous_month_is_no_month() -> None:
    assert month_named("ju") is None
    assert month_named("jui") is None  # juin or juillet
    assert month_named("Okt") == 10


def test_days_are_small_numbers_outside_dates() -> None:
    assert values("Net 30, 5 March 2026, within 15 days, 12:30, 19%", "days") == [30, 15]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Credit control, Drenetor Components LLC", "Drenetor Components LLC"),
        ("**Invoice** F25J2601  ", "F25J2601"),
        ("from Eskortor Services S.A.", "Eskortor Services S.A."),
        ("your order PO0253EV.", "PO0253EV"),
        ("number=25-HWD-2861", "25-HWD-2861"),
        ("Zeta sp. z o.o. - Billing", "Zeta sp. z o.o."),
        ("no. RE2026/H9608 dated", "RE2026/H9608"),
    ],
)
def test_a_text_is_read_without_what_surrounds_it(text: str, value: str) -> None:
    assert value in values(text, "text")


def test_a_text_ends_at_a_gap_and_at_the_end_of_a_line() -> None:
    found = values("Alpha Ltd      INVOICE\nBeta", "text")
    assert "Alpha Ltd" in found
    assert not any("INVOICE" in str(one) and str(one) != "INVOICE" for one in found)
    assert "INVOICE\nBeta" not in found


@given(st.text(alphabet="aZ9 .,-/:\n€é|", max_size=60))
def test_every_reading_lies_in_the_text_and_texts_are_verbatim(text: str) -> None:
    for kind, found in read_all(text).items():
        for one in found:
            assert 0 <= one.start < one.end <= len(text)
            if kind == "text":
                assert text[one.start : one.end] == one.value


SCHEMA = {
    "properties": {
        "name": {"type": "string"},
        "sent": {"type": "string", "format": "date"},
        "due": {"type": ["string", "null"], "format": "date"},
        "unit": {"type": "string", "enum": ["kg", "lb"]},
        "weight": {"type": ["number", "null"]},
    }
}


def test_fields_come_from_the_schema() -> None:
    fields = read_fields(SCHEMA, {"due": "sent"})
    assert [(f.name, f.kind, f.optional) for f in fields] == [
        ("name", "text", False),
        ("sent", "date", False),
        ("due", "date", True),
        ("unit", "choice", False),
        ("weight", "number", True),
    ]
    assert fields[2].days_after == "sent"
    assert fields[3].choices == ("kg", "lb")


def test_days_after_a_date_end_with_the_calendar() -> None:
    assert days_later(date(2025, 1, 31), 30) == date(2025, 3, 2)
    assert days_later(date(9999, 12, 31), 30) == date.max  # what documents say that mean "never"
    assert days_later(date(2025, 1, 31), 10**12) == date.max


@pytest.mark.parametrize("about", [{"type": "array"}, {"type": "object"}, {"type": ["a", "b"]}])
def test_a_nested_property_is_refused(about: dict[str, object]) -> None:
    with pytest.raises(InputError, match="parts"):
        read_fields({"properties": {"parts": about}})


@pytest.mark.parametrize("after", [{"due": "name"}, {"name": "sent"}, {"due": "due"}])
def test_days_are_counted_between_two_date_fields_alone(after: dict[str, str]) -> None:
    with pytest.raises(InputError, match="counted"):
        read_fields(SCHEMA, after)


@pytest.mark.parametrize(
    ("index", "value"), [(0, 3), (1, "soon"), (3, "stone"), (4, "heavy"), (4, True)]
)
def test_a_reply_of_another_kind_is_an_error(index: int, value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_value(read_fields(SCHEMA)[index], value)
