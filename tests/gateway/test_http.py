"""The clients' side of HTTP: what is a request, where it ends, and what bounds it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import weakref
from typing import TYPE_CHECKING

import pytest

from stillhouse.gateway.http import ClientGoneError, Request, Server, TooLargeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HEADER_BYTES = 2_000
MOST_BYTES = 10_000
LARGE = 1 << 20


class Seen:
    """The requests that were served, and a server that answers each with its path and length."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.bodies: list[bytes | str] = []

    async def serve(self, request: Request) -> None:
        self.requests.append(request)
        if request.path == "/large":
            request.respond(200, b"", bytes(LARGE))
            return
        if request.path == "/unread":
            request.respond(403, b"", b"no")
            return
        try:
            body = await request.body(MOST_BYTES)
        except TooLargeError:
            self.bodies.append("too large")
            request.respond(413, b"", b"large")
            return
        except ClientGoneError:
            self.bodies.append("gone")
            return
        self.bodies.append(body)
        if request.path == "/stream":
            request.begin(200, b"")
            request.write(b"one")
            request.end(b"two")
            return
        request.respond(200, b"", b"%s %d" % (request.path.encode(), len(body)))


@contextlib.asynccontextmanager
async def listening(seen: Seen) -> AsyncIterator[tuple[Server, int]]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = Server(seen.serve, header_bytes=HEADER_BYTES)
    await server.open(listener)
    try:
        yield server, listener.getsockname()[1]
    finally:
        await server.close(0)


def exchange(*pieces: bytes, seen: Seen | None = None, until_closed: bool = True) -> bytes:
    """Send the pieces one by one, each read on its own; return all that came back."""
    seen = seen or Seen()

    async def run() -> bytes:
        async with listening(seen) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            got = b""
            for piece in pieces:
                writer.write(piece)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                for _ in range(20):
                    await asyncio.sleep(0)
            if until_closed:
                with contextlib.suppress(ConnectionError):
                    got = await asyncio.wait_for(reader.read(), 10)
            else:
                got = await asyncio.wait_for(reader.read(100_000), 10)
            writer.close()
            return got

    return asyncio.run(run())


POST = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


def test_a_request_is_the_same_wherever_it_is_split() -> None:
    whole = exchange(POST)
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert whole.endswith(b"/a 5")
    for split in range(1, len(POST), 7):
        assert exchange(POST[:split], POST[split:]) == whole


def test_pipelined_requests_are_answered_in_their_order() -> None:
    keep = POST.replace(b"Connection: close\r\n", b"")
    got = exchange(keep + keep.replace(b"/a", b"/b") + POST.replace(b"/a", b"/c"))
    places = [got.index(b"/%b 5" % name) for name in (b"a", b"b", b"c")]
    assert places == sorted(places)
    assert got.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: +5",
        b"Content-Length: 5, 5",
        b"Content-Length: 0x5",
        b"Content-Length: -5",
        b"Content-Length: ",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 18446744073709551621",
        b"Content-Length: 5\x00",
        b"\tContent-Length: 5",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding : chunked",
        b"Content-Length : 5",
        b"X: a\r\n folded",
        b"X: a\nY: b",
        b"X: a\rY: b",
        b"X Y: b",
        b": b",
        b"no colon",
        b"X: a\x00b",
    ],
)
def test_two_readings_of_where_a_request_ends_are_refused(head: bytes) -> None:
    seen = Seen()
    got = exchange(
        b"POST /a HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n0\r\n\r\nGET /inner HTTP/1.1\r\n\r\n",
        seen=seen,
    )
    assert all(request.path != "/inner" for request in seen.requests)
    assert b"200 OK" not in got


def test_an_old_client_sends_no_chunks() -> None:
    seen = Seen()
    got = exchange(
        b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /inner HTTP/1.1\r\n\r\n",
        seen=seen,
    )
    assert got.startswith(b"HTTP/1.1 400")
    assert not seen.requests


