"""Several servers a model: who is asked, who is asked again, and how long anything may take."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.gateway.running import Running, running
from tests.gateway.scripted import Script, Upstream, chunks, completion


def asking(gateway: Running, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Count"}]
    return {
        "url": f"{gateway.url}/v1/chat/completions",
        "json": {"model": "small", "messages": messages, **more},
        "headers": {"authorization": f"Bearer {gateway.key}"},
    }


@contextlib.asynccontextmanager
async def two(
    folder: Path, first: Script, **changes: Any
) -> AsyncIterator[tuple[Running, Upstream, Upstream, aiohttp.ClientSession]]:
    """A model with two servers: one that does as `first` says, one that is well.

    The first in the list is asked first, as both are idle.
    """
    bad = Upstream(lambda _: first)
    await bad.start()
    good = Upstream(lambda _: Script(body=completion("from the second")))
    await good.start()
    try:
        upstreams = [{"url": bad.url}, {"url": good.url}]
        async with (
            running(folder, model={"upstreams": upstreams}, **changes) as gateway,
            aiohttp.ClientSession() as session,
        ):
            yield gateway, bad, good, session
    finally:
        await bad.stop()
        await good.stop()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_followed_by_another(tmp_path: Path, status: int) -> None:
    async def scenario() -> None:
        script = Script(status=status, body=b"{}")
        async with two(tmp_path, script) as (gateway, bad, good, session):
            async with session.post(**asking(gateway)) as reply:
                assert reply.status == 200
            assert (len(bad.asked), len(good.asked)) == (1, 1)
            # It rests now, and is not chosen meanwhile.
            pools = gateway.service.app.offering.models["small"].relay.route.pools
            assert not pools[0].is_open(pools[0].resting_until - 0.01)
            assert pools[0].is_open(pools[0].resting_until)
            assert pools[1].is_open(0.0)

    asyncio.run(scenario())


def test_a_server_that_closes_before_its_first_byte_is_followed_by_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        bad = await asyncio.start_server(_hang_up, "127.0.0.1", 0)
        good = Upstream(lambda _: Script(body=completion()))
        await good.start()
        urls = [f"http://127.0.0.1:{bad.sockets[0].getsockname()[1]}/v1", good.url]
        model = {"upstreams": [{"url": url} for url in urls]}
        async with (
            running(tmp_path, model=model) as gateway,
            aiohttp.ClientSession() as session,
            session.post(**asking(gateway)) as reply,
        ):
            assert reply.status == 200
            assert len(good.asked) == 1
        bad.close()
        await good.stop()

    asyncio.run(scenario())


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


def test_after_the_first_byte_nobody_else_is_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        script = Script(chunks=chunks(["one ", "two ", "three "]), close_after=2)
        async with two(tmp_path, script) as (gateway, bad, good, session):
            async with session.post(**asking(gateway, stream=True)) as reply:
                text = await reply.content.read()
            assert b"upstream_failed" in text
            assert (len(bad.asked), len(good.asked)) == (1, 0)
            assert (await gateway.settled())[0]["refusal"] == "upstream_failed"

    asyncio.run(scenario())


def test_a_request_that_the_server_refuses_is_not_tried_elsewhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        script = Script(status=400, body=b'{"error":"UNIQUE"}')
        async with two(tmp_path, script) as (gateway, bad, good, session):
            async with session.post(**asking(gateway)) as reply:
                assert reply.status == 502
                assert "UNIQUE" not in await reply.text()
            assert (len(bad.asked), len(good.asked)) == (1, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("times", "script"),
    [
        ({"first_byte_s": 0.2}, Script(hang_before_head=True)),
        ({"between_s": 0.2}, Script(chunks=chunks(["a "] * 9), gate=lambda i: _stop_at(i, 4))),
        ({"total_s": 0.4}, Script(chunks=chunks(["a "] * 900), gate=lambda _: asyncio.sleep(0.05))),
    ],
    ids=["first byte", "between", "total"],
)
def test_each_stage_has_its_time(tmp_path: Path, times: dict[str, float], script: Script) -> None:
    """A time-out ends the request, is paid as reserved, and nobody else is asked."""

    async def scenario() -> None:
        times_all = {"abandoned_s": 0.1, **times}
        async with two(tmp_path, script, timeouts=times_all) as (gateway, bad, good, session):
            async with session.post(**asking(gateway, stream=True)) as reply:
                text = await reply.content.read()
                streaming = "first_byte_s" not in times
                assert reply.status == (200 if streaming else 504)
            assert b"upstream_timeout" in text
            assert (len(bad.asked), len(good.asked)) == (1, 0)
            row = (await gateway.settled())[0]
            assert row["refusal"] == "upstream_timeout"
            assert row["tokens_out"] > 0

    asyncio.run(scenario())


async def _stop_at(index: int, last: int) -> None:
    if index >= last:
        await asyncio.Event().wait()


def test_a_server_takes_no_more_at_once_than_it_may(tmp_path: Path) -> None:
    async def scenario() -> None:
        free = asyncio.Event()
        slow = Upstream(lambda _: Script(chunks=chunks(["a "]), gate=lambda _: free.wait()))
        await slow.start()
        model = {"upstreams": [{"url": slow.url, "most_in_flight": 1}]}
        async with running(tmp_path, model=model) as gateway, aiohttp.ClientSession() as session:
            first = asyncio.ensure_future(session.post(**asking(gateway, stream=True)))
            while not slow.asked:
                await asyncio.sleep(0.005)
            async with session.post(**asking(gateway)) as reply:
                assert reply.status == 503
                assert (await reply.json())["error"]["code"] == "overloaded"
            free.set()
            await (await first).read()
            assert len(slow.asked) == 1
        await slow.stop()

    asyncio.run(scenario())


def test_what_is_held_of_a_stream_is_bounded_and_the_server_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        total = 1900
        big = Script(chunks=chunks(["y" * 30_000] * total))  # 57 MB: more than sockets hold
        model = {"max_output_tokens": 4000, "default_output_tokens": 4000}
        bounds = {"buffer_bytes": 65_536}
        async with running(tmp_path, lambda _: big, model=model, bounds=bounds) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            body = b'{"model":"small","stream":true,"messages":[{"role":"user","content":"x"}]}'
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
                b"authorization: Bearer %b\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (gateway.key.encode(), len(body), body)
            )
            produced, held, still = -1, 0, 0
            while still < 20:  # until nothing moves any more
                await asyncio.sleep(0.01)
                now = gateway.upstream.asked[0].produced if gateway.upstream.asked else 0
                still = still + 1 if now == produced and now > 10 else 0
                produced = now
                for turn in gateway.service.app.turns:
                    if turn.connection is not None:
                        held = max(held, turn.connection._buffered)
            assert produced < total / 2, (
                "the server was read to its end for a client that reads not"
            )
            assert held <= 65_536 + 262_144  # one read more than the bound
            # It is the client that takes its time: none of the server's passes.
            relay = gateway.service.app.offering.models["small"].relay
            relay.route.watch(time.monotonic() + 10_000)
            # The client reads again, and gets everything.
            tail = b""
            while b"data: [DONE]" not in tail:
                data = await reader.read(1 << 16)
                assert data
                tail = (tail + data)[-64:]
            assert gateway.upstream.asked[0].produced == total
            writer.close()
            await writer.wait_closed()
            row = (await gateway.settled())[0]
            assert "refusal" not in row
            assert row["price_nano"] > 0

    asyncio.run(scenario())


def test_the_time_between_two_chunks_begins_anew_where_one_lies_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        big = Script(chunks=chunks(["y" * 30_000] * 20))
        async with running(tmp_path, lambda _: big) as gateway:
            route = gateway.service.app.offering.models["small"].relay.route
            connection = await route.ask("/v1/chat/completions", b"{}")
            while not connection._chunks:
                await asyncio.sleep(0.001)
            connection.deadline = time.monotonic() - 1
            assert await connection.read(60.0)
            assert connection.deadline > time.monotonic() + 50
            connection.close()

    asyncio.run(scenario())


def test_a_connection_that_is_just_closing_is_followed_by_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            route = gateway.service.app.offering.models["small"].relay.route
            for _ in range(2):
                connection = await route.ask("/v1/chat/completions", b"{}")
                assert await connection.whole(1 << 20, 60.0) == completion()
                connection.release()
                # As asyncio does once the server has ended an idle connection.
                connection._transport.close()  # type: ignore[union-attr]

    asyncio.run(scenario())


@dataclass
class Sick:
    """A server with a health page that says what the test says."""

    well: bool = True
    probes: int = 0
    posts: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if head.startswith("GET /health "):
                    self.probes += 1
                    writer.write(b"HTTP/1.1 %d X\r\n\r\n" % (200 if self.well else 500))
                    break
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                await reader.readexactly(length)
                self.posts += 1
                data = completion()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def test_health_checks_take_a_server_out_and_in_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        sick, other = Sick(), Sick()
        servers = [await asyncio.start_server(one.serve, "127.0.0.1", 0) for one in (sick, other)]
        upstreams = [
            {
                "url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1",
                "health_path": "/health",
                "health_every_s": 0.02,
            }
            for server in servers
        ]
        async with (
            running(tmp_path, model={"upstreams": upstreams}) as gateway,
            aiohttp.ClientSession() as session,
        ):

            async def ask() -> int:
                async with session.post(**asking(gateway)) as reply:
                    return reply.status

            async def known(word: str, count: int) -> None:
                async with asyncio.timeout(60):
                    while gateway.log.getvalue().count(word) < count:
                        await asyncio.sleep(0.01)

            assert await ask() == 200
            assert sick.posts == 1
            sick.well = False
            await known("upstream_ill", 1)
            for _ in range(3):
                assert await ask() == 200
            assert (sick.posts, other.posts) == (1, 3)  # no client's request found it out
            other.well = False
            await known("upstream_ill", 2)
            async with session.get(f"{gateway.url}/readyz") as reply:
                assert reply.status == 503
            assert b"stillhouse_upstreams_open 0.0" in gateway.service.metrics.render()
            assert await ask() == 503
            sick.well = other.well = True
            await known("upstream_well", 2)
            assert await ask() == 200
            async with session.get(f"{gateway.url}/readyz") as reply:
                assert reply.status == 200
        for server in servers:
            server.close()

    asyncio.run(scenario())
