"""The retention study keeps every document's bits, and its rows come back from them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import retention, rows

DOCUMENTS = [retention.Document(name, (0, 1, 2), size) for name, size in (("a", 100), ("b", 300))]
AT_THE_END = {"whitebox": 1.5, "plain": 1.6, "scratch": 3.0}


def cell(arm: str, seed: int) -> dict[str, Any]:
    points = []
    for share in retention.SHARES:
        per_byte = 2.0 + share * (AT_THE_END[arm] - 2.0) + 0.001 * seed
        bits = {one.name: per_byte * one.bytes for one in DOCUMENTS}
        place = {"share": share, "processor_s": 480 * share, "tokens": round(1000 * share)}
        points.append({**place, "bits": bits})
    return {"arm": arm, "seed": seed, "points": points}


@pytest.fixture
def appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, rows.Row]:
    monkeypatch.setattr(retention, "ITEMS", tmp_path / "items.tsv.gz")
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(retention.told, "write", lambda: None)
    cells = [cell(arm, seed) for seed in retention.SEEDS for arm in retention.ARMS]
    bits = {one.name: 1.25 * one.bytes for one in DOCUMENTS}
    point = {"share": 1.0, "processor_s": 0.0, "tokens": 0, "bits": bits}
    cells.append({"arm": "teacher", "seed": 0, "points": [point]})
    retention.write_items(cells, DOCUMENTS)
    retention.append_rows()
    return rows.newest("retention")


def test_every_arm_has_its_curve_over_tokens_seen(appended: dict[str, rows.Row]) -> None:
    for arm, end in AT_THE_END.items():
        row = appended[f"{arm}_bits_per_byte"]
        assert row.value == pytest.approx(end + 0.002)
        assert row.peer_value == 1000
        half = appended[f"{arm}_bits_per_byte_at_0.5_of_the_time"]
        assert half.value == pytest.approx(2.0 + (end - 2.0) / 2 + 0.002)
        assert half.peer_value == 500
    assert appended["teacher_bits_per_byte"].value == pytest.approx(1.25)
    assert appended["cut_bits_per_byte"].value == pytest.approx(2.002)


def test_the_difference_is_paired_by_seed_and_document(appended: dict[str, rows.Row]) -> None:
    row = appended["whitebox_minus_plain_bits_per_byte"]
    assert row.value == pytest.approx(-0.1)
    assert row.low is not None
    assert row.high is not None
    # The seeds' own differences cancel in pairs, and all documents differ alike.
    assert row.high - row.low < 1e-3


def test_seeds_that_disagree_widen_the_interval() -> None:
    bytes_D = np.array([100.0, 300.0])
    calm = np.array([[-10.0, -30.0]] * 3)
    wild = calm + np.array([[40.0, 120.0], [0.0, 0.0], [-40.0, -120.0]])
    (_, *narrow), (mean, *wide) = (retention.interval(one, bytes_D) for one in (calm, wild))
    assert mean == pytest.approx(-0.1)
    assert wide[1] - wide[0] > 10 * (narrow[1] - narrow[0]) + 1
