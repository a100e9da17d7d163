"""The back end in memory against the reference, and the mutants that must not pass."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.limits.machine import SETTINGS, Machine

from stillhouse.limits import (
    Binding,
    Demand,
    Limit,
    Memory,
    Reserved,
    Scope,
    Settled,
    cells,
    memory,
)


class InMemory:
    """`Memory` under the machine."""

    debts = True

    def __init__(self, make: Callable[[], Memory] = Memory):
        self.make = make

    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.limiter = self.make()

    def call(self, work: Coroutine[Any, Any, Any], now: int) -> Any:
        return self.loop.run_until_complete(work)

    def clock(self, now: int, lag: int) -> int:
        return now - lag

    def lose(self, now: int) -> str:
        return "kept"

    def end(self) -> None:
        self.limiter.close_now()
        self.loop.close()


class Durable(InMemory):
    """`Memory` on a folder; it loses everything that is not there.

    With a small `turn_after` its ledger is made short again and again, cell by cell.
    """

    def __init__(self, turn_after: int = 200_000):
        self.turn_after = turn_after

    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.make = lambda: Memory(folder=self.folder, turn_after=self.turn_after)
        super().begin()

    def lose(self, now: int) -> str:
        self.limiter.close_now()
        self.limiter = self.make()
        return "closed"

    def end(self) -> None:
        super().end()
        shutil.rmtree(self.folder)


IDLE = (Scope("key", "never"), Limit.rolling("idle", "requests", 4, 10**6))


class Bound(Memory):
    """Has most of every reservation made through bindings that are kept, as the gateway does."""

    def __init__(self, **options: Any):
        self.bindings: dict[Any, Binding] = {}
        super().__init__(**options)

    def reserve_now(self, name: bytes, demands: Sequence[Demand], now_us: int) -> Any:
        bound = [d for index, d in enumerate(demands) if d.cost and index % 4 < 3]
        more = [d for d in demands if d not in bound]
        rows = (*((d.scope, d.limit) for d in bound), IDLE)
        binding = self.bindings.setdefault(rows, Binding(rows))
        item = next((d.item for d in bound if d.item), b"")
        found = self.reserve_bound(name, binding, [*(d.cost for d in bound), 0], item, more, now_us)
        if isinstance(found, Reserved):
            # In the order of the demands, which the reference keeps.
            order = {(d.scope, d.limit): place for place, d in enumerate(demands)}
            place = {(scope, limit): demand for scope, limit, *demand in demands}
            would = sorted(found.would_refuse, key=lambda d: order[d.scope, d.limit])
            readings = [
                reading._replace(demand=Demand(*key, *place[key]))
                for reading in sorted(found.readings, key=lambda r: order[r.demand[:2]])
                for key in (reading.demand[:2],)
            ]
            found = found._replace(would_refuse=tuple(would), readings=tuple(readings))
        return found


class DurableBound(Durable):
    """The same on a folder, its lines held back until the call is over."""

    def begin(self) -> None:
        InMemory.begin(self)

    def __init__(self, turn_after: int = 200_000) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.make = lambda: Bound(folder=self.folder, hold=True, turn_after=turn_after)

    def call(self, work: Coroutine[Any, Any, Any], now: int) -> Any:
        found = super().call(work, now)
        assert self.limiter.write_reserved() is None
        assert self.limiter.write_settled() is None
        return found


def run(factory: Callable[[], Any], options: settings, *, safety_alone: bool = False) -> None:
    own = {"subject_factory": staticmethod(factory), "safety_alone": safety_alone}
    made = type("Made", (Machine,), own)
    run_state_machine_as_test(made, settings=options)


def test_memory_decides_as_the_reference() -> None:
    run(InMemory, settings(SETTINGS, max_examples=120, stateful_step_count=40))


def test_durable_memory_decides_as_the_reference_through_restarts() -> None:
    run(Durable, settings(SETTINGS, max_examples=25, stateful_step_count=30))


def test_bindings_decide_as_the_reference() -> None:
    run(lambda: InMemory(Bound), settings(SETTINGS, max_examples=80, stateful_step_count=40))


def test_bindings_decide_as_the_reference_through_restarts() -> None:
    run(DurableBound, settings(SETTINGS, max_examples=20, stateful_step_count=30))


@pytest.mark.parametrize("subject", [Durable, DurableBound])
def test_a_ledger_that_is_always_being_made_short_decides_as_the_reference(
    subject: type[Durable | DurableBound], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_CARRIED", 2)
    options = settings(SETTINGS, max_examples=20, stateful_step_count=40)
    run(lambda: subject(turn_after=3), options)


class BurstOfTheLimit(cells.RollingCell):
    """Rate L / W, burst L."""

    def fits(self, cost: int, item: bytes, now_us: int) -> bool:
        limit = self.limit
        level = self.level - (now_us - self.at_us) * limit.amount * limit.grain // limit.window_us
        self.level, self.at_us = max(0, level), now_us
        return self.level + cost * limit.grain <= limit.amount * limit.grain


class FixedWindow(cells.RollingCell):
    """A counter that begins anew at each tick of the window."""

    def fits(self, cost: int, item: bytes, now_us: int) -> bool:
        limit = self.limit
        if now_us // limit.window_us != self.at_us // limit.window_us:
            self.level = 0
        self.at_us = now_us
        return self.level + cost * limit.grain <= limit.amount * limit.grain


class NaiveRefund(cells.RollingCell):
    """Gives back all that was not used, also what has drained."""

    def _refund(self, marks: list[int], difference: int, mark: int) -> None:
        self.level = max(0, self.level - difference)
        self.marks, self.lows = [marks[-1]], [self.level]


class LocalClock(Memory):
    """Goes by each caller's clock."""

    def reserve_now(self, name: bytes, demands: Sequence[Demand], now_us: int) -> Any:
        self._now_us = 0
        return super().reserve_now(name, demands, now_us)

    def settle_now(self, name: bytes, used: Mapping[str, int], now_us: int) -> Any:
        self._now_us = 0
        return super().settle_now(name, used, now_us)


