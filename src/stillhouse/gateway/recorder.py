"""Exchanges are recorded off the path: skeleton, digests and the record itself, in short slices.

On the event loop rather than in a thread: a thread that computes would hold the interpreter for
milliseconds at a time. A slice ends after `SLICE_US`; with a backlog of `BACKLOG` each request
records one, so memory stays bounded.
"""

from __future__ import annotations

import time
from binascii import hexlify
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from stillhouse.exchanges import Exchange, InputError, iterate_journal, skeleton_of_messages
from stillhouse.exchanges.log import JOURNAL_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from stillhouse.exchanges import ExchangeLog, KeyedDigests, SkeletonHash
    from stillhouse.gateway.ledger import Ledger

SLICE_US = 1_000
BACKLOG = 4_096
BATCH = 32  # signatures are cheaper together


class Served(NamedTuple):
    """One exchange to record: the columns as the ledger has them, and what is digested."""

    time_us: int
    columns: bytes  # a JSON object; ids and digests in hexadecimal, nothing unknown as null
    texts: tuple[str, ...]
    body: bytes
    schema: bytes | None = None
    end_user: bytes | None = None


class Recorder:
    """Appends exchanges to the log, a slice at each `work`. `sink` sees each one (metrics)."""

    def __init__(
        self,
        log: ExchangeLog,
        ledger: Ledger,
        digests: KeyedDigests,
        skeletons: SkeletonHash,
        sink: Callable[[Exchange], None] | None = None,
    ):
        self.failing = False
        self._log = log
        self._ledger = ledger
        self._digests = digests
        self._skeletons = skeletons
        self._sink = sink
        self._waiting: deque[Served] = deque()
        ledger.note_log(log.path.name)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, served: Served) -> None:
        """Take an exchange whose outcome is in the ledger."""
        self._waiting.append(served)
        if len(self._waiting) >= BACKLOG:
            self.work(budget_us=0)

    def work(self, budget_us: int | None = SLICE_US) -> bool:
        """Record what waits, for `budget_us` at most; True when nothing waits any more."""
        end_ns = None if budget_us is None else time.perf_counter_ns() + budget_us * 1000
        waiting = self._waiting
        while waiting:
            batch = list(islice(waiting, BATCH))
            try:
                self._record(batch)
            except (InputError, OSError):
                # The disk; the ledger has the outcomes. Kept unless too many wait.
                self.failing = True
                if len(waiting) < BACKLOG:
                    return False
            else:
                self.failing = False
            for _ in batch:
                waiting.popleft()
            if end_ns is not None and time.perf_counter_ns() > end_ns:
                break
        return not waiting

    def recover(self, outcomes: Iterable[dict[str, Any]], logs: Iterable[str]) -> int:
        """Append the exchanges of a crashed run that had not reached its log; return how many.

        They have no skeleton and no digests: their texts are gone.
        """
        folder = self._log.folder / JOURNAL_FOLDER
        known: set[str] = set()
        for name in logs:
            known |= _ids(folder / name)
        found = 0
        for outcome in outcomes:
            if outcome["id"] not in known and outcome.get("status") is not None:
                self._log.append(Exchange.from_record(outcome))
                found += 1
        return found

    def _record(self, batch: Sequence[Served]) -> None:
        digest = self._digests.digest
        signatures = self._skeletons.signatures(
            [skeleton_of_messages(served.texts) for served in batch]
        )
        records = []
        for (_, columns, _, body, schema, end_user), signature in zip(
            batch, signatures, strict=True
        ):
            more = b',"skeleton":"%b","request_digest":"%b"' % (
                hexlify(signature),
                hexlify(digest("request", body)),
            )
            if schema is not None:
                more += b',"schema_digest":"%b"' % hexlify(digest("schema", schema))
            if end_user is not None:
                more += b',"end_user_digest":"%b"' % hexlify(end_user)
            records.append(b"%b%b}" % (columns[:-1], more))
        # The ledger knows of a journal before anything is in it, or a crash would record it twice.
        self._log.turn(batch[0].time_us)
        self._ledger.note_log(self._log.path.name)
        self._log.append_encoded(records)
        if self._sink is not None:
            for record in records:
                self._sink(Exchange.from_record(orjson.loads(record)))


def _ids(path: Path) -> set[str]:
    # A journal that is not there any more was closed and compacted: all of it is in the dataset.
    if not path.exists():
        return set()
    return {record["id"] for record in iterate_journal(path)}
