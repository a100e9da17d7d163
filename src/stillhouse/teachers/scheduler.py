"""Drives requests through a teacher: how many at once, when again, when to stop; all journaled."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from stillhouse.teachers.budget import (
    TEMPLATE_ALLOWANCE_TOKENS,
    Exhausted,
    Reservation,
    Usage,
    bound_tokens,
)
from stillhouse.teachers.chat import ChatRequest, Failure, Reply
from stillhouse.teachers.pacing import AdaptiveLimit, Backoff
from stillhouse.teachers.records import reply_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stillhouse.exchanges.journal import Journal
    from stillhouse.teachers.budget import Budget
    from stillhouse.teachers.wire import Attempt


class Teacher(Protocol):
    """What answers: one request, one attempt. `describe` says what its replies depend on."""

    def describe(self) -> dict[str, Any]:
        """Return a JSON value for the journal's header."""

    async def attempt(self, request: ChatRequest) -> Attempt:
        """Send one request, once; never raises for what an endpoint does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """How a run behaves. `concurrency` is the most requests in flight; it adapts below that."""

    concurrency: int = 64
    start_concurrency: int = 16
    max_attempts: int = 6
    backoff: Backoff = field(default_factory=Backoff)
    template_allowance_tokens: int = TEMPLATE_ALLOWANCE_TOKENS
    give_up_after: int = 5  # requests failed for good in a row, with no reply between: it is down
    sync_every_s: float = 1.0
    progress_every_s: float = 0.25
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run ended before all was asked. `code` is stable (docs/failures.md)."""

    code: str
    message: str


@dataclass(slots=True)
class _Job:
    key: str
    request: ChatRequest
    bound: Usage
    attempts: int = 0
    charged_nano: int | None = 0


