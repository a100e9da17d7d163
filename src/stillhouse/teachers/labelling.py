"""Labelling: every request asked once, every reply kept, no cap passed, whatever interrupts it.

`label_all` keeps a journal of intents and outcomes. Before a request is sent its intent, with the
most it can cost, is in the kernel; its outcome follows. Whatever is in the journal when a run is
started again counts: replies are reused verbatim, failures are asked again, and an intent without
outcome (the process was killed while it was in flight) is spent in full.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillhouse.exchanges.journal import Journal, iterate_journal
from stillhouse.teachers.budget import Budget, Spent, Usage
from stillhouse.teachers.canaries import CANARY_PREFIX, Canaries
from stillhouse.teachers.chat import ChatRequest, Failure, Reply
from stillhouse.teachers.identity import Change, IdentityPolicy, group_of
from stillhouse.teachers.records import read_reply, request_key
from stillhouse.teachers.scheduler import LabelSettings, Scheduler, Stop, Teacher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

JOURNAL_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run is, for a progress line. `eta_s` is None until there is a rate."""

    done: int
    total: int
    failed: int
    reused: int
    in_flight: int
    limit: int
    requests_sent: int
    elapsed_s: float
    rate_per_s: float
    eta_s: float | None
    spent: Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelResult:
    """What a run brought.

    `answers` holds every item that has a reply or failed for good; an item that was not reached is
    absent. `stopped` is None when all were. `groups` names the teacher that made each reply, where
    the policy is to split; `notes` are sentences for the report.
    """

    answers: Mapping[str, Reply | Failure]
    stopped: Stop | None
    spent: Spent
    requests_sent: int
    reused: int
    groups: Mapping[str, str]
    notes: tuple[str, ...]


def open_journal(path: Path, teacher: Teacher) -> Journal:
    """Open or create a labelling journal; another teacher than its own is an `InputError`."""
    header = {"purpose": "labelling", "version": JOURNAL_VERSION, "teacher": teacher.describe()}
    return Journal.open(path, header=header, fsync_every=0)


def restore_spend(path: Path, budget: Budget) -> None:
    """Count what another labelling journal says was spent, where both share one budget."""
    if path.exists():
        _Past(iterate_journal(path), budget)


def label(
    requests: Mapping[str, ChatRequest],
    teacher: Teacher,
    journal: Journal,
    budget: Budget,
    progress: Callable[[Progress], None] | None = None,
    *,
    identity: IdentityPolicy | None = None,
    settings: LabelSettings | None = None,
) -> LabelResult:
    """Run `label_all` in an event loop of its own, closing the teacher's connections at the end."""

    async def run() -> LabelResult:
        try:
            return await label_all(
                requests,
                teacher,
                journal,
                budget,
                progress,
                identity=identity,
                settings=settings,
            )
        finally:
            close = getattr(teacher, "close", None)
            if close is not None:
                await close()

    return asyncio.run(run())


async def label_all(
    requests: Mapping[str, ChatRequest],
    teacher: Teacher,
    journal: Journal,
    budget: Budget,
    progress: Callable[[Progress], None] | None = None,
    *,
    identity: IdentityPolicy | None = None,
    settings: LabelSettings | None = None,
) -> LabelResult:
    """Bring every request (by item id) to a reply or a final failure; ask identical ones once.

    `journal` comes from `open_journal` and is read first; `budget` must be fresh: what the journal
    says was spent is added to it. Ctrl-C stops cleanly: requests in flight are finished; a second
    one abandons them, charged in full. Raises `InputError` for a damaged journal or a full disk;
    everything else that ends a run early is `LabelResult.stopped`.
    """
    run = _Run(requests, teacher, journal, budget, progress, identity, settings or LabelSettings())
    with _interrupts(run.scheduler):
        await run.all()
    return run.result()


