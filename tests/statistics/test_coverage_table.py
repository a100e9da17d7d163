"""The figures in docs/statistics.md are the newest measured ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import coverage

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"


@pytest.mark.parametrize(
    ("mark", "lines"), [("coverage", coverage.table), ("rules", coverage.rule_table)]
)
def test_the_page_holds_the_measured_tables(mark: str, lines: object) -> None:
    text = PAGE.read_text(encoding="utf-8")
    held = text.split(f"<!-- {mark} -->\n")[1].split(f"<!-- /{mark} -->")[0]
    assert held == lines(), "run: python -m benchmarks.coverage --table"  # type: ignore[operator]
