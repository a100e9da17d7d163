"""Streams left after each of their events are paid, whatever the surface and the upstream."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gateways.aborts import Case, measure_all

from stillhouse.gateway.tokens import TokenBound, Used

CASES = (
    Case("chat", "vllm", "tools"),
    Case("responses", "openai", tokenizer=True),
    Case("messages", "anthropic", tokenizer=True),
    Case("messages", "anthropic"),
)


def test_no_abort_pays_less_than_was_produced(tmp_path: Path) -> None:
    found = asyncio.run(measure_all(tmp_path, 1, CASES, step=4))
    for case, seen in found.items():
        assert seen.under == [], case.name
        assert not case.known or statistics.median(seen.ratios) <= 1.05, case.name


def test_the_mutant_that_trusts_an_early_figure_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anthropic's servers report one token at the start and the rest at the end."""

    right = TokenBound.used

    def mutant(self: TokenBound, rebuilder: Any, *, whole: bool) -> Used:
        usage, chunks = rebuilder.usage, rebuilder.produced.chunks
        if usage is None:
            return right(self, rebuilder, whole=whole)
        return Used(usage.tokens_in, usage.tokens_out if whole else max(usage.tokens_out, chunks))

    monkeypatch.setattr(TokenBound, "used", mutant)
    found = asyncio.run(measure_all(tmp_path, 1, CASES[2:3], step=4))
    assert found[CASES[2]].under
