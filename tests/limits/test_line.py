"""The connection under the shared limits hears each answer whole, in order, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stillhouse.limits.line import Line, RefusedError, encode

ANSWERS = b"$5\r\nfirst\r\n-NOSCRIPT No matching script.\r\n$0\r\n\r\n$4\r\n\r\n\r\n\r\n"
Body = Callable[[Line, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def scenario(body: Body, timeout_s: float = 30.0) -> None:
    """Run `body` with a line to a server that is the body's own."""

    async def run() -> None:
        arrived: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(lambda r, w: arrived.set_result((r, w)), "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

        async def disconnect(nowait: bool) -> None:
            writer.close()

        connection = SimpleNamespace(_writer=writer, disconnect=disconnect)
        line = Line(connection, timeout_s)
        reader, answers = await arrived
        try:
            await body(line, reader, answers)
        finally:
            await line.drop()
            answers.close()
            server.close()

    asyncio.run(run())


def futures(count: int) -> list[asyncio.Future[bytes]]:
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


def asked(line: Line, answers: list[asyncio.Future[bytes]]) -> asyncio.Task[None]:
    return asyncio.ensure_future(line.ask([(encode([b"PING"]), answer) for answer in answers]))


@pytest.mark.parametrize("split", range(1, len(ANSWERS)))
def test_answers_are_heard_whole_wherever_they_are_cut(split: int) -> None:
    async def body(line: Line, reader: Any, server: asyncio.StreamWriter) -> None:
        wanted = futures(4)
        asking = asked(line, wanted)
        assert await reader.readexactly(4 * len(encode([b"PING"]))) == 4 * encode([b"PING"])
        line.data_received(ANSWERS[:split])
        line.data_received(ANSWERS[split:])
        await asking
        first, second, third, fourth = await asyncio.gather(*wanted, return_exceptions=True)
        assert (first, third, fourth) == (b"first", b"", b"\r\n\r\n")
        assert isinstance(second, RefusedError)
        assert second.kind == "NOSCRIPT"
        assert not line.lost

    scenario(body)


async def fails(line: Line, asking: asyncio.Task[None], wanted: list[Any]) -> list[Any]:
    await asking
    assert line.lost
    return list(await asyncio.gather(*wanted, return_exceptions=True))


def test_what_does_not_come_in_time_ends_the_connection_and_all_that_wait() -> None:
    async def body(line: Line, reader: Any, server: asyncio.StreamWriter) -> None:
        wanted = futures(3)
        asking = asked(line, wanted)
        server.write(b"$2\r\nok\r\n")
        told = await fails(line, asking, wanted)
        assert told[0] == b"ok"
        assert [type(one) for one in told[1:]] == [TimeoutError, TimeoutError]

    scenario(body, timeout_s=0.2)


@pytest.mark.parametrize(
    "said", [b">2\r\n", b":1\r\n", b"$-1\r\n", b"$x\r\n", b"*1\r\n$1\r\na\r\n"]
)
def test_an_answer_of_another_form_is_never_guessed_at(said: bytes) -> None:
    async def body(line: Line, reader: Any, server: asyncio.StreamWriter) -> None:
        wanted = futures(2)
        asking = asked(line, wanted)
        server.write(said)
        told = await fails(line, asking, wanted)
        assert all(isinstance(one, OSError) for one in told)

    scenario(body)


def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    async def body(line: Line, reader: Any, server: asyncio.StreamWriter) -> None:
        wanted = futures(1)
        asking = asked(line, wanted)
        server.write(b"$1\r\na\r\n$1\r\nb\r\n")
        await asking
        assert await wanted[0] == b"a"
        assert line.lost
        later = futures(1)
        await asked(line, later)
        with pytest.raises(OSError, match="lost"):
            await later[0]

    scenario(body)


def test_whoever_asks_next_never_hears_an_answer_to_what_was_given_up() -> None:
    async def body(line: Line, reader: Any, server: asyncio.StreamWriter) -> None:
        wanted = futures(2)
        asking = asked(line, wanted)
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert line.lost
        assert all(isinstance(one.exception(), OSError) for one in wanted)

    scenario(body)
