"""Schedules with four real processes on one Redis and one PostgreSQL, all of which are killed.

Each process follows the accounts' change feed in PostgreSQL and reserves on `limits.Shared`, as a
gateway does: where the feed was not confirmed for a second it asks for nothing. Six clients in each
reserve, wait, settle; some settle at nothing, some without usage, some never. Meanwhile processes
get SIGKILL and are started again on the same ledger; Redis gets SIGKILL and is started again with
its append-only file or without it, or is flushed; PostgreSQL gets SIGKILL and is started again.

What is checked are the processes' own records, of every one that ever lived: a line in the kernel
when `reserve` said yes (with the limiter's time of it) and before anything is done with that, and a
line with the use before `settle` is called. A request without the second line counts in full.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis as redis_package
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError
from tests.limits.servers import PostgresServer, RedisServer

from benchmarks.gateways.simulated import FAST, SCOPES, SECOND, overshoots
from stillhouse.accounts import Peppers, Policy, Snapshot, Store, database, follow
from stillhouse.exchanges import InputError, KeyedDigests
from stillhouse.limits import Demand, Limit, Reserved, Scope, Shared, Unavailable, shared

PROCESSES = 4
CLIENTS = 6
LASTS_S = 0.7
LASTS_LONG_S = 4.0  # where PostgreSQL is killed: its feed goes stale after a second
TURN_AFTER = 20  # reservations after which a ledger is made short: all the time
APPEND = ("--appendonly", "yes", "--appendfsync", "everysec")


@dataclass(slots=True)
class Sums:
    """Of a batch."""

    schedules: int = 0
    overshoots: int = 0
    admitted: int = 0
    refused: int = 0
    unavailable: int = 0
    stale: int = 0
    kills: int = 0  # of processes
    redis_kills: int = 0
    redis_flushes: int = 0
    postgres_kills: int = 0
    recovered: int = 0  # schedules that admitted something after the last loss of Redis's data


@dataclass(frozen=True, slots=True)
class Place:
    """Where the processes of one schedule meet."""

    folder: Path
    redis_url: str
    store_url: str
    pairs: tuple[tuple[Scope, Limit], ...]


def batch(number: int, schedules: int) -> Sums:
    """Run `schedules` schedules on servers started for them."""
    sums = Sums()
    folder = Path(tempfile.mkdtemp(dir=FAST))
    postgres = PostgresServer()
    redis = RedisServer(folder, *APPEND)
    try:
        store_of(postgres.url).close()  # migrates
        for index in range(schedules):
            rng = random.Random(f"killed {number} {index}")
            place = Place(folder / str(index), redis.url, postgres.url, draw_limits(rng))
            run(place, redis, postgres, rng, sums)
            shutil.rmtree(place.folder)
    finally:
        redis.kill()
        postgres.remove()
        shutil.rmtree(folder, ignore_errors=True)
    return sums


def draw_limits(rng: random.Random) -> tuple[tuple[Scope, Limit], ...]:
    """Short windows that refill within a schedule, long ones that a loss of data would refill."""
    account = rng.randint(40, 200)
    long = rng.randint(60, 400)
    day_us = 86_400 * SECOND
    limits = [
        Limit.rolling("short", "tokens", account, rng.choice((SECOND // 5, SECOND, 5 * SECOND))),
        Limit.rolling(
            "long",
            "tokens",
            long,
            rng.choice((3600 * SECOND, day_us, 30 * day_us)),
            burst=rng.choice((long // 2, 4 * long // 5, long - 1)),
        ),
        Limit.rolling("requests", "requests", 60, SECOND),
        rng.choice((Limit.balance("paid", "money", 3 * long), Limit.month("m", "money", 3 * long))),
    ]
    return tuple(zip(SCOPES, limits, strict=True))


def run(
    place: Place, redis: RedisServer, postgres: PostgresServer, rng: random.Random, sums: Sums
) -> None:
    """Run one schedule and add what was seen."""
    place.folder.mkdir()
    client = redis_package.Redis(port=redis.port)
    client.flushall()
    client.close()
    with_postgres = rng.random() < 0.06
    lasts_s = LASTS_LONG_S if with_postgres else LASTS_S
    begun_s = time.monotonic()
    ends_s = begun_s + lasts_s
    lost_ns = 0
    pids = [start(place, slot, 0, ends_s, rng.random()) for slot in range(PROCESSES)]
    for what, at_s, slot in disturbances(rng, lasts_s, postgres=with_postgres):
        time.sleep(max(0.0, begun_s + at_s - time.monotonic()))
        if what == "process":
            os.kill(pids[slot], signal.SIGKILL)
            os.waitpid(pids[slot], 0)
            sums.kills += 1
            pids[slot] = start(place, slot, sums.kills, ends_s, rng.random())
        elif what == "flush":
            with redis_package.Redis(port=redis.port) as client:
                client.flushall()
            sums.redis_flushes += 1
            lost_ns = time.monotonic_ns()
        elif what == "postgres":
            postgres.kill()
            time.sleep(1.3)
            restart(postgres)
            sums.postgres_kills += 1
        else:
            redis.kill()
            if what == "redis without data":
                shutil.rmtree(redis.folder / "appendonlydir", ignore_errors=True)
            time.sleep(rng.choice((0.0, 0.05)))
            redis.start()
            sums.redis_kills += 1
            lost_ns = time.monotonic_ns()
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError(f"a process of {place.folder} failed")
    sums.schedules += 1
    read(place, sums, lost_ns)


def restart(postgres: PostgresServer) -> None:
    """Start it again; its backends may still be about to notice the kill."""
    while True:
        postgres.start()
        try:
            postgres.wait()
        except AssertionError:
            time.sleep(0.05)
        else:
            return


def disturbances(
    rng: random.Random, lasts_s: float, *, postgres: bool
) -> list[tuple[str, float, int]]:
    """What is done to whom, and when: (what, seconds from the start, process)."""
    found = [("process", rng.uniform(0.1, 0.9), rng.randrange(PROCESSES))]
    while rng.random() < 0.5:
        found.append(("process", rng.uniform(0.05, 0.9), rng.randrange(PROCESSES)))
    if rng.random() < 0.6:
        what = rng.choice(("redis with data", "redis without data"))
        found.append((what, rng.uniform(0.2, 0.6), 0))
    if rng.random() < 0.2:
        found.append(("flush", rng.uniform(0.2, 0.8), 0))
    if postgres:
        found.append(("postgres", 0.2, 0))
    return sorted(((what, at * lasts_s, slot) for what, at, slot in found), key=lambda one: one[1])


def start(place: Place, slot: int, life: int, ends_s: float, seed: float) -> int:
    """Fork a process; it ends by itself."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        asyncio.run(process(place, slot, life, ends_s, random.Random(seed)))
        status = 0
    except BaseException:  # noqa: BLE001 (told, and never let into the parent's code)
        traceback.print_exc()
    finally:
        os._exit(status)


