"""The invoices benchmark counts its openings, scores by the published definition, keeps replies."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import orjson
import pytest
from benchmarks import invoices, rows

SCHEMA = orjson.dumps(
    {
        "type": "object",
        "properties": {"vendor": {"type": "string"}, "total": {"type": ["number", "null"]}},
        "required": ["vendor", "total"],
    }
).decode()
ITEMS = [
    {"id": "a", "layout": "x", "text": "", "gold": {"vendor": "Alpha Ltd", "total": 4.5}},
    {"id": "b", "layout": "y", "text": "", "gold": {"vendor": "Beta Ltd", "total": None}},
]
REPLIES = ['{"vendor": "alpha  ltd", "total": 4.504}', '{"vendor": "Beta Ltd", "total": 7}']


def test_openings_are_counted_and_none_is_ever_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "openings.csv"
    assert invoices.open_test(1, "first", path) == 1
    assert invoices.open_test(1, "again, with a comma", path) == 2
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [(one["opening"], one["seed"], one["reason"]) for one in found] == [
        ("1", "1", "first"),
        ("2", "1", "again, with a comma"),
    ]


def test_scores_are_those_of_the_published_definition() -> None:
    scored = invoices.score(ITEMS, REPLIES, SCHEMA)
    assert [one.match for one in scored] == [True, False]  # a number where the gold has null
    assert invoices.field_f1(scored) == pytest.approx(100 * 2 * 3 / (4 + 3))
    assert invoices.document_match(scored) == 50


def test_a_reply_that_is_no_valid_object_has_no_field() -> None:
    scored = invoices.score(ITEMS, ["none", '{"vendor": "Beta Ltd"}'], SCHEMA)
    assert [one.equal for one in scored] == [0, 0]
    assert invoices.field_f1(scored) == 0


def test_predictions_come_back_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    scored = invoices.score(ITEMS, REPLIES, SCHEMA)
    one, two = tmp_path / "one.gz", tmp_path / "two.gz"
    invoices.write_predictions(one, scored)
    invoices.write_predictions(two, scored)
    assert one.read_bytes() == two.read_bytes()
    assert invoices.read_predictions(one) == scored
    assert len(gzip.decompress(one.read_bytes()).splitlines()) == 2


@pytest.mark.parametrize("path", sorted(rows.RESULTS.glob("invoices-seed-*.jsonl.gz")), ids=str)
def test_committed_predictions_say_what_the_rows_say(path: Path) -> None:
    scored = invoices.read_predictions(path)
    seed = path.name.removeprefix("invoices-seed-").removesuffix(".jsonl.gz")
    newest = rows.newest("invoices")
    assert len(scored) == 600
    assert len({one.layout for one in scored}) == 6
    assert newest[f"seed_{seed}_field_f1"].value == pytest.approx(invoices.field_f1(scored), 1e-4)
    assert newest[f"seed_{seed}_document_match"].value == pytest.approx(
        invoices.document_match(scored), rel=1e-4
    )
    with invoices.OPENINGS.open(newline="", encoding="utf-8") as file:
        assert any(one["seed"] == seed for one in csv.DictReader(file))


def test_means_over_seeds_are_taken_item_by_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(invoices.rows, "RESULTS", tmp_path)
    items = [{**ITEMS[i % 2], "id": str(i), "layout": f"layout {i % 4}"} for i in range(8)]
    gold = [orjson.dumps(one["gold"]).decode() for one in items]
    wrong = ['{"vendor": "nobody", "total": null}', *gold[1:]]
    teacher = invoices.score(items, gold, SCHEMA)
    fitted = {"cpu_s": 240.0, "wall_s": 600.0, "threads": 1}
    for seed, replies in ((1, gold), (2, wrong)):
        scored = invoices.score(items, replies, SCHEMA)
        invoices.write_predictions(invoices.predictions_path(seed), scored)
        invoices.append(seed, scored, teacher, seed, fitted, 1_000_000)
    newest = rows.newest("invoices")
    assert newest["seed_2_minutes"].value == 4
    assert newest["seed_2_minutes"].unit == "min on 1 core, processor time"
    assert newest["document_match"].value == pytest.approx(100 * (1 + 7 / 8) / 2)
    # of 12 fields each: 12 right of 12, then 10 right of 11 predicted; counts are averaged
    assert newest["field_f1"].value == pytest.approx(100 * 2 * 11 / (12 + 11.5), rel=1e-4)
    assert newest["student_minus_teacher_field_f1"].value < 0
    assert newest["field_f1"].unit == "points, mean of 2 seeds"