class _Run:
    def __init__(
        self,
        requests: Mapping[str, ChatRequest],
        teacher: Teacher,
        journal: Journal,
        budget: Budget,
        progress: Callable[[Progress], None] | None,
        identity: IdentityPolicy | None,
        settings: LabelSettings,
    ):
        self.requests = requests
        self.journal = journal
        self.budget = budget
        self.settings = settings
        self.progress = progress
        self.notes: list[str] = []
        self.reused = 0  # items that needed no request of their own
        self.from_before = 0  # of those, answered by an earlier run
        self.began_s = time.monotonic()
        self.shown_s = self.began_s
        self.keys: dict[str, str] = {}
        past = _Past(journal.records(), budget)
        if journal.repair is not None:
            self.notes.append(str(journal.repair))
        self.replies = past.replies
        self.epochs = past.epochs
        self.epoch = past.epoch
        if past.in_flight:
            self.notes.append(
                f"{past.in_flight} requests were in flight when an earlier run ended: charged in"
                " full, asked again"
            )
        self.done = 0  # items answered by this run
        self.waiting: dict[str, int] = {}  # requests asked by this run -> items that want them
        self.scheduler = Scheduler(
            teacher, journal, budget, settings, self._replied, first_number=past.next_number
        )
        self.splits = identity is not None and identity.on_change == "split"
        self.canaries: Canaries | None = None
        if identity is not None and identity.canaries:
            self.canaries = Canaries(
                self.scheduler, self.replies, identity.max_tokens, asked=past.canaries_asked
            )
        self.names: set[str] = {r.model for r in self.replies.values() if r.model}

    async def all(self) -> None:
        syncing = asyncio.create_task(self._sync_now_and_then())
        try:
            for step in (self._check_at_start, self._ask_all, self._check_at_end):
                if self.scheduler.stop is None:
                    await step()
        finally:
            syncing.cancel()
            self.journal.sync()
            self._show(force=True)

    def result(self) -> LabelResult:
        answers: dict[str, Reply | Failure] = {}
        groups: dict[str, str] = {}
        failures = self.scheduler.failures
        for item, key in self.keys.items():
            reply = self.replies.get(key)
            if reply is not None:
                answers[item] = reply
                groups[item] = group_of(reply, self.epochs.get(key, 0))
            elif key in failures:
                answers[item] = failures[key]
        return LabelResult(
            answers=answers,
            stopped=self.scheduler.stop,
            spent=self.budget.spent,
            requests_sent=self.scheduler.sent,
            reused=self.reused,
            groups=groups,
            notes=tuple(self.notes),
        )

    async def _ask_all(self) -> None:
        await self.scheduler.drive(self._work())

    def _work(self) -> Iterator[tuple[str, ChatRequest]]:
        for item, request in self.requests.items():
            key = request_key(request)
            self.keys[item] = key
            if key in self.waiting:
                self.reused += 1
                self.waiting[key] += 1
                self.done += key in self.replies
            elif key in self.replies:
                self.reused += 1
                self.from_before += 1
            else:
                self.waiting[key] = 1
                yield key, request
            self._show()

    def _replied(self, key: str, reply: Reply) -> Stop | None:
        """Keep a reply, unless another teacher gave it; called for each before it is journaled."""
        if reply.model and reply.model not in self.names:
            if self.names and not key.startswith(CANARY_PREFIX):
                change = Change((f"the model was {sorted(self.names)}, now {reply.model!r}",))
                if not self.splits:
                    return _changed(change)
                self.notes.append(f"the teacher changed: {change}; the data is split")
            self.names.add(reply.model)
        self.replies[key] = reply
        self.done += self.waiting.get(key, 0)
        if self.epoch:
            self.epochs[key] = self.epoch
        self._show()
        return None

    async def _check_at_start(self) -> None:
        if self.canaries is None:
            return
        asked_before = await self.canaries.take_reference()
        if self.scheduler.stop is not None:
            return
        if self.canaries.weakness is not None:
            self.notes.append(self.canaries.weakness)
        if not asked_before:
            self.journal.append({"canaries": "asked"})
            return
        change = await self.canaries.compare()
        if change is not None and self.splits:
            self.epoch += 1
            self.journal.append({"epoch": self.epoch, "why": str(change)})
            self.notes.append(f"the teacher changed: {change}; the data is split")
        elif change is not None:
            self.scheduler.end(_changed(change))

    async def _check_at_end(self) -> None:
        change = None if self.canaries is None else await self.canaries.compare()
        if change is not None and self.splits:
            self.notes.append(
                f"the teacher changed during this run: {change}; its replies may be of either"
            )
        elif change is not None:
            self.scheduler.end(_changed(change))

    async def _sync_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self.settings.sync_every_s)
            await asyncio.to_thread(self.journal.sync)

    def _show(self, *, force: bool = False) -> None:
        now_s = time.monotonic()
        if self.progress is None:
            return
        if not force and now_s - self.shown_s < self.settings.progress_every_s:
            return
        self.shown_s = now_s
        elapsed_s = max(now_s - self.began_s, 1e-6)
        failed = sum(self.waiting.get(key, 0) for key in self.scheduler.failures)
        rate_per_s = self.done / elapsed_s
        done = self.from_before + self.done
        left = len(self.requests) - done - failed
        self.progress(
            Progress(
                done=done,
                total=len(self.requests),
                failed=failed,
                reused=self.reused,
                in_flight=self.scheduler.in_flight,
                limit=self.scheduler.limit.limit,
                requests_sent=self.scheduler.sent,
                elapsed_s=elapsed_s,
                rate_per_s=rate_per_s,
                eta_s=left / rate_per_s if rate_per_s > 0 else None,
                spent=self.budget.spent,
            )
        )


class _Past:
    """What a journal says of earlier runs; what they spent is added to the budget."""

    def __init__(self, records: Iterable[Mapping[str, Any]], budget: Budget):
        self.replies: dict[str, Reply] = {}
        self.epochs: dict[str, int] = {}
        self.epoch = 0
        self.canaries_asked = False
        self.next_number = 1
        open_intents: dict[int, Usage] = {}
        for record in records:
            usage = Usage(record.get("in", 0), record.get("out", 0), record.get("nano"))
            if "intent" in record:
                open_intents[record["intent"]] = usage
                self.next_number = record["intent"] + 1
            elif "reply" in record:
                del open_intents[record["reply"]]
                budget.restore(usage)
                self.replies[record["key"]] = read_reply(record["value"])
                if self.epoch:
                    self.epochs[record["key"]] = self.epoch
            elif "failure" in record:
                del open_intents[record["failure"]]
                if not record.get("free"):
                    budget.restore(usage)
            elif "epoch" in record:
                self.epoch = record["epoch"]
            elif "canaries" in record:
                self.canaries_asked = True
        for usage in open_intents.values():
            budget.restore(usage)
        self.in_flight = len(open_intents)


class _interrupts:  # noqa: N801 - reads as a statement: with _interrupts(scheduler)
    """Send Ctrl-C to the scheduler while it runs, where this is the main thread."""

    def __init__(self, scheduler: Scheduler):
        self._scheduler = scheduler
        self._on = False

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGINT, self._scheduler.interrupt)
            self._on = True

    def __exit__(self, *_: object) -> None:
        if self._on:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)


def _changed(change: Change) -> Stop:
    return Stop(
        "teacher_changed",
        f"the teacher is not the one that gave the earlier replies: {change}. Replies of two"
        " teachers are not mixed: ask for the earlier model by its dated name, or start a new run,"
        " or set teacher.on_change to split to keep both apart",
    )
