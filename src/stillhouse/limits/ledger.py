"""The ledger: every reservation and settlement of one process, in a folder that only it writes.

A record is in the kernel when its method returns (kill -9 loses nothing; loss of power loses what
came after the last `sync`). Where the back end is in memory it is written when a reservation is
admitted; where it is a store that may lose its data, before the store is asked, so that whatever
the store ever admitted can be rebuilt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from stillhouse.exchanges import (
    InputError,
    Journal,
    RunLock,
    encode_record,
    iterate_journal,
    storage,
)
from stillhouse.limits.limit import Demand, Limit, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from stillhouse.limits.binding import Binding

_HEADER = {"ledger": 1}
_EVENTS = "events-*.journal"


@dataclass(frozen=True, slots=True)
class Intent:
    """A reservation as it was written; `at_us` is None where the store had yet to say when."""

    reservation_id: bytes
    at_us: int | None
    demands: tuple[Demand, ...]


class Outcome(NamedTuple):
    """A settlement as it was written. `at_us`: the admission's time where the intent has none."""

    reservation_id: bytes
    settled_us: int
    at_us: int | None
    used: Mapping[str, int] | None  # None: refused, nothing was charged


class CellState(NamedTuple):
    """One cell of a snapshot."""

    scope: Scope
    limit: Limit
    state: list[Any]


class Ledger:
    """One process's ledger. Raises `InUseError` where another process has the folder.

    `InputError` where the disk is full or a journal is damaged. Not for several threads. With
    `hold` lines wait for `write_reserved` and `write_settled`.
    """

    def __init__(self, folder: Path, *, hold: bool = False):
        self.folder = folder
        self._lock = RunLock(folder)
        self._lock.__enter__()
        self._hold = hold
        self._bindings = 0
        self._reserved: list[bytes] = []
        self._settled: list[bytes] = []
        # By identity (the limit is kept, so it stays its own): hashing one costs a microsecond.
        self._known: dict[int, tuple[int, Limit]] = {}
        try:
            self._number = max((_number(path) for path in folder.glob(_EVENTS)), default=0)
            self._snapshots = max(
                (_number(path) for path in folder.glob("cells-*.journal")), default=0
            )
            self._number = max(self._number, self._snapshots)
            self._journal = self._begin(self._number + 1)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    def reserved(self, reservation_id: bytes, at_us: int | None, demands: Sequence[Demand]) -> None:
        """Write that this is about to be admitted (at `at_us`, where that is known)."""
        record = {"r": reservation_id.hex(), "t": at_us, "d": self._rows(demands)}
        self._put(encode_record(record), self._reserved)

    def reserved_bound(
        self,
        reservation_id: bytes,
        at_us: int,
        binding: Binding,
        costs: Sequence[int],
        item: bytes,
        more: Sequence[Demand],
    ) -> None:
        """`reserved` for `binding.demands(costs, item)` and `more`; its rows are written once."""
        if binding.journal is not self._journal:
            self._introduce_binding(binding)
        record: dict[str, Any] = {
            "r": reservation_id.hex(),
            "t": at_us,
            "p": binding.number,
            "c": costs,
        }
        if item:
            record["i"] = item.hex()
        if more:
            record["d"] = self._rows(more)
        self._put(encode_record(record), self._reserved)

    def settled(
        self,
        reservation_id: bytes,
        settled_us: int,
        used: Mapping[str, int] | None,
        at_us: int | None = None,
    ) -> None:
        """Write what it used, or with None that it was refused after all."""
        record = {"s": reservation_id.hex(), "t": settled_us, "u": used}
        if at_us is not None:
            record["a"] = at_us
        self._put(encode_record(record), self._settled)

    def write_reserved(self) -> str | None:
        """Write the reservations that wait; says why they could not be, and then forgets them."""
        if not self._reserved:
            return None
        lines, self._reserved = self._reserved, []
        try:
            self._journal.append_encoded(lines)
        except InputError as error:
            return str(error)
        return None

    def write_settled(self) -> str | None:
        """Write the settlements that wait; says why they could not be, and then keeps them."""
        if not self._settled:
            return None
        try:
            self._journal.append_encoded(self._settled)
        except InputError as error:
            return str(error)
        self._settled = []
        return None

    def sync(self) -> None:
        """Put all that was written on the disk."""
        self._journal.sync()

    def close(self) -> None:
        """Sync and let go of the folder."""
        self.write_reserved()
        self.write_settled()
        self._journal.close()
        self._lock.__exit__(None, None, None)

    def replace(self, cells: Iterable[CellState], now_us: int) -> None:
        """Put a snapshot in the place of everything written before this ledger was opened.

        Whatever was open then stays charged at its reservation.
        """
        number = self._number + 1  # of this process's own events, which the snapshot precedes
        path = self.folder / f"cells-{number:08d}.journal"
        with storage.replacing(path) as temporary, _journal(temporary) as journal:
            journal.append({"now": now_us})
            batch: list[dict[str, Any]] = []
            for scope, limit, state in cells:
                batch.append({"c": [scope.kind, scope.id, state], "l": _encode(limit)})
                if len(batch) == 500:
                    journal.append_all(batch)
                    batch = []
            journal.append_all(batch)
        for old in sorted(self.folder.glob("*-*.journal")):
            if _number(old) < number:
                storage.remove(old)

    def snapshot(self) -> tuple[int, Iterator[CellState]]:
        """Time of the newest snapshot and its cells; 0 and none where there is no snapshot."""
        path = self.folder / f"cells-{self._snapshots:08d}.journal"
        if not path.exists():
            return 0, iter(())
        records = iterate_journal(path)
        now_us = next(records)["now"]

        def cells() -> Iterator[CellState]:
            limits: dict[str, Limit] = {}
            for record in records:
                kind, name, state = record["c"]
                limit = limits.setdefault(repr(record["l"]), _decode(record["l"]))
                yield CellState(Scope(kind, name), limit, state)

        return now_us, cells()

    def events(self) -> Iterator[Intent | Outcome]:
        """What was written after the newest snapshot, in order."""
        for path in sorted(self.folder.glob(_EVENTS)):
            if _number(path) >= self._snapshots:
                yield from read_events(path)

    def _begin(self, number: int) -> Journal:
        self._known = {}
        return _journal(self.folder / f"events-{number:08d}.journal")

    def _put(self, line: bytes, waiting: list[bytes]) -> None:
        if self._hold:
            waiting.append(line)
        else:
            self._journal.append_encoded((line,))

    def _rows(self, demands: Sequence[Demand]) -> list[list[Any]]:
        known = self._known
        rows = []
        for scope, limit, cost, item in demands:
            introduced = known.get(id(limit)) or self._introduce(limit)
            row: list[Any] = [introduced[0], scope[0], scope[1], cost]
            if item:
                row.append(item.hex())
            rows.append(row)
        return rows

    def _introduce_binding(self, binding: Binding) -> None:
        rows = [row[:3] for row in self._rows([Demand(*row) for row in binding.rows])]
        self._bindings += 1
        binding.number = self._bindings
        self._journal.append({"p": binding.number, "rows": rows})
        binding.journal = self._journal

    def _introduce(self, limit: Limit) -> tuple[int, Limit]:
        number = len(self._known)
        self._journal.append({"l": number, "limit": _encode(limit)})
        introduced = self._known[id(limit)] = (number, limit)
        return introduced


