"""A connection to Redis or Valkey for one script, whose answers are strings.

The package redis connects, authenticates and greets; then this protocol takes its transport over.
Its parser in Python and its pool cost some hundred microseconds of a request, this one ten.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LOST = "the connection was lost"


class RefusedError(Exception):
    """The server answered with an error; its first word is the kind."""

    @property
    def kind(self) -> str:
        """The first word of the answer, such as NOSCRIPT."""
        return str(self).partition(" ")[0]


class Line(asyncio.Protocol):
    """Commands go out as they are given; answers come in their order.

    Any answer that does not come within `timeout_s` ends the connection, and with it all that wait.
    """

    def __init__(self, connection: Any, timeout_s: float):
        self._connection = connection
        self._transport: asyncio.Transport = connection._writer.transport
        self._timeout_s = timeout_s
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._given = b""
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None
        self.lost = self._transport.is_closing()
        self._transport.set_protocol(self)

    async def ask(self, commands: Iterable[tuple[bytes, asyncio.Future[bytes]]]) -> None:
        """Send commands, each `encode`d, and return when all their futures have their answers."""
        loop = asyncio.get_running_loop()
        data = []
        for command, answer in commands:
            data.append(command)
            self._waiting.append(answer)
        if self.lost:
            self._fail(OSError(LOST))
            return
        self._transport.write(b"".join(data))
        self._timer = loop.call_later(self._timeout_s, self._late)
        self._idle = loop.create_future()
        try:
            await self._idle
        finally:
            self._timer.cancel()
            if self._waiting:  # whoever asks next must not hear what these were answered
                self.close()

    def data_received(self, data: bytes) -> None:
        """Hand out what has come whole."""
        if self._given:
            data = self._given + data
        begin, size, waiting = 0, len(data), self._waiting
        while begin < size:
            end = data.find(b"\r\n", begin)
            if end < 0:
                break
            mark, head = data[begin], data[begin + 1 : end]
            end += 2
            if mark == 0x24 and head.isdigit():  # $
                stop = end + int(head)
                if size < stop + 2:
                    break
                answer: bytes | RefusedError = data[end:stop]
                end = stop + 2
            elif mark == 0x2D:  # -
                answer = RefusedError(head.decode("utf-8", "replace"))
            else:
                self.close()
                return
            begin = end
            if not waiting:
                self.close()
                return
            asker = waiting.popleft()
            if asker.done():
                continue  # whoever asked has gone
            if isinstance(answer, bytes):
                asker.set_result(answer)
            else:
                asker.set_exception(answer)
        self._given = data[begin:]
        if not waiting:
            self._rest()

    def eof_received(self) -> bool:
        """The server closes: so do we."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Whatever waits has failed."""
        self.lost = True
        self._fail(OSError(LOST) if error is None else error)

    def close(self) -> None:
        """End the connection at once."""
        self.lost = True
        self._transport.abort()
        self._fail(OSError(LOST))

    async def drop(self) -> None:
        """End the connection and let go of what belongs to it."""
        self.close()
        await self._connection.disconnect(nowait=True)

    def _late(self) -> None:
        self.lost = True
        self._transport.abort()
        self._fail(TimeoutError("no answer"))

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, deque()
        for asker in waiting:
            if not asker.done():
                asker.set_exception(error)
        self._rest()

    def _rest(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)


def encode(words: Sequence[bytes]) -> bytes:
    """Return a command as the server reads it."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
    return b"".join(parts)
