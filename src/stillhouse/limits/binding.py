"""Rows that are asked for together again and again, with their cells looked up once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.limits.limit import PUBLIC_SCOPES, Demand
from stillhouse.limits.results import HEADER_UNITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillhouse.exchanges import Journal
    from stillhouse.limits.cells import Cell
    from stillhouse.limits.limit import Limit, Scope


class Binding:
    """The limits of one key's requests, say; a request brings a cost for each row.

    For `Memory.reserve_bound` of one back end. Raises `ValueError` where two rows are one cell.
    """

    __slots__ = ("cells", "journal", "limits", "number", "rows", "shown")

    def __init__(self, rows: Sequence[tuple[Scope, Limit]]):
        if len({(scope, limit.cell) for scope, limit in rows}) < len(rows):
            raise ValueError("two rows of a binding are one cell")
        self.rows = tuple(rows)
        self.limits = tuple(limit for _, limit in rows)
        self.cells: list[Cell | None] = [None] * len(rows)  # None: not looked up yet
        # What a client may be told of: the row, and a demand that stands for it.
        self.shown = tuple(
            (index, Demand(scope, limit))
            for index, (scope, limit) in enumerate(rows)
            if limit.unit in HEADER_UNITS and scope.kind in PUBLIC_SCOPES
        )
        self.journal: Journal | None = None  # where its rows are written down already
        self.number = 0  # under this number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Binding) and other.rows == self.rows

    def __hash__(self) -> int:
        return hash(self.rows)

    def demand(self, index: int, cost: int, item: bytes) -> Demand:
        """Return what a request asks for in one row."""
        scope, limit = self.rows[index]
        return Demand(scope, limit, cost, item if limit.kind == "distinct" else b"")

    def demands(self, costs: Sequence[int], item: bytes) -> tuple[Demand, ...]:
        """Return what a request asks for, row by row; what costs nothing is left out."""
        return tuple(self.demand(index, cost, item) for index, cost in enumerate(costs) if cost)
