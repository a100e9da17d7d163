"""Rebuilding a store from the ledgers, by one process, while nobody is admitted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from stillhouse.exchanges import InputError
from stillhouse.limits.cells import DistinctCell, LeaseCell, PeriodCell, RollingCell
from stillhouse.limits.folding import charges_of, read_ledgers
from stillhouse.limits.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

_PART = 500


async def enter(
    run: Callable[[str, str, Any], Awaitable[bytes]], claim: dict[str, Any], root: Path
) -> str:
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
    replay = await asyncio.to_thread(_read, root, int(now))
    for part in _parts(replay):
        word, *told = (await run("load", state, part)).decode().split()
        if word == "lost":
            return ""
    return told[0]


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
    now_us = replay.now_us

    def part() -> dict[str, Any]:
        return {"now": now_us, "cells": [], "sets": [], "leases": [], "records": []}

    marks = {entry.mark: name for name, entry in replay.open.items()}
    now = part()
    for count, cell in enumerate(replay.table, 1):
        key = f"{cell.limit.cell}:{cell.scope.kind}:{cell.scope.id}"
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
    for count, (name, entry) in enumerate(replay.open.items(), 1):
        row: list[Any] = [now_us, entry.mark, name.hex()]
        for scope, limit, cost, _ in entry.demands:
            row += [f"{limit.cell}:{scope.kind}:{scope.id}", limit.kind, limit.unit, cost]
        now["records"].append([f"r:{name.hex()}", row])
        if count % _PART == 0:
            yield now
            now = part()
    now["mark"] = replay.mark
    yield now