def read_events(path: Path) -> Iterator[Intent | Outcome]:
    """Read one file of events, also while its process writes to it."""
    limits: dict[int, Limit] = {}
    scopes: dict[tuple[str, str], Scope] = {}
    bindings: dict[int, list[tuple[Scope, Limit]]] = {}
    for record in iterate_journal(path):
        if "r" in record:
            demands = []
            if "p" in record:
                digest = bytes.fromhex(record.get("i", ""))
                for (scope, limit), cost in zip(bindings[record["p"]], record["c"], strict=True):
                    if cost:
                        own = digest if limit.kind == "distinct" else b""
                        demands.append(Demand(scope, limit, cost, own))
            for number, kind, name, cost, *item in record.get("d", ()):
                scope = scopes.setdefault((kind, name), Scope(kind, name))
                digest = bytes.fromhex(item[0]) if item else b""
                demands.append(Demand(scope, limits[number], cost, digest))
            yield Intent(bytes.fromhex(record["r"]), record["t"], tuple(demands))
        elif "s" in record:
            yield Outcome(bytes.fromhex(record["s"]), record["t"], record.get("a"), record["u"])
        elif "rows" in record:
            bindings[record["p"]] = [
                (scopes.setdefault((kind, name), Scope(kind, name)), limits[number])
                for number, kind, name in record["rows"]
            ]
        else:
            limits[record["l"]] = _decode(record["limit"])


def read_all(root: Path) -> Iterator[Intent | Outcome]:
    """The events of every process whose ledger's folder is in `root`: of each in its order."""
    for path in sorted(root.glob(f"*/{_EVENTS}")):
        yield from read_events(path)


def _journal(path: Path) -> Journal:
    return Journal.open(path, header=_HEADER, fsync_every=0)


def _number(path: Path) -> int:
    return int(path.stem.rsplit("-", 1)[1])


def _encode(limit: Limit) -> list[Any]:
    kind, name, unit, shadow = limit.kind, limit.name, limit.unit, limit.shadow
    return [kind, name, unit, limit.amount, limit.window_us, limit.burst, shadow]


def _decode(fields: list[Any]) -> Limit:
    kind, name, unit, amount, window_us, burst, shadow = fields
    if kind == "rolling":
        return Limit.rolling(name, unit, amount, window_us, burst=burst, shadow=shadow)
    if kind == "month":
        return Limit.month(name, unit, amount, shadow=shadow)
    if kind == "balance":
        return Limit.balance(name, unit, amount, shadow=shadow)
    if kind == "distinct":
        return Limit.distinct(name, amount, window_us, shadow=shadow)
    return Limit.concurrency(name, amount, window_us, shadow=shadow)
