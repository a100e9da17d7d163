"""All cells of a process, by scope, and the dropping of those that count nothing any more."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

from stillhouse.limits.cells import CELLS, DAY_US, FOREVER_US, Cell
from stillhouse.limits.limit import Limit, Scope

if TYPE_CHECKING:
    from collections.abc import Iterator

_SLOT_BITS = 20  # cells are looked at for dropping in slots of about a second
_FIRST_LOOK_US = 2 * 10**6  # after that a cell is looked at when it would be drained
_NUMEROUS = frozenset({"address", "end_user"})  # scopes whose number the clients choose


class CellTable:
    """The cells of each scope stand in a list of their own: a scope has a handful of them.

    `sweep` is due from `sweep_us` on. Only a fully drained cell is ever dropped; its `limit` is
    then `DROPPED`, which nobody has, so who still holds it looks it up again.
    """

    __slots__ = ("_due", "_scopes", "_slots", "count", "sweep_us")

    def __init__(self) -> None:
        self.count = 0
        self.sweep_us = FOREVER_US
        self._scopes: dict[Scope, list[Cell]] = {}
        self._due: dict[int, list[Cell]] = {}
        self._slots: list[int] = []

    def __iter__(self) -> Iterator[Cell]:
        return itertools.chain.from_iterable(self._scopes.values())

    def find(self, scope: Scope, limit: Limit) -> Cell | None:
        """Return the cell of this name and kind, under whatever amounts."""
        name = limit.cell
        for cell in self._scopes.get(scope, ()):
            if cell.limit.cell == name:
                return cell
        return None

    def get(self, scope: Scope, limit: Limit, now_us: int) -> Cell:
        """Find or add a cell; it goes on under `limit`."""
        cell = self.find(scope, limit)
        if cell is None:
            return self.add(scope, limit, now_us)
        if cell.limit != limit:
            cell.adopt(limit, now_us)
        cell.limit = limit  # an equal one may be another object: the same from now on
        return cell

    def add(self, scope: Scope, limit: Limit, now_us: int) -> Cell:
        """Add a cell that is not there."""
        cell: Cell = CELLS[limit.kind](limit, now_us)
        cells = self._scopes.get(scope)
        if cells is None:
            cell.scope = scope
            self._scopes[scope] = [cell]
        else:
            cell.scope = cells[0].scope  # one object for all
            cells.append(cell)
        self.count += 1
        life_us = limit.capacity // limit.drain if limit.drain else limit.window_us
        if scope.kind in _NUMEROUS:
            # Soon: what asks once drains long before the window is over.
            life_us = min(life_us or _FIRST_LOOK_US, _FIRST_LOOK_US)
        self._look_at(cell, now_us, now_us + (life_us or DAY_US))
        return cell

    def sweep(self, now_us: int, looks: int) -> None:
        """Look at up to `looks` cells that are due, and drop those that are fully drained."""
        slots, due = self._slots, self._due
        while slots and slots[0] << _SLOT_BITS <= now_us:
            cells = due[slots[0]]
            while cells:
                if not looks:
                    return
                looks -= 1
                cell = cells.pop()
                empty_us = cell.empty_at_us(now_us)
                if empty_us <= now_us:
                    self._drop(cell)
                else:
                    self._look_at(cell, now_us, empty_us)
            del due[heapq.heappop(slots)]
        self.sweep_us = slots[0] << _SLOT_BITS if slots else FOREVER_US

    def _look_at(self, cell: Cell, now_us: int, due_us: int) -> None:
        slot = (min(due_us, now_us + DAY_US) >> _SLOT_BITS) + 1
        cells = self._due.get(slot)
        if cells is None:
            self._due[slot] = [cell]
            heapq.heappush(self._slots, slot)
            self.sweep_us = self._slots[0] << _SLOT_BITS
        else:
            cells.append(cell)

    def _drop(self, cell: Cell) -> None:
        cells = self._scopes[cell.scope]
        if len(cells) == 1:
            del self._scopes[cell.scope]
        else:
            cells.remove(cell)
        self.count -= 1
        cell.limit = DROPPED


DROPPED = Limit.balance("dropped", "nothing", 0)
