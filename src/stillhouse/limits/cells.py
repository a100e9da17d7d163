"""The cells: what is left of each limit for each scope. Pure, exact, integers only.

A rolling cell refunds what would be free now had the request been reserved at its actual cost:
lowering a cost by d at its admission lowers the level now by min(d, the lowest level since then),
because below that the cell would have stood empty and drained nothing. That is the undrained part
of d. After every settlement the level is therefore the one of a cell that knew all actual costs
beforehand, and the bound of `limit.py` holds for settled costs dated at admission. A larger refund
would break it.

The lowest level since each open admission is kept as a stack of (mark, low), both rising: all
reservations up to `mark`, and above the entry before, have seen `low` at the lowest. Admissions
whose lows have met stay together for good. Past `LOWS_MAX` neighbours are merged at the lower one
of their lows, which can only make refunds smaller.
"""

# ruff: noqa: D102, ARG002 (the cells' methods and their arguments are those of `Cell`)

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from typing import Any, Protocol

from stillhouse.limits.limit import LEVEL_MAX, Limit, Scope

LOWS_MAX = 64
FEW_BYTES = 8192  # of distinct items in one string; searching it takes some microseconds at most
DAY_US = 86_400 * 10**6
FOREVER_US = LEVEL_MAX


class Cell(Protocol):
    """One limit's state for one scope. `now_us` never goes back between calls."""

    limit: Limit
    scope: Scope  # whose it is; set by the table that holds it
    stamp: int  # the last reservation that looked, to notice one that names a cell twice

    def fits(self, cost: int, item: bytes, now_us: int) -> bool:
        """Bring the cell to `now_us`; whether this can be admitted."""

    def take(self, cost: int, item: bytes, mark: int, now_us: int) -> None:
        """Charge it, right after `fits` at the same time; marks of reservations rise."""

    def settle(self, cost: int, actual: int, mark: int, at_us: int, now_us: int) -> None:
        """Correct what was taken at `at_us` under `mark` to `actual`; lets go of leases."""

    def wait_us(self, cost: int, now_us: int) -> int | None:
        """How long until it would fit if nothing else came; None: never by waiting."""

    def reading(self) -> tuple[int, int]:
        """What could be reserved now, and in how many microseconds the cell is empty."""

    def empty_at_us(self, now_us: int) -> int:
        """When this cell can be forgotten without a trace; past or present: now."""

    def adopt(self, limit: Limit, now_us: int) -> None:
        """Go on under a changed limit of the same name and kind."""

    def dump(self) -> list[Any]:
        """The state as JSON values."""

    def load(self, state: list[Any]) -> None:
        """Take the state that `dump` gave."""


