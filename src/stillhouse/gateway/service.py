"""A gateway with everything it keeps open: store, limits, journals, connections, watchers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from typing import TYPE_CHECKING, Any, Self

from stillhouse.accounts import (
    FailureThrottle,
    KeyUses,
    Origins,
    Sightings,
    follow,
    open_store,
)
from stillhouse.exchanges import ExchangeLog, InputError, InUseError, RunLock, SkeletonHash
from stillhouse.gateway.accounting import Accounting
from stillhouse.gateway.app import Gateway
from stillhouse.gateway.commit import Commit
from stillhouse.gateway.config import changed_fixed, open_doors, read_config
from stillhouse.gateway.health import Checks
from stillhouse.gateway.ledger import Ledger
from stillhouse.gateway.log import Log
from stillhouse.gateway.metrics import Metrics
from stillhouse.gateway.offering import Offering
from stillhouse.gateway.recorder import Recorder
from stillhouse.gateway.terms import TermsDesk
from stillhouse.gateway.tracing import Tracer
from stillhouse.gateway.turn import Turn
from stillhouse.limits import Memory, Shared, SteadyClock

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping
    from pathlib import Path

    from stillhouse.gateway.config import Config
    from stillhouse.limits import Limiter

_TICK_S = 0.05
_SYNC_S = 1.0
_WRITE_S = 10.0
_SLOTS = 256


class Service:
    """One process of the gateway. `open` it, serve `app`, `close` it.

    Closed by default: without its store, its limits or its journals it does not start.
    """

    def __init__(
        self,
        config: Config,
        path: Path | None,
        over: Mapping[str, Any],
        log: Log,
        environment: Mapping[str, str],
    ):
        self.config = config
        self.metrics = Metrics()
        self.log = log
        self._path = path
        self._over = over
        self._environment = environment
        self._clock = SteadyClock()
        self._tasks: list[asyncio.Task[Any]] = []
        self._closing = contextlib.ExitStack()
        self._retired: list[tuple[Offering, set[Turn]]] = []  # and who may still be on it

    @classmethod
    async def open(
        cls,
        config: Config,
        *,
        path: Path | None = None,
        over: Mapping[str, Any] | None = None,
        log: Log | None = None,
        environment: Mapping[str, str] | None = None,
        sink: Any = None,
    ) -> Self:
        """Open everything, recover what a crash left, begin to watch.

        `path` is read again at a reload, with `over` as in `read_config`; `sink` is called with
        every recorded `Exchange`. Raises `InputError` for what cannot be used, `InUseError` where
        another process has it.
        """
        values = os.environ if environment is None else environment
        service = cls(config, path, over or {}, log or Log(), values)
        try:
            with _uncollected():
                await service._open(sink)
        except BaseException:
            service._closing.close()
            raise
        return service

    async def _open(self, sink: Any) -> None:
        config, now_us = self.config, self._clock.now_us()
        origins = None if config.origins is None else Origins.load(config.origins)
        url = self._url(config.accounts, config.accounts_env)
        store = self.store = open_store(url, secrets=config.secrets)
        self._closing.callback(store.close)
        digests = store.digests
        snapshot = store.load_snapshot()
        folder = self._slot()
        self.limiter = await self._open_limits(folder)
        self.ledger = Ledger(folder / "ledger", time_us=now_us)
        self._closing.callback(self.ledger.close)
        self.exchanges = ExchangeLog(
            config.state / "exchanges", key_id=digests.key_id, time_us=now_us, fsync_every=0
        )
        self._closing.callback(self.exchanges.close)
        self.recorder = Recorder(self.exchanges, self.ledger, digests, SkeletonHash(digests), sink)
        await self._recover()
        memory = self.limiter if isinstance(self.limiter, Memory) else None
        turns: set[Turn] = set()
        commit = self.commit = Commit(self.ledger, memory, turns, self.log)
        books = self._books = Accounting(
            self.limiter, self.ledger, self.recorder, commit, self._clock, self.metrics, self.log
        )
        self._sightings, self._uses = Sightings(), KeyUses(store.peppers)
        self.app = Gateway(
            offering=Offering(config, digests, books, self._environment),
            snapshot=snapshot,
            turns=turns,
            books=books,
            digests=digests,
            throttle=FailureThrottle(),
            sightings=self._sightings,
            uses=self._uses,
            origins=origins,
            clock=self._clock,
            metrics=self.metrics,
            log=self.log,
            desk=TermsDesk(store),
            tracer=self._tracer(),
        )
        self._checks = Checks(self.log)
        self._checks.follow(self.app.offering)
        self._closing.callback(self._checks.stop)
        self._gauges()
        for door, what in open_doors(config):
            self.log.event("open", setting=door, what=what)
        self._start(follow(store, snapshot, on_poll=self._confirmed))
        self._start(self._tick())
        self._start(self._mend())
        self._start(self._record())
        self._start(self._sync())
        self._start(self._write())

    def reload(self) -> bool:
        """Read the configuration again; keep the old one, and say why, where it cannot be used."""
        if self._path is None:
            return False
        try:
            config = read_config(self._path, self._over)
            fixed = changed_fixed(self.config, config)
            if fixed:
                raise InputError(f"{', '.join(fixed)} cannot change without a restart")
            offering = Offering(config, self.store.digests, self._books, self._environment)
        except InputError as error:
            self.log.event("reload_refused", reason=str(error))
            return False
        # Open requests end on the old one; it goes when they are done.
        self._retired.append((self.app.offering, set(self.app.turns)))
        self.app.offering, self.config = offering, config
        self._checks.follow(offering)
        self.log.event("reloaded")
        return True

    async def drain(self) -> None:
        """Admit nothing more, wait for what is open, cut what stays too long."""
        self.app.draining = True
        self.log.event("draining", open=len(self.app.turns))
        end = time.monotonic() + self.config.timeouts.drain_s
        while self.app.turns and time.monotonic() < end:
            await asyncio.sleep(_TICK_S)
        for turn in list(self.app.turns):
            turn.cut("draining")
        while self._pumps() and time.monotonic() < end + self.config.timeouts.abandoned_s:
            await asyncio.sleep(_TICK_S)

    async def close(self) -> None:
        """Settle and record what is left, put everything on the disk, close it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        pumps = self._pumps()
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for offering in self._offerings():
            offering.close()
        try:
            self.commit.now()
            if self.recorder.work(budget_us=None):
                self._forget()
            await self._write_seen()
            await self.limiter.close()
        finally:
            self._closing.close()

    def _url(self, given: str, variable: str | None) -> str:
        if variable is None:
            return given
        value = self._environment.get(variable)
        if value is None:
            raise InputError(f"the environment variable {variable} is not set")
        return value

    def _tracer(self) -> Tracer | None:
        if self.config.tracing is None:
            return None
        tracer = Tracer.open(self.config.tracing)
        self._closing.callback(tracer.close)
        return tracer

    def _slot(self) -> Path:
        """Take the first free folder: one process has one; a crashed one's is taken up again."""
        shared = self.config.limits != "memory" or self.config.limits_env is not None
        for number in range(_SLOTS if shared else 1):
            folder = self.config.state / f"process-{number}"
            lock = RunLock(folder)
            try:
                lock.__enter__()
            except InUseError:
                if not shared:
                    raise
                continue
            self._closing.callback(lock.__exit__, None, None, None)
            return folder
        raise InputError(f"{_SLOTS} processes use this state already")

    async def _open_limits(self, folder: Path) -> Limiter:
        config = self.config
        if config.limits == "memory" and config.limits_env is None:
            return Memory(folder=folder / "limits", hold=True)
        url = self._url(config.limits, config.limits_env)
        return await Shared.connect(url, folder=config.state / "limits", process=folder.name)

    async def _recover(self) -> None:
        """Charge what a crash left without outcome, record what had not reached the exchanges."""
        found = self.ledger.recovery
        for intent in found.unsettled:
            self.ledger.settle({**intent, "status": 500, "refusal": "crashed"})
        self.ledger.flush()
        # Limits in memory know it already; a store holds places of concurrency for who is gone.
        ids = [bytes.fromhex(intent["id"]) for intent in found.unsettled]
        now_us = self._clock.now_us()
        await asyncio.gather(*(self.limiter.settle(one, {}, now_us) for one in ids))
        charged = [{**i, "status": 500, "refusal": "crashed"} for i in found.unsettled]
        recorded = self.recorder.recover([*found.outcomes, *charged], found.logs)
        self.ledger.forget()
        if found.unsettled or recorded:
            self.log.event("recovered", charged=len(found.unsettled), recorded=recorded)

    def _confirmed(self, _changed: bool) -> None:
        self.app.recheck()
        self.app.snapshot.forget_ended(self._clock.now_us())

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self.app.watch()
            for offering in self._offerings():
                for offered in offering.models.values():
                    offered.relay.route.watch(now)
            self._let_go()

    async def _mend(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if not self.ledger.failing:
                continue
            with contextlib.suppress(OSError):
                await self._put_on_disk()  # a disk that takes lines may still refuse to keep them
                if self.ledger.retry():
                    self.log.event("journal_works_again")

    async def _record(self) -> None:
        while True:
            await self.recorder.sketch()
            done = self.recorder.work()
            await asyncio.sleep(0.02 if done else 0.002)

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(_SYNC_S)
            self.commit.now()
            try:
                if not len(self.recorder):
                    self._forget()
                self.ledger.turn(self._clock.now_us())
                await self._put_on_disk()
                self.ledger.discard()
            except (InputError, OSError) as error:
                self.ledger.failing = True
                self.log.trouble("journal", f"the disk refuses ({error})")

    def _forget(self) -> None:
        if not self.ledger.failing and not self.recorder.dropped:
            self.ledger.forget()

    async def _put_on_disk(self) -> None:
        paths = [self.ledger.path, self.exchanges.path]
        if self.limiter.ledger_path is not None:
            paths.append(self.limiter.ledger_path)
        await asyncio.to_thread(_fsync, paths)

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_S)
            await self._write_seen()

    async def _write_seen(self) -> None:
        seen, uses = self._sightings.drain(), self._uses.drain()
        try:
            await asyncio.to_thread(self.store.record_sightings, seen)
            await asyncio.to_thread(self.store.record_uses, uses)
        except Exception as error:  # noqa: BLE001 (drivers have errors of their own)
            self._sightings.give_back(seen)
            self._uses.give_back(uses)
            self.log.trouble("accounts", f"who was seen is not written ({type(error).__name__})")

    def _offerings(self) -> list[Offering]:
        return [self.app.offering, *(offering for offering, _ in self._retired)]

    def _let_go(self) -> None:
        """Close the offerings that a reload replaced and nobody is on any more."""
        retired, self._retired = self._retired, []
        for offering, turns in retired:
            turns &= self.app.turns
            if turns or _pumps(offering):
                self._retired.append((offering, turns))
            else:
                offering.close()

    def _pumps(self) -> list[asyncio.Task[None]]:
        return [pump for offering in self._offerings() for pump in _pumps(offering)]

    def _open_upstreams(self) -> int:
        now = time.monotonic()
        models = self.app.offering.models.values()
        return sum(pool.is_open(now) for model in models for pool in model.relay.route.pools)

    def _gauges(self) -> None:
        self.metrics.gauges |= {
            "open_requests": ("Requests that are open", lambda: len(self.app.turns)),
            "unrecorded": (
                "Exchanges that wait to be recorded",
                lambda: len(self.recorder) + self.recorder.dropped,
            ),
            "journal_failing": ("1 while the journal fails", lambda: self.ledger.failing),
            "ready": ("1 while requests are served", lambda: self.app.is_ready()),
            "upstreams_open": ("Servers of models that may be asked now", self._open_upstreams),
        }


def _pumps(offering: Offering) -> list[asyncio.Task[None]]:
    return [pump for offered in offering.models.values() for pump in offered.relay.pumps]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Load without the collector, which would look at all accounts a dozen times meanwhile."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _fsync(paths: list[Path]) -> None:
    # By a descriptor of its own: the journal's lock would stop the writer meanwhile.
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
