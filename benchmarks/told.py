"""The tables of docs/divergences.md: goals and figures of white-box training, from their rows.

python -m benchmarks.told       # after new rows; tests hold the page to them
"""

from __future__ import annotations

from benchmarks import rows
from benchmarks.gateways import told

PAGE = told.PAGE.with_name("divergences.md")
BENCHMARKS = ("training", "cache", "retention", "export")


def section() -> str:
    """Return the goals' table, and one of every other figure."""
    lines = ["", "| figure | | beside |", "|---|---|---|"]
    goals = told.section(BENCHMARKS)
    for name in BENCHMARKS:
        for figure, row in sorted(rows.newest(name).items()):
            if f"| `{figure}` |" not in goals:
                beside = "" if row.peer_value is None else f"{row.peer}: {row.peer_value:.4g}"
                lines.append(f"| `{name}.{figure}` | {row.in_words()} {row.unit} | {beside} |")
    return goals + ("\n".join(lines) + "\n" if len(lines) > 3 else "")


def write() -> None:
    """Put them into the page."""
    told.write(PAGE, section())


if __name__ == "__main__":
    write()