async def process(place: Place, slot: int, life: int, ends_s: float, rng: random.Random) -> None:
    """One gateway's share: the feed, the limiter, its clients."""
    shared._PATIENCE_US = SECOND // 5  # one that was killed while it rebuilt is soon followed
    record = os.open(place.folder / f"{slot}-{life}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    counts = {"refused": 0, "unavailable": 0, "stale": 0}

    def note(line: dict[str, Any]) -> None:
        os.write(record, json.dumps(line).encode() + b"\n")

    async def one_client(limiter: Shared, snapshot: Snapshot) -> None:
        while time.monotonic() < ends_s:
            if snapshot.is_stale(time.monotonic_ns() // 1000):
                counts["stale"] += 1
                await asyncio.sleep(0.02)
                continue
            chosen = rng.sample(range(len(place.pairs)), rng.randint(1, len(place.pairs)))
            cost = rng.choice((1, 5, 10, 20))
            costs = [1 if place.pairs[n][1].unit == "requests" else cost for n in chosen]
            demands = [Demand(*place.pairs[n], c) for n, c in zip(chosen, costs, strict=True)]
            name = rng.randbytes(16)
            told = await limiter.reserve(name, demands)
            if not isinstance(told, Reserved):
                counts["unavailable" if isinstance(told, Unavailable) else "refused"] += 1
                await asyncio.sleep(rng.choice((0.0, 0.01, 0.02)))
                continue
            ns = time.monotonic_ns()
            note({"a": name.hex(), "t": told.at_us, "d": chosen, "c": costs, "ns": ns})
            await asyncio.sleep(rng.choice((0.0, 0.0, 0.005, 0.05)))
            fate = rng.random()
            if fate < 0.02:
                continue
            used = {limit.unit: 0 for _, limit in place.pairs}
            if fate < 0.9:
                part = rng.random()
                used = {"tokens": int(cost * part), "money": int(cost * part), "requests": 1}
            elif fate < 0.95:
                used = {}
            note({"s": name.hex(), "u": used})
            await limiter.settle(name, used)

    limiter = await connected(place, slot, ends_s)
    follower = await opened(place, ends_s)
    if limiter is not None and follower is not None:
        store, snapshot = follower
        feed = asyncio.create_task(follow(store, snapshot))
        await asyncio.gather(*(one_client(limiter, snapshot) for _ in range(CLIENTS)))
        feed.cancel()
        await asyncio.gather(feed, return_exceptions=True)
        await limiter.close()
    note({"counts": counts})


async def connected(place: Place, slot: int, ends_s: float) -> Shared | None:
    """Connect as soon as the store answers."""
    while time.monotonic() < ends_s:
        try:
            return await Shared.connect(
                place.redis_url,
                folder=place.folder / "ledgers",
                process=f"process-{slot}",
                turn_after=TURN_AFTER,
            )
        except (InputError, RedisError, OSError):
            await asyncio.sleep(0.02)
    return None


async def opened(place: Place, ends_s: float) -> tuple[Store, Snapshot] | None:
    """Open the accounts as soon as they answer."""
    while time.monotonic() < ends_s:
        try:
            store = store_of(place.store_url)
            return store, store.load_snapshot()
        except (InputError, SQLAlchemyError, OSError):
            await asyncio.sleep(0.02)
    return None


def store_of(url: str) -> Store:
    """Open the accounts in PostgreSQL."""
    secret = KeyedDigests(bytes(32))
    return Store(database.connect(url), Peppers({1: secret}), secret, Policy())


def read(place: Place, sums: Sums, lost_ns: int) -> None:
    """Check the records of every process that lived."""
    admitted: dict[str, tuple[int, list[int], list[int]]] = {}
    used: dict[str, dict[str, int]] = {}
    newest_ns = 0
    for path in place.folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            told = json.loads(line)
            if "a" in told:
                admitted[told["a"]] = (told["t"], told["d"], told["c"])
                newest_ns = max(newest_ns, told["ns"])
            elif "s" in told:
                used[told["s"]] = told["u"]
            else:
                for name, count in told["counts"].items():
                    setattr(sums, name, getattr(sums, name) + count)
    charges = []
    for name, (at, chosen, costs) in sorted(admitted.items(), key=lambda item: item[1][0]):
        for n, cost in zip(chosen, costs, strict=True):
            demand = Demand(*place.pairs[n], cost)
            actual = used.get(name, {}).get(demand.limit.unit, cost)
            charges.append((demand, at, actual, None))
    sums.admitted += len(admitted)
    sums.recovered += bool(lost_ns) and newest_ns > lost_ns
    sums.overshoots += overshoots(charges)
