"""The ledger: every reservation and settlement of one process, in a folder that only it writes.

A record is in the kernel when its method returns (kill -9 loses nothing; loss of power loses what
came after the last `sync`). Where the back end is in memory it is written when a reservation is
admitted; where it is a store that may lose its data, before the store is asked, so that whatever
the store ever admitted can be rebuilt.

It does not grow for ever. After `turn_after` reservations a new file begins. For the back end in
memory the states of all cells are then *carried* into it, a few at a time: read in order, a state
stands in the place of all that was known of its cell, so a file that holds them all needs none
before it. The file `base` names it, and what is older goes. For a store see folding.py.
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

_HEADER = {"ledger": 2}
_BASE = "base"
TURN_AFTER = 200_000


@dataclass(frozen=True, slots=True)
class Intent:
    """A reservation as it was written; `at_us` is None where the store had yet to say when."""

    reservation_id: bytes
    at_us: int | None
    demands: tuple[Demand, ...]
    mark: int = 0  # of the limiter in memory, by which the states of cells go
    repeated: bool = False  # it was open when the file began, and is in an earlier one


class Outcome(NamedTuple):
    """A settlement as it was written. `at_us`: the admission's time where the intent has none."""

    reservation_id: bytes
    settled_us: int
    at_us: int | None
    used: Mapping[str, int] | None  # None: refused, nothing was charged


class CellState(NamedTuple):
    """All that was known of a cell at this place of the file."""

    scope: Scope
    limit: Limit
    state: list[Any]


class Charge(NamedTuple):
    """What is left of settlements that were folded together: a cost, dated at the latest."""

    at_us: int
    demand: Demand


class Time(NamedTuple):
    """The limiter's time at this place of the file."""

    now_us: int


Event = Intent | Outcome | CellState | Charge | Time


