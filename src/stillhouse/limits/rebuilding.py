"""Rebuilding a store from the ledgers, by one process, while nobody is admitted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from stillhouse.limits.cells import DistinctCell, LeaseCell, PeriodCell, RollingCell
from stillhouse.limits.ledger import Intent, read_all
from stillhouse.limits.limit import Demand
from stillhouse.limits.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

_PART = 500


async def enter(
    run: Callable[[str, str, Any], Awaitable[Any]], claim: dict[str, Any], root: Path
) -> str:
    """Return the state of a store that is ready, made so from the ledgers in `root` if need be.

    "" where another process is rebuilding it. The claim changes the epoch before the ledgers are
    read: what any process was admitted under an older epoch, it had written before that.
    """
    told = await run("claim", "", claim)
    state = str(told[1].decode())
    if told[0] == b"ready":
        return state
    if told[0] == b"busy":
        return ""
    memory, names = await asyncio.to_thread(_read, root, told[2])
    for part in _parts(memory, names):
        told = await run("load", state, part)
        if told[0] == b"lost":
            return ""
    return str(told[1].decode())


def _read(root: Path, server_us: int) -> tuple[Memory, dict[bytes, int]]:
    """All that the ledgers say, as cells; and of each open reservation its mark.

    Shadow limits begin anew, as the ledgers do not say which of them would have refused.
    """
    intents: dict[bytes, Intent] = {}
    charges: list[tuple[int, tuple[Demand, ...], Mapping[str, int]]] = []
    now_us = server_us
    for event in read_all(root):
        if isinstance(event, Intent):
            intents[event.reservation_id] = event
            continue
        now_us = max(now_us, event.settled_us, event.at_us or 0)
        intent = intents.pop(event.reservation_id, None)
        if intent is not None and event.used is not None and event.at_us is not None:
            charges.append((event.at_us, intent.demands, event.used))
    memory = Memory()
    for at_us, demands, used in sorted(charges, key=lambda charge: charge[0]):
        memory.charge(_at_actual(demands, used), at_us)
    memory.charge((), now_us)  # brings it to this time
    names = {}
    for intent in intents.values():
        enforced = tuple(demand for demand in intent.demands if not demand.limit.shadow)
        names[intent.reservation_id] = memory.hold(intent.reservation_id, enforced, now_us)
    return memory, names


def _at_actual(demands: tuple[Demand, ...], used: Mapping[str, int]) -> list[Demand]:
    return [
        demand._replace(cost=used.get(demand.limit.unit, demand.cost))
        for demand in demands
        if not demand.limit.shadow
    ]


def _parts(memory: Memory, names: dict[bytes, int]) -> Iterator[dict[str, Any]]:
    """The requests that load it, in the forms that the script keeps; the last one opens it."""
    now_us = memory.now_us

    def part() -> dict[str, Any]:
        return {"now": now_us, "cells": [], "sets": [], "leases": [], "records": []}

    marks = {mark: name for name, mark in names.items()}
    now = part()
    for count, (scope, cell) in enumerate(memory.cells(), 1):
        key = f"{cell.limit.cell}:{scope.kind}:{scope.id}"
        if isinstance(cell, RollingCell):
            cell.fits(0, b"", now_us)
            limit = cell.limit
            cell_marks = cell.marks or []
            head = [limit.grain, limit.drain, cell.level, now_us, cell.open, len(cell_marks)]
            now["cells"].append([key, [*head, *cell_marks, *cell.lows]])
        elif isinstance(cell, PeriodCell):
            now["cells"].append([key, [cell.used, cell.begins_us, cell.ends_us, cell.open]])
        elif isinstance(cell, DistinctCell):
            begins_us = cell.ends_us - cell.limit.window_us
            items = [item.hex() for item in cell.items]
            now["sets"].append([f"{key}:{begins_us}", items, cell.ends_us])
        elif isinstance(cell, LeaseCell):
            now["leases"] += [[key, marks[m].hex(), end] for m, end in cell.leases.items()]
        if count % _PART == 0:
            yield now
            now = part()
    for count, (name, mark) in enumerate(names.items(), 1):
        row: list[Any] = [now_us, mark, name.hex()]
        for scope, limit, cost, _ in memory.demands_of(name):
            row += [f"{limit.cell}:{scope.kind}:{scope.id}", limit.kind, limit.unit, cost]
        now["records"].append([f"r:{name.hex()}", row])
        if count % _PART == 0:
            yield now
            now = part()
    now["mark"] = memory.mark
    yield now
