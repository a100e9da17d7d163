"""The clients' side of HTTP/1.1: one protocol, written for this path alone.

A general server's layers cost about as much as checking the request (docs/log.md). What it takes is
what its parser (llhttp, strict) takes; bodies are not read before somebody wants them, and what a
slow client does not read is held up to the transport's bound, then the writer waits, and the next
request too.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

import httptools

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from typing import Any

    Headers = list[tuple[bytes, bytes]]
    Serve = Callable[["Request"], Coroutine[Any, Any, None]]

_HELD_BYTES = 64 * 1024  # of a body that nobody has asked for yet
_LINGER_BYTES = 8 << 20  # of a body that is refused: who is cut off while sending reads no reply
_PIECE_BYTES = 16 * 1024  # looked at in one go: it may hold a thousand requests
_PROGRESS_BYTES = 16 * 1024  # of what waits to be read; less in all that time is no reading
_FRAMING = 8  # bytes of chunk sizes a byte of body may come with: five where each is a chunk
_STATUS = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}
_BAD = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class ClientGoneError(Exception):
    """The client closed its connection before its request was whole."""


class _FramingError(Exception):
    """It is not certain where the request ends. The parser hands it on as an error of its own."""


class TooLargeError(Exception):
    """The body has more bytes than are taken."""


class Request:
    """One request and the way to answer it: `respond`, or `begin`, `write` and `end`."""

    __slots__ = (
        "_connection",
        "_expects",
        "_held",
        "_keep",
        "_parts",
        "_waiter",
        "_wanted",
        "chunked",
        "complete",
        "ended",
        "gone",
        "headers",
        "method",
        "on_gone",
        "path",
        "peer",
        "task",
    )

    def __init__(
        self,
        connection: Connection,
        method: bytes,
        path: str,
        headers: Headers,
        *,
        keep: bool,
        chunked: bool,
        expects: bool,
    ):
        self.method = method
        self.path = path
        self.headers = headers  # names in lower case
        self.peer = connection.peer
        self.chunked = chunked  # the client understands chunks
        self.complete = False
        self.gone = False
        self.ended = False  # the whole reply was handed over
        self.on_gone: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._keep = keep
        self._expects = expects
        self._parts: list[bytes] = []
        self._held = 0
        self._wanted = False
        self._waiter: asyncio.Future[None] | None = None

    async def body(self, most_bytes: int) -> bytes:
        """Return the body. Raises `TooLargeError`, `ClientGoneError`."""
        if not self.complete:
            self._wanted = True
            if self._expects:
                self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._connection.resume()
            await self._whole(most_bytes)
        if self._held > most_bytes:
            raise TooLargeError
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def respond(self, status: int, lines: bytes, body: bytes) -> None:
        """Send a whole reply; `lines` are its headers, each ended, without length."""
        close = b"" if self._keep and self.complete else b"connection: close\r\n"
        sent = b"" if self.method == b"HEAD" else body
        self._connection.send(
            b"%b%b%bcontent-length: %d\r\n\r\n%b" % (_STATUS[status], lines, close, len(body), sent)
        )
        self._end()

    def begin(self, status: int, lines: bytes) -> None:
        """Send the headers of a stream."""
        chunked = b"transfer-encoding: chunked\r\n" if self.chunked else b""
        self._keep = self._keep and self.chunked
        close = b"" if self._keep else b"connection: close\r\n"
        self._connection.send(b"%b%b%b%b\r\n" % (_STATUS[status], lines, chunked, close))

    def write(self, data: bytes) -> bool:
        """Send a piece of a stream; False where the client does not keep up: then `drain`."""
        if data:
            self._connection.send(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        return self._connection.writable is None

    async def drain(self) -> None:
        """Wait until the client has read enough, or is gone."""
        while not self.gone and self._connection.writable is not None:
            await asyncio.shield(self._connection.writable)

    def end(self, data: bytes) -> None:
        """Send a stream's last piece."""
        if self.chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        self._connection.send(data)
        self._end()

    def abort(self) -> None:
        """Close the connection at once."""
        self._connection.abort()

    @property
    def held_bytes(self) -> int:
        """How much of the body came."""
        return self._held

    def take(self, data: bytes) -> None:
        """Hold more of the body."""
        self._parts.append(data)
        self._held += len(data)
        if not self._wanted and self._held > _HELD_BYTES:
            self._connection.pause()
        self.wake()

    def wake(self) -> None:
        """Have whoever waits for the body look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def lose(self) -> None:
        """The client is gone."""
        self.gone = True
        self.wake()
        if self.on_gone is not None:
            self.on_gone()

    async def _whole(self, most_bytes: int) -> None:
        while not self.complete:
            if self.gone:
                raise ClientGoneError
            if self._held > most_bytes:
                return
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _end(self) -> None:
        self.ended = True
        # What follows a body that was not read is not a request.
        self._connection.next(close=not self._keep or not self.complete)


class Connection(asyncio.Protocol):
    """A client's connection: one request after the other, in order."""

    def __init__(self, server: Server):
        self.peer = ""
        self.heading_since = time.monotonic()  # since when headers are awaited; 0: they are here
        self.idle_since = 0.0  # since when it has nothing to do; 0: it has
        self.request: Request | None = None
        self.writable: asyncio.Future[None] | None = None  # set while the client does not read
        self.stalled_since = 0.0  # since when it has read next to nothing of what is held for it
        self._unread_bytes = 0  # held for it at that time
        self._server = server
        self._heading_bytes = 0
        self._body_bytes = 0  # as they came: chunk sizes and trailers counted
        self._waiting: deque[Request] = deque()
        self._latest: Request | None = None
        self._url = b""
        self._headers: Headers = []
        self._expects = False
        self._paused = False
        self._last = False
        self._rest = b""  # came before reading was paused, and is not looked at yet
        self._discarding = 0  # bytes that may still come and are not looked at
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for headers."""
        # Not checked with isinstance: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse; whatever is no HTTP/1.1 ends the connection."""
        if self._discarding > 0:
            self._discarding -= len(data)
            if self._discarding <= 0:
                self.abort()
            return
        if len(data) > _PIECE_BYTES:
            self._take_pieces(data)
            return
        if self.heading_since:
            self._heading_bytes += len(data)
        else:
            self._body_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._last = True  # nothing else is spoken here: this request is answered, no more
        except httptools.HttpParserError:
            if self.request is None:
                self.send(_BAD)
            self.close()
            return
        if self.heading_since and self._heading_bytes > self._server.header_bytes:
            self.close()
        elif self._latest is not None and not self._latest.complete:
            # Trailers and chunk extensions are bounded too: the parser holds a line until it ends.
            allowed = self._server.header_bytes + _FRAMING * self._latest.held_bytes
            if self._body_bytes > allowed:
                self.close()

    def _take_pieces(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            if self._transport is None or self._transport.is_closing():
                return
            if self._paused:
                self._rest = data[start:]
                return
            self.data_received(data[start : start + _PIECE_BYTES])

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell whoever waits for the client."""
        self._transport = None
        del self._parser  # it holds this connection, as a request does: no work for the collector
        self._latest = None
        self._server.connections.discard(self)
        self.resume_writing()
        for request in (self.request, *self._waiting):
            if request is not None:
                request.lose()
        self._waiting.clear()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is written to."""
        if self.writable is None:
            self.writable = asyncio.get_running_loop().create_future()
            self.stalled_since = time.monotonic()
            self._unread_bytes = self._held_bytes()

    def resume_writing(self) -> None:
        """The client has caught up, or is gone."""
        writable, self.writable = self.writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)
        if self._transport is None:
            return
        if self.idle_since:  # it is being closed: the rest is what it has to read now
            self.idle_since = time.monotonic()
        if self.request is not None and self.request.ended:
            self.next(close=False)

    # what the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self.heading_since = time.monotonic()
        self.idle_since = 0.0
        self._heading_bytes = 0
        self._url = b""
        self._headers = []
        self._expects = False

    def on_url(self, url: bytes) -> None:
        """Take (a part of) the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are not headers, and nothing here asks for one."""
        if not self.heading_since:
            return
        name = name.lower()
        self._headers.append((name, value))
        if name == b"expect":
            self._expects = value.lower() == b"100-continue"
        elif name == b"transfer-encoding" and (
            value.lower() != b"chunked" or self._parser.get_http_version() == "1.0"
        ):
            raise _FramingError  # what stands in front may end the request elsewhere

    def on_headers_complete(self) -> None:
        """The headers are whole: the request can be looked at."""
        self.heading_since = 0.0
        self._body_bytes = 0
        parser = self._parser
        request = self._latest = Request(
            self,
            parser.get_method(),
            _path(self._url),
            self._headers,
            keep=parser.should_keep_alive(),
            chunked=parser.get_http_version() != "1.0",
            expects=self._expects,
        )
        if self.request is None:
            self._start(request)
        else:
            self._waiting.append(request)
            self.pause()

    def on_body(self, body: bytes) -> None:
        """Take (a part of) the body."""
        if self._latest is not None:
            self._latest.take(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._latest is not None:
            self._latest.complete = True
            self._latest.wake()

    # what requests and the server call

    def send(self, data: bytes) -> None:
        """Write, unless the client is gone."""
        if self._transport is not None:
            self._transport.write(data)

    def next(self, *, close: bool) -> None:
        """The reply is whole: go on with the next request, or end."""
        if close or self._last or self._server.closing:
            self.request = None
            self._finish()
        elif self.writable is not None:
            self.pause()  # who reads no replies gets no more of them: `resume_writing` goes on
        elif self._waiting:
            self._start(self._waiting.popleft())
        else:
            self.request = None
            self.idle_since = time.monotonic()
            self.resume()

    def pause(self) -> None:
        """Read no more for now."""
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused and self._transport is not None:
            self._paused = False
            rest, self._rest = self._rest, b""
            if rest:
                self.data_received(rest)
            if not self._paused and self._transport is not None:
                self._transport.resume_reading()

    def close(self) -> None:
        """Close once everything is written; `watch` waits for that no longer than it may."""
        if self._transport is not None:
            self.idle_since = self.idle_since or time.monotonic()
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def stalls(self, now: float, slow_s: float) -> bool:
        """Say whether the client has read next to nothing of a whole reply for `slow_s`."""
        if self.request is not None and not self.request.ended:
            return False  # a stream: whoever writes it watches
        held = self._held_bytes()
        if held <= self._unread_bytes - _PROGRESS_BYTES:
            self._unread_bytes, self.stalled_since = held, now
        return self.stalled_since < now - slow_s

    def _held_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def _finish(self) -> None:
        if self._transport is None or self._latest is None or self._latest.complete:
            self.close()
            return
        self._discarding = _LINGER_BYTES
        self.heading_since = time.monotonic()  # `watch` ends it
        self._transport.write_eof()
        self.resume()

    def _start(self, request: Request) -> None:
        self.request = request
        # The connection holds the request and this its task: nobody else needs to.
        request.task = self._server.loop.create_task(self._server.serve(request))


class Server:
    """Accepts connections on one socket and has `serve` answer every request on them."""

    def __init__(self, serve: Serve, *, header_bytes: int, idle_s: float = 75.0):
        self.serve = serve
        self.header_bytes = header_bytes
        self.connections: set[Connection] = set()
        self.closing = False
        self.loop: asyncio.AbstractEventLoop
        self._idle_s = idle_s
        self._listening: asyncio.Server | None = None

    async def open(self, listener: socket.socket) -> None:
        """Begin to accept."""
        self.loop = asyncio.get_running_loop()
        self._listening = await self.loop.create_server(
            lambda: Connection(self), sock=listener, backlog=4096
        )

    def watch(self, heading_s: float, slow_s: float) -> None:
        """End connections whose headers do not come, whose replies nobody reads, and idle ones."""
        now = time.monotonic()
        for connection in list(self.connections):
            if connection.writable is not None:
                over = connection.stalls(now, slow_s)
            else:
                over = (0.0 < connection.heading_since < now - heading_s) or (
                    0.0 < connection.idle_since < now - self._idle_s
                )
            if over:
                connection.abort()

    async def close(self, wait_s: float) -> None:
        """Accept no more; end what is idle, wait for the rest, then cut it off."""
        self.closing = True
        if self._listening is not None:
            self._listening.close()
        for connection in list(self.connections):
            if connection.request is None:
                connection.close()
        end = time.monotonic() + wait_s
        while self.connections and time.monotonic() < end:
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()


def _path(target: bytes) -> str:
    if not target.startswith(b"/"):
        target = httptools.parse_url(target).path or b"/"
    path = target.partition(b"?")[0].decode("latin-1")
    return unquote(path) if "%" in path else path
