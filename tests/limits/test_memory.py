"""The back end in memory: bounded, one process a folder, exact through changes of a limit."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.exchanges import InputError
from stillhouse.exchanges.storage import InUseError
from stillhouse.limits import Demand, Limit, Memory, Reserved, Scope, SteadyClock, Unavailable
from stillhouse.limits.cells import RollingCell
from stillhouse.limits.ledger import Ledger

SECOND = 10**6
START = 1_770_000_000 * SECOND
SHORT = Limit.rolling("short", "requests", 10, 2 * SECOND, burst=5)
DAY = Limit.rolling("day", "requests", 10, 86_400 * SECOND, burst=5)


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_memory_is_bounded_by_what_still_counts() -> None:
    """10^5 scopes, one request each: only those of the last seconds are held."""
    limiter = Memory()
    highest = 0
    for number in range(100_000):
        now = START + number * 1000  # a thousand a second
        demand = Demand(Scope("address", str(number)), SHORT)
        assert isinstance(limiter.reserve_now(name(number), [demand], now), Reserved)
        limiter.settle_now(name(number), {"requests": 1}, now + 500)
        highest = max(highest, limiter.cell_count)
    # A cell drains in 0.4 s and is looked at when a full one would have: 1.25 s, in slots of 1 s.
    assert highest < 5_000
    assert limiter.open_count == 0


def test_an_address_that_asks_once_is_not_kept_for_the_window() -> None:
    limiter = Memory()
    minute = Limit.rolling("minute", "requests", 600, 60 * SECOND)  # one request drains in 0.2 s
    highest = 0
    for number in range(30_000):
        now = START + number * 1000
        limiter.reserve_now(name(number), [Demand(Scope("address", str(number)), minute)], now)
        limiter.settle_now(name(number), {"requests": 1}, now)
        highest = max(highest, limiter.cell_count)
    assert highest < 5_000


def test_only_cells_that_are_fully_drained_are_dropped() -> None:
    limiter = Memory()
    generator = random.Random(7)
    admitted: dict[int, list[int]] = {}
    now = START
    for number in range(20_000):
        now += generator.randrange(5_000)
        who = generator.randrange(400)
        limit = DAY if who % 2 else SHORT
        demand = Demand(Scope("address", str(who)), limit)
        if isinstance(limiter.reserve_now(name(number), [demand], now), Reserved):
            admitted.setdefault(who, []).append(now)
        if generator.random() < 0.9:
            limiter.settle_now(name(number), {"requests": 1}, now)
    for who, times in admitted.items():
        limit = DAY if who % 2 else SHORT
        for index, at in enumerate(times):
            inside = [t for t in times[index:] if t - at <= limit.window_us]
            assert len(inside) <= limit.amount
    # A day has not passed: all two hundred of the slow ones are there.
    slow = [cell.scope for cell in limiter.cells() if cell.limit.name == "day"]
    assert len(slow) == 200


def test_an_open_reservation_keeps_its_cell() -> None:
    limiter = Memory()
    scope = Scope("account", "x")
    limiter.reserve_now(name(1), [Demand(scope, SHORT, 5)], START)
    later = START + 10**9
    limiter.reserve_now(name(2), [Demand(Scope("account", "y"), SHORT)], later)
    assert scope in [cell.scope for cell in limiter.cells()]
    limiter.settle_now(name(1), {"requests": 0}, later)
    for number in range(3, 40):
        later += SECOND
        limiter.reserve_now(name(number), [Demand(Scope("account", "y"), SHORT, 0)], later)
    assert scope not in [cell.scope for cell in limiter.cells()]


def test_with_no_room_for_another_cell_nothing_new_is_admitted() -> None:
    limiter = Memory(cells_max=2)
    told = [
        limiter.reserve_now(name(number), [Demand(Scope("account", str(number)), DAY)], START)
        for number in range(3)
    ]
    assert [type(one) for one in told] == [Reserved, Reserved, Unavailable]
    again = limiter.reserve_now(name(9), [Demand(Scope("account", "0"), DAY)], START)
    assert isinstance(again, Reserved)


PROGRAM = """
import sys
from pathlib import Path
from stillhouse.exchanges import InputError
from stillhouse.limits import Memory
try:
    Memory(folder=Path(sys.argv[1]))