@pytest.mark.parametrize(
    "chunk",
    [
        *(b"0x5\r\nhello\r\n", b"-1\r\nhello\r\n", b"+5\r\nhello\r\n", b"5 \r\nhello\r\n"),
        *(b"5\nhello\r\n", b"5\r\r\nhello\r\n", b"5\rXhello\r\n", b"\r\n5\r\nhello\r\n"),
        *(b"5\r\nhello", b"5\r\nhello\n", b"5;a\nb\r\nhello\r\n", b'5;a="\r\n"\r\nhello\r\n'),
        *(b"FFFFFFFFFFFFFFFFF\r\nhello\r\n", b"g\r\nhello\r\n"),
    ],
)
def test_two_readings_of_where_a_chunk_ends_are_refused(chunk: bytes) -> None:
    seen = Seen()
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    got = exchange(head + chunk + b"0\r\n\r\nGET /inner HTTP/1.1\r\n\r\n", seen=seen)
    assert got == b""
    assert seen.bodies == ["gone"]


def test_chunks_are_joined_and_trailers_are_not_headers() -> None:
    seen = Seen()
    got = exchange(
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"3\r\nhel\r\n2\r\nlo\r\n0\r\nAuthorization: Bearer stolen\r\n\r\n",
        seen=seen,
    )
    assert got.endswith(b"/a 5")
    assert [name for name, _ in seen.requests[0].headers] == [
        b"host",
        b"transfer-encoding",
        b"connection",
    ]


@pytest.mark.parametrize(
    "endless",
    [b"0\r\nTrailer: " + b"x" * 40_000, b"0\r\n" + b"T: x\r\n" * 8_000, b"1;" + b"e" * 40_000],
    ids=["a line", "lines", "an extension"],
)
def test_what_follows_the_headers_is_bounded(endless: bytes) -> None:
    seen = Seen()
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [endless[i : i + 1_000] for i in range(0, len(endless), 1_000)]
    assert exchange(head, *pieces, seen=seen) == b""  # closed, though the client would go on
    assert seen.bodies == ["gone"]


def test_a_body_of_one_byte_chunks_is_within_the_bound() -> None:
    head = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    body = b"1\r\nx\r\n" * 4_000
    pieces = [body[i : i + 1_000] for i in range(0, len(body), 1_000)]
    assert exchange(head, *pieces, b"0\r\n\r\n").endswith(b"/a 4000")


def test_headers_are_bounded() -> None:
    line = b"X: " + b"x" * 500 + b"\r\n"
    assert exchange(b"GET /a HTTP/1.1\r\n", *[line] * 10) == b""


def test_a_body_that_is_too_large_is_refused_and_the_connection_closed() -> None:
    seen = Seen()
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n"
    got = exchange(head, b"x" * 15_000, seen=seen)
    assert got.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in got


def test_what_follows_a_body_that_was_not_read_is_no_request() -> None:
    seen = Seen()
    got = exchange(
        b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
        b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n",
        seen=seen,
    )
    assert got.startswith(b"HTTP/1.1 403")
    assert [request.path for request in seen.requests] == ["/unread"]


def test_a_client_that_expects_is_told_to_continue_only_when_its_body_is_wanted() -> None:
    head = (
        b" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n"
        b"Connection: close\r\n\r\n"
    )
    wanted = exchange(b"POST /a" + head, b"hello")
    assert wanted.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    unwanted = exchange(b"POST /unread" + head)
    assert unwanted.startswith(b"HTTP/1.1 403")


