"""Killed at random under load: no request is free, none is charged twice, no exchange is lost."""

from __future__ import annotations

from pathlib import Path

from tests.gateway.killing import killed_under_load

KILLS = 4


def test_kill_9_under_load(tmp_path: Path) -> None:
    books = killed_under_load(tmp_path, seed=4, kills=KILLS)
    assert books.lost == 0
    assert books.free == 0
    assert books.twice == 0
    assert books.crashed > 0, "nothing was open at any kill: the test shows nothing"
    # Never less than the books say; beyond them at most what was in hand at each kill.
    assert 0 <= books.over_nano <= 2 * KILLS * books.largest_nano
