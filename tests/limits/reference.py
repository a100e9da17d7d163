"""What a limit means, as plainly as it can be written: fractions, lists, every interval."""

from __future__ import annotations

import calendar
import datetime
from dataclasses import dataclass, field
from fractions import Fraction

from stillhouse.limits import Demand, Limit

SECOND = 10**6


@dataclass
class Charge:
    """One admitted cost: when, how much, until when a lease holds."""

    at: int
    cost: int
    item: bytes = b""
    ends: int | None = None  # of a lease
    closed: bool = False
    admitted: int | None = None  # when it really was admitted, where a loss has dated it anew


@dataclass
class Plain:
    """The reference back end: it forgets nothing and computes everything anew."""

    charges: dict[tuple[object, str], list[Charge]] = field(default_factory=dict)
    open: dict[bytes, list[tuple[Demand, Charge]]] = field(default_factory=dict)
    settled: set[bytes] = field(default_factory=set)
    now: int = 0

    def reserve(self, name: bytes, demands: list[Demand], now: int) -> list[Demand] | None:
        """None where it is refused; else the shadow demands that would have been."""
        self.now = max(now, self.now)
        short = [d for d in demands if not self.fits(d)]
        if any(not d.limit.shadow for d in short):
            return None
        self.charge(name, [d for d in demands if d not in short])
        return short

    def charge(self, name: bytes, demands: list[Demand]) -> None:
        self.open[name] = []
        for demand in demands:
            charge = Charge(self.now, demand.cost, demand.item)
            if demand.limit.kind == "concurrency":
                charge.ends = self.now + demand.limit.window_us
            self.of(demand).append(charge)
            self.open[name].append((demand, charge))

    def settle(self, name: bytes, used: dict[str, int], now: int) -> str:
        self.now = max(now, self.now)
        if name not in self.open:
            return "already" if name in self.settled else "unknown"
        for demand, charge in self.open.pop(name):
            charge.closed = True
            actual = used.get(demand.limit.unit, demand.cost)
            if demand.limit.kind == "concurrency":
                charge.ends = self.now
            elif demand.limit.kind == "distinct" or actual <= charge.cost:
                charge.cost = actual
            else:  # a debt is owed from now on
                debt = Charge(self.now, actual - charge.cost, closed=True)
                self.of(demand).append(debt)
        self.settled.add(name)
        return "settled"

    def of(self, demand: Demand) -> list[Charge]:
        return self.charges.setdefault((demand.scope, demand.limit.name), [])

    def fits(self, demand: Demand) -> bool:
        limit, charges = demand.limit, self.of(demand)
        if limit.kind == "rolling":
            return level(limit, charges, self.now) + demand.cost <= limit.burst
        if limit.kind == "balance":
            return sum(c.cost for c in charges) + demand.cost <= limit.amount
        if limit.kind == "month":
            this = month(self.now)
            return sum(c.cost for c in charges if month(c.at) == this) + demand.cost <= limit.amount
        if limit.kind == "distinct":
            epoch = self.now // limit.window_us
            items = {c.item for c in charges if c.at // limit.window_us == epoch}
            return demand.item in items or len(items) < limit.amount
        return sum(c.ends > self.now for c in charges if c.ends is not None) < limit.amount


def level(limit: Limit, charges: list[Charge], now: int) -> Fraction:
    """The most by which any interval up to now holds more than drains in it."""
    rate = Fraction(limit.drain, limit.grain)
    highest = Fraction(0)
    for start in {c.at for c in charges}:
        held = sum(c.cost for c in charges if c.at >= start)
        highest = max(highest, held - rate * (now - start))
    return highest


def month(at: int) -> tuple[int, int]:
    date = datetime.datetime.fromtimestamp(at // SECOND, datetime.UTC)
    return date.year, date.month


def month_end(at: int) -> int:
    year, number = month(at)
    days = calendar.monthrange(year, number)[1]
    begin = datetime.datetime(year, number, 1, tzinfo=datetime.UTC)
    return int((begin + datetime.timedelta(days=days)).timestamp()) * SECOND


def overshoots(limit: Limit, dated: list[tuple[int, int]]) -> int:
    """How many intervals of the window hold more than the amount; `dated`: (time, settled cost)."""
    dated = sorted(dated)
    found = 0
    for index, (start, _) in enumerate(dated):
        inside = sum(cost for at, cost in dated[index:] if at - start <= limit.window_us)
        found += inside > limit.amount
    return found
