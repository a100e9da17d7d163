"""Cells brought back from what was written of them: nothing is asked, all of it is charged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.limits.cells import Cell, PeriodCell, RollingCell
from stillhouse.limits.ledger import CellState, Intent, Outcome, Time
from stillhouse.limits.limit import Demand
from stillhouse.limits.reservation import Reservation, settle
from stillhouse.limits.table import CellTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stillhouse.limits.ledger import Event


class Replay:
    """What stands after the events so far; `mark` is that of the newest reservation."""

    def __init__(self) -> None:
        self.table = CellTable()
        self.open: dict[bytes, Reservation] = {}
        self.now_us = 0
        self.mark = 0

    def read(self, events: Iterable[Event]) -> list[bytes]:
        """Replay a ledger. What it leaves open is settled at its reservation, and returned."""
        for event in events:
            if isinstance(event, Intent):
                if event.repeated:
                    self._repeat(event)
                else:
                    self.hold(event.reservation_id, event.demands, event.at_us or 0, event.mark)
            elif isinstance(event, Outcome):
                self.pass_to(event.settled_us)
                entry = self.open.pop(event.reservation_id, None)
                if entry is not None and event.used is not None:
                    settle(entry, event.used, self.now_us)
            elif isinstance(event, CellState):
                self.table.get(event.scope, event.limit, self.now_us).load(event.state)
            elif isinstance(event, Time):
                self.pass_to(event.now_us)
        left_open, self.open = self.open, {}
        for entry in left_open.values():
            settle(entry, {}, self.now_us)
        return list(left_open)

    def pass_to(self, now_us: int) -> None:
        """Go on to a time; never back."""
        self.now_us = max(self.now_us, now_us)

    def charge(self, demand: Demand, at_us: int) -> None:
        """Charge what was used, at a time not before any earlier one."""
        self.pass_to(at_us)
        self.mark += 1
        cell = self._take(demand)
        cell.settle(demand.cost, demand.cost, self.mark, self.now_us, self.now_us)

    def hold(
        self, reservation_id: bytes, demands: Sequence[Demand], at_us: int, mark: int = 0
    ) -> None:
        """Charge a reservation and leave it open, under a new mark unless one is given."""
        self.pass_to(at_us)
        self.mark = mark or self.mark + 1
        cells: list[Cell | None] = [self._take(demand) for demand in demands]
        self._keep(reservation_id, demands, self.now_us, self.mark, cells)

    def _take(self, demand: Demand) -> Cell:
        scope, limit, cost, item = demand
        cell = self.table.get(scope, limit, self.now_us)
        cell.fits(cost, item, self.now_us)
        cell.take(cost, item, self.mark, self.now_us)
        return cell

    def _repeat(self, event: Intent) -> None:
        """One that an earlier file has: its charge is in the states of its cells, which follow."""
        if event.reservation_id in self.open:
            return
        cells: list[Cell | None] = []
        for demand in event.demands:
            cell = self.table.get(demand.scope, demand.limit, self.now_us)
            if isinstance(cell, RollingCell | PeriodCell):
                cell.open += 1
            cells.append(cell)
        self._keep(event.reservation_id, event.demands, event.at_us or 0, event.mark, cells)
        self.mark = max(self.mark, event.mark)

    def _keep(
        self,
        reservation_id: bytes,
        demands: Sequence[Demand],
        at_us: int,
        mark: int,
        cells: list[Cell | None],
    ) -> None:
        limits, costs = [d.limit for d in demands], [d.cost for d in demands]
        self.open[reservation_id] = Reservation(at_us, mark, limits, costs, cells, demands)