except InputError as error:
    print(error)
"""


def test_a_second_process_on_one_folder_is_refused(tmp_path: Path) -> None:
    limiter = Memory(folder=tmp_path)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "is using this" in told
    with pytest.raises(InUseError):
        Memory(folder=tmp_path)
    limiter.close_now()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_a_step_back_of_the_clock_between_two_runs_gives_nothing_back(tmp_path: Path) -> None:
    demand = [Demand(Scope("account", "x"), DAY, 5)]
    limiter = Memory(folder=tmp_path)
    assert isinstance(limiter.reserve_now(name(1), demand, START), Reserved)
    limiter.close_now()
    limiter = Memory(folder=tmp_path)
    told = limiter.reserve_now(name(2), [Demand(Scope("account", "y"), DAY)], START - 10**12)
    assert isinstance(told, Reserved)
    assert told.at_us == START
    assert not isinstance(limiter.reserve_now(name(3), demand, START - 10**12), Reserved)
    limiter.close_now()


def test_a_start_that_is_killed_settles_what_was_open_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when the states of the cells are written and the ledger still has what was before."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    demand = [Demand(Scope("account", "x"), DAY, 2)]
    before = Memory(folder=tmp_path)
    assert isinstance(before.reserve_now(name(1), demand, START), Reserved)
    before.close_now()
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "whole", killed)
        with pytest.raises(KeyboardInterrupt):
            Memory(folder=tmp_path)
    limiter = Memory(folder=tmp_path)
    later = START + 86_400 * SECOND
    for number in (2, 3):
        assert isinstance(limiter.reserve_now(name(number), demand, later), Reserved)
    limiter.settle_now(name(2), {"requests": 2}, later)
    limiter.settle_now(name(3), {"requests": 0}, later)
    (cell,) = limiter.cells()
    assert isinstance(cell, RollingCell)
    assert (cell.level, cell.open) == (2 * DAY.grain, 0)
    limiter.close_now()


def test_the_clock_follows_no_step_of_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SteadyClock()
    before = clock.now_us()
    monkeypatch.setattr("time.time_ns", lambda: 0)
    assert 0 <= clock.now_us() - before < 60 * SECOND
    monkeypatch.setattr("time.time_ns", lambda: 10**20)
    assert 0 <= clock.now_us() - before < 60 * SECOND


def test_a_limit_that_changes_keeps_what_was_used() -> None:
    limiter = Memory()
    scope = Scope("account", "x")
    assert isinstance(limiter.reserve_now(name(1), [Demand(scope, DAY, 5)], START), Reserved)
    wider = Limit.rolling("day", "requests", 16, 86_400 * SECOND, burst=8)
    assert isinstance(limiter.reserve_now(name(2), [Demand(scope, wider, 3)], START), Reserved)
    assert not isinstance(limiter.reserve_now(name(3), [Demand(scope, wider, 1)], START), Reserved)
    assert not isinstance(limiter.reserve_now(name(4), [Demand(scope, DAY, 1)], START), Reserved)


@pytest.mark.parametrize(
    ("amount", "burst", "window", "said"),
    [
        (10, 10, SECOND, "a burst of 10 with an amount of 10"),
        (10, 0, SECOND, "a burst of 0"),
        (1, None, SECOND, "an amount of 1"),
        (10, 5, 0, "a window of 0 us"),
        (10, 5, 401 * 86_400 * SECOND, "a window of"),
        (2**50, 2**50 - 1, 399 * 86_400 * SECOND, "cannot be counted exactly"),
    ],
)
def test_figures_that_cannot_hold_are_refused(
    amount: int, burst: int | None, window: int, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        Limit.rolling("l", "requests", amount, window, burst=burst)
