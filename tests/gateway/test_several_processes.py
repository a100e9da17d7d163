"""Several gateways on one state: accounts in one store, limits in one Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from tests.gateway.running import Running, configuration, prepare, running
from tests.limits.servers import RedisServer

from stillhouse.exchanges import InputError
from stillhouse.gateway.service import Service
from stillhouse.limits import Demand, Limit, Reserved, Scope

ROOM = 3  # the burst: half of the amount
LIMIT = {"scope": "global", "measure": "requests", "amount": 2 * ROOM, "window_s": 86_400.0}
BODY = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}


async def ask(session: aiohttp.ClientSession, gateway: Running) -> int:
    headers = {"authorization": f"Bearer {gateway.key}"}
    url = f"{gateway.url}/v1/chat/completions"
    async with session.post(url, json=BODY, headers=headers) as reply:
        await reply.read()
        return reply.status


async def both(folder: Path, limits: str) -> list[int]:
    """Statuses of twelve requests, in turns to two gateways: of one state, or each of its own."""
    options = {"limits": limits, "more_limits": [LIMIT]}
    other = folder
    if limits == "memory":
        other = folder / "other"
        other.mkdir()
    async with (
        running(folder, **options) as first,
        running(other, furnished=first.furnished if other is folder else None, **options) as second,
        aiohttp.ClientSession() as session,
    ):
        return [await ask(session, one) for _ in range(6) for one in (first, second)]


def test_two_gateways_share_one_limit(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    try:
        statuses = asyncio.run(both(tmp_path, server.url))
    finally:
        server.kill()
    assert statuses.count(200) == ROOM
    assert statuses.count(429) == 12 - ROOM


def test_places_that_a_killed_gateway_held_come_back_with_it(tmp_path: Path) -> None:
    place = [Demand(Scope("account", "a"), Limit.concurrency("c", 1, 3600 * 10**6))]

    async def scenario(server: RedisServer) -> None:
        config = configuration(tmp_path, "http://127.0.0.1:9/v1", limits=server.url)
        prepare(tmp_path, config)
        service = await Service.open(config)
        assert isinstance(await service.limiter.reserve(bytes(16), place, 0), Reserved)
        intent = {"account": "a", "organisation": "o", "key": "k", "model": "small"}
        counts = {"max_tokens": 1, "tokens_in": 1, "tokens_out": 1, "price_nano": 1}
        service.ledger.intend(
            {"id": bytes(16).hex(), "time_us": 1, "streamed": True, **intent, **counts}
        )
        service.ledger.flush()
        await service.close()  # without an outcome, as a kill leaves it
        service = await Service.open(config)
        found = await service.limiter.reserve(bytes([1]) * 16, place, 0)
        await service.close()
        assert isinstance(found, Reserved)

    server = RedisServer(tmp_path)
    try:
        asyncio.run(scenario(server))
    finally:
        server.kill()


def test_apart_they_would_admit_twice_as_much(tmp_path: Path) -> None:
    assert asyncio.run(both(tmp_path, "memory")).count(200) == 2 * ROOM


def test_nothing_is_served_while_redis_is_down(tmp_path: Path) -> None:
    async def scenario(server: RedisServer) -> list[int]:
        async with (
            running(tmp_path, limits=server.url) as gateway,
            aiohttp.ClientSession() as session,
        ):
            before = await ask(session, gateway)
            server.kill()
            return [before, await ask(session, gateway)]

    server = RedisServer(tmp_path)
    try:
        assert asyncio.run(scenario(server)) == [200, 503]
    finally:
        if server.process.poll() is None:
            server.kill()


def test_a_redis_that_is_absent_stops_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, limits="redis://127.0.0.1:9/0"):
            pass

    with pytest.raises(InputError, match="does not answer"):
        asyncio.run(scenario())
