"""Redis loses its data, changes, or is not what it must be: nothing is admitted on a guess."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis as redis_package
from tests.limits.servers import RedisServer
from tests.limits.test_machine_shared import SET_TIME, TIME

from stillhouse.exchanges import InputError
from stillhouse.exchanges.storage import InUseError
from stillhouse.limits import (
    Demand,
    Limit,
    Reserved,
    Scope,
    Settled,
    Shared,
    Unavailable,
    rebuilding,
    shared,
)
from stillhouse.limits.replay import Replay

SECOND = 10**6
HOUR = 3600 * SECOND
X = Scope("account", "x")
DAY = Limit.rolling("day", "tokens", 20, 24 * HOUR, burst=19)
BALANCE = Limit.balance("paid", "money", 20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path, "--appendonly", "yes", "--repl-diskless-sync-delay", "0")
    yield started
    if started.process.poll() is None:
        started.kill()


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


async def connect(server: RedisServer, folder: Path, process: str = "one", **more: Any) -> Shared:
    return await Shared.connect(server.url, folder=folder / "ledgers", process=process, **more)


async def reserve(
    limiter: Shared, number: int, cost: int, limit: Limit = DAY, item: bytes = b""
) -> Any:
    return await limiter.reserve(name(number), [Demand(X, limit, cost, item)])


async def answered(
    limiter: Shared, number: int, cost: int, limit: Limit = DAY, item: bytes = b""
) -> Any:
    """Ask until the store can answer, each time under another id."""
    for attempt in range(500):
        told = await reserve(limiter, 1000 * number + attempt, cost, limit, item)
        if not isinstance(told, Unavailable):
            return told
        await asyncio.sleep(0.01)
    raise AssertionError("the store never came back")


def flush(server: RedisServer) -> None:
    with redis_package.Redis(port=server.port) as client:
        client.flushall()


def restart_empty(server: RedisServer) -> None:
    server.kill()
    shutil.rmtree(server.folder / "appendonlydir")
    server.start()


def restart_with_data(server: RedisServer) -> None:
    server.kill()
    server.start()


def fail_over(server: RedisServer) -> None:
    """A replica takes the place of its primary: the data are there, the run id is another."""
    folder = server.folder / "replica"
    folder.mkdir()
    replica = RedisServer(folder, "--replicaof", "127.0.0.1", str(server.port))
    with redis_package.Redis(port=replica.port) as client:
        while client.info("replication")["master_link_status"] != "up":
            time.sleep(0.01)
        server.kill()
        client.replicaof("NO", "ONE")
        client.config_set("port", server.port)
    server.process = replica.process


LOSSES: list[Callable[[RedisServer], None]] = [flush, restart_empty, restart_with_data, fail_over]


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_after_a_loss_what_was_used_still_counts(
    server: RedisServer, tmp_path: Path, lose: Callable[[RedisServer], None]
) -> None:
    async def scenario() -> None:
        limiter = await connect(server, tmp_path)
        assert isinstance(await reserve(limiter, 1, 10), Reserved)
        assert await limiter.settle(name(1), {"tokens": 4}) == Settled()
        assert isinstance(await reserve(limiter, 2, 15), Reserved)  # stays open
        assert isinstance(await reserve(limiter, 3, 20, BALANCE), Reserved)
        lose(server)
        first = await reserve(limiter, 4, 1)
        assert isinstance(first, Unavailable), "admitted before anything was rebuilt"
        told = await answered(limiter, 5, 1)
        assert not isinstance(told, Reserved), "4 settled and 15 open leave nothing of 19"
        assert not isinstance(await reserve(limiter, 6, 1, BALANCE), Reserved)
        # What is open is settled as if nothing had happened.
        assert isinstance(await limiter.settle(name(2), {"tokens": 5}), Settled)
        assert isinstance(await reserve(limiter, 7, 10), Reserved)
        assert not isinstance(await reserve(limiter, 8, 1), Reserved)
        await limiter.close()

    asyncio.run(scenario())


def test_after_a_loss_an_item_that_was_counted_is_known_again(
    server: RedisServer, tmp_path: Path
) -> None:
    prompts = Limit.distinct("prompts", 2, 300 * 24 * HOUR)
    one, two, three = (hashlib.sha256(bytes([number])).digest() for number in range(3))

    async def scenario() -> None:
        limiter = await connect(server, tmp_path)
        for number, item in enumerate((one, two)):
            assert isinstance(await reserve(limiter, number, 1, prompts, item), Reserved)
            await limiter.settle(name(number), {})
        flush(server)
        assert isinstance(await answered(limiter, 2, 1, prompts, one), Reserved)
        assert not isinstance(await reserve(limiter, 3, 1, prompts, three), Reserved)
        await limiter.close()

    asyncio.run(scenario())


def test_a_loss_while_nobody_watches_is_noticed_at_the_next_start(
    server: RedisServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        limiter = await connect(server, tmp_path)
        assert isinstance(await reserve(limiter, 1, 19), Reserved)
        await limiter.close()
        restart_empty(server)
        limiter = await connect(server, tmp_path, "two")
        assert not isinstance(await answered(limiter, 2, 1), Reserved)
        await limiter.close()

    asyncio.run(scenario())


def test_a_restart_is_noticed_by_a_process_that_had_yet_to_enter(tmp_path: Path) -> None:
    """Redis comes back with a snapshot from before the balance was spent, and that one asks."""
    server = RedisServer(tmp_path)

    async def scenario() -> None:
        spends = await connect(server, tmp_path)
        with redis_package.Redis(port=server.port) as client:
            ready = client.get("stillhouse:limits")
            since, _ = client.time()
            rebuilding = ready.replace(b"ready", b"rebuilding").rpartition(b"|")[0]
            client.set("stillhouse:limits", b"%b|%d" % (rebuilding, since * SECOND))
            enters = await connect(server, tmp_path, "two")
            client.set("stillhouse:limits", ready)
            client.save()
        assert isinstance(await reserve(spends, 1, 20, BALANCE), Reserved)
        restart_with_data(server)
        assert not isinstance(await answered(enters, 2, 1, BALANCE), Reserved)
        await spends.close()
        await enters.close()

    try:
        asyncio.run(scenario())
    finally:
        server.kill()


def test_what_a_lost_epoch_left_goes_from_the_store(server: RedisServer, tmp_path: Path) -> None:
    """A restart with its data makes a copy of every cell; only keys of the limits are touched."""
    others = ["stillhouse", "stillhouse:limits:b", "stillhouse:limits:x:limits", "z"]

    async def scenario() -> None:
        limiter = await connect(server, tmp_path)
        for number in range(1200):
            demand = Demand(Scope("account", str(number)), BALANCE)
            assert isinstance(await limiter.reserve(name(number), [demand]), Reserved)
        with redis_package.Redis(port=server.port) as client:
            client.mset(dict.fromkeys(others, "0"))
            before = client.dbsize()
        restart_with_data(server)
        assert isinstance(await answered(limiter, 5, 1), Reserved)
        assert limiter._clearing is not None
        await limiter._clearing
        with redis_package.Redis(port=server.port) as client:
            assert before <= client.dbsize() <= before + 3  # a cell and a reservation more
            assert client.exists(*others) == len(others)
        assert not isinstance(await reserve(limiter, 6, 20), Reserved)
        await limiter.close()

    asyncio.run(scenario())


def test_a_dead_process_is_charged_at_its_reservations(server: RedisServer, tmp_path: Path) -> None:
    """Also where its store lost everything, and also what the store had yet to hear of."""

    async def scenario() -> None:
        dead = await connect(server, tmp_path, "dead")
        assert isinstance(await reserve(dead, 1, 8), Reserved)
        # An intent in its ledger that never reached the store: it might have.
        dead._ledger.reserved(name(2), None, [Demand(X, DAY, 7)])
        assert dead._line is not None
        assert dead._clearing is not None
        await dead._clearing
        await dead._line.drop()
        await dead._client.aclose()
        dead._ledger.close()  # what kill -9 leaves is the same: all of it is in the kernel
        alive = await connect(server, tmp_path, "alive")
        flush(server)
        assert isinstance(await answered(alive, 3, 4), Reserved)
        assert not isinstance(await reserve(alive, 4, 1), Reserved)
        await alive.close()

    asyncio.run(scenario())


def test_while_another_process_rebuilds_nothing_is_admitted(
    server: RedisServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        limiter = await connect(server, tmp_path)
        flush(server)
        with redis_package.Redis(port=server.port) as client:
            claim = {**limiter._claim(), "patience": 10**12}
            key = "stillhouse:limits"
            told = client.eval(shared.SCRIPT, 1, key, "claim", "", orjson.dumps(claim))
            assert told.startswith(b"claimed ")
            for number in range(20):
                assert isinstance(await reserve(limiter, number, 1), Unavailable)
                await asyncio.sleep(0.005)
            client.delete(key)  # it never ends; the next one begins anew
        assert isinstance(await answered(limiter, 100, 1), Reserved)
        await limiter.close()

    asyncio.run(scenario())


def test_a_rebuilding_that_takes_longer_than_the_patience_comes_to_its_end(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two processes, each of which would begin anew when the other's claim is old."""
    read = rebuilding._read

    def slowly(root: Path, server_us: int) -> Replay:
        time.sleep(0.75)
        return read(root, server_us)

    async def scenario() -> None:
        limiters = [await connect(server, tmp_path, process) for process in ("one", "two")]
        monkeypatch.setattr(shared, "_PATIENCE_US", 600_000)
        monkeypatch.setattr(rebuilding, "_read", slowly)
        flush(server)
        told = await asyncio.gather(*(answered(one, n, 1) for n, one in enumerate(limiters, 1)))
        assert all(isinstance(one, Reserved) for one in told)
        for limiter in limiters:
            await limiter.close()

    asyncio.run(scenario())


