"""The table of docs/gateway.md: every goal of the gateway beside its newest row.

python -m benchmarks.gateways.told       # after new rows; tests hold the page to them
"""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks import rows
from benchmarks.__main__ import GOALS, verdict

PAGE = Path(__file__).parents[2] / "docs" / "gateway.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def section(benchmarks: tuple[str, ...] = ("gateway",)) -> str:
    """Return the table of some benchmarks' goals."""
    found = {name: rows.newest(name) for name in benchmarks}
    lines = ["| figure | goal | measured | | made by |", "|---|---|---|---|---|"]
    with GOALS.open(newline="", encoding="utf-8") as file:
        for goal in csv.DictReader(file):
            if goal["benchmark"] not in found:
                continue
            row = found[goal["benchmark"]].get(goal["figure"])
            unit = "" if goal["unit"] == "count" else f" {goal['unit']}"
            measured, command = "", ""
            if row is not None:
                measured = f"{row.in_words()}{unit}"
                command = f"`{row.command.removeprefix('python -m benchmarks.')}`"
            judged = verdict(goal["goal"], row).replace("missed: no row", "not measured")
            lines.append(
                f"| `{goal['figure']}` | {goal['goal']}{unit} | {measured} | {judged} | {command} |"
            )
    return "\n".join(lines) + "\n"


def write(path: Path = PAGE, table: str | None = None) -> None:
    """Put the table into the page."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + BEGIN + (table or section()) + END + after, encoding="utf-8")


if __name__ == "__main__":
    write()
