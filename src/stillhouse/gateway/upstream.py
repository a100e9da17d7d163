"""Connections to the operator's model servers: HTTP/1.1, kept open, bounded, one reply at a time.

Written for this path alone because a general client costs more than the whole guard (docs/log.md).
Redirects are never followed, cookies never kept, nothing of the client's headers is sent.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import httptools

if TYPE_CHECKING:
    from stillhouse.gateway.commit import Commit
    from stillhouse.gateway.config import Timeouts, Upstream

_HEADER_BYTES = 64 * 1024
_LENGTHS = frozenset(
    map(len, ("content-encoding", "content-length", "transfer-encoding", "connection"))
)


class UpstreamError(Exception):
    """The upstream gave no usable reply. `code` is a refusal's; `untouched`: no byte had come."""

    def __init__(self, code: str, reason: str, *, untouched: bool):
        super().__init__(reason)
        self.code = code
        self.untouched = untouched


class Connection(asyncio.Protocol):
    """One connection. `begin`, then `head`, then `read` until it gives nothing, or `whole`."""

    def __init__(self, pool: Pool):
        self.pool = pool
        self.reused = False
        self.deadline = 0.0  # monotonic seconds; what waits longer is failed by `Pool.watch`
        self.status = 0
        self.complete = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._head_bytes = 0
        self._headers_done = False
        self._touched = False
        self._closing = False
        self._paused = False
        self._encoded = False
        self._framed = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def begin(self, request: bytes, deadline: float, commit: Commit | None = None) -> None:
        """Send one whole request; the reply before it must have been read to its end.

        With `commit` once what was taken down so far is written.
        """
        self._chunks.clear()
        self._buffered = self._head_bytes = self.status = 0
        self.complete = self._headers_done = self._touched = self._encoded = False
        self.deadline = deadline
        if self._transport is None or self._transport.is_closing():
            self._fail("upstream_failed", "the connection is closed")
            return
        if commit is None:
            self._transport.write(request)
        else:
            commit.before_upstream(self, request)

    def send(self, request: bytes) -> None:
        """Send what `begin` was given."""
        if self._transport is not None and not self._closing:
            self._transport.write(request)

    def withhold(self, code: str) -> None:
        """Fail: the request may not be sent."""
        self._fail(code, "the request was held back")

    async def head(self) -> int:
        """Wait for the reply's headers and return its status. Raises `UpstreamError`."""
        while not self._headers_done:
            await self._wait()
        if self._encoded:
            self._fail("upstream_malformed", "the reply is compressed although it must not be")
            raise self._failure()
        return self.status

    async def read(self, between_s: float) -> bytes:
        """Return what has arrived of the body; b"" at its end. Raises `UpstreamError`."""
        self.deadline = time.monotonic() + between_s
        while not self._chunks:
            if self.complete:
                return b""
            await self._wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def suspend(self) -> None:
        """Nobody waits for the upstream before the next `read`: its time stands still."""
        self.deadline = math.inf

    async def whole(self, most_bytes: int, between_s: float) -> bytes:
        """Return the whole body. Raises `UpstreamError`, also where it has more bytes."""
        data = await self.read(between_s)
        if self.complete and not self._chunks:
            return data
        parts, size = [data], len(data)
        while data := await self.read(between_s):
            parts.append(data)
            size += len(data)
            if size > most_bytes:
                self._fail("upstream_malformed", f"the reply has more than {most_bytes} bytes")
                raise self._failure()
        return b"".join(parts)

    def release(self) -> None:
        """Give the connection back; one whose reply was not read to its end is closed."""
        self.deadline = 0.0
        if self.complete and not self._closing and self._error is None and self._transport:
            self.pool.keep(self)
        else:
            self.close()

    def half_close(self) -> None:
        """Tell the upstream that nobody reads any more, where the transport can."""
        if self._transport is not None and self._transport.can_write_eof():
            self._closing = True
            self._transport.write_eof()

    def close(self) -> None:
        """Close at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()
        self.pool.drop(self)

    def expire(self) -> None:
        """Fail what waits: its stage took too long."""
        self._fail("upstream_timeout", "the upstream took too long")

    # what asyncio and the parser call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # Not checked with isinstance: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse; wake the reader once for all that came together."""
        if self.deadline == 0.0:  # a reply that nobody asked for would answer the next request
            self.close()
            return
        self._touched = True
        if not self._headers_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail("upstream_malformed", f"not HTTP/1.1: {type(error).__name__}")
            return
        if not self._headers_done and self._head_bytes > _HEADER_BYTES:
            self._fail("upstream_malformed", "the reply's headers are too large")
            return
        self._wake()

    def eof_received(self) -> bool:
        """Close when the upstream does."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits, or take the connection out of the idle ones."""
        if self._headers_done and not self._framed and exc is None:
            self.complete = self._closing = True  # a body without length ends with its connection
        if not self.complete:
            self._fail("upstream_failed", "the upstream closed the connection")
        self._transport = None
        del self._parser  # it holds this connection: no work for the collector
        self.pool.drop(self)
        self._wake()

    def on_message_begin(self) -> None:
        """A reply begins."""
        self._framed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note the few headers that matter."""
        if len(name) not in _LENGTHS:
            return
        lowered = name.lower()
        if lowered == b"content-encoding":
            self._encoded = value.lower() not in (b"", b"identity")
        elif lowered in (b"content-length", b"transfer-encoding"):
            self._framed = True
        elif lowered == b"connection" and b"close" in value.lower():
            self._closing = True

    def on_headers_complete(self) -> None:
        """The status is known. Interim replies (1xx) are passed over."""
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            self._headers_done = True

    def on_body(self, body: bytes) -> None:
        """Hold what came; stop reading when the reader is slower than the upstream."""
        self._chunks.append(body)
        self._buffered += len(body)
        if self._buffered > self.pool.buffer_bytes and not self._paused and self._transport:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The reply is whole."""
        if self._headers_done:
            self.complete = True
            if not self._parser.should_keep_alive():
                self._closing = True

    async def _wait(self) -> None:
        self._check()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        # What came before the failure is still handed out; the next wait raises.
        if not self._chunks:
            self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, code: str, reason: str) -> None:
        if self._error is None:
            self._error = UpstreamError(code, reason, untouched=not self._touched)
        self._closing = True
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _failure(self) -> UpstreamError:
        return self._error or UpstreamError("upstream_failed", "closed", untouched=True)


