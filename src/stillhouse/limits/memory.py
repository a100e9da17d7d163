"""The back end in memory: one process, no service, the fastest path.

With a folder it is durable: after a restart every cell is as it was, and what was open stays
charged at its reservation. A second process on the folder is refused. Not for several threads.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from stillhouse.exchanges import InputError
from stillhouse.limits.cells import RollingCell, under
from stillhouse.limits.ledger import TURN_AFTER, CellState, Intent, Ledger
from stillhouse.limits.limit import LEVEL_MAX, Demand
from stillhouse.limits.replay import Replay
from stillhouse.limits.reservation import SETTLED, Reservation, settle, take, told
from stillhouse.limits.results import (
    Exceeded,
    Reading,
    Reserved,
    Settled,
    Unavailable,
    Unknown,
    exceeded,
)
from stillhouse.limits.table import DROPPED, CellTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from stillhouse.limits.binding import Binding
    from stillhouse.limits.cells import Cell

    _Found = tuple[list[Cell | None], list[tuple[Demand, int | None]], tuple[Demand, ...]]

_CARRIED = 16  # cells whose states are written at a time after a turn of the ledger
_SETTLED_KEPT = 8192  # at least how many settled reservations are still told from unknown ones


class Memory:
    """Limits of one process. Start from `reserve_now` and `settle_now`.

    `cells_max` bounds the memory (roughly 0.5 kB a cell): beyond it nothing new is admitted, as a
    cell that still counts is never dropped. With `hold` nothing is written by `reserve_now` and
    `settle_now`: call `write_reserved` before anything reserved is served, and `write_settled`
    after what was served is written down elsewhere; each takes one system call for many. The
    ledger in the folder is made short again after every `turn_after` reservations.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        cells_max: int = 4_000_000,
        hold: bool = False,
        turn_after: int = TURN_AFTER,
    ):
        self._table = CellTable()
        self._cells_max = cells_max
        self._open: dict[bytes, Reservation] = {}
        self._settled: set[bytes] = set()
        self._settled_before: set[bytes] = set()
        self._now_us = 0
        self._mark = 0
        self._ledger: Ledger | None = None
        self._to_carry: Iterator[Cell] | None = None
        if folder is not None:
            ledger = Ledger(folder, hold=hold, turn_after=turn_after)
            try:
                self._restore(ledger)
            except BaseException:
                ledger.close()
                raise
            self._ledger = ledger

    def reserve_now(
        self, reservation_id: bytes, demands: Sequence[Demand], now_us: int
    ) -> Reserved | Exceeded | Unavailable:
        """Charge all of `demands`, or none; see `Limiter.reserve`. A clock that went back stands.

        `demands` is kept until the settlement: do not change it.
        """
        now_us = self._pass(now_us, 2 * len(demands) + 8)
        if self._known_id(reservation_id):
            return Unavailable("this reservation id was used before")
        self._mark = mark = self._mark + 1
        found = self._find(demands, mark, now_us)
        if isinstance(found, Unavailable):
            return found
        cells, refused, would_refuse = found
        if refused:
            return exceeded(demands, refused)
        if self._ledger is not None:
            try:
                charged = demands
                if would_refuse:
                    charged = [
                        d for d, cell in zip(demands, cells, strict=True) if cell is not None
                    ]
                self._ready().reserved(reservation_id, now_us, charged, mark)
            except InputError as error:
                return Unavailable(str(error))
        readings = take(demands, cells, mark, now_us)
        limits, costs = [d.limit for d in demands], [d.cost for d in demands]
        self._open[reservation_id] = Reservation(now_us, mark, limits, costs, cells, demands)
        return Reserved(now_us, tuple(readings), would_refuse)

    def reserve_bound(
        self,
        reservation_id: bytes,
        binding: Binding,
        costs: Sequence[int],
        item: bytes,
        more: Sequence[Demand],
        now_us: int,
    ) -> Reserved | Exceeded | Unavailable:
        """`reserve_now` for `binding.demands(costs, item)` and `more`, at half the price.

        `costs` has one for each row, none negative; no cell of `binding` is in `more`.
        """
        now_us = self._pass(now_us, 2 * len(costs) + 8)
        if self._known_id(reservation_id):
            return Unavailable("this reservation id was used before")
        self._mark = mark = self._mark + 1
        limits = binding.limits
        cells = binding.cells
        held = cells.copy()
        refused: list[tuple[Demand, int | None]] = []
        would_refuse: tuple[Demand, ...] = ()
        index = -1
        for cell, limit, cost in zip(cells, limits, costs, strict=True):
            index += 1
            if not cost:
                held[index] = None
                continue
            if cell is None or cell.limit is not limit:  # never looked up, dropped, or changed
                scope = binding.rows[index][0]
                table = self._table
                cell = table.find(scope, limit)
                if cell is None:
                    if table.count >= self._cells_max:
                        return Unavailable("too many limits are in use for the memory allowed")
                    cell = table.add(scope, limit, now_us)
                held[index] = cells[index] = cell
                cell = under(cell, limit, now_us)
            if type(cell) is RollingCell:
                # As `RollingCell.fits`, written out: nearly all cells are of this kind.
                level = cell.level
                passed = now_us - cell.at_us
                if passed:
                    level -= passed * limit.drain
                    cell.level = level = level if level > 0 else 0
                    cell.at_us = now_us
                if level + cost * limit.grain <= limit.capacity:
                    continue
            elif cell.fits(cost, item, now_us):
                continue
            demand = binding.demand(index, cost, item)
            if limit.shadow:
                held[index] = None
                would_refuse += (demand,)
            else:
                refused.append((demand, cell.wait_us(cost, now_us)))
        more_cells: list[Cell | None] = []
        if more:
            found = self._find(more, mark, now_us)
            if isinstance(found, Unavailable):
                return found
            more_cells, more_refused, more_shadow = found
            refused += more_refused
            would_refuse += more_shadow
        if refused:
            return exceeded((*binding.demands(costs, item), *more), refused)
        if self._ledger is not None:
            try:
                ledger = self._ready()
                if would_refuse:
                    charged = [
                        binding.demand(index, cost, item)
                        for index, (cost, cell) in enumerate(zip(costs, held, strict=True))
                        if cell is not None
                    ]
                    charged += [
                        d for d, cell in zip(more, more_cells, strict=True) if cell is not None
                    ]
                    ledger.reserved(reservation_id, now_us, charged, mark)
                else:
                    ledger.reserved_bound(reservation_id, now_us, binding, costs, item, more, mark)
            except InputError as error:
                return Unavailable(str(error))
        for cell, limit, cost in zip(held, limits, costs, strict=True):
            if cell is None:
                continue
            if cell.limit is not limit:
                cell.adopt(limit, now_us)
            if type(cell) is RollingCell:
                cell.open += 1
                before = cell.level
                level = before + cost * limit.grain
                cell.level = level = level if level < LEVEL_MAX else LEVEL_MAX
                marks = cell.marks
                if marks is None:
                    cell.marks, cell.lows = [mark], [level]
                else:
                    cell.stack(marks, before, mark)
            else:
                cell.take(cost, item, mark, now_us)
        readings = [
            Reading(demand, *cell.reading())
            for index, demand in binding.shown
            if (cell := held[index]) is not None
        ]
        if more:
            readings += take(more, more_cells, mark, now_us)
            limits = (*limits, *[demand[1] for demand in more])
            costs = (*costs, *[demand[2] for demand in more])
            held += more_cells
        self._open[reservation_id] = Reservation(
            now_us, mark, limits, costs, held, more, binding.rows
        )
        return Reserved(now_us, tuple(readings), would_refuse)

    def settle_now(
        self, reservation_id: bytes, used: Mapping[str, int], now_us: int
    ) -> Settled | Unknown | Unavailable:
        """Correct a reservation to what was used; see `Limiter.settle`."""
        now_us = self._pass(now_us, 0)
        entry = self._open.get(reservation_id)
        if entry is None:
            if self._known_id(reservation_id):
                return Settled(already=True)
            return Unknown(reservation_id)
        failure = None
        if used and min(used.values()) < 0:
            raise ValueError(f"use cannot be negative: {dict(used)}")
        if self._ledger is not None:
            try:
                self._ledger.settled(reservation_id, now_us, used)
            except InputError as error:
                # As it will be after a restart: charged at the reservation.
                failure, used = str(error), {}
        del self._open[reservation_id]
        if len(self._settled) >= _SETTLED_KEPT:
            # By generations: to drop a dictionary's oldest key one by one is slow.
            self._settled_before, self._settled = self._settled, set()
        self._settled.add(reservation_id)
        excess = settle(entry, used, now_us)
        return SETTLED if failure is None and not excess else told(failure, excess)

    def _pass(self, now_us: int, looks: int) -> int:
        """Go on to a time, never back, with `looks` at cells that may be drained; return it."""
        if now_us < self._now_us:
            return self._now_us
        self._now_us = now_us
        table = self._table
        if looks and now_us >= table.sweep_us:
            table.sweep(now_us, looks)
        return now_us

    def _find(self, demands: Sequence[Demand], mark: int, now_us: int) -> _Found | Unavailable:
        """Return the cell of each demand, what refuses, and what would."""
        table = self._table
        cells: list[Cell | None] = []
        refused: list[tuple[Demand, int | None]] = []
        would_refuse: tuple[Demand, ...] = ()
        for demand in demands:
            scope, limit, cost, item = demand
            cell = table.find(scope, limit)
            if cell is None:
                if table.count >= self._cells_max:
                    return Unavailable("too many limits are in use for the memory allowed")
                cell = table.add(scope, limit, now_us)
            if cell.stamp == mark or cost < 0:
                raise ValueError(f"{demand} twice in one reservation, or at a negative cost")
            cell.stamp = mark
            own = cell
            if cell.limit is not limit:
                cell = under(cell, limit, now_us)
            if type(cell) is RollingCell:
                # As `RollingCell.fits`, written out: nearly all cells are of this kind.
                level = cell.level
                passed = now_us - cell.at_us
                if passed:
                    level -= passed * limit.drain
                    cell.level = level = level if level > 0 else 0
                    cell.at_us = now_us
                fits = level + cost * limit.grain <= limit.capacity
            else:
                fits = cell.fits(cost, item, now_us)
            if fits:
                cells.append(own)
            elif limit.shadow:
                cells.append(None)
                would_refuse += (demand,)
            else:
                refused.append((demand, cell.wait_us(cost, now_us)))
        return cells, refused, would_refuse

    def _known_id(self, reservation_id: bytes) -> bool:
        return (
            reservation_id in self._open
            or reservation_id in self._settled
            or reservation_id in self._settled_before
        )

    def write_reserved(self) -> str | None:
        """With `hold`: put the reservations since the last call into the kernel.

        Returns why they could not be; then they must be settled as unused, and none may be served.
        """
        return None if self._ledger is None else self._ledger.write_reserved()

    def write_settled(self) -> str | None:
        """With `hold`: the same for settlements. Those that cannot be written wait for the next."""
        ledger = self._ledger
        if ledger is None:
            return None
        failure = ledger.write_settled()
        if ledger.left <= 0 and not ledger.holds:
            try:
                self._carry(ledger)
            except InputError as error:
                return str(error)
        return failure

    def _ready(self) -> Ledger:
        """Return the ledger, for a reservation to be written."""
        ledger = self._ledger
        if ledger is None:
            raise RuntimeError("no ledger")
        if ledger.left <= 0 and not ledger.holds:
            self._carry(ledger)
        return ledger

    def _carry(self, ledger: Ledger) -> None:
        """Begin a new file of the ledger, or write the next few cells into one that has begun."""
        try:
            if self._to_carry is None:
                ledger.turn(self._now_us, self._open_intents())
                # Not those that come after this: all that they count is in the new file.
                self._to_carry = iter(list(self._table))
            cells = list(itertools.islice(self._to_carry, _CARRIED))
            if cells:
                ledger.carry(self._states(cells))
            else:
                self._to_carry = None
                ledger.whole(self._table.count)
        except InputError:
            self._to_carry = None  # what was not written is lost to it: begun anew
            raise

    async def reserve(
        self, reservation_id: bytes, demands: Sequence[Demand], now_us: int
    ) -> Reserved | Exceeded | Unavailable:
        """`reserve_now`, for callers that may have either back end."""
        return self.reserve_now(reservation_id, demands, now_us)

    async def settle(
        self, reservation_id: bytes, used: Mapping[str, int], now_us: int
    ) -> Settled | Unknown | Unavailable:
        """`settle_now`, for callers that may have either back end."""
        return self.settle_now(reservation_id, used, now_us)

    async def close(self) -> None:
        """See `close_now`."""
        self.close_now()

    def close_now(self) -> None:
        """Sync the ledger and let go of the folder."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    @property
    def ledger_path(self) -> Path | None:
        """The file that is written to now: whoever syncs it puts the limits on the disk."""
        return None if self._ledger is None else self._ledger.path

    def sync(self) -> None:
        """Put the ledger on the disk: what came before this call survives a loss of power."""
        if self._ledger is not None:
            self._ledger.sync()

    @property
    def cell_count(self) -> int:
        """How many cells are held."""
        return self._table.count

    @property
    def open_count(self) -> int:
        """How many reservations are open."""
        return len(self._open)

    @property
    def now_us(self) -> int:
        """The limiter's time: the latest that it was given."""
        return self._now_us

    def cells(self) -> Iterator[Cell]:
        """Every cell; none may be added meanwhile."""
        return iter(self._table)

    def dump(self) -> Iterator[CellState]:
        """Every cell that counts anything."""
        return self._states(list(self._table))

    def _states(self, cells: Iterable[Cell]) -> Iterator[CellState]:
        """Of every cell that is still there and counts anything."""
        for cell in cells:
            if cell.limit is not DROPPED and cell.empty_at_us(self._now_us) > self._now_us:
                yield CellState(cell.scope, cell.limit, cell.dump())

    def _open_intents(self) -> Iterator[Intent]:
        for name, entry in self._open.items():
            scopes = [row[0] for row in entry.rows] + [demand.scope for demand in entry.demands]
            rows = zip(scopes, entry.limits, entry.costs, entry.cells, strict=True)
            charged = tuple(
                Demand(scope, limit, cost) for scope, limit, cost, cell in rows if cell is not None
            )
            yield Intent(name, entry.at_us, charged, entry.mark)

    def _restore(self, ledger: Ledger) -> None:
        replay = Replay()
        left_open = replay.read(ledger.events())
        self._table, self._now_us, self._mark = replay.table, replay.now_us, replay.mark
        # A start that is killed before its file is whole must not have them settled twice.
        ledger.begin(self._now_us, left_open)
        cells = iter(list(self._table))
        while part := list(itertools.islice(cells, 500)):
            ledger.carry(self._states(part))
        ledger.whole(self._table.count)
