"""A bare pass-through of streams on the gateway's own stack: no key, no limit, nothing is read.

Run as `python -m benchmarks.gateways.stream_through PORT UPSTREAM_URL`.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop

from stillhouse.gateway.config import Timeouts, Upstream
from stillhouse.gateway.http import Request, Server
from stillhouse.gateway.serving import bind
from stillhouse.gateway.upstream import Pool


async def serve(port: int, url: str) -> None:
    """Serve until the process is ended."""
    pool = Pool(Upstream(url=url, most_in_flight=4096), Timeouts(), 2**18, None)

    async def through(request: Request) -> None:
        body = await request.body(2**20)
        connection = await pool.open()
        connection.begin(pool.request("/v1/chat/completions", body), time.monotonic() + 60)
        request.begin(await connection.head(), b"content-type: text/event-stream\r\n")
        while data := await connection.read(60):
            if not request.write(data):
                await request.drain()
        connection.release()
        request.end(b"")

    await Server(through, header_bytes=2**14).open(bind(f"127.0.0.1:{port}"))
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), sys.argv[2]))
