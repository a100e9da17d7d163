"""What was promised and what was delivered: an intent before the upstream, an outcome after it.

Both are in the kernel when the call returns, so `kill -9` loses neither; a loss of power can lose
what had not yet been put on the disk (the gateway does so every second). An intent that has no
outcome after a crash is charged at its reservation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillhouse.exchanges import InputError, Journal, iterate_journal, make_folder, new_id

if TYPE_CHECKING:
    from pathlib import Path

OPEN, CLOSED = "open", "closed"
_SUFFIX = ".ledger"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a crash left: intents without outcome, outcomes since, journals they may be in."""

    unsettled: tuple[dict[str, Any], ...] = ()
    outcomes: tuple[dict[str, Any], ...] = ()
    logs: tuple[str, ...] = ()


class Ledger:
    """Appends to one file under `folder`/open; files that nobody needs any more go to /closed.

    One process at a time (the caller holds the folder's lock). `count_us` names the files.
    """

    def __init__(self, folder: Path, *, time_us: int, rotate: int = 200_000):
        self.failing = False
        self.in_flight: dict[str, dict[str, Any]] = {}
        self._folder = folder
        self._rotate = rotate
        self._old: list[Path] = []
        self._log_name: str | None = None
        self._unwritten: list[dict[str, Any]] = []
        make_folder(folder / OPEN)
        make_folder(folder / CLOSED)
        self.recovery = _recover(sorted((folder / OPEN).glob(f"*{_SUFFIX}")))
        self._old = sorted((folder / OPEN).glob(f"*{_SUFFIX}"))
        self._journal = self._begin(time_us)

    def intend(self, intent: dict[str, Any]) -> bool:
        """Write an intent (its `id` in hexadecimal names it); False when it cannot be written."""
        if self.failing:
            return False
        try:
            self._journal.append({"intent": intent})
        except (InputError, OSError):
            self.failing = True
            return False
        self.in_flight[intent["id"]] = intent
        return True

    def settle(self, outcome: dict[str, Any]) -> None:
        """Write an outcome. While the file cannot be written it is held and written later."""
        self.in_flight.pop(outcome["id"], None)
        self._append({"outcome": outcome})

    def note_log(self, name: str) -> None:
        """Say in which journal the exchanges of the outcomes to come will be kept."""
        if name != self._log_name:
            self._log_name = name
            self._append({"log": name})

    def retry(self) -> bool:
        """After a failure: write what was held; True when the ledger can be used again."""
        try:
            while self._unwritten:
                self._journal.append(self._unwritten[0])
                del self._unwritten[0]
            self._journal.append({"retried": True})
        except (InputError, OSError):
            return False
        self.failing = False
        return True

    def turn(self, time_us: int) -> None:
        """Begin a new file when the present one is long; the intents in flight go with it."""
        if self._journal.count < self._rotate or self.failing:
            return
        before = self._journal
        self._journal = self._begin(time_us)
        for intent in self.in_flight.values():
            self._journal.append({"intent": intent})
        before.close()
        self._old.append(before.path)

    def forget(self) -> None:
        """Put older files away: their outcomes are kept elsewhere, or were recovered."""
        while self._old:
            path = self._old.pop()
            path.replace(self._folder / CLOSED / path.name)

    @property
    def path(self) -> Path:
        """The file that is written to now."""
        return self._journal.path

    def close(self) -> None:
        """Close the file; a clean one holds no open intent."""
        self._journal.close()

    def _append(self, record: dict[str, Any]) -> None:
        if self.failing:
            self._hold(record)
            return
        try:
            self._journal.append(record)
        except (InputError, OSError):
            self.failing = True
            self._hold(record)

    def _hold(self, record: dict[str, Any]) -> None:
        # A copy: the caller goes on to use what it gave.
        self._unwritten.append(
            {name: dict(v) if isinstance(v, dict) else v for name, v in record.items()}
        )

    def _begin(self, time_us: int) -> Journal:
        name = new_id(time_us).hex()
        journal = Journal.open(
            self._folder / OPEN / f"{name}{_SUFFIX}",
            header={"kind": "gateway-ledger", "schema": 1},
            fsync_every=0,
        )
        if self._log_name is not None:
            journal.append({"log": self._log_name})
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
