"""An admitted reservation: what each of its rows charged where, and its settlement."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stillhouse.limits.cells import Cell, RollingCell
from stillhouse.limits.limit import PUBLIC_SCOPES, Demand, Limit, Scope
from stillhouse.limits.results import HEADER_UNITS, Reading, Settled, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


SETTLED = Settled()


class Reservation(NamedTuple):
    """A reservation, row by row: those of its binding, if any, then its `demands`."""

    at_us: int
    mark: int
    limits: Sequence[Limit]
    costs: Sequence[int]
    cells: list[Cell | None]  # None: nothing was charged (a shadow limit, or no cost)
    demands: Sequence[Demand]
    rows: Sequence[tuple[Scope, Limit]] = ()  # of the binding, before `demands`


def settle(entry: Reservation, used: Mapping[str, int], now_us: int) -> dict[str, int]:
    """Settle every cell of a reservation; return what was used above it."""
    excess: dict[str, int] = {}
    for limit, cost, cell in zip(entry.limits, entry.costs, entry.cells, strict=True):
        if cell is None:
            continue
        actual = used.get(limit.unit, cost)
        if actual == cost and type(cell) is RollingCell:
            cell.open -= 1  # as `RollingCell.settle` does where there is nothing to correct
            if not cell.open:
                cell.let_go()
            continue
        cell.settle(cost, actual, entry.mark, entry.at_us, now_us)
        if actual > cost and limit.kind not in ("concurrency", "distinct"):
            excess[limit.unit] = max(actual - cost, excess.get(limit.unit, 0))
    return excess


def take(
    demands: Sequence[Demand], cells: list[Cell | None], mark: int, now_us: int
) -> list[Reading]:
    """Charge every demand that has a cell; return what a client may be told of it."""
    readings = []
    for demand, cell in zip(demands, cells, strict=True):
        if cell is None:
            continue
        scope, limit, cost, item = demand
        if cell.limit is not limit:
            cell.adopt(limit, now_us)
        cell.take(cost, item, mark, now_us)
        if limit.unit in HEADER_UNITS and scope[0] in PUBLIC_SCOPES:
            readings.append(Reading(demand, *cell.reading()))
    return readings


def told(failure: str | None, excess: dict[str, int]) -> Settled | Unavailable:
    """Return the answer to a settlement that was not a plain one."""
    return Settled(excess=excess) if failure is None else Unavailable(failure)
