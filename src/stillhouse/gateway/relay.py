"""Between the upstream and the client: the reply rebuilt, cut where it must be, settled once."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.tokens import Used
from stillhouse.gateway.upstream import UpstreamError

if TYPE_CHECKING:
    from stillhouse.gateway.accounting import Accounting
    from stillhouse.gateway.config import Bounds, Timeouts
    from stillhouse.gateway.fleet import Route
    from stillhouse.gateway.http import Request
    from stillhouse.gateway.surfaces import Asked, ReplyRebuilder
    from stillhouse.gateway.tokens import TokenBound
    from stillhouse.gateway.turn import Turn

NOTHING = Used(0, 0)
UNKNOWN = Used(None, None)
_ANTHROPIC_HEADERS = b"anthropic-version: 2023-06-01\r\n"


class Relay:
    """Carries one model's replies. Each is settled in `books` before its last byte is sent."""

    def __init__(
        self,
        route: Route,
        tokens: TokenBound,
        timeouts: Timeouts,
        bounds: Bounds,
        books: Accounting,
    ):
        self.route = route
        self.tokens = tokens
        self._timeouts = timeouts
        self._bounds = bounds
        self._settle = books.settle
        self._commit = books.commit
        self.pumps: set[asyncio.Task[None]] = set()

    async def whole(self, turn: Turn, asked: Asked, rebuilder: ReplyRebuilder) -> bytes:
        """Return the rebuilt body, settled. Raises `RefusedError`, settled too.

        The upstream's reply is read to its end even where the client has gone: it was asked for.
        """
        try:
            connection = turn.connection = await self._ask(asked)
        except RefusedError as error:
            await self._fail(turn, error)
            raise
        try:
            data = await connection.whole(self._bounds.reply_bytes, self._timeouts.between_s)
        except UpstreamError as error:
            await self._settle(turn, UNKNOWN, status=502, refusal=error.code, free=True)
            raise RefusedError(error.code) from None
        finally:
            connection.release()
        turn.first_us = _since_us(turn)
        rebuilt = rebuilder.whole(data)
        used = self.tokens.used(rebuilder, whole=True)
        if rebuilt.code is not None:
            await self._settle(turn, used, status=502, refusal=rebuilt.code, free=True)
            raise RefusedError(rebuilt.code)
        await self._settle(turn, used, status=200, refusal=None)
        return rebuilt.body

    async def begin(self, turn: Turn, asked: Asked) -> None:
        """Ask for a stream; returns when its headers are there. Raises `RefusedError`, settled."""
        try:
            turn.connection = await self._ask(asked)
        except RefusedError as error:
            await self._fail(turn, error)
            raise

    async def stream(
        self, turn: Turn, rebuilder: ReplyRebuilder, most_tokens: int, request: Request
    ) -> None:
        """Carry a stream to its end, to the reservation's end, or until the client has gone."""
        connection = turn.connection
        if connection is None:
            raise RuntimeError("a stream without its upstream")
        request.on_gone = partial(turn.cut, "client_gone")
        if request.gone:
            turn.cut("client_gone")
        produced = rebuilder.produced
        failed: str | None = None
        over = False
        try:
            while True:
                try:
                    chunk = await connection.read(self._timeouts.between_s)
                except UpstreamError as error:
                    failed = error.code
                    out = rebuilder.fail(error.code)
                    break
                if not chunk:
                    out = rebuilder.finish()
                    break
                out = _feed(rebuilder, chunk, most_tokens)
                if turn.first_us is None and produced.chunks:
                    turn.first_us = _since_us(turn)
                if rebuilder.done:
                    break
                if produced.chunks > most_tokens:
                    # The upstream was told this bound and passed it: what is paid for ends here.
                    out += rebuilder.cut()
                    over = True
                    break
                if out and not request.write(out):
                    turn.sending_since = time.monotonic()
                    connection.suspend()
                    await request.drain()
                    turn.sending_since = 0.0
            failed = failed or rebuilder.failed
            used = UNKNOWN if over else self.tokens.used(rebuilder, whole=failed is None)
            await self._settle(turn, used, status=200, refusal=failed, free=failed is not None)
            self._commit.before_client(partial(request.end, out))
        finally:
            request.on_gone = None
            if turn.reserved:
                self._abandon(turn, rebuilder)
            else:
                connection.release()

    def _abandon(self, turn: Turn, rebuilder: ReplyRebuilder) -> None:
        """Read what the upstream still sends after the client has gone, so that it is paid."""
        turn.reserved = False  # the pump settles it now
        pump = asyncio.ensure_future(self._pump(turn, rebuilder))
        self.pumps.add(pump)
        pump.add_done_callback(self.pumps.discard)

    async def _pump(self, turn: Turn, rebuilder: ReplyRebuilder) -> None:
        connection = turn.connection
        if connection is None:
            raise RuntimeError("a stream without its upstream")
        connection.half_close()
        known = True
        try:
            async with asyncio.timeout(self._timeouts.abandoned_s):
                while chunk := await connection.read(self._timeouts.between_s):
                    rebuilder.feed(chunk)
                    if rebuilder.done:
                        break
                rebuilder.finish()
        except TimeoutError:
            known = False  # it goes on producing: only the reservation bounds what
        except UpstreamError:
            pass  # it noticed; all that it had sent was read
        finally:
            connection.close()
            used = self.tokens.used(rebuilder, whole=False) if known else UNKNOWN
            await self._settle(turn, used, status=499, refusal=turn.cut_code)

    async def _ask(self, asked: Asked) -> Any:
        headers = _ANTHROPIC_HEADERS if asked.served.dialect.name == "anthropic" else b""
        path, body = asked.upstream_path, asked.upstream_body
        return await self.route.ask(path, body, headers, self._commit)

    async def _fail(self, turn: Turn, error: RefusedError) -> None:
        # After a time-out it may have worked all that time; otherwise it never began.
        used = UNKNOWN if error.code == "upstream_timeout" else NOTHING
        await self._settle(turn, used, status=error.refusal.status, refusal=error.code, free=True)


def _feed(rebuilder: ReplyRebuilder, data: bytes, most_tokens: int) -> bytes:
    # One more than begin in it: one may have begun before. Lines may end in CR, LF or both.
    if rebuilder.produced.chunks + data.count(b"data:") < most_tokens:
        return rebuilder.feed(data)
    # Near the end of the reservation: line by line, so that nothing beyond it is served.
    out = []
    for line in data.splitlines(keepends=True):
        out.append(rebuilder.feed(line))
        if rebuilder.produced.chunks > most_tokens or rebuilder.done:
            break
    return b"".join(out)


def _since_us(turn: Turn) -> int:
    return int((time.monotonic() - turn.started) * 1_000_000)