class Scheduler:
    """One run's requests. Everything happens in one event loop, so no step needs a lock."""

    def __init__(
        self,
        teacher: Teacher,
        journal: Journal,
        budget: Budget,
        settings: LabelSettings,
        on_reply: Callable[[str, Reply], Stop | None],
        *,
        first_number: int,
    ):
        self.stop: Stop | None = None
        self.failures: dict[str, Failure] = {}
        self.sent = 0
        self.in_flight = 0
        self.limit = AdaptiveLimit(settings.start_concurrency, settings.concurrency)
        self._teacher = teacher
        self._journal = journal
        self._budget = budget
        self._settings = settings
        self._on_reply = on_reply
        self._number = itertools.count(first_number)
        self._rng = random.Random(settings.seed)
        self._new: Iterator[tuple[str, ChatRequest]] = iter(())
        self._put_back: list[_Job] = []
        self._later: list[tuple[int, int, _Job]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._pause_until_us = 0
        self._refused_in_row = 0
        self._failed_in_row = 0
        self._error: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._interrupted = False

    async def drive(self, work: Iterator[tuple[str, ChatRequest]]) -> None:
        """Ask all of `work` (key and request) until each has an outcome or the run is stopped."""
        self._new = work
        self._idle.clear()
        self._pump()
        try:
            await self._idle.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
        if self._error is not None:
            raise self._error

    def end(self, stop: Stop) -> None:
        """Send nothing more; what is in flight is finished."""
        if self.stop is None:
            self.stop = stop

    def interrupt(self) -> None:
        """Stop at the first call; abandon what is in flight at the second."""
        if self._interrupted:
            for task in self._tasks:
                task.cancel()
        self._interrupted = True
        self.end(Stop("interrupted", "stopped by Ctrl-C; the same command goes on from here"))
        self._pump()

    def _pump(self) -> None:
        """Send as much as limits allow; called whenever something may have changed."""
        try:
            while self.stop is None and self.in_flight < self.limit.limit and self._send_one():
                pass
        except Exception as error:  # noqa: BLE001 - raised again by `drive`, outside the callback
            self._fail(error)
        if self.in_flight == 0 and (self.stop is not None or not self._later):
            self._idle.set()

    def _send_one(self) -> bool:
        now_us = _now_us()
        if now_us < self._pause_until_us:
            self._wake_at(self._pause_until_us)
            return False
        job = self._take(now_us)
        if job is None:
            return False
        reservation = self._budget.reserve(job.bound)
        if isinstance(reservation, Exhausted):
            # What is in flight may settle below its bound and make room.
            self._put_back.append(job)
            if self.in_flight == 0:
                self.end(_out_of_budget(reservation))
            return False
        number = next(self._number)
        bound = reservation.bound
        try:
            self._journal.append(
                {"intent": number, "key": job.key, "at": wall_us()} | _charge_record(bound)
            )
        except BaseException:
            reservation.release()
            raise
        self.in_flight += 1
        self.sent += 1
        job.attempts += 1
        task = asyncio.get_running_loop().create_task(self._ask(job, reservation, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _take(self, now_us: int) -> _Job | None:
        if self._put_back:
            return self._put_back.pop()
        if self._later and self._later[0][0] <= now_us:
            return heapq.heappop(self._later)[2]
        for key, request in self._new:
            bound = bound_tokens(request, self._settings.template_allowance_tokens)
            return _Job(key, request, bound)
        if self._later:
            self._wake_at(self._later[0][0])
        return None

    async def _ask(self, job: _Job, reservation: Reservation, number: int) -> None:
        began_us = _now_us()
        try:
            attempt = await self._teacher.attempt(job.request)
            self._settle(job, reservation, number, attempt, began_us)
        except asyncio.CancelledError:
            charge = reservation.charge_in_full()
            self._journal.append(
                {"failure": number, "key": job.key, "code": "abandoned"} | _charge_record(charge)
            )
        except Exception as error:  # noqa: BLE001 - raised again by `drive`
            reservation.drop()
            self._fail(error)
        finally:
            self.in_flight -= 1
            self._pump()

    def _settle(
        self, job: _Job, reservation: Reservation, number: int, attempt: Attempt, began_us: int
    ) -> None:
        now_us = _now_us()
        if attempt.charge == "nothing":
            charge = reservation.release()
        elif attempt.charge == "usage" and attempt.usage is not None:
            charge = reservation.settle(*attempt.usage)
        else:
            charge = reservation.charge_in_full()
        self.limit.note(refused=attempt.refused, now_us=now_us)
        outcome = attempt.outcome
        if isinstance(outcome, Reply):
            outcome = replace(outcome, price_nano=charge.nano, latency_us=now_us - began_us)
            stop = self._on_reply(job.key, outcome)
            if stop is None:
                self._refused_in_row = self._failed_in_row = 0
                self._journal.append(
                    {"reply": number, "key": job.key, "value": reply_record(outcome)}
                    | _charge_record(charge)
                )
            else:
                outcome = Failure(code=stop.code, message=stop.message)
                self.end(stop)
        if isinstance(outcome, Failure):
            self._failed(job, number, attempt, outcome, charge)
        if self._budget.breach is not None:
            self.end(Stop("usage_above_reserve", self._budget.breach))

    def _failed(
        self, job: _Job, number: int, attempt: Attempt, failure: Failure, charge: Usage
    ) -> None:
        record: dict[str, Any] = {"failure": number, "key": job.key, "code": failure.code}
        if attempt.charge == "nothing":
            record["free"] = True
        else:
            record |= _charge_record(charge)
            if job.charged_nano is not None and charge.nano is not None:
                job.charged_nano += charge.nano
            else:
                job.charged_nano = None
        final = attempt.next != "retry" or job.attempts >= self._settings.max_attempts
        if final:
            record["message"] = failure.message
        self._journal.append(record)
        if final:
            self.failures[job.key] = replace(
                failure, attempts=job.attempts, charged_nano=job.charged_nano
            )
            self._count_failure(attempt, failure)
        else:
            self._retry_later(job, attempt)

    def _retry_later(self, job: _Job, attempt: Attempt) -> None:
        now_us = _now_us()
        backoff = self._settings.backoff
        wait_us = backoff.wait_us(job.attempts, attempt.retry_after_us, self._rng)
        heapq.heappush(self._later, (now_us + wait_us, next(self._order), job))
        self._refused_in_row = self._refused_in_row + 1 if attempt.refused else 0
        # One refusal holds back its own request; when everything is refused, everything waits.
        if self._refused_in_row >= max(3, self.limit.limit) and attempt.retry_after_us:
            self._pause_until_us = max(self._pause_until_us, now_us + attempt.retry_after_us)

    def _count_failure(self, attempt: Attempt, failure: Failure) -> None:
        if attempt.next == "stop":
            self.end(Stop(failure.code, failure.message))
        elif attempt.next == "retry":
            self._failed_in_row += 1
            if self._failed_in_row >= self._settings.give_up_after:
                self.end(
                    Stop(
                        "endpoint_down",
                        f"{self._failed_in_row} requests in a row failed after"
                        f" {self._settings.max_attempts} tries each; the last: {failure.message}."
                        " Run the same command again when the endpoint is back",
                    )
                )

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self.end(Stop("error", str(error)))

    def _wake_at(self, when_us: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0, when_us - _now_us()) / 1e6
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._pump)


def _charge_record(usage: Usage) -> dict[str, int]:
    record = {"in": usage.tokens_in, "out": usage.tokens_out}
    if usage.nano is not None:
        record["nano"] = usage.nano
    return record


def _out_of_budget(full: Exhausted) -> Stop:
    if full.cap == "breach":
        return Stop(full.code, full.message)
    key = {"money": "usd", "tokens": "tokens", "requests": "requests"}[full.cap]
    return Stop(
        full.code,
        f"the budget is used up: {full.message}. Raise budget.{key} and run the same command again;"
        " nothing that was answered is asked twice",
    )


def wall_us() -> int:
    """Microseconds since 1970, for what is kept; waiting is measured by another clock."""
    return time.time_ns() // 1000


def _now_us() -> int:
    return time.monotonic_ns() // 1000