class Pool:
    """The connections to one upstream, and whether it is well.

    After a failure the upstream rests for `rest_s`, doubled at each further one up to 30 s; then
    one request tries it again.
    """

    def __init__(self, upstream: Upstream, timeouts: Timeouts, buffer_bytes: int, key: str | None):
        parts = urlsplit(upstream.url)
        self.upstream = upstream
        self.buffer_bytes = buffer_bytes
        self.active: set[Connection] = set()
        self.resting_until = 0.0
        self.well = True  # as the last health check said
        self._idle: list[Connection] = []
        self._failures = 0
        self._timeouts = timeouts
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._root = parts.path.rstrip("/").removesuffix("/v1")
        self._heads: dict[str, bytes] = {}
        headers = {
            "host": parts.netloc,
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "user-agent": "stillhouse",
        }
        if key is not None:
            headers |= {"authorization": f"Bearer {key}", "x-api-key": key}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()

    def __repr__(self) -> str:
        return f"Pool({self.upstream.url})"

    @property
    def in_flight(self) -> int:
        """Requests that wait for this upstream or read from it."""
        return len(self.active)

    def is_open(self, now: float) -> bool:
        """Say whether it may be asked now."""
        return (
            self.resting_until <= now
            and self.well
            and len(self.active) < self.upstream.most_in_flight
        )

    def request(self, path: str, body: bytes, headers: bytes = b"") -> bytes:
        """Return the bytes of one POST."""
        head = self._heads.get(path)
        if head is None:
            start = f"POST {self._root}{path} HTTP/1.1\r\n".encode()
            head = self._heads[path] = start + self._head
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, headers, len(body), body)

    async def open(self) -> Connection:
        """Take an idle connection or make one. Raises `UpstreamError`."""
        if self._idle:
            connection = self._idle.pop()
            connection.reused = True
            self.active.add(connection)
            return connection
        connection = Connection(self)
        self.active.add(connection)
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, self._host, self._port, ssl=self._tls
                )
        except BaseException as error:
            self.active.discard(connection)
            if isinstance(error, TimeoutError):
                raise UpstreamError("upstream_timeout", "no connection", untouched=True) from None
            if isinstance(error, OSError):
                raise UpstreamError("upstream_failed", "no connection", untouched=True) from None
            raise
        return connection

    async def answers(self, path: str) -> bool:
        """Say whether a GET of `path` is answered with 200, on a connection of its own."""
        limit_s = 2 * self._timeouts.connect_s
        writer = None
        try:
            async with asyncio.timeout(limit_s):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._tls, limit=_HEADER_BYTES
                )
                writer.write(
                    b"GET %b HTTP/1.1\r\n%bconnection: close\r\n\r\n" % (path.encode(), self._head)
                )
                line = await reader.readline()
        except (OSError, TimeoutError, ValueError):
            return False
        finally:
            if writer is not None:
                writer.transport.abort()
        return line.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))

    def keep(self, connection: Connection) -> None:
        """Take a connection back for the next request."""
        self.active.discard(connection)
        self._idle.append(connection)

    def drop(self, connection: Connection) -> None:
        """Forget a connection."""
        self.active.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def worked(self) -> None:
        """Note a reply."""
        self._failures = 0

    def failed(self, now: float, rest_s: float = 1.0) -> None:
        """Note a failure: rest, longer each time."""
        self._failures += 1
        self.resting_until = now + min(30.0, rest_s * 2 ** min(self._failures - 1, 8))

    def watch(self, now: float) -> None:
        """Fail every connection whose stage has taken too long."""
        for connection in [c for c in self.active if 0.0 < c.deadline < now]:
            connection.expire()

    def close(self) -> None:
        """Close every connection."""
        for connection in [*self.active, *self._idle]:
            connection.close()
