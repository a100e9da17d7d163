"""The shared back end against the same reference, in the same machine, and its mutants."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis as redis_package
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.limits.machine import SETTINGS, START, Machine
from tests.limits.reference import SECOND
from tests.limits.servers import RedisServer

from stillhouse.limits import Demand, Limit, Reserved, Scope, Shared, folding, shared

TIME = "redis.call('TIME')"
SET_TIME = "redis.call('LRANGE', 'the-time', 0, 1)"
NAMES = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path_factory.mktemp("redis"))
    yield started
    started.kill()


class Monotonic:
    """Stands in for the module `time`: the monotonic clock of the machine's world."""

    now = START

    @classmethod
    def monotonic_ns(cls) -> int:
        return cls.now * 1000


class OnRedis:
    """`Shared` under the machine: the real script, but for the source of its time."""

    loop: asyncio.AbstractEventLoop

    skewed = False  # whether the process's clock is wrong by some seconds, differently each time

    def __init__(
        self,
        server: RedisServer,
        *,
        loses: bool,
        back_end: type[Shared] = Shared,
        turn_after: int = 200_000,
    ):
        self.server = server
        self.turn_after = turn_after
        self.back_end = back_end
        self.loses = loses
        self.debts = not loses
        self.calls = 0

    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.raw = redis_package.Redis(port=self.server.port)
        self.name = f"n{next(NAMES)}"
        self.set_time(START)
        self.limiter = self.loop.run_until_complete(
            self.back_end.connect(
                self.server.url,
                folder=self.folder,
                process="one",
                namespace=self.name,
                forward_us=10**15,
                turn_after=self.turn_after,
            )
        )

    def set_time(self, now: int) -> None:
        Monotonic.now = now
        with self.raw.pipeline() as pipe:
            pipe.delete("the-time")
            pipe.rpush("the-time", now // SECOND, now % SECOND)
            pipe.execute()

    def call(self, work: Coroutine[Any, Any, Any], now: int) -> Any:
        self.set_time(now)
        if self.skewed:
            self.calls += 1
            Monotonic.now = now + (self.calls % 3) * 7 * SECOND
        return self.loop.run_until_complete(work)

    def clock(self, now: int, lag: int) -> int:
        return now  # whatever a caller's clock shows

    def lose(self, now: int) -> str:
        if not self.loses:
            return "kept"
        self.set_time(now)
        self.raw.delete(f"{self.name}:limits")
        told = self.loop.run_until_complete(self.limiter.settle(bytes(16), {}))
        assert "lost" in told.reason
        assert self.loop.run_until_complete(self.limiter.ready())
        return "open"

    def end(self) -> None:
        self.loop.run_until_complete(self.limiter.close())
        self.loop.close()
        self.raw.close()
        shutil.rmtree(self.folder)


def run(factory: Callable[[], Any], options: settings, *, safety_alone: bool = False) -> None:
    own = {"subject_factory": staticmethod(factory), "safety_alone": safety_alone}
    run_state_machine_as_test(type("Made", (Machine,), own), settings=options)


@pytest.fixture
def under_set_time(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(shared, "SCRIPT", shared.SCRIPT.replace(TIME, SET_TIME))
    monkeypatch.setattr(shared, "time", Monotonic)
    return monkeypatch


@pytest.mark.parametrize("loses", [False, True], ids=["kept", "lost"])
def test_the_shared_back_end_decides_as_the_reference(
    server: RedisServer, loses: bool, under_set_time: pytest.MonkeyPatch
) -> None:
    options = settings(SETTINGS, max_examples=30, stateful_step_count=40)
    run(lambda: OnRedis(server, loses=loses), options)


def test_ledgers_that_are_folded_all_the_time_rebuild_what_the_reference_says(
    server: RedisServer, under_set_time: pytest.MonkeyPatch
) -> None:
    under_set_time.setattr(folding, "_PARTS", 10**9)  # only what is of one microsecond is summed
    options = settings(SETTINGS, max_examples=30, stateful_step_count=40)
    run(lambda: OnRedis(server, loses=True, turn_after=3), options)


NAIVE_REFUND = (
    "local refund = min(difference, cell[6 + n + first])",
    "local refund = min(difference, cell[3])",
)
# What each mutant changes in the script. A script is one step, so that check-then-increment is a
# client that asks twice: see below.
MUTANTS = {
    "fixed window": (
        "cell[3] = max(0, cell[3] - (now - cell[4]) * cell[2])",
        "if floor(now / 3000000) > floor(cell[4] / 3000000) then cell[3] = 0 end",
    ),
    "burst of the limit": (
        "local over = cell[3] + cost * grain - burst * grain",
        "local over = cell[3] + cost * grain - amount * grain",
    ),
    "missing usage refunds": ("used[unit] or cost", "used[unit] or 0"),
    "double settle": (
        "redis.call('DEL', prefix .. record_key)",
        "redis.call('SET', prefix .. record_key, value)",
    ),
    "local clock": ("local now = server_time() - ahead", "local now = request.witness"),
}
HUNT = settings(
    SETTINGS,
    max_examples=2_000,  # ends at the first find
    stateful_step_count=40,
    phases=[Phase.generate],
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
)


def admits_a_third(server: RedisServer) -> bool:
    """Whether three tens are admitted within ten seconds of a limit of 20 in 10 s, burst 10.

    The first drains wholly before it is settled at nothing, so nothing of it may be given back.
    """
    subject = OnRedis(server, loses=False)
    subject.begin()
    limit = Limit.rolling("a", "tokens", 20, 10 * SECOND, burst=10)
    demands = [Demand(Scope("account", "x"), limit, 10)]

    def reserve(name: int, at: int) -> bool:
        work = subject.limiter.reserve(bytes([name]) * 16, demands, at)
        return isinstance(subject.call(work, at), Reserved)

    try:
        later = START + 10 * SECOND
        assert reserve(1, START)
        assert reserve(2, later)
        subject.call(subject.limiter.settle(bytes([1]) * 16, {"tokens": 0}, later), later)
        return reserve(3, later)
    finally:
        subject.end()


def test_a_refund_gives_back_only_what_has_not_drained(
    server: RedisServer, under_set_time: pytest.MonkeyPatch
) -> None:
    assert not admits_a_third(server)
    before, after = NAIVE_REFUND
    assert shared.SCRIPT.count(before) == 1
    under_set_time.setattr(shared, "SCRIPT", shared.SCRIPT.replace(before, after))
    assert admits_a_third(server)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_script_is_killed(
    server: RedisServer, name: str, under_set_time: pytest.MonkeyPatch
) -> None:
    before, after = MUTANTS[name]
    assert shared.SCRIPT.count(before) == 1
    under_set_time.setattr(shared, "SCRIPT", shared.SCRIPT.replace(before, after))

    def factory() -> OnRedis:
        subject = OnRedis(server, loses=False)
        subject.skewed = name == "local clock"
        return subject

    with pytest.raises(AssertionError):
        run(factory, HUNT, safety_alone=True)


class CheckThenIncrement(Shared):
    """Asks whether it fits, gives that back, and charges then without asking."""

    async def reserve(self, name: bytes, demands: Sequence[Demand], now_us: int = 0) -> Any:
        probe = bytes([255]) + name[1:]
        told = await super().reserve(probe, demands)
        if not isinstance(told, Reserved):
            return told
        await self.settle(probe, {d.limit.unit: 0 for d in demands})
        await asyncio.sleep(0)
        self._open[name] = (told.at_us, demands)
        await asyncio.gather(*(super().reserve(name, demands),))
        return told


def test_a_client_that_checks_and_then_charges_is_killed(
    server: RedisServer, under_set_time: pytest.MonkeyPatch
) -> None:
    def factory() -> OnRedis:
        return OnRedis(server, loses=False, back_end=CheckThenIncrement)

    with pytest.raises(AssertionError):
        run(factory, HUNT, safety_alone=True)