class CheckThenIncrement(Memory):
    """Looks, lets others run, and charges then."""

    async def reserve(self, name: bytes, demands: Sequence[Demand], now_us: int) -> Any:
        fits = [
            self._table.get(d.scope, d.limit, now_us).fits(d.cost, d.item, now_us) for d in demands
        ]
        await asyncio.sleep(0)
        if not all(fits):
            return self.reserve_now(name, demands, now_us)
        self._now_us = max(self._now_us, now_us)
        self._mark += 1
        found = []
        for demand in demands:
            cell = self._table.get(demand.scope, demand.limit, self._now_us)
            cell.fits(0, demand.item, self._now_us)
            cell.take(demand.cost, demand.item, self._mark, self._now_us)
            found.append(cell)
        self._open[name] = memory.Reservation(
            self._now_us,
            self._mark,
            [d.limit for d in demands],
            [d.cost for d in demands],
            found,
            demands,
        )
        return Reserved(self._now_us, (), ())


class MissingUsageRefunds(Memory):
    """Takes no usage for no use."""

    def settle_now(self, name: bytes, used: Mapping[str, int], now_us: int) -> Any:
        entry = self._open.get(name)
        units = {d.limit.unit for d in entry.demands} if entry else set()
        return super().settle_now(name, dict.fromkeys(units, 0) | dict(used), now_us)


class DoubleSettle(Memory):
    """Settles as often as it is asked to."""

    def settle_now(self, name: bytes, used: Mapping[str, int], now_us: int) -> Any:
        kept = self.__dict__.setdefault("kept", {})
        if name in self._settled and name in kept:
            for (_, limit, cost, _), cell in zip(kept[name].demands, kept[name].cells, strict=True):
                actual = used.get(limit.unit, cost)
                if isinstance(cell, cells.RollingCell) and actual < cost:
                    cell.level = max(0, cell.level - (cost - actual) * limit.grain)
            return Settled(already=True)
        if name in self._open:
            kept[name] = self._open[name]
        return super().settle_now(name, used, now_us)


MUTANT_CELLS = (BurstOfTheLimit, FixedWindow, NaiveRefund)
MUTANTS = (LocalClock, CheckThenIncrement, MissingUsageRefunds, DoubleSettle)
HUNT = settings(
    SETTINGS,
    max_examples=1000,
    stateful_step_count=40,
    phases=[Phase.generate],
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
)


@pytest.mark.parametrize("mutant", MUTANT_CELLS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_cell_is_killed(mutant: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cells.CELLS, "rolling", mutant)
    with pytest.raises(AssertionError):
        run(InMemory, HUNT, safety_alone=True)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_limiter_is_killed(mutant: type[Memory]) -> None:
    with pytest.raises(AssertionError):
        run(lambda: InMemory(mutant), HUNT, safety_alone=True)