class Ledger:
    """One process's ledger. Raises `InUseError` where another process has the folder.

    `InputError` where the disk is full or a journal is damaged. Not for several threads. With
    `hold` lines wait for `write_reserved` and `write_settled`.
    """

    def __init__(self, folder: Path, *, hold: bool = False, turn_after: int = TURN_AFTER):
        self.folder = folder
        self.left = turn_after  # reservations to be written before the next turn is due
        self._turn_after = turn_after
        self._lock = RunLock(folder)
        self._lock.__enter__()
        self._hold = hold
        self._bindings = 0
        self._reserved: list[bytes] = []
        self._settled: list[bytes] = []
        # By identity (the limit is kept, so it stays its own): hashing one costs a microsecond.
        self._known: dict[int, tuple[int, Limit]] = {}
        try:
            files = [*event_files(folder), *folder.glob("folded-*.journal")]
            # What earlier processes wrote is in files before the `first`.
            self.first = self.number = max(map(number_of, files), default=0) + 1
            self._journal = self._begin()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    @property
    def holds(self) -> bool:
        """Whether lines wait to be written."""
        return bool(self._reserved or self._settled)

    def reserved(
        self, reservation_id: bytes, at_us: int | None, demands: Sequence[Demand], mark: int = 0
    ) -> None:
        """Write that this is about to be admitted (at `at_us`, where that is known)."""
        self.left -= 1
        record = {"r": reservation_id.hex(), "t": at_us, "m": mark, "d": self._rows(demands)}
        self._put(encode_record(record), self._reserved)

    def reserved_bound(
        self,
        reservation_id: bytes,
        at_us: int,
        binding: Binding,
        costs: Sequence[int],
        item: bytes,
        more: Sequence[Demand],
        mark: int = 0,
    ) -> None:
        """`reserved` for `binding.demands(costs, item)` and `more`; its rows are written once."""
        self.left -= 1
        if binding.journal is not self._journal:
            self._introduce_binding(binding)
        record: dict[str, Any] = {
            "r": reservation_id.hex(),
            "t": at_us,
            "m": mark,
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

    def turn(self, now_us: int, open_intents: Iterable[Intent] = ()) -> None:
        """Begin a new file; it repeats the reservations that are open. No line may wait."""
        before = self._journal
        self.number += 1
        self._journal = self._begin()
        before.close()
        records: list[dict[str, Any]] = [{"now": now_us}]
        for one in open_intents:
            rows = self._rows(one.demands)
            records.append(
                {"o": one.reservation_id.hex(), "t": one.at_us, "m": one.mark, "d": rows}
            )
        self._journal.append_all(records)

    def begin(self, now_us: int, left_open: Iterable[bytes]) -> None:
        """Write the limiter's time, and that what was left open is settled at its reservation."""
        outcomes = [{"s": one.hex(), "t": now_us, "u": {}} for one in left_open]
        self._journal.append_all([{"now": now_us}, *outcomes])

    def carry(self, cells: Iterable[CellState]) -> None:
        """Write the states of cells into the present file. No line may wait."""
        records = [
            {"c": [self._number_of(limit), scope.kind, scope.id, state]}
            for scope, limit, state in cells
        ]
        self._journal.append_all(records)

    def whole(self, cell_count: int) -> None:
        """Say that the present file needs none before it, and remove those."""
        self._journal.sync()
        storage.write_atomic(self.folder / _BASE, b"%d\n" % self.number)
        for path in event_files(self.folder):
            if number_of(path) < self.number:
                storage.remove(path)
        self.left = max(self._turn_after, 4 * cell_count)

    def postpone(self) -> None:
        """Let the next turn be due after as many reservations again."""
        self.left = self._turn_after

    def events(self) -> Iterator[Event]:
        """What earlier processes wrote, in order, from the newest file that needs none before."""
        base = self.folder / _BASE
        begin = int(base.read_text("ascii")) if base.exists() else 0
        for path in event_files(self.folder):
            if begin <= number_of(path) < self.first:
                yield from read_events(path)

    @property
    def path(self) -> Path:
        """The file that is written to now."""
        return self._journal.path

    def _begin(self) -> Journal:
        self._known = {}
        return open_journal(self.folder / f"events-{self.number:08d}.journal")

    def _number_of(self, limit: Limit) -> int:
        return (self._known.get(id(limit)) or self._introduce(limit))[0]

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
        self._journal.append({"l": number, "limit": encode(limit)})
        introduced = self._known[id(limit)] = (number, limit)
        return introduced


def read_events(path: Path) -> Iterator[Event]:
    """Read one file of events, also while its process writes to it."""
    limits: dict[int, Limit] = {}
    scopes: dict[tuple[str, str], Scope] = {}
    bindings: dict[int, list[tuple[Scope, Limit]]] = {}

    def demand(number: int, kind: str, name: str, cost: int, item: str = "") -> Demand:
        scope = scopes.setdefault((kind, name), Scope(kind, name))
        return Demand(scope, limits[number], cost, bytes.fromhex(item))

    for record in iterate_journal(path):
        if "r" in record or "o" in record:
            repeated = "o" in record
            name = bytes.fromhex(record["o" if repeated else "r"])
            demands = []
            if "p" in record:
                digest = bytes.fromhex(record.get("i", ""))
                for (scope, limit), cost in zip(bindings[record["p"]], record["c"], strict=True):
                    if cost:
                        own = digest if limit.kind == "distinct" else b""
                        demands.append(Demand(scope, limit, cost, own))
            demands += [demand(*row) for row in record.get("d", ())]
            yield Intent(name, record["t"], tuple(demands), record["m"], repeated)
        elif "s" in record:
            yield Outcome(bytes.fromhex(record["s"]), record["t"], record.get("a"), record["u"])
        elif "c" in record:
            number, kind, name, state = record["c"]
            scope = scopes.setdefault((kind, name), Scope(kind, name))
            yield CellState(scope, limits[number], state)
        elif "rows" in record:
            bindings[record["p"]] = [
                (scopes.setdefault((kind, name), Scope(kind, name)), limits[number])
                for number, kind, name in record["rows"]
            ]
        elif "x" in record:
            for at_us, *row in record["x"]:
                yield Charge(at_us, demand(*row))
        elif "l" in record:
            limits[record["l"]] = decode(record["limit"])
        else:
            yield Time(record["now"])


def event_files(folder: Path) -> list[Path]:
    """The files of events in a process's folder, in order."""
    return sorted(folder.glob("events-*.journal"))


def open_journal(path: Path) -> Journal:
    """Open a file of a ledger for writing."""
    return Journal.open(path, header=_HEADER, fsync_every=0)


def number_of(path: Path) -> int:
    """The number in the name of a ledger's file."""
    return int(path.stem.rsplit("-", 1)[1])


def encode(limit: Limit) -> list[Any]:
    """A limit as JSON values."""
    kind, name, unit, shadow = limit.kind, limit.name, limit.unit, limit.shadow
    return [kind, name, unit, limit.amount, limit.window_us, limit.burst, shadow]


def decode(fields: list[Any]) -> Limit:
    """Return the limit that `encode` gave."""
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
