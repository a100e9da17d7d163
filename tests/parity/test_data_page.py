"""The figures in docs/data.md are the newest rows of the benchmark."""

import csv
import os
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "data.md"
RESULTS = ROOT / "benchmarks" / "results" / "contamination.csv"
START, END = "<!-- rows: contamination -->\n", "<!-- end of rows -->"
DATA = {
    "reviews": "snippets of reviews and editorials, split by document",
    "invoices_unseen_layouts": "invoices, test layouts unlike those trained on",
    "invoices_same_layouts": "invoices, the same 30 layouts in training and test",
}


def table() -> str:
    with RESULTS.open(newline="") as file:
        newest = {row["figure"]: row for row in csv.DictReader(file)}

    def rate(row: dict[str, str]) -> str:
        low, high = float(row["low"]), float(row["high"])
        return f"{float(row['value']):.2f} % [{low:.2f}, {high:.2f}]"

    lines = [
        "| data | copies found | by shingles | false alarms |",
        "|---|---|---|---|",
    ]
    for name, title in DATA.items():
        recall, alarms = newest[f"recall_{name}"], newest[f"false_alarms_{name}"]
        usual = f"{float(recall['peer_value']):.1f} %"
        lines.append(f"| {title} | {rate(recall)} | {usual} | {rate(alarms)} |")
    seconds = float(newest["seconds_10000_by_3000"]["value"])
    lines += [
        "",
        f"10,000 training snippets against 3,000 test snippets: {seconds:.0f} s on two cores.",
    ]
    return "\n".join(lines) + "\n"


def test_the_page_shows_the_newest_rows() -> None:
    """STILLHOUSE_WRITE_FIGURES=1 writes them instead."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    shown, _, after = rest.partition(END)
    if os.environ.get("STILLHOUSE_WRITE_FIGURES"):
        PAGE.write_text(before + START + table() + END + after, encoding="utf-8")
    else:
        assert shown == table(), "run this test with STILLHOUSE_WRITE_FIGURES=1"
