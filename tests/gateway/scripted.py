"""A loopback model server that says what the test scripts, and counts what it really produced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Script:
    """One answer. `chunks` are server-sent events' data; `gate` is waited for before each one."""

    status: int = 200
    body: bytes | None = None
    chunks: Iterable[bytes] = ()
    gate: Callable[[int], Any] | None = None
    hang_before_head: bool = False
    close_after: int | None = None  # chunks
    headers: tuple[str, ...] = ()


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    produced: int = 0  # chunks written before the client went away
    closed: bool = False


@dataclass
class Upstream:
    """Listens on a free port; `answer` chooses the script for each request."""

    answer: Callable[[Asked], Script]
    asked: list[Asked] = field(default_factory=list)
    server: asyncio.Server | None = None
    port: int = 0
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._client, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            for task in list(self.tasks):
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await self.server.wait_closed()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines if line)
        }
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        asked = Asked(first.split()[1], headers, orjson.loads(data))
        self.asked.append(asked)
        script = self.answer(asked)
        if script.hang_before_head:
            await reader.read()
            return False
        extra = "".join(f"{line}\r\n" for line in script.headers)
        if script.body is not None:
            writer.write(
                f"HTTP/1.1 {script.status} X\r\ncontent-type: application/json\r\n{extra}"
                f"content-length: {len(script.body)}\r\n\r\n".encode()
                + script.body
            )
            await writer.drain()
            asked.produced = 1
            return True
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        gone = asyncio.ensure_future(reader.read(1))
        try:
            for index, chunk in enumerate(script.chunks):
                if script.gate is not None:
                    waiting = asyncio.ensure_future(_maybe(script.gate(index)))
                    await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                if gone.done():
                    asked.closed = True
                    return False
                if script.close_after == index:
                    return False
                writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                await writer.drain()
                if b'"delta":{"content"' in chunk:
                    asked.produced += 1
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return False
        finally:
            gone.cancel()


async def _maybe(value: Any) -> None:
    if asyncio.iscoroutine(value):
        await value


def completion(
    text: str = "Hello there", *, tokens_in: int = 9, tokens_out: int = 3, **message: Any
) -> bytes:
    return orjson.dumps(
        {
            "id": "up-1",
            "object": "chat.completion",
            "created": 1,
            "model": "upstream-model",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, **message},
                    "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
                }
            ],
            "usage": {
                "prompt_tokens": tokens_in,
                "completion_tokens": tokens_out,
                "total_tokens": tokens_in + tokens_out,
            },
        }
    )


def chunks(
    words: list[str], *, usage: tuple[int, int] | None = (9, 3), done: bool = True
) -> list[bytes]:
    """One event a word, then the finish, the usage and the end."""

    def event(choices: list[Any], **more: Any) -> bytes:
        value = {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return b"data: " + orjson.dumps({**value, "choices": choices, **more}) + b"\n\n"

    events = [event([{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}])]
    events += [
        event([{"index": 0, "delta": {"content": word}, "finish_reason": None}]) for word in words
    ]
    events.append(event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    if usage is not None:
        told = {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "total_tokens": sum(usage),
        }
        events.append(event([], usage=told))
    if done:
        events.append(b"data: [DONE]\n\n")
    return events
