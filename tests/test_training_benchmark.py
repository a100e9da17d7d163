"""The training study keeps finished cells, compares equal batches only, and its rows come back."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from benchmarks import training
from benchmarks.whitebox.cell import Cell
from benchmarks.whitebox.data import digest

CELL = Cell(contender="naive", share=50, round=0, steps=2, warm_up=1, batch=2)


def seen(seconds: float, fed: str = "a") -> dict[str, Any]:
    return {
        "tokens": [100, 200],
        "seconds": [seconds, 2 * seconds],
        "fed": [fed, fed * 2],
        "peak_bytes": round(2**30 * seconds),
        "commit": "c",
    }


def study(**changed: dict[str, Any]) -> list[tuple[Cell, dict[str, Any]]]:
    speeds = {name: 1.0 + number for number, name in enumerate(training.ALL)}
    found = {name: seen(seconds) for name, seconds in speeds.items()} | changed
    return [
        (dataclasses.replace(CELL, contender=name, share=share), one)
        for share in training.SHARES
        for name, one in found.items()
    ]


def test_a_finished_cell_is_read_and_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run(command: list[str], **_options: Any) -> Any:
        ran.append(json.loads(command[3]))
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(seen(1.0)))

    monkeypatch.setattr(training.rows, "commit", lambda: "c")
    monkeypatch.setattr(training.subprocess, "run", run)
    first = training.in_process(CELL, tmp_path, tmp_path, None)
    assert training.in_process(CELL, tmp_path, tmp_path, None) == first
    assert ran == [dataclasses.asdict(CELL)]
    training.in_process(dataclasses.replace(CELL, round=1), tmp_path, tmp_path, None)
    assert len(ran) == 2


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Cell)])
def test_another_setting_is_another_cell(field: str) -> None:
    other: Any = "ours" if field == "contender" else 99
    assert dataclasses.replace(CELL, **{field: other}).key != CELL.key


def test_every_round_turns_the_order_round_and_makes_its_cache_first() -> None:
    settings = {"steps": 2, "warm_up": 1, "batch": 2}
    names = [cell.contender for cell in training.cells(50, 2, settings)]
    half = len(names) // 2
    assert names[0] == names[half] == "make-cache"
    assert names[half + 1 :] == names[1:half][::-1]


def test_rows_are_made_from_the_kept_steps(tmp_path: Path) -> None:
    training.write_steps(study(), tmp_path / "steps.tsv")
    read = training.read_steps(tmp_path / "steps.tsv")
    assert list(read) == list(training.SHARES)
    found = {figure: rest for figure, *rest in training.figures(read[50])}
    assert found["tokens_per_s"][0] == pytest.approx(100)
    best = training.ALL.index("gkd")  # the fastest of the peers in these made-up steps
    assert found["tokens_per_s_over_best_peer"][0] == pytest.approx(1.0 + best)
    assert found["peak_memory_over_best_peer"][0] == pytest.approx(1 / (1.0 + best))


def test_contenders_that_were_fed_other_batches_are_not_compared(tmp_path: Path) -> None:
    training.write_steps(study(ours=seen(1.0, "b")), tmp_path / "steps.tsv")
    with pytest.raises(ValueError, match="same batches"):
        list(training.figures(training.read_steps(tmp_path / "steps.tsv")[50]))


def test_a_digest_tells_ids_and_reply_starts_apart() -> None:
    assert len({digest([([1, 2, 3], 1)]), digest([([1, 2, 3], 2)]), digest([([1, 2, 4], 1)])}) == 3


def test_peaks_of_a_batch_size_stand_beside_the_fastest_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.rows, "RESULTS", tmp_path)
    small = seen(2.0) | {"peak_bytes": 2**28}
    fast = seen(0.5) | {"peak_bytes": 2**30}
    training.write_steps(study(ours=small, chunked=fast), tmp_path / "steps.tsv")
    training.memory(training.read_steps(tmp_path / "steps.tsv"), 16)
    found = training.rows.newest("training")
    over = found["peak_memory_over_best_peer_batch_16"]
    assert (over.value, over.peer) == (0.25, training.PEERS["chunked"])
    assert found["peak_memory_ours_batch_16_reply_95"].peer_value == 1.0
    assert over.command.endswith("--memory")


def test_the_interval_of_a_ratio_is_that_of_its_rounds() -> None:
    assert training.of_rounds([1.5]) == (None, None)
    assert training.of_rounds([1.58, 1.35]) == (1.35, 1.58)
    low, high = training.of_rounds([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