def test_an_old_client_gets_a_stream_without_chunks() -> None:
    got = exchange(b"POST /stream HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
    assert got.endswith(b"\r\n\r\nonetwo")
    assert b"chunked" not in got
    assert exchange(
        b"POST /stream HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    ).endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


def test_another_protocol_is_not_taken_up() -> None:
    seen = Seen()
    got = exchange(
        b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n",
        seen=seen,
    )
    assert b"101" not in got.partition(b"\r\n")[0]
    assert [request.path for request in seen.requests] == ["/a"]


def close_idle(since: Callable[[object], None], first: bytes) -> bytes:
    async def run() -> bytes:
        async with listening(Seen()) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first)
            while not server.connections:
                await asyncio.sleep(0)
            got = await reader.readuntil(b"/a 0") if first.endswith(b"\r\n\r\n") else b""
            server.watch(30.0, 30.0)
            assert server.connections, "closed too early"
            for connection in server.connections:
                since(connection)
            server.watch(30.0, 30.0)
            with contextlib.suppress(ConnectionError):  # it may close with bytes unread
                got += await asyncio.wait_for(reader.read(), 10)
            writer.close()
            return got

    return asyncio.run(run())


def test_connections_that_dawdle_are_closed() -> None:
    def heading(connection: object) -> None:
        connection.heading_since -= 31  # type: ignore[attr-defined]

    def idle(connection: object) -> None:
        connection.idle_since -= 76  # type: ignore[attr-defined]

    assert close_idle(heading, b"GET /a HT") == b""
    assert close_idle(idle, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"/a 0")


def test_a_client_that_is_refused_while_it_sends_can_read_why() -> None:
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"
    got = exchange(head, *[b"x" * 100_000] * 29)
    assert got.startswith(b"HTTP/1.1 413")
    assert got.endswith(b"large")


def test_what_a_refused_client_may_go_on_sending_is_bounded() -> None:
    async def run() -> None:
        async with listening(Seen()) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
            await reader.readuntil(b"no")
            for _ in range(200):
                writer.write(b"x" * 100_000)
                try:
                    await writer.drain()
                except ConnectionError:
                    break
            else:
                pytest.fail("20 MB were taken")
            while server.connections:
                await asyncio.sleep(0)

    asyncio.run(run())


def test_a_connection_that_ended_leaves_nothing_for_the_collector() -> None:
    async def run() -> None:
        seen = Seen()
        async with listening(seen) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(POST.replace(b"Connection: close\r\n", b""))
            await reader.readuntil(b"/a 5")
            (connection,) = server.connections
            watched = weakref.ref(connection)
            del connection
            seen.requests.clear()
            writer.close()
            while server.connections:
                await asyncio.sleep(0)
            for _ in range(20):  # what the loop itself still holds of it
                await asyncio.sleep(0)
            assert watched() is None

    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


GET_LARGE = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.asynccontextmanager
async def reading_nothing(
    request: bytes, seen: Seen
) -> AsyncIterator[tuple[Server, socket.socket]]:
    """A client that sends `request` and reads only when it is told to."""
    async with listening(seen) as (server, port):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
            await asyncio.get_running_loop().sock_sendall(client, request)
            while not (seen.requests and all(c.writable for c in server.connections)):
                await asyncio.sleep(0.001)
            yield server, client
        finally:
            client.close()


def test_replies_that_nobody_reads_stop_the_requests_until_they_are_read() -> None:
    async def run() -> None:
        seen, count = Seen(), 40
        async with reading_nothing(GET_LARGE * count, seen) as (_, client):
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(seen.requests) < count // 2  # the kernel takes some
            got, loop = 0, asyncio.get_running_loop()
            while got < count * LARGE:
                got += len(await loop.sock_recv(client, LARGE))
            assert len(seen.requests) == count

    asyncio.run(run())


def test_requests_that_wait_are_made_a_few_at_a_time() -> None:
    async def run() -> None:
        small, count = b"GET /a HTTP/1.1\r\n\r\n", 10_000
        last = small.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        sent = GET_LARGE * 9 + small * count + last
        async with reading_nothing(sent, Seen()) as (server, client):
            (connection,) = server.connections
            for _ in range(50):
                await asyncio.sleep(0)
                assert len(connection._waiting) < 1_000
            got, loop = b"", asyncio.get_running_loop()
            while data := await loop.sock_recv(client, LARGE):
                got += data.replace(b"\0", b"")
            assert got.count(b"/a 0") == count + 1

    asyncio.run(run())


def test_a_client_that_reads_nothing_of_a_whole_reply_is_shed_and_a_slow_one_is_not() -> None:
    async def run() -> None:
        async with reading_nothing(GET_LARGE * 20, Seen()) as (server, client):
            (connection,) = server.connections
            while True:  # until the kernel takes no more
                held = connection._held_bytes()
                await asyncio.sleep(0.05)
                if held == connection._held_bytes():
                    break
            server.watch(30.0, 30.0)
            while connection._held_bytes() > held - 16_384:
                with contextlib.suppress(BlockingIOError):
                    client.recv(4096)
                await asyncio.sleep(0)
            connection.stalled_since -= 31
            server.watch(30.0, 30.0)
            await asyncio.sleep(0)
            assert server.connections
            connection.stalled_since -= 31
            server.watch(30.0, 30.0)
            while server.connections:
                await asyncio.sleep(0)

    asyncio.run(run())
