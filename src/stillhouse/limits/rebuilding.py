"""Rebuilding a store from the ledgers, by one process, while nobody is admitted."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from stillhouse.exchanges import InputError
from stillhouse.limits.cells import DistinctCell, LeaseCell, PeriodCell, RollingCell
from stillhouse.limits.folding import charges_of, read_ledgers
from stillhouse.limits.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    _Run = Callable[[str, str, Any], Awaitable[bytes]]

_PART = 1000  # cells, items and reservations that are loaded at once


async def enter(run: _Run, claim: dict[str, Any], root: Path) -> str:
    """Return the state of a store that is ready, made so from the ledgers in `root` if need be.

    "" where another process is rebuilding it. The claim changes the epoch before the ledgers are
    read: what any process was admitted under an older epoch, it had written before that. Raises
    `InputError` where the other processes of the store write their ledgers elsewhere.
    """
    word, *told = (await run("claim", "", claim)).decode().split()
    if word == "stranger":
        raise InputError(
            "the other processes on this store keep their ledgers in another folder",
            place=str(root),
            repair="give all of them one folder (on several machines: one that is shared), as "
            "after a loss of the store all ledgers are needed",
        )
    if word == "ready":
        return told[0]
    if word == "busy":
        return ""
    state, now = told
    reading = asyncio.create_task(asyncio.to_thread(_read, root, int(now)))
    try:
        # Reading can take longer than the others have patience.
        while state and not (await asyncio.wait([reading], timeout=claim["patience"] / 4e6))[0]:
            state = await _load(run, state, _part(int(now)))
    finally:
        reading.cancel()
    for part in _parts(reading.result()) if state else ():
        state = await _load(run, state, part)
        if not state:
            break
    return state


async def _load(run: _Run, state: str, part: dict[str, Any]) -> str:
    """Load a part; return the state then, "" where another process has begun to rebuild."""
    word, *told = (await run("load", state, part)).decode().split()
    return "" if word == "lost" else told[0]


def _read(root: Path, server_us: int) -> Replay:
    """All that the ledgers say, as cells and open reservations."""
    charges, opened, now_us = charges_of(read_ledgers(root))
    replay = Replay()
    for at_us, demand in sorted(charges, key=lambda charge: charge.at_us):
        replay.charge(demand, at_us)
    replay.pass_to(max(now_us, server_us))
    for intent in opened:
        enforced = tuple(demand for demand in intent.demands if not demand.limit.shadow)
        replay.hold(intent.reservation_id, enforced, replay.now_us)
    return replay


def _parts(replay: Replay) -> Iterator[dict[str, Any]]:
    """The requests that load it, in the forms that the script keeps; the last one opens it."""
    part, count = _part(replay.now_us), 0
    for kind, row, weight in _rows(replay):
        part[kind].append(row)
        count += weight
        if count >= _PART:
            yield part
            part, count = _part(replay.now_us), 0
    part["mark"] = replay.mark
    yield part


def _part(now_us: int) -> dict[str, Any]:
    return {"now": now_us, "cells": [], "sets": [], "leases": [], "records": []}


def _rows(replay: Replay) -> Iterator[tuple[str, list[Any], int]]:
    """What of a part it belongs to, the row, and how much it is."""
    now_us = replay.now_us
    marks = {entry.mark: name for name, entry in replay.open.items()}
    for cell in replay.table:
        key = f"{cell.limit.cell}:{cell.scope.kind}:{cell.scope.id}"
        if isinstance(cell, RollingCell):
            cell.fits(0, b"", now_us)
            limit = cell.limit
            cell_marks = cell.marks or []
            head = [limit.grain, limit.drain, cell.level, now_us, cell.open, len(cell_marks)]
            yield "cells", [key, [*head, *cell_marks, *cell.lows]], 1
        elif isinstance(cell, PeriodCell):
            yield "cells", [key, [cell.used, cell.begins_us, cell.ends_us, cell.open]], 1
        elif isinstance(cell, DistinctCell):
            begins_us, items = cell.ends_us - cell.limit.window_us, iter(cell.items)
            while some := [item.hex() for item in itertools.islice(items, _PART)]:
                yield "sets", [f"{key}:{begins_us}", some, cell.ends_us], len(some)
        elif isinstance(cell, LeaseCell):
            for mark, end_us in cell.leases.items():
                yield "leases", [key, marks[mark].hex(), end_us], 1
    for name, entry in replay.open.items():
        row: list[Any] = [now_us, entry.mark, name.hex()]
        for scope, limit, cost, _ in entry.demands:
            row += [f"{limit.cell}:{scope.kind}:{scope.id}", limit.kind, limit.unit, cost]
        yield "records", [f"r:{name.hex()}", row], 1
