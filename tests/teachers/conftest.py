"""A loopback endpoint in a thread: tests say what it answers, and see what it was asked."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

Handler = Callable[["Asked"], Awaitable[web.StreamResponse] | web.StreamResponse]


class Asked:
    """One request as the endpoint saw it; `number` counts from 1."""

    def __init__(self, number: int, request: web.Request, body: dict[str, Any]):
        self.number = number
        self.request = request
        self.body = body
        self.prompt: str = body["messages"][-1]["content"]

    def reply(self, text: str | None = None, **changes: Any) -> web.Response:
        """An ordinary completion; `changes` replace top-level fields (None removes one)."""
        text = answer(self.prompt) if text is None else text
        body = {
            "id": f"chatcmpl-{self.number}",
            "object": "chat.completion",
            "model": "teacher-1",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
        } | changes
        return web.json_response({k: v for k, v in body.items() if v is not None})


def answer(prompt: str) -> str:
    """What the deterministic teacher says to a prompt."""
    return "answer " + hashlib.sha256(prompt.encode()).hexdigest()[:12]


class Endpoint:
    """The server and its record of what was asked."""

    def __init__(self) -> None:
        self.handler: Handler = lambda asked: asked.reply()
        self.asked: list[Asked] = []
        self.url = ""
        self.in_flight = 0
        self.most_in_flight = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def prompts(self) -> list[str]:
        return [asked.prompt for asked in self.asked]

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(60)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)

    def _run(self) -> None:
        # A runner cancels what still waits for its handler when it is closed.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(len(self.asked) + 1, request, json.loads(await request.read()))
        self.asked.append(asked)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            result = self.handler(asked)
            return result if isinstance(result, web.StreamResponse) else await result
        finally:
            self.in_flight -= 1


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    server.start()
    yield server
    server.stop()
