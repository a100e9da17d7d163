"""A bare pass-through of streams on the gateway's own stack: no key, no limit, nothing is read.

Run as `python -m benchmarks.gateways.stream_through PORT UPSTREAM_URL`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import uvloop

from benchmarks.gateways.pass_through import read_body, serve
from stillhouse.gateway.config import Timeouts, Upstream
from stillhouse.gateway.upstream import Pool


def through(url: str) -> Any:
    """Return the application."""
    pool = Pool(Upstream(url=url, most_in_flight=4096), Timeouts(), 2**18, None)

    async def app(_: Any, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        connection = await pool.open()
        connection.begin(pool.request("/v1/chat/completions", body), time.monotonic() + 60)
        status = await connection.head()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        while data := await connection.read(60):
            await send({"type": "http.response.body", "body": data, "more_body": True})
        connection.release()
        await send({"type": "http.response.body", "body": b""})

    return app


def main() -> None:
    """Serve until a signal."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(through(sys.argv[2]), int(sys.argv[1])))


if __name__ == "__main__":
    main()
