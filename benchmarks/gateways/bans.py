"""Four gateways on one Redis and one PostgreSQL: how long until a ban is in force everywhere?

For each ban another account has a stream open at every process and goes on asking at every
process; a moderator has proposed its ban. The clock starts when a second one sends the approval to
the admin API, and stops when every process has refused a request of the account and every stream
has been cut. `ban_effective_ms` is the largest such time over all bans (`high`); `low` is the
latest moment at which a request that was still served had been sent.

    python -m benchmarks.gateways.bans [--smoke]
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import statistics
import time
from pathlib import Path
from typing import Any

import aiohttp
from tests.gateway.scripted import Asked, Script, Upstream, chunks, completion

from benchmarks.gateways import rig
from benchmarks.gateways.part import Part, fill, opened, part, processes, servers, write
from stillhouse.accounts import TOKEN_PREFIX, Furnished, mint
from stillhouse.accounts.acts import AddOperator

PROCESSES, BANS = 4, 120
GAP_S = 0.005  # between two requests of a client


def moderators(path: Path, made: Furnished) -> list[dict[str, str]]:
    """Enrol two moderators; return the headers of their requests."""
    found = []
    with opened(path) as store:
        for name in ("Ann", "Ben"):
            token = mint(TOKEN_PREFIX)
            act = AddOperator(name=name, role="moderator", enrolment=token.enrolment)
            store.perform(made.operator, act)
            found.append({"authorization": f"Bearer {token.text}"})
    return found


def answer(asked: Asked) -> Script:
    """Stream without end, or answer at once."""
    if not asked.body.get("stream"):
        return Script(body=completion())
    ticks = itertools.repeat(chunks(["tick "])[1])
    return Script(chunks=ticks, gate=lambda _: asyncio.sleep(0.02))


class Client:
    """One account at every process."""

    def __init__(self, session: aiohttp.ClientSession, ports: list[int], key: str):
        self._session = session
        self._ports = ports
        self._headers = {"authorization": f"Bearer {key}"}
        self.served_at = 0.0  # when the last request that was served was sent

    async def open(self, port: int) -> aiohttp.ClientResponse:
        """Open a stream and wait for its first chunks."""
        reply = await self._post(port, stream=True)
        if reply.status != 200:
            raise SystemExit(f"a stream was refused: {await reply.text()}")
        for _ in range(2):
            await reply.content.readuntil(b"\n\n")
        return reply

    async def until_cut(self, reply: aiohttp.ClientResponse) -> float:
        """Return when the stream ended; it must say why."""
        rest = await reply.content.read()
        ended = time.perf_counter()
        if b'"code":"banned"' not in rest:
            raise SystemExit(f"a stream ended otherwise: {rest[-300:]!r}")
        return ended

    async def until_refused(self, port: int) -> float:
        """Ask on and on; return when the first refusal was there."""
        while True:
            sent = time.perf_counter()
            async with await self._post(port, stream=False) as reply:
                text = await reply.read()
            if reply.status == 403 and b'"code":"banned"' in text:
                return time.perf_counter()
            if reply.status != 200:
                raise SystemExit(f"a request was refused otherwise: {text!r}")
            self.served_at = max(self.served_at, sent)
            await asyncio.sleep(GAP_S)

    async def _post(self, port: int, *, stream: bool) -> aiohttp.ClientResponse:
        message = {"role": "user", "content": "Count"}
        body = {"model": "small", "stream": stream, "messages": [message], "max_tokens": 200}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        return await self._session.post(url, json=body, headers=self._headers)


async def act(
    session: aiohttp.ClientSession, admin: int, name: str, headers: dict[str, str], **body: Any
) -> dict[str, Any]:
    """Carry out an act by the admin API."""
    url = f"http://127.0.0.1:{admin}/v1/acts/{name}"
    async with session.post(url, json=body, headers=headers) as reply:
        told = await reply.json()
        if reply.status not in (200, 202):
            raise SystemExit(f"{name}: {reply.status} {told}")
        return dict(told)


async def ban(
    session: aiohttp.ClientSession,
    ports: list[int],
    admin: int,
    people: list[dict[str, str]],
    account: str,
    key: str,
) -> tuple[float, float]:
    """Ban one account; return when it was last served and when all was refused, in ms."""
    client = Client(session, ports, key)
    proposal = await act(
        session,
        admin,
        "ban",
        people[0],
        scope="account",
        subject=account,
        acknowledged=1,
        reason="measured",
    )
    streams = [await client.open(port) for port in ports]
    asking = [asyncio.ensure_future(client.until_refused(port)) for port in ports]
    cuts = [asyncio.ensure_future(client.until_cut(stream)) for stream in streams]
    await asyncio.sleep(0.05)
    began = time.perf_counter()
    await act(
        session, admin, "approve", people[1], proposal=proposal["proposal"], reason="measured"
    )
    ends = await asyncio.gather(*asking, *cuts)
    for stream in streams:
        stream.close()
    return 1000 * (client.served_at - began), 1000 * (max(ends) - began)


async def bans(folder: Path, shared: dict[str, Any], count: int) -> list[tuple[float, float]]:
    """Run the processes and ban `count` accounts, one after the other."""
    upstream = Upstream(answer)
    await upstream.start()
    admin = rig.free_port()
    shared = {**shared, "model": {"max_output_tokens": 100_000}}
    path = write(folder / "gateway.yaml", "127.0.0.1:0", upstream.url, **shared)
    first = write(
        folder / "first.yaml",
        "127.0.0.1:0",
        upstream.url,
        admin={"listen": f"127.0.0.1:{admin}"},
        **shared,
    )
    made = await asyncio.to_thread(fill, path, count)
    people = await asyncio.to_thread(moderators, path, made)
    found = []
    with contextlib.ExitStack() as stack:
        running = processes([first] + [path] * (PROCESSES - 1), core=rig.MEASURED)
        ports = [port for port, _ in await asyncio.to_thread(stack.enter_context, running)]
        async with aiohttp.ClientSession() as session:
            for account, key in zip(made.accounts, made.keys, strict=True):
                found.append(await ban(session, ports, admin, people, account, key))
        await asyncio.to_thread(stack.close)
    await upstream.stop()
    return found


def measure(run: Part) -> None:
    """Ban, and tell the largest."""
    os.sched_setaffinity(0, {rig.LOADING})
    with servers(run.folder / "redis") as (shared, _):
        found = asyncio.run(bans(run.folder, shared, 4 if run.smoke else BANS))
    ends = [end for _, end in found]
    print(f"{len(found)} bans: median {statistics.median(ends):.0f} ms, largest {max(ends):.0f} ms")
    run.tell(
        "ban_effective_ms",
        max(ends),
        "ms",
        low=max(served for served, _ in found),
        high=max(ends),
        packages=("uvicorn", "uvloop", "redis", "sqlalchemy", "psycopg"),
    )


if __name__ == "__main__":
    with part(__doc__) as found:
        measure(found)
