"""Documents laid out otherwise say what they said; names and amounts of no field are found."""

from __future__ import annotations

import re
from datetime import date
from random import Random

from stillhouse.students import extraction
from stillhouse.students.extraction.decoys import DECOYS, NameFinder, decoy_marks
from stillhouse.students.extraction.readings import read_all
from stillhouse.students.extraction.relaying import relay

TEXT = """Foo Mills Ltd
1 Low Street

Bill to:
Bar Print Ltd
2 High Street

Number: A-17
Date:   2026-05-08
| Order:  B-2 |

Item      Qty   Price
Paper       2    5.00

Total             10.00
VAT 19% = 1.90

> Subject: old"""
VALUES = ("Foo Mills Ltd", "Bar Print Ltd", "A-17", "2026-05-08", "B-2", "10.00", "1.90")


def test_a_document_laid_out_otherwise_keeps_values_and_other_lines() -> None:
    made = {relay(TEXT, Random(seed)) for seed in range(600)}
    assert len(made) > 150
    for text in made:
        assert all(value in text for value in VALUES), text
        assert {date(2026, 5, 8)} == {one.value for one in read_all(text)["date"]}, text
        assert "Item      Qty   Price" in text
        assert "Paper       2    5.00" in text
        assert "> Subject: old" in text
    assert any(re.search(r"(?i)number *\n *A-17", text) for text in made)
    assert any(re.search(r"(?i)number +date +order\nA-17 +2026-05-08 +B-2", text) for text in made)
    assert any(
        re.search(r"Foo Mills Ltd +Bill to:\n1 Low Street +Bar Print", text) for text in made
    )
    assert any(re.search('(?i)"number": "A-17",', text) for text in made)


def test_nothing_is_laid_out_where_no_line_has_a_label() -> None:
    text = "We sent you A-17.\n\nPlease pay 10.00 by May."
    assert {relay(text, Random(seed)) for seed in range(40)} == {text}


SCHEMA = {"properties": {"seller": {"type": "string"}, "total": {"type": "number"}}}
FIELDS = extraction.read_fields(SCHEMA)


def documents() -> list[extraction.Document]:
    made: list[extraction.Document] = []
    for number in range(40):
        seller, buyer, total = f"Foo{number} Ltd", f"Bar{number} Ltd", 10.5 + number
        text = f"From: {seller}\nHello {buyer}, hi\nTotal: {total:.2f}\nPaid: 1.00"
        other = f"Seller {seller}\nBuyer {buyer}\nSum {total:.2f}\nDeposit 1.00"
        made.append(
            (other if number % 2 else text, {"seller": seller, "total": total}, "ab"[number % 2])
        )
    return made


def test_names_are_found_by_their_end_and_without_usual_words() -> None:
    names = NameFinder(documents(), FIELDS)
    text = "Hello Quux Mills Ltd, pay 7.00 by 2026-05-08"
    marks = {
        kind: text[start:end] for start, end, (_, kind) in decoy_marks(text, read_all(text), names)
    }
    assert marks == {"text": "Quux Mills Ltd", "number": "7.00", "date": "2026-05-08"}
    assert DECOYS["text"] not in [mark[2] for mark in decoy_marks("Ltd", read_all("Ltd"), names)]


def test_lines_of_no_field_change_places_and_the_reply_stays() -> None:
    given = documents()
    rates = extraction.Rates(line=1.0, merge=0.0, relay=0.0, dates=0.0, typo=0.0, decoy=0.5)
    recombiner = extraction.Recombiner(given, FIELDS, rates)
    seen = set()
    for seed in range(60):
        text, reply, _ = given[seed % len(given)]
        made, told = recombiner.recombine(text, reply, Random(seed))
        assert told == reply
        assert told["seller"] in made
        buyer = reply["seller"].replace("Foo", "Bar")
        seen |= {line.replace(buyer, "X") for line in made.split("\n") if buyer in line}
        seen |= {line for line in made.split("\n") if line.endswith(" 1.00")}
        seen |= {"a name more"} if len(re.findall("Ltd", made)) > 2 else set()
    assert {"Hello X, hi", "Buyer X", "Paid: 1.00", "Deposit 1.00", "a name more"} <= seen
