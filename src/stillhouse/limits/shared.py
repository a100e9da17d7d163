"""The shared back end: many processes on one Redis or Valkey, by one script, at the server's time.

What can be lost is noticed: the state key names an epoch and the server's run id. The script
compares the state in the same step in which it charges, every new connection compares the run id,
and both survive neither a flush nor a restart nor a change of server. After a loss nothing is
admitted until one process has rebuilt every cell from the ledgers of all, with what is open at its
full reservation, dated at the rebuilding.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.resources
import secrets
import struct
import time
from typing import TYPE_CHECKING, Any, Self

import orjson

from stillhouse.exchanges import InputError
from stillhouse.limits import folding, rebuilding
from stillhouse.limits.ledger import TURN_AFTER, Ledger
from stillhouse.limits.limit import PUBLIC_SCOPES, Demand
from stillhouse.limits.line import Line, RefusedError, encode
from stillhouse.limits.results import (
    HEADER_UNITS,
    Exceeded,
    Reading,
    Reserved,
    Settled,
    Unavailable,
    Unknown,
    exceeded,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SCRIPT = importlib.resources.files("stillhouse.limits").joinpath("shared.lua").read_text("utf-8")
_PATIENCE_US = 60 * 10**6  # a rebuilding that was not heard of for so long is begun anew
_LATE_MAX = 100_000
# How the script's answers begin; it has the same.
_RESERVED, _REFUSED, _USED, _SETTLED, _ALREADY = 1, 2, 3, 4, 5


class _RestartedError(Exception):
    """The server is not the one whose state is known here."""


class Shared:
    """Limits of many processes. Make it with `connect`; `now_us` arguments are ignored.

    Any error of the store gives `Unavailable`: nothing is served on a guess.
    """

    def __init__(
        self,
        client: Any,
        ledger: Ledger,
        root: Path,
        namespace: str,
        forward_us: int,
        timeout_s: float,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._root = root
        self._ledgers = folding.identity(root)
        self._key = f"{namespace}:limits".encode()
        self._forward_us = forward_us
        self._timeout_s = timeout_s
        self._sha = b""
        self._run = ""
        self._state = ""  # of a store that is ready, as the script compares it
        self._witness = (0, 0)  # the limiter's time when last heard of; the monotonic clock then
        self._open: dict[bytes, tuple[int, Sequence[Demand]]] = {}
        self._late: dict[bytes, Mapping[str, int]] = {}  # settlements the store has yet to hear of
        self._entering = asyncio.Lock()
        self._unfolded = ledger.first > 1  # what earlier processes left
        self._folding: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clearing: asyncio.Task[None] | None = None
        self._unsent: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self._line: Line | None = None
        self._sending: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        folder: Path,
        process: str,
        namespace: str = "stillhouse",
        forward_us: int = 10 * 10**6,
        timeout_s: float = 2.0,
        turn_after: int = TURN_AFTER,
    ) -> Self:
        """Connect to `url` (redis://...), with this process's ledger in `folder`/`process`.

        `folder` is one that all processes of the namespace share. A step of the server's clock
        forward counts for at most `forward_us` beyond what a process saw pass. After `turn_after`
        reservations the ledger is made short again. Raises `InputError` for a cluster, a store that
        may evict keys, one whose other processes have their ledgers in another folder, a package
        that is missing, or a server that does not answer; `InUseError` where another process uses
        the ledger.
        """
        try:
            import redis.asyncio as redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise InputError(
                "shared limits need the package redis", repair="pip install 'stillhouse[scale]'"
            ) from error
        ledger = Ledger(folder / process, turn_after=turn_after)
        try:
            made: list[Self] = []

            async def on_connect(connection: Any) -> None:
                await connection.on_connect()
                await connection.send_command("INFO")
                try:
                    made[0]._greet(await connection.read_response())
                except InputError:
                    await connection.disconnect()
                    raise

            client = redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 0),
                redis_connect_func=on_connect,
                protocol=2,  # in which a server sends nothing that was not asked for
            )
            limiter = cls(client, ledger, folder, namespace, forward_us, timeout_s)
            made.append(limiter)
            try:
                limiter._sha = (await client.script_load(SCRIPT)).encode()
                await limiter.ready()
            except (OSError, redis.RedisError) as error:
                await limiter._disconnect()
                raise InputError(
                    f"the store of the limits does not answer ({type(error).__name__})",
                    repair="start Redis or Valkey, or check its address and password",
                ) from error
            except BaseException:
                await limiter._disconnect()
                raise
        except BaseException:
            ledger.close()
            raise
        return limiter

    async def reserve(
        self,
        reservation_id: bytes,
        demands: Sequence[Demand],
        now_us: int = 0,  # noqa: ARG002 (the time is the server's)
    ) -> Reserved | Exceeded | Unavailable:
        """See `Limiter.reserve`. The intent is in the ledger before the store is asked."""
        if not self._state:
            self._enter_soon()
            return Unavailable("the limits are being rebuilt")
        rows = []
        for scope, limit, cost, item in demands:
            key = f"{limit.cell}:{scope.kind}:{scope.id}"
            if cost < 0:
                raise ValueError(f"a cost of {cost}")
            rows.append(
                (
                    key, limit.kind, limit.unit, min(cost, 2**53), limit.amount, limit.window_us,
                    limit.burst, limit.grain, limit.drain, limit.shadow, item.hex(),
                )
            )  # fmt: skip
        if len({row[0] for row in rows}) < len(rows):
            raise ValueError("two demands of one reservation name the same cell")
        if reservation_id in self._open or reservation_id in self._late:
            return Unavailable("this reservation id was used before")
        try:
            if self._ledger.left <= 0 or self._unfolded:
                self._make_short()
            self._ledger.reserved(reservation_id, 0, demands)  # the settlement says when it was
        except InputError as error:
            return Unavailable(str(error))
        try:
            told = await self._ask("reserve", {"id": reservation_id.hex(), "demands": rows})
        except asyncio.CancelledError:
            self._give_back(reservation_id, demands)
            self._flush_soon()
            raise
        if isinstance(told, Unavailable):
            self._give_back(reservation_id, demands)
            return told
        code, at_us, *numbers = map(int, _numbers(told))
        if code == _RESERVED:
            skipped = numbers[1 : 1 + numbers[0]]
            readings = iter(numbers[1 + numbers[0] :])
            self._open[reservation_id] = (at_us, demands)
            return Reserved(
                at_us,
                tuple(
                    Reading(demands[i], left, reset_us)
                    for i, left, reset_us in zip(readings, readings, readings, strict=True)
                    if demands[i].limit.unit in HEADER_UNITS
                    and demands[i].scope.kind in PUBLIC_SCOPES
                ),
                tuple(demands[i] for i in skipped),
            )
        self._refuse(reservation_id)
        if code == _USED:
            return Unavailable("this reservation id was used before")
        pairs = zip(*[iter(numbers)] * 2, strict=True)
        return exceeded(demands, [(demands[i], w if w >= 0 else None) for i, w in pairs])

    async def settle(
        self,
        reservation_id: bytes,
        used: Mapping[str, int],
        now_us: int = 0,  # noqa: ARG002 (the time is the server's)
    ) -> Settled | Unknown | Unavailable:
        """See `Limiter.settle`. Where the store does not answer it is told later."""
        if used and min(used.values()) < 0:
            raise ValueError(f"use cannot be negative: {dict(used)}")
        mine = self._open.pop(reservation_id, None)
        if mine is not None:
            try:
                self._ledger.settled(reservation_id, self._passed_us(), used, mine[0])
            except InputError as error:
                # As a rebuilding would find it: charged at the reservation.
                self._remember(reservation_id, {})
                return Unavailable(str(error))
        try:
            told = await self._ask("settle", {"id": reservation_id.hex(), "used": dict(used)})
        except asyncio.CancelledError:
            self._remember(reservation_id, used)
            raise
        if isinstance(told, Unavailable):
            self._remember(reservation_id, used)
            return told
        code = _numbers(told[:8])[0]
        if code == _SETTLED:
            above = (line.split() for line in told[16:].splitlines())
            return Settled(excess={unit.decode(): int(excess) for unit, excess in above})
        # Known here and not there: rebuilt from the ledger after this was written.
        if code == _ALREADY or mine is not None:
            return Settled(already=mine is None)
        return Unknown(reservation_id)

    async def ready(self) -> bool:
        """Enter the store's present epoch, rebuilding it where data was lost; whether it is done.

        False where another process is rebuilding it or the store fails; then it is tried again at
        the next request.
        """
        async with self._entering:
            if self._state:
                return True
            claim = self._claim()
            try:
                self._state = await rebuilding.enter(self._run_script, claim, self._root)
            except Exception as error:
                if not _is_store_error(error):
                    raise
                return False
            if self._state.startswith(claim["epoch"]):  # rebuilt here
                if self._clearing is not None:
                    self._clearing.cancel()
                self._clearing = asyncio.create_task(self._clear(self._state))
            return bool(self._state)

    async def _clear(self, state: str) -> None:
        """Have the store drop what earlier epochs left, some keys at a time."""
        cursor = "0"
        while self._state == state:
            try:
                told = await self._run_script("clear", state, {"cursor": cursor})
            except Exception as error:
                if not _is_store_error(error):
                    raise
                await asyncio.sleep(self._timeout_s)
                continue
            word, _, cursor = told.decode().partition(" ")
            if word != "cleared" or cursor == "0":
                return

    async def flush(self) -> None:
        """Tell the store of the settlements that it has yet to hear of."""
        for reservation_id, used in list(self._late.items()):
            told = await self._ask("settle", {"id": reservation_id.hex(), "used": dict(used)})
            if isinstance(told, Unavailable):
                return
            self._late.pop(reservation_id, None)

    async def close(self) -> None:
        """Disconnect and let go of the ledger; what is open stays charged."""
        if self._clearing is not None:
            self._clearing.cancel()
            await asyncio.wait([self._clearing])
        await self._end_tasks()
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
            await self._end_tasks()  # what those began whose answers will not come
        if self._folding is not None:
            await asyncio.wait([self._folding])
        await self._disconnect()
        self._ledger.close()

    async def _end_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def ledger_path(self) -> Path | None:
        """The file that is written to now: whoever syncs it puts the limits on the disk."""
        return self._ledger.path

    def _make_short(self) -> None:
        """Begin a new file of the ledger where it is due; have the older ones folded."""
        now_us = self._passed_us()
        if not now_us or (self._folding is not None and not self._folding.done()):
            return
        ledger = self._ledger
        if ledger.left <= 0:
            ledger.turn(now_us)
            ledger.postpone()
        self._unfolded = False
        work = functools.partial(
            folding.fold, ledger.folder, first=ledger.first, upto=ledger.number, now_us=now_us
        )
        self._folding = asyncio.get_running_loop().run_in_executor(None, work)
        # A failure leaves the files as they were, for the next time.
        self._folding.add_done_callback(lambda done: done.exception())

    def _greet(self, info: bytes | str) -> None:
        """Look at the server behind a new connection, before anything is asked of it."""
        text = info.decode() if isinstance(info, bytes) else info
        facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if facts.get("redis_mode", facts.get("server_mode")) == "cluster":
            raise InputError(
                "the store of the limits is a cluster, which cannot charge all scopes in one step",
                repair="give the address of a single server, or of one with replicas",
            )
        policy = facts.get("maxmemory_policy", "noeviction")
        if facts.get("maxmemory", "0") != "0" and policy != "noeviction":
            raise InputError(
                f"the store of the limits may evict keys (maxmemory-policy {policy})",
                repair="set maxmemory-policy noeviction",
            )
        # Also where no state is known yet: a claim may wait that names the server before.
        known, self._run = self._run, facts["run_id"]
        if known not in ("", self._run):
            self._state = ""
            raise _RestartedError("the store was restarted")

    def _claim(self) -> dict[str, Any]:
        return {
            "epoch": secrets.token_hex(8),
            "run": self._run,
            "patience": _PATIENCE_US,
            "ledgers": self._ledgers,
        }

    def _passed_us(self) -> int:
        """A time that the limiter's has surely reached."""
        heard_us, then_us = self._witness
        return heard_us + time.monotonic_ns() // 1000 - then_us if heard_us else 0

    async def _ask(self, what: str, request: dict[str, Any]) -> bytes | Unavailable:
        state = self._state
        if not state:
            self._enter_soon()
            return Unavailable("the limits are being rebuilt")
        request["forward"] = self._forward_us
        request["witness"] = self._passed_us()
        try:
            told = await self._run_script(what, state, request)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not _is_store_error(error):
                raise
            self._enter_soon()
            return Unavailable(f"the store of the limits failed ({type(error).__name__})")
        if told.startswith(b"lost"):
            if self._state == state:
                self._state = ""
            self._enter_soon()
            return Unavailable("the store of the limits lost its data")
        now_us = int(_numbers(told[8:16])[0])
        if now_us > self._witness[0]:
            self._witness = (now_us, time.monotonic_ns() // 1000)
        self._flush_soon()
        return told

    async def _run_script(self, what: str, state: str, request: Any) -> bytes:
        arguments = (b"1", self._key, what.encode(), state.encode(), orjson.dumps(request))
        try:
            return await self._send(encode((b"EVALSHA", self._sha, *arguments)))
        except RefusedError as error:
            if error.kind != "NOSCRIPT":
                raise
            # A new server does not have it, and has run nothing.
            return await self._send(encode((b"EVAL", SCRIPT.encode(), *arguments)))

    def _send(self, command: bytes) -> asyncio.Future[bytes]:
        """Send a command with all that wait: one round trip at a time, which takes every one."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        self._unsent.append((command, answer))
        if self._sending is None or self._sending.done():
            self._sending = loop.create_task(self._send_all())
        return answer

    async def _send_all(self) -> None:
        while self._unsent:
            batch, self._unsent = self._unsent, []
            try:
                line = self._line
                if line is None or line.lost:
                    line = await self._connect()
                await line.ask(batch)
            except asyncio.CancelledError:
                for _, answer in (*batch, *self._unsent):
                    answer.cancel()
                raise
            except Exception as error:  # noqa: BLE001 (whoever asked has to know it)
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)

    async def _connect(self) -> Line:
        if self._line is not None:
            await self._line.drop()
            self._line = None
        connection = self._client.connection_pool.make_connection()
        try:
            await connection.connect()  # greets
            self._line = line = Line(connection, self._timeout_s)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return line

    async def _disconnect(self) -> None:
        if self._line is not None:
            await self._line.drop()
        await self._client.aclose()

    def _give_back(self, reservation_id: bytes, demands: Sequence[Demand]) -> None:
        """Nobody waits for its answer any more, but it may have been charged."""
        self._refuse(reservation_id)
        self._remember(reservation_id, {limit.unit: 0 for _, limit, _, _ in demands})

    def _refuse(self, reservation_id: bytes) -> None:
        # A failure leaves the intent open: charged in a rebuilding, which is safe.
        with contextlib.suppress(InputError):
            self._ledger.settled(reservation_id, self._passed_us(), None)

    def _remember(self, reservation_id: bytes, used: Mapping[str, int]) -> None:
        if len(self._late) < _LATE_MAX:
            self._late.setdefault(reservation_id, used)  # what came first counts

    def _flush_soon(self) -> None:
        if self._late and not self._tasks:
            self._start(self.flush())

    def _enter_soon(self) -> None:
        if not self._tasks and not self._state:
            self._start(self._enter())

    async def _enter(self) -> None:
        with contextlib.suppress(InputError):  # told where it is connected; here it stays shut
            await self.ready()

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_store_error(error: Exception) -> bool:
    """Whether it came from the connection or the store (its package may not be installed)."""
    from redis import RedisError

    return isinstance(error, RedisError | OSError | _RestartedError | RefusedError | TimeoutError)


def _numbers(told: bytes) -> tuple[float, ...]:
    """The numbers of an answer: whole, and below 2^53."""
    return struct.unpack(f"<{len(told) // 8}d", told)
