"""Published figures are those of the newest rows."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
from benchmarks import quickstart, rows
from benchmarks import told as whitebox_told
from benchmarks.__main__ import verdict
from benchmarks.gateways import told

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.csv"))


def test_the_readme_says_what_the_newest_quickstart_rows_say() -> None:
    assert quickstart.readme_section() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_gateways_page_says_what_its_newest_rows_say() -> None:
    page = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
    assert told.section() in page, "python -m benchmarks.gateways.told renews it"


def test_the_page_on_divergences_says_what_the_newest_rows_say() -> None:
    page = (ROOT / "docs" / "divergences.md").read_text(encoding="utf-8")
    assert whitebox_told.section() in page, "python -m benchmarks.told renews it"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_every_row_has_the_columns_and_its_command(path: Path) -> None:
    found = rows.newest(path.stem)
    assert found, "a file of results without a row"
    assert all(row.command and row.commit and row.machine for row in found.values())


def test_digits_are_added_where_the_ends_of_an_interval_would_look_alike() -> None:
    row = next(iter(rows.newest("cache").values()))
    near = dataclasses.replace(row, value=1.00014, low=1.00008, high=1.0002)
    assert near.in_words() == "1.00014 [1.00008, 1.0002]"
    assert dataclasses.replace(near, low=0.5, high=None).in_words() == "1 [0.5, ]"
    assert dataclasses.replace(near, low=None, high=None).in_words() == "1"


def test_the_goals_are_never_weakened() -> None:
    text = (ROOT / "benchmarks" / "goals.csv").read_text(encoding="utf-8")
    goals = list(csv.DictReader(text.splitlines()))
    assert len(goals) == 63
    assert {goal["goal"] for goal in goals if goal["figure"] == "minutes"} == {"<=10"}


def row(value: float, low: float | None, high: float | None) -> rows.Row:
    return rows.Row(
        date="", commit="", machine="", versions="", figure="", value=value, low=low, high=high,
        unit="", peer="", peer_value=None, command="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("goal", "value", "low", "high", "met"),
    [
        (">=2", 2.5, 1.9, 3.0, False),
        (">=2", 2.5, 2.0, 3.0, True),
        ("<=10", 9.0, 8.0, 10.5, False),
        ("<=10", 9.0, None, None, True),
        (">0", 1.0, 0.0, 2.0, False),
        ("<0", -1.0, -2.0, -0.1, True),
        (">=-5", -3.0, -4.9, -1.0, True),
    ],
)
def test_a_goal_is_met_by_the_unfavourable_end(
    goal: str, value: float, low: float | None, high: float | None, met: bool
) -> None:
    assert (verdict(goal, row(value, low, high)) == "met") == met


def test_a_goal_without_a_row_is_missed() -> None:
    assert verdict(">=1", None).startswith("missed")
