"""Exchanges are recorded off the path: skeleton, digests and the record itself, in short slices.

On the event loop rather than in a thread: a thread that computes would hold the interpreter for
milliseconds at a time. A slice ends after `SLICE_US`; with a backlog of `BACKLOG` exchanges or
`BACKLOG_BYTES` each request records one, so memory stays bounded. Only prompts above `LARGE_CHARS`
are sketched in a thread: one of four megabytes takes half a second, in which nobody else would be
served.
"""

from __future__ import annotations

import asyncio
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
BACKLOG_BYTES = 2**28
BATCH = 32  # signatures are cheaper together
LARGE_CHARS = 2**17


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
        self.dropped = 0  # only the ledger has them: recorded at the next start
        self._log = log
        self._ledger = ledger
        self._digests = digests
        self._skeletons = skeletons
        self._sink = sink
        self._waiting: deque[Served] = deque()
        self._bytes = 0  # of the bodies that wait
        self._sketched: tuple[Served, bytes] | None = (
            None  # the first that waits, where it is large
        )
        ledger.note_log(log.path.name)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, served: Served) -> None:
        """Take an exchange whose outcome is in the ledger."""
        self._waiting.append(served)
        self._bytes += len(served.body)
        if self._behind:
            self.work(budget_us=0)

    def work(self, budget_us: int | None = SLICE_US) -> bool:
        """Record what waits, for `budget_us` at most; True when nothing waits any more.

        Stops before a large one that `sketch` has not prepared, unless there is no time to lose.
        """
        end_ns = None if budget_us is None else time.perf_counter_ns() + budget_us * 1000
        waiting = self._waiting
        while waiting:
            batch = self._batch(hurried=end_ns is None or self._behind)
            if not batch:
                break
            try:
                self._record(batch)
            except (InputError, OSError):
                # The disk; the ledger has the outcomes. Kept unless too many wait.
                self.failing = True
                if not self._behind:
                    return False
                self.dropped += len(batch)
            else:
                self.failing = False
            for served in batch:
                waiting.popleft()
                self._bytes -= len(served.body)
            if end_ns is not None and time.perf_counter_ns() > end_ns:
                break
        return not waiting

    async def sketch(self) -> None:
        """Sketch the first one that waits in a thread, if it is large."""
        served = self._waiting[0] if self._waiting else None
        if served is None or _chars(served) <= LARGE_CHARS or self._sketch_of(served):
            return
        (signature,) = await asyncio.to_thread(
            lambda: self._skeletons.signatures([skeleton_of_messages(served.texts)])
        )
        self._sketched = (served, signature)

    def recover(self, outcomes: Iterable[dict[str, Any]], logs: Iterable[str]) -> int:
        """Append the exchanges of a crashed run that had not reached its log; return how many.

        They have no skeleton and no digests: their texts are gone.
        """
        known: set[str] = set()
        for name in logs:
            known |= _ids(self._log.folder, name)
        found = 0
        for outcome in outcomes:
            if outcome["id"] not in known and outcome.get("status") is not None:
                self._log.append(Exchange.from_record(outcome))
                found += 1
        return found

    @property
    def _behind(self) -> bool:
        return len(self._waiting) >= BACKLOG or self._bytes > BACKLOG_BYTES

    def _sketch_of(self, served: Served) -> bytes | None:
        known = self._sketched
        return known[1] if known is not None and known[0] is served else None

    def _batch(self, *, hurried: bool) -> list[Served]:
        """The next ones to record together: not more text than one large prompt has."""
        batch: list[Served] = []
        chars = 0
        for served in islice(self._waiting, BATCH):
            chars += _chars(served)
            if chars > LARGE_CHARS:
                if not batch and (hurried or self._sketch_of(served)):
                    return [served]
                break
            batch.append(served)
        return batch

    def _record(self, batch: Sequence[Served]) -> None:
        digest = self._digests.digest
        known = self._sketch_of(batch[0])
        signatures = (
            self._skeletons.signatures([skeleton_of_messages(served.texts) for served in batch])
            if known is None
            else [known]
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


def _chars(served: Served) -> int:
    return sum(map(len, served.texts))


def _ids(folder: Path, name: str) -> set[str]:
    path = folder / JOURNAL_FOLDER / name
    if path.exists():
        return {record["id"] for record in iterate_journal(path)}
    # It was compacted. Only here, as it takes long to import:
    from stillhouse.exchanges.dataset import part_ids

    return {one.hex() for one in part_ids(folder, path.stem)}
