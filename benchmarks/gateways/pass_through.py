"""Bare pass-throughs on the gateway's own stack: no key, no limit, no record, nothing read.

`aiohttp`: uvicorn and aiohttp's client, which is the usual pair. `own`: the gateway's own server
protocol and upstream connections, so that the difference to the whole gateway is the guard alone.
Run as `python -m benchmarks.gateways.pass_through KIND PORT UPSTREAM_URL`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import Any

import aiohttp
import uvicorn
import uvloop

from stillhouse.gateway.config import Timeouts, Upstream
from stillhouse.gateway.http import Request, Server
from stillhouse.gateway.serving import bind
from stillhouse.gateway.upstream import Pool

JSON = [(b"content-type", b"application/json")]


async def read_body(receive: Any) -> bytes:
    """Return the whole body."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    return body


async def reply(send: Any, status: int, data: bytes) -> None:
    """Send a whole reply."""
    headers = [*JSON, (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def through_aiohttp(url: str) -> Any:
    """Return the application over aiohttp's client."""
    session: aiohttp.ClientSession | None = None

    async def app(_: Any, receive: Any, send: Any) -> None:
        nonlocal session
        if session is None:
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body = await read_body(receive)
        headers = {"content-type": "application/json"}
        async with session.post(f"{url}/chat/completions", data=body, headers=headers) as answer:
            await reply(send, answer.status, await answer.read())

    return app


async def serve_own(url: str, port: int) -> None:
    """Serve over the gateway's own connections on both sides until a signal."""
    pool = Pool(Upstream(url=url), Timeouts(), 2**18, None)

    async def serve(request: Request) -> None:
        body = await request.body(2**24)
        connection = await pool.open()
        connection.begin(pool.request("/v1/chat/completions", body), time.monotonic() + 60)
        status = await connection.head()
        data = await connection.whole(2**24, 60)
        connection.release()
        request.respond(status, b"content-type: application/json\r\n", data)

    await Server(serve, header_bytes=2**16).open(bind(f"127.0.0.1:{port}"))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


async def serve(app: Any, port: int) -> None:
    """Serve until a signal."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
    )
    await uvicorn.Server(config).serve()


def main() -> None:
    """Run one of them."""
    kind, port, url = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if kind == "own":
            runner.run(serve_own(url, int(port)))
        else:
            runner.run(serve(through_aiohttp(url), int(port)))


if __name__ == "__main__":
    main()
