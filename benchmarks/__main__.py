"""Print every goal with its newest row: met, missed and by how much, or without a row."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from benchmarks import rows

GOALS = Path(__file__).parent / "goals.csv"
GOAL = re.compile(r"(<=|>=|<|>)(-?[0-9.e+]+)")


def verdict(goal: str, row: rows.Row | None) -> str:
    """Judge a goal by the unfavourable end of its row's interval."""
    if row is None:
        return "missed: no row"
    parsed = GOAL.fullmatch(goal)
    if parsed is None:
        raise ValueError(f"{GOALS}: {goal!r} is not a comparison with a number")
    sign, bound = parsed[1], float(parsed[2])
    unfavourable = row.high if sign.startswith("<") else row.low
    seen = row.value if unfavourable is None else unfavourable
    met = {"<=": seen <= bound, ">=": seen >= bound, "<": seen < bound, ">": seen > bound}[sign]
    return "met" if met else f"missed by {abs(seen - bound):.4g}"


def main() -> None:
    """Print the table of goals."""
    with GOALS.open(newline="", encoding="utf-8") as file:
        goals = list(csv.DictReader(file))
    for goal in goals:
        row = rows.newest(goal["benchmark"]).get(goal["figure"])
        seen = "-" if row is None else row.in_words()
        name = f"{goal['benchmark']}.{goal['figure']}"
        print(f"{name:52} {goal['goal']:>8} {goal['unit']:11} {seen}: {verdict(goal['goal'], row)}")


if __name__ == "__main__":
    main()