def test_no_step_of_a_loading_is_long() -> None:
    """Not where one cell has more prompts than the store can take in the time of an answer."""
    prompts = Limit.distinct("prompts", 10**6, HOUR)
    replay = Replay()
    for number in range(20_000):
        replay.charge(Demand(X, prompts, 1, number.to_bytes(10, "big")), HOUR)
    parts = list(rebuilding._parts(replay))
    sizes = [sum(len(row[1]) for row in part["sets"]) for part in parts]
    assert sum(sizes) == 20_000
    assert max(sizes) <= 1000
    assert [part.get("mark") for part in parts] == [None] * (len(parts) - 1) + [20_000]


def test_a_store_that_fails_is_never_guessed_at(server: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        limiter = await connect(server, tmp_path, timeout_s=0.2)
        assert isinstance(await reserve(limiter, 1, 10), Reserved)
        server.kill()
        assert isinstance(await reserve(limiter, 2, 1), Unavailable)
        assert isinstance(await limiter.settle(name(1), {"tokens": 2}), Unavailable)
        server.start()
        # The settlement is in the ledger: the store is told of it when it is back.
        assert isinstance(await answered(limiter, 3, 17), Reserved)
        await limiter.close()

    asyncio.run(scenario())


def test_a_store_that_hangs_is_never_guessed_at(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        work = Shared.connect(url, folder=tmp_path, process="one", timeout_s=0.1)
        with pytest.raises(InputError, match="does not answer"):
            asyncio.run(work)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--cluster-enabled", "yes"), "cluster"),
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "may evict keys"),
    ],
)
def test_a_store_that_cannot_be_exact_is_refused(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    server = RedisServer(tmp_path, *options)
    try:
        with pytest.raises(InputError, match=said):
            asyncio.run(connect(server, tmp_path))
    finally:
        server.kill()


def test_two_processes_cannot_share_one_ledger(server: RedisServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        first = await connect(server, tmp_path)
        with pytest.raises(InUseError):
            await connect(server, tmp_path)
        await first.close()

    asyncio.run(scenario())


def test_a_process_whose_ledger_is_elsewhere_is_refused(
    server: RedisServer, tmp_path: Path
) -> None:
    """After a loss its share would be unknown to the others, and theirs to it."""

    async def scenario() -> None:
        first = await connect(server, tmp_path / "one")
        second = await connect(server, tmp_path / "one", "two")
        with pytest.raises(InputError, match="in another folder"):
            await connect(server, tmp_path / "other")
        flush(server)
        stranger = await connect(server, tmp_path / "other")  # nobody is there to object
        assert isinstance(await reserve(stranger, 1, 1), Reserved)
        for number in range(2, 20):
            assert isinstance(await reserve(first, number, 1), Unavailable)
            await asyncio.sleep(0.002)
        await stranger.close()
        flush(server)
        assert isinstance(await answered(first, 30, 1), Reserved)
        assert isinstance(await answered(second, 31, 1), Reserved)
        await first.close()
        await second.close()

    asyncio.run(scenario())


def size(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*.journal"):
        with contextlib.suppress(FileNotFoundError):  # it was folded away meanwhile
            found += path.stat().st_size
    return found


def test_a_ledger_that_is_folded_stays_small_and_forgets_nothing(
    server: RedisServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        limit = Limit.rolling("many", "tokens", 10_000, 24 * HOUR, burst=5000)
        limiter = await connect(server, tmp_path, turn_after=50)
        assert isinstance(await reserve(limiter, 1, 7, BALANCE), Reserved)  # stays open
        sizes = []
        for number in range(2, 802):
            assert isinstance(await reserve(limiter, number, 10, limit), Reserved)
            await limiter.settle(name(number), {"tokens": 5})
            if limiter._folding is not None:
                await limiter._folding
            sizes.append(size(tmp_path))
        # A reservation and its settlement take some 300 bytes: unfolded it would be 240 kB.
        assert max(sizes) < 80_000
        flush(server)
        # 800 of 5 count, but for what drains in seconds, and so do the 7 that are open.
        assert isinstance(await answered(limiter, 8, 990, limit), Reserved)
        assert not isinstance(await reserve(limiter, 9000, 50, limit), Reserved)
        assert isinstance(await reserve(limiter, 9001, 13, BALANCE), Reserved)
        assert not isinstance(await reserve(limiter, 9002, 1, BALANCE), Reserved)
        await limiter.close()

    asyncio.run(scenario())


def with_set_clock(server: RedisServer, patch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the test say what the server's clock shows; the processes' own clocks go on."""
    patch.setattr(shared, "SCRIPT", shared.SCRIPT.replace(TIME, SET_TIME))

    def show(now_us: int) -> None:
        with redis_package.Redis(port=server.port) as client:
            client.delete("the-time")
            client.rpush("the-time", now_us // SECOND, now_us % SECOND)

    return show


def test_a_step_of_the_servers_clock_forward_counts_for_little(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = with_set_clock(server, monkeypatch)
    now = 1_770_000_000 * SECOND
    hour = Limit.rolling("hour", "tokens", 3600, HOUR, burst=1800)  # drains one in two seconds

    async def scenario() -> None:
        show(now)
        limiter = await connect(server, tmp_path, forward_us=10 * SECOND)
        assert isinstance(await reserve(limiter, 1, 1800, hour), Reserved)
        show(now + 365 * 24 * HOUR)
        told = await reserve(limiter, 2, 5, hour)
        assert isinstance(told, Reserved)
        assert now + 10 * SECOND <= told.at_us < now + 40 * SECOND
        assert not isinstance(await reserve(limiter, 3, 20, hour), Reserved)
        # It is not ten seconds each time: what was ahead once stays cut off.
        for number in range(4, 60):
            await reserve(limiter, number, 20, hour)
        told = await reserve(limiter, 99, 0, hour)
        assert told.at_us < now + 40 * SECOND
        await limiter.close()

    asyncio.run(scenario())


def test_what_has_drained_leaves_the_store(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three hundred scopes pass by; the keys that stay are those that count."""
    show = with_set_clock(server, monkeypatch)
    limit = Limit.rolling("short", "requests", 10, SECOND, burst=5)

    async def scenario() -> tuple[int, int]:
        now, highest = 1_770_000_000 * SECOND, 0
        show(now)
        limiter = await connect(server, tmp_path, forward_us=HOUR)
        with redis_package.Redis(port=server.port) as client:
            for number in range(300):
                if number % 5 == 0:
                    now += SECOND // 20
                    show(now)
                demand = Demand(Scope("address", str(number)), limit)
                assert isinstance(await limiter.reserve(name(number), [demand]), Reserved)
                await limiter.settle(name(number), {"requests": 1})
                if number % 30 == 29:
                    pattern = "stillhouse:limits:*:rolling:*"
                    highest = max(highest, sum(1 for _ in client.scan_iter(pattern, 1000)))
        await limiter.close()
        return highest, number

    highest, _ = asyncio.run(scenario())
    assert 0 < highest < 100


def test_a_settlement_that_was_under_way_survives_cancellation(
    server: RedisServer, tmp_path: Path
) -> None:
    """The ledger has it before the store is asked; a rebuilding knows it."""

    async def scenario() -> None:
        limiter = await connect(server, tmp_path)
        assert isinstance(await reserve(limiter, 1, 19), Reserved)
        waiting: Awaitable[Any] = asyncio.ensure_future(limiter.settle(name(1), {"tokens": 1}))
        await asyncio.sleep(0)
        waiting.cancel()  # type: ignore[attr-defined]
        await asyncio.gather(waiting, return_exceptions=True)
        flush(server)
        assert isinstance(await answered(limiter, 2, 18), Reserved)
        await limiter.close()

    asyncio.run(scenario())


def test_a_reservation_that_is_cancelled_in_flight_is_given_back(
    server: RedisServer, tmp_path: Path
) -> None:
    """Cut off while the store takes its time, which charges it all the same."""

    async def scenario() -> None:
        limiter = await connect(server, tmp_path)
        with redis_package.Redis(port=server.port) as client:
            client.execute_command("CLIENT", "PAUSE", "200")
        asking = asyncio.ensure_future(reserve(limiter, 1, 20, BALANCE))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.wait([asking])
        while limiter._late:
            await asyncio.sleep(0.01)
        assert isinstance(await reserve(limiter, 2, 20, BALANCE), Reserved)
        flush(server)  # and the ledger knows it
        assert not isinstance(await answered(limiter, 3, 1, BALANCE), Reserved)
        assert await limiter.settle(name(2), {"money": 0}) == Settled()
        assert isinstance(await answered(limiter, 4, 20, BALANCE), Reserved)
        await limiter.close()

    asyncio.run(scenario())


def test_a_settlement_of_an_earlier_process_reaches_a_store_that_comes_later(
    server: RedisServer, tmp_path: Path
) -> None:
    place = Limit.concurrency("places", 1, HOUR)

    async def scenario() -> None:
        killed = await connect(server, tmp_path)
        assert isinstance(await reserve(killed, 1, 1, place), Reserved)
        await killed.close()
        limiter = await connect(server, tmp_path)
        assert limiter._line is not None
        limiter._line.close()
        server.process.send_signal(signal.SIGSTOP)
        limiter._timeout_s = 0.1
        told = await limiter.settle(name(1), {})
        server.process.send_signal(signal.SIGCONT)
        assert isinstance(told, Unavailable)
        await answered(limiter, 2, 1)
        while limiter._late:
            await asyncio.sleep(0.01)
        assert isinstance(await reserve(limiter, 3, 1, place), Reserved)
        await limiter.close()

    asyncio.run(scenario())
