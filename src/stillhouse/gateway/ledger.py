"""What was promised and what was delivered: an intent before the upstream, an outcome after it.

Lines wait until `flush`, which puts all of them into the kernel at once; only then may what they
speak of happen. So `kill -9` loses neither; a loss of power can lose what had not yet been put on
the disk (the gateway does so every second). An intent that has no outcome after a crash is charged
at its reservation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillhouse.exchanges import (
    InputError,
    Journal,
    encode_record,
    iterate_journal,
    make_folder,
    new_id,
    storage,
)

if TYPE_CHECKING:
    from pathlib import Path

OPEN, CLOSED = "open", "closed"
_SUFFIX = ".ledger"
_INTENT = b'{"intent":'


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a crash left: intents without outcome, outcomes since, journals they may be in."""

    unsettled: tuple[dict[str, Any], ...] = ()
    outcomes: tuple[dict[str, Any], ...] = ()
    logs: tuple[str, ...] = ()


class Ledger:
    """Appends to one file under `folder`/open.

    Files that nobody needs any more go to `folder`/closed, and from there away.
    One process at a time (the caller holds the folder's lock). `count_us` names the files.
    """

    def __init__(self, folder: Path, *, time_us: int, rotate: int = 200_000):
        self.failing = False
        self.in_flight: dict[str, bytes] = {}  # the intents' lines
        self._folder = folder
        self._rotate = rotate
        self._old: list[Path] = []
        self._log_name: str | None = None
        self._waiting: list[bytes] = []
        self._unwritten: list[bytes] = []
        make_folder(folder / OPEN)
        make_folder(folder / CLOSED)
        self.recovery = _recover(sorted((folder / OPEN).glob(f"*{_SUFFIX}")))
        self._old = sorted((folder / OPEN).glob(f"*{_SUFFIX}"))
        self._journal = self._begin(time_us)

    def intend(self, intent: dict[str, Any]) -> None:
        """Take an intent (its `id` in hexadecimal names it)."""
        line = _INTENT + encode_record(intent) + b"}"
        self.in_flight[intent["id"]] = line
        self._waiting.append(line)

    def withdraw(self, name: str) -> None:
        """Forget an intent that could not be written."""
        self.in_flight.pop(name, None)

    def settle(self, outcome: dict[str, Any]) -> bytes:
        """Take an outcome; return it as it is written."""
        self.in_flight.pop(outcome["id"], None)
        columns = encode_record(outcome)
        self._waiting.append(b'{"outcome":%b}' % columns)
        return columns

    def flush(self, *, intents: bool = True) -> bool:
        """Write all that waits, or without `intents` the outcomes alone; False when it cannot be.

        Then the intents of this flush are not promised. Outcomes are held and written later.
        """
        waiting, self._waiting = self._waiting, []
        if not intents:
            waiting = [line for line in waiting if not line.startswith(_INTENT)]
        if not self.failing:
            try:
                self._journal.append_encoded(waiting)
            except (InputError, OSError):
                self.failing = True
            else:
                return True
        self._unwritten += [line for line in waiting if not line.startswith(_INTENT)]
        return False

    def note_log(self, name: str) -> None:
        """Say in which journal the exchanges of the outcomes to come will be kept."""
        if name != self._log_name:
            self._log_name = name
            line = encode_record({"log": name})
            try:
                if not self.failing:
                    self._journal.append_encoded([line])
                    return
            except (InputError, OSError):
                self.failing = True
            self._unwritten.append(line)

    def retry(self) -> bool:
        """After a failure: write what was held; True when the ledger can be used again."""
        try:
            self._journal.append_encoded([*self._unwritten, b'{"retried":true}'])
        except (InputError, OSError):
            return False
        self._unwritten.clear()
        self.failing = False
        return True

    def turn(self, time_us: int) -> None:
        """Begin a new file when the present one is long; the intents in flight go with it.

        Raises `InputError` or `OSError` where the disk is full; the present one is gone on with.
        """
        if self._journal.count < self._rotate or self.failing:
            return
        before, self._journal = self._journal, self._begin(time_us)
        self._old.append(before.path)
        before.close()

    def forget(self) -> None:
        """Put older files away: their outcomes are kept elsewhere, or were recovered."""
        while self._old:
            path = self._old.pop()
            path.replace(self._folder / CLOSED / path.name)

    def discard(self) -> None:
        """Remove what was put away: once what is kept in its place is on the disk."""
        for path in (self._folder / CLOSED).iterdir():
            storage.remove(path)

    @property
    def path(self) -> Path:
        """The file that is written to now."""
        return self._journal.path

    def close(self) -> None:
        """Write what waits and close the file; a clean one holds no open intent."""
        self.flush()
        self._journal.close()

    def _begin(self, time_us: int) -> Journal:
        path = self._folder / OPEN / f"{new_id(time_us).hex()}{_SUFFIX}"
        lines = list(self.in_flight.values())
        if self._log_name is not None:
            lines.insert(0, encode_record({"log": self._log_name}))
        try:
            header = {"kind": "gateway-ledger", "schema": 1}
            journal = Journal.open(path, header=header, fsync_every=0)
            try:
                journal.append_encoded(lines)
            except BaseException:
                journal.close()
                raise
        except (InputError, OSError):
            path.unlink(missing_ok=True)
            raise
        return journal


def _recover(paths: list[Path]) -> Recovery:
    intents: dict[str, dict[str, Any]] = {}
    outcomes: dict[str, dict[str, Any]] = {}
    logs: dict[str, None] = {}
    for path in paths:
        for record in iterate_journal(path):
            if "intent" in record:
                intents[record["intent"]["id"]] = record["intent"]
            elif "outcome" in record:
                outcomes[record["outcome"]["id"]] = record["outcome"]
            elif "log" in record:
                logs[record["log"]] = None
    unsettled = tuple(intent for name, intent in intents.items() if name not in outcomes)
    return Recovery(unsettled, tuple(outcomes.values()), tuple(logs))
