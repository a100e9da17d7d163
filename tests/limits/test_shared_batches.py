"""What waits for Redis goes in one round trip, and each asker has its own answer."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from tests.limits.servers import RedisServer

from stillhouse.limits import Demand, Exceeded, Limit, Reserved, Scope, Shared, Unavailable
from stillhouse.limits.line import Line

LIMIT = Limit.rolling("requests", "requests", 20, 86_400 * 10**6, burst=10)
OTHER = Limit.rolling("others", "requests", 10**6, 86_400 * 10**6)


async def ask(limiter: Shared, number: int, limit: Limit = LIMIT) -> Any:
    return await limiter.reserve(number.to_bytes(16, "big"), [Demand(Scope("key", "k"), limit)])


def scenario(folder: Path, body: Any) -> Any:
    server = RedisServer(folder)

    async def run() -> Any:
        limiter = await Shared.connect(server.url, folder=folder / "limits", process="p")
        try:
            return await body(limiter, server)
        finally:
            await limiter.close()

    try:
        return asyncio.run(run())
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()


def test_many_at_once_take_few_round_trips_and_not_one_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    right = Line.ask

    async def counted(self: Line, commands: Any) -> None:
        sent.append(1)
        await right(self, commands)

    async def body(limiter: Shared, _: RedisServer) -> list[Any]:
        monkeypatch.setattr(Line, "ask", counted)
        return await asyncio.gather(*(ask(limiter, number) for number in range(50)))

    told = scenario(tmp_path, body)
    assert sum(isinstance(one, Reserved) for one in told) == 10
    assert sum(isinstance(one, Exceeded) for one in told) == 40
    assert len(sent) <= 5


def test_a_script_that_the_server_forgot_is_sent_again_for_everyone(tmp_path: Path) -> None:
    async def body(limiter: Shared, _: RedisServer) -> list[Any]:
        await limiter._client.script_flush()
        return await asyncio.gather(*(ask(limiter, number) for number in range(20)))

    told = scenario(tmp_path, body)
    assert sum(isinstance(one, Reserved) for one in told) == 10
    assert sum(isinstance(one, Exceeded) for one in told) == 10


def test_whoever_goes_away_does_not_take_the_others_along(tmp_path: Path) -> None:
    async def body(limiter: Shared, _: RedisServer) -> list[Any]:
        tasks = [asyncio.ensure_future(ask(limiter, n, OTHER)) for n in range(10)]
        await asyncio.sleep(0)
        tasks[4].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    told = scenario(tmp_path, body)
    assert sum(isinstance(one, Reserved) for one in told) == 9
    assert isinstance(told[4], asyncio.CancelledError)


def test_a_server_that_dies_fails_all_that_wait(tmp_path: Path) -> None:
    async def body(limiter: Shared, server: RedisServer) -> list[Any]:
        server.kill()
        return await asyncio.gather(*(ask(limiter, number) for number in range(10)))

    assert all(isinstance(one, Unavailable) for one in scenario(tmp_path, body))