class RollingCell:
    """See the top of the file. Open reservations keep the cell alive."""

    __slots__ = ("at_us", "level", "limit", "lows", "marks", "open", "scope", "stamp")
    scope: Scope

    def __init__(self, limit: Limit, now_us: int):
        self.limit = limit
        self.level = 0
        self.at_us = now_us
        self.open = 0
        self.stamp = -1
        self.marks: list[int] | None = None  # None where no reservation is open
        self.lows: list[int] = _NONE

    def fits(self, cost: int, _item: bytes, now_us: int) -> bool:
        limit = self.limit
        passed = now_us - self.at_us
        if passed:
            level = self.level - passed * limit.drain
            self.level = level if level > 0 else 0
            self.at_us = now_us
        return self.level + cost * limit.grain <= limit.capacity

    def take(self, cost: int, _item: bytes, mark: int, now_us: int) -> None:
        self.open += 1
        if not cost:
            return
        before = self.level
        self.level = min(before + cost * self.limit.grain, LEVEL_MAX)
        marks = self.marks
        if marks is None:
            self.marks = [mark]
            self.lows = [self.level]
            return
        self.stack(marks, before, mark)

    def stack(self, marks: list[int], before: int, mark: int) -> None:
        """Put the newest reservation on the stack; the level was `before` it."""
        lows = self.lows
        if lows[-1] >= before:
            self._touch(marks, before)
        marks.append(mark)
        lows.append(self.level)
        if len(lows) > LOWS_MAX:
            # In pairs, each at its lower low and its higher mark; the newest stays alone.
            self.marks = marks[1:-1:2] + marks[-1:]
            self.lows = lows[0:-1:2] + lows[-1:]

    def settle(self, cost: int, actual: int, mark: int, at_us: int, now_us: int) -> None:
        marks = self.marks
        if actual != cost:
            limit = self.limit
            passed = now_us - self.at_us
            if passed:
                level = self.level - passed * limit.drain
                self.level = level if level > 0 else 0
                self.at_us = now_us
            difference = (cost - actual) * limit.grain
            if difference < 0:
                self.level = min(self.level - difference, LEVEL_MAX)
            elif marks is not None:
                self._refund(marks, difference, mark)
        self.open -= 1
        if not self.open:
            self.let_go()

    def let_go(self) -> None:
        """Forget the lows: no reservation is open."""
        self.marks = None
        self.lows = _NONE

    def _refund(self, marks: list[int], difference: int, mark: int) -> None:
        lows = self.lows
        if lows[-1] >= self.level:
            self._touch(marks, self.level)
        first = bisect_left(marks, mark)
        refund = min(difference, lows[first])
        self.level -= refund
        for index in range(first, len(lows)):
            lows[index] -= refund
        lowest = lows[first]
        joined = bisect_left(lows, lowest, 0, first)
        del marks[joined:first], lows[joined:first]

    def _touch(self, marks: list[int], level: int) -> None:
        """The level has come down to this: all lows above it are no more."""
        first = bisect_left(self.lows, level)
        marks[first:] = [marks[-1]]
        self.lows[first:] = [level]

    def wait_us(self, cost: int, now_us: int) -> int | None:
        limit = self.limit
        if cost > limit.burst:
            return None
        over = self.level + cost * limit.grain - limit.capacity
        return max(0, -(-over // limit.drain))

    def reading(self) -> tuple[int, int]:
        limit = self.limit
        left = (limit.capacity - self.level) // limit.grain
        return max(0, left), -(-self.level // limit.drain)

    def empty_at_us(self, now_us: int) -> int:
        if self.open:
            return max(now_us, self.at_us) + self.limit.window_us
        return self.at_us + -(-self.level // self.limit.drain)

    def adopt(self, limit: Limit, now_us: int) -> None:
        self.fits(0, b"", now_us)  # until now it drained at the rate before
        old, self.limit = self.limit.grain, limit
        if old != limit.grain:
            self._rescale(old)

    def _rescale(self, old: int) -> None:
        grain = self.limit.grain
        self.level = _rescaled(self.level, old, grain)[1]
        if self.marks is not None:
            # Lows that become equal are joined, so that they rise strictly again.
            kept: dict[int, int] = {}
            for mark, low in zip(self.marks, self.lows, strict=True):
                kept[_rescaled(low, old, grain)[0]] = mark
            self.lows, self.marks = list(kept), list(kept.values())

    def dump(self) -> list[Any]:
        marks = self.marks or []
        return [self.limit.grain, self.level, self.at_us, self.open, marks, self.lows]

    def load(self, state: list[Any]) -> None:
        grain, self.level, self.at_us, self.open, marks, lows = state
        self.marks, self.lows = (marks, lows) if marks else (None, _NONE)
        if grain != self.limit.grain:
            self._rescale(grain)


class PeriodCell:
    """What was admitted in this calendar month, or ever (a prepaid balance)."""

    __slots__ = ("begins_us", "ends_us", "limit", "open", "scope", "stamp", "used")
    scope: Scope

    def __init__(self, limit: Limit, now_us: int):
        self.limit = limit
        self.used = 0
        self.open = 0
        self.stamp = -1
        self.begins_us, self.ends_us = self._period(now_us)

    def _period(self, now_us: int) -> tuple[int, int]:
        return month_us(now_us) if self.limit.kind == "month" else (0, FOREVER_US)

    def fits(self, cost: int, _item: bytes, now_us: int) -> bool:
        if now_us >= self.ends_us:
            self.begins_us, self.ends_us = self._period(now_us)
            self.used = 0
        return self.used + cost <= self.limit.amount

    def take(self, cost: int, _item: bytes, _mark: int, now_us: int) -> None:
        self.open += 1
        self.used = min(self.used + cost, LEVEL_MAX)

    def settle(self, cost: int, actual: int, mark: int, at_us: int, now_us: int) -> None:
        self.open -= 1
        self.fits(0, b"", now_us)
        # A refund belongs to the month of the admission, which may be over; a debt is always owed.
        if actual > cost or at_us >= self.begins_us:
            # Below zero only while a ledger is read whose states of cells are yet to come.
            self.used = max(0, min(self.used + actual - cost, LEVEL_MAX))

    def wait_us(self, cost: int, now_us: int) -> int | None:
        if self.limit.kind == "balance" or cost > self.limit.amount:
            return None
        return max(0, self.ends_us - now_us)

    def reading(self) -> tuple[int, int]:
        return max(0, self.limit.amount - self.used), 0

    def empty_at_us(self, now_us: int) -> int:
        if self.open:
            return now_us + DAY_US
        return self.ends_us if self.used else now_us

    def adopt(self, limit: Limit, now_us: int) -> None:
        self.limit = limit

    def dump(self) -> list[Any]:
        return [self.used, self.begins_us, self.ends_us, self.open]

    def load(self, state: list[Any]) -> None:
        self.used, self.begins_us, self.ends_us, self.open = state


class DistinctCell:
    """The different items of this epoch: at most `amount` of them are ever held.

    Up to `FEW_BYTES` they stand side by side, as most accounts have few: each item of a set costs
    a hundred bytes.
    """

    __slots__ = ("ends_us", "few", "limit", "many", "scope", "stamp", "width")
    scope: Scope

    def __init__(self, limit: Limit, now_us: int):
        self.limit = limit
        self.stamp = -1
        self.ends_us = now_us - now_us % limit.window_us + limit.window_us
        self.clear()

    def clear(self) -> None:
        self.few = b""
        self.width = 0  # of every item in `few`
        self.many: set[bytes] | None = None

    @property
    def items(self) -> set[bytes]:
        if self.many is not None:
            return self.many
        return {self.few[at : at + self.width] for at in range(0, len(self.few), self.width or 1)}

    def __len__(self) -> int:
        if self.many is not None:
            return len(self.many)
        return len(self.few) // self.width if self.few else 0

    def __contains__(self, item: bytes) -> bool:
        if self.many is not None:
            return item in self.many
        width = self.width
        if len(item) != width or not width:
            return False
        at = self.few.find(item)
        while at % width and at > 0:
            at = self.few.find(item, at + 1)
        return at >= 0

    def fits(self, _cost: int, item: bytes, now_us: int) -> bool:
        if now_us >= self.ends_us:
            window_us = self.limit.window_us
            self.ends_us = now_us - now_us % window_us + window_us
            self.clear()
        return item in self or len(self) < self.limit.amount

    def take(self, _cost: int, item: bytes, _mark: int, now_us: int) -> None:
        if self.many is None:
            if item in self:
                return
            if not self.few:
                self.width = len(item)
            if 0 < len(item) == self.width and len(self.few) + self.width <= FEW_BYTES:
                self.few += item
                return
            self.many, self.few = self.items, b""
        self.many.add(item)

    def settle(self, cost: int, actual: int, mark: int, at_us: int, now_us: int) -> None:
        """An item that was counted stays counted."""

    def wait_us(self, cost: int, now_us: int) -> int | None:
        return max(0, self.ends_us - now_us)

    def reading(self) -> tuple[int, int]:
        return max(0, self.limit.amount - len(self)), 0

    def empty_at_us(self, now_us: int) -> int:
        return self.ends_us if len(self) else now_us

    def adopt(self, limit: Limit, now_us: int) -> None:
        self.limit = limit

    def dump(self) -> list[Any]:
        return [self.ends_us, sorted(item.hex() for item in self.items)]

    def load(self, state: list[Any]) -> None:
        self.ends_us = state[0]
        self.clear()
        for item in state[1]:
            self.take(0, bytes.fromhex(item), 0, 0)


class LeaseCell:
    """Open reservations, each with the time at which it is given up."""

    __slots__ = ("leases", "limit", "scope", "stamp")
    scope: Scope

    def __init__(self, limit: Limit, now_us: int):
        self.limit = limit
        self.leases: dict[int, int] = {}
        self.stamp = -1

    def fits(self, _cost: int, _item: bytes, now_us: int) -> bool:
        leases = self.leases
        if len(leases) < self.limit.amount:
            return True
        self.leases = {mark: end for mark, end in leases.items() if end > now_us}
        return len(self.leases) < self.limit.amount

    def take(self, _cost: int, _item: bytes, mark: int, now_us: int) -> None:
        self.leases[mark] = now_us + self.limit.window_us

    def settle(self, cost: int, actual: int, mark: int, at_us: int, now_us: int) -> None:
        self.leases.pop(mark, None)

    def wait_us(self, cost: int, now_us: int) -> int | None:
        return max(0, min(self.leases.values(), default=now_us) - now_us)

    def reading(self) -> tuple[int, int]:
        return max(0, self.limit.amount - len(self.leases)), 0

    def empty_at_us(self, now_us: int) -> int:
        return max(self.leases.values(), default=now_us)

    def adopt(self, limit: Limit, now_us: int) -> None:
        self.limit = limit

    def dump(self) -> list[Any]:
        return []  # leases come back after a crash

    def load(self, state: list[Any]) -> None:
        self.leases = {}


_NONE: list[int] = []  # shared by cells without open reservations; never changed
CELLS: dict[str, type[RollingCell] | type[PeriodCell] | type[DistinctCell] | type[LeaseCell]] = {
    "rolling": RollingCell,
    "month": PeriodCell,
    "balance": PeriodCell,
    "distinct": DistinctCell,
    "concurrency": LeaseCell,
}


def under(cell: Cell, limit: Limit, now_us: int) -> Cell:
    """The cell as it would be under `limit`: itself, or where that changes it a copy.

    A request that is refused must not change it: it can have several limits of one name, by the
    tiers of those who share it, and would go on at the rate of whoever asks without success.
    """
    if cell.limit == limit:
        cell.limit = limit  # another object: the same from now on
        return cell
    changed = copy.copy(cell)
    changed.adopt(limit, now_us)
    return changed


def _rescaled(level: int, old: int, new: int) -> tuple[int, int]:
    """What `level` units of 1/old are at least, and at most, in units of 1/new.

    In the doubles of the store's script: two roundings below 2^50 make less than a unit.
    """
    whole, rest = divmod(level, old)
    part = rest / old * new
    least = math.floor(part) - 1 if rest else 0
    most = math.ceil(part) + 1 if rest else 0
    whole *= new
    return min(whole + max(least, 0), LEVEL_MAX), min(whole + min(most, new), LEVEL_MAX)


def month_us(now_us: int) -> tuple[int, int]:
    """Begin of the calendar month (UTC) that holds `now_us`, and of the next one."""
    begins_us = _month_begin_us(now_us)
    return begins_us, _month_begin_us(begins_us + 32 * DAY_US)


def _month_begin_us(now_us: int) -> int:
    """In integers, as the store's script does it: years begin in March, so leap days come last."""
    day = now_us // DAY_US
    day_of_era = (day + 719_468) % 146_097  # eras of 400 years, from 0000-03-01 on
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    day_of_month = day_of_year - (153 * month + 2) // 5
    return (day - day_of_month) * DAY_US
