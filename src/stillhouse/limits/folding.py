"""Folding: the ledgers of a store's processes, made short.

What a rebuilding needs of settled reservations is how much was used when. Of a rolling limit, all
that is older than its window can go: no interval that an admission to come can be in reaches back
to it, and the admissions of any other interval were decided already. What is left is summed in
`_PARTS` parts of a window, each dated at its latest admission: a charge that is dated later leaves
every later level as high or higher. Of a month, a balance and an epoch of distinct items only what
still counts is left.

A reservation that is open stays as it is. Only where its process is dead it is charged, in full,
at a time when it was dead already: later than any at which it can have been admitted.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any

from stillhouse.exchanges import InputError, make_folder, storage
from stillhouse.limits.cells import month_us
from stillhouse.limits.ledger import (
    Charge,
    Event,
    Intent,
    Outcome,
    Time,
    encode,
    event_files,
    number_of,
    open_journal,
    read_events,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from stillhouse.limits.limit import Demand, Limit

_PARTS = 256
_BATCH = 500


def identity(root: Path) -> str:
    """Return what tells this folder of ledgers from any other; made at the first use."""
    path = root / "identity"
    if not path.exists():
        make_folder(root)
        with contextlib.suppress(FileExistsError):  # another process was first
            storage.write_atomic(path, secrets.token_hex(8).encode(), new=True)
    return path.read_text("ascii")


def read_ledgers(root: Path) -> Iterator[Event]:
    """The events of every process whose ledger's folder is in `root`: of each in its order."""
    for folder in sorted(path for path in root.glob("*/") if path.is_dir()):
        yield from read_ledger(folder)


def read_ledger(folder: Path) -> list[Event]:
    """The events of one process, also while it writes or folds."""
    while True:
        files = _files(folder)
        try:
            return [event for path in files for event in read_events(path)]
        except InputError:
            if all(path.exists() for path in files):
                raise
            # It was folded meanwhile: what is missing stands in another file.


def fold(folder: Path, *, first: int, upto: int, now_us: int) -> None:
    """Fold all files before number `upto` into one; those before `first` are of dead processes.

    `now_us`: a time that the limiter's has reached since the process of this ledger lives.
    """
    path = folder / f"folded-{upto:08d}.journal"
    if not path.exists():  # else it was killed while it removed the others
        files = [old for old in _files(folder) if number_of(old) < upto]
        _write(path, *_sums(files, first, now_us))
    for old in sorted(folder.glob("*-*.journal")):
        if number_of(old) < upto:
            storage.remove(old)


def _write(path: Path, charges: list[Charge], opened: list[Intent], now_us: int) -> None:
    with storage.replacing(path) as temporary, open_journal(temporary) as journal:
        known: dict[Limit, int] = {}
        journal.append({"now": now_us})
        rows: list[list[Any]] = []
        for at_us, demand in charges:
            rows.append([at_us, *_row(journal, known, demand)])
            if len(rows) == _BATCH:
                journal.append({"x": rows})
                rows = []
        journal.append({"x": rows})
        for one in opened:
            demands = [_row(journal, known, demand) for demand in one.demands]
            journal.append({"r": one.reservation_id.hex(), "t": one.at_us, "m": 0, "d": demands})


def charges_of(events: Iterable[Event]) -> tuple[list[Charge], list[Intent], int]:
    """What was used when, which reservations are open, and the latest time that is told.

    Shadow limits are left out, as the ledgers do not say which of them would have refused.
    """
    charges: list[Charge] = []
    intents: dict[bytes, Intent] = {}
    now_us = 0
    for event in events:
        if isinstance(event, Intent):
            intents[event.reservation_id] = event
        elif isinstance(event, Charge):
            charges.append(event)
        elif isinstance(event, Time):
            now_us = max(now_us, event.now_us)
        elif isinstance(event, Outcome):
            now_us = max(now_us, event.settled_us, event.at_us or 0)
            intent = intents.pop(event.reservation_id, None)
            if intent is not None and event.used is not None and event.at_us is not None:
                charges += _charges(intent, event.used, event.at_us)
    return charges, list(intents.values()), now_us


def _sums(files: list[Path], first: int, now_us: int) -> tuple[list[Charge], list[Intent], int]:
    dead: set[bytes] = set()

    def events() -> Iterator[Event]:
        for path in files:
            for event in read_events(path):
                if isinstance(event, Intent) and number_of(path) < first:
                    dead.add(event.reservation_id)
                yield event

    charges, opened, told_us = charges_of(events())
    now_us = max(now_us, told_us)
    for one in opened:
        if one.reservation_id in dead:
            charges += _charges(one, {}, now_us)
    sums: dict[tuple[Any, ...], Charge] = {}
    for at_us, demand in charges:
        part = _part(demand, at_us, now_us)
        if part is not None:
            key = (demand.scope, demand.limit.cell, part)
            other = sums.get(key)
            if other is not None:
                cost = demand.cost + other.demand.cost
                demand = demand._replace(cost=cost)
                at_us = max(at_us, other.at_us)
            sums[key] = Charge(at_us, demand)
    kept = [one for one in opened if one.reservation_id not in dead]
    return sorted(sums.values(), key=lambda charge: charge.at_us), kept, now_us


def _charges(intent: Intent, used: Mapping[str, int], at_us: int) -> list[Charge]:
    return [
        Charge(at_us, demand._replace(cost=used.get(demand.limit.unit, demand.cost)))
        for demand in intent.demands
        if not demand.limit.shadow and demand.limit.kind != "concurrency"
    ]


def _part(demand: Demand, at_us: int, now_us: int) -> Any:
    """What of a cell is summed with this; None where it counts no more."""
    limit = demand.limit
    if limit.kind == "rolling":
        if at_us < now_us - limit.window_us:
            return None
        return at_us // max(1, limit.window_us // _PARTS)
    if limit.kind == "month":
        return 0 if at_us >= month_us(now_us)[0] else None
    if limit.kind == "distinct":
        return demand.item if at_us // limit.window_us == now_us // limit.window_us else None
    return 0


def _row(journal: Any, known: dict[Limit, int], demand: Demand) -> list[Any]:
    scope, limit, cost, item = demand
    number = known.get(limit)
    if number is None:
        number = known[limit] = len(known)
        journal.append({"l": number, "limit": encode(limit)})
    return [number, *scope, cost, *([item.hex()] if item else [])]


def _files(folder: Path) -> list[Path]:
    """The newest folded file and the events since."""
    folded = sorted(folder.glob("folded-*.journal"))[-1:]
    since = number_of(folded[0]) if folded else 0
    return [*folded, *(path for path in event_files(folder) if number_of(path) >= since)]
