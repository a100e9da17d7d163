"""A thousand streams of twenty chunks a second for five minutes, through one core.

The gateway is pinned to one core, everything on; the model and the clients share one process on
the other: protocols that write, count and compare, and nothing else. Each chunk holds its number
and the time at which it was sent. `streams_held` counts the streams of which every chunk came, in
order, as an event of its own, none of them `LATE_S` after it was sent; also told are the largest
delay, and how many events came in one read with another of their stream (the gateway had fallen a
chunk behind). `stream_added_us_per_chunk` is the gateway's processor time for a chunk less that of
the bare pass-through of the same stack under the same load; its interval is Welch's over windows
of `WINDOW_S`.

    python -m benchmarks.gateways.streams [--smoke]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import scipy.stats
import uvloop

from benchmarks.gateways import rig
from benchmarks.gateways.part import Part, fill, gateway, part, write

CHUNKS_A_SECOND = 20
GROUPS = 50  # streams take turns within a tick, as they would
STREAMS, SECONDS, THROUGH_S, WINDOW_S = 1000, 300, 120, 30
LATE_S = 1.0
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"small",'
    b'"system_fingerprint":"fp","choices":[{"index":0,"delta":{"content":"%d %d "},'
    b'"logprobs":null,"finish_reason":null}]}\n\n'
)
LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"small",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
MARK = b'"content":"'


class Model(asyncio.Protocol):
    """Answers every request with a stream that `tick` feeds."""

    def __init__(self, streams: set[Model]):
        self._streams = streams
        self.number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A request is one small write here; its headers say where the body ends."""
        if data.startswith(b"POST "):
            self._transport.write(HEAD)  # type: ignore[attr-defined]
            self._streams.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Nobody reads any more."""
        self._streams.discard(self)

    def tick(self) -> None:
        """Send the next chunk, with its number and the time."""
        event = EVENT % (self.number, time.perf_counter_ns() // 1000)
        self.number += 1
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))  # type: ignore[attr-defined]

    def end(self) -> None:
        """Finish the reply."""
        self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(LAST), LAST))  # type: ignore[attr-defined]


class Reader(asyncio.Protocol):
    """Asks for one stream and looks at what arrives."""

    def __init__(self, request: bytes):
        self._request = request
        self.chunks = self.joined = self.disorder = self.worst_us = 0
        self.status = b""
        self.done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Look at every event: its number, and how long it took."""
        found, place = -1, 0
        while (place := data.find(MARK, place)) >= 0:
            place += len(MARK)
            end = data.find(b'"', place)
            if end == place:
                continue  # the first event of a reply has no text
            number, _, sent = data[place:end].partition(b" ")
            if int(number) != self.chunks or sent.count(b" ") != 1:
                self.disorder += 1
            self.chunks += 1
            late_us = time.perf_counter_ns() // 1000 - int(sent)
            if late_us > self.worst_us:
                self.worst_us = late_us
            found += 1
        if found > 0:
            self.joined += found
        if not self.status:
            self.status = data[9:12]
        if b"[DONE]" in data:
            self.done = True


@dataclass
class Seen:
    """What a load saw."""

    count: int
    ticks: int
    held: int = 0
    arrived: int = 0
    joined: int = 0
    worst_ms: float = 0.0
    cores: float = 0.0  # what the measured process took
    each_us: list[float] = field(default_factory=list)  # a window: processor time for a chunk

    @property
    def text(self) -> str:
        """For the eye."""
        return (
            f"{self.held} of {self.count} streams held; {self.arrived} of "
            f"{self.count * self.ticks} chunks, {self.joined} in a read with another; at most "
            f"{self.worst_ms:.0f} ms late; {statistics.fmean(self.each_us):.1f} us a chunk, "
            f"{self.cores:.2f} cores"
        )


def request(key: str, number: int) -> bytes:
    """Return one client's request."""
    body = (
        b'{"model":"small","stream":true,"max_tokens":20000,"messages":'
        b'[{"role":"user","content":"Count for me, client %d"}]}' % number
    )
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (key.encode(), len(body), body)
    )


async def load(
    streams: set[Model], port: int, keys: list[str], pid: int, *, count: int, seconds: float
) -> Seen:
    """Hold `count` streams for some time."""
    loop = asyncio.get_running_loop()
    readers: list[Reader] = []
    for number in range(count):
        reader = Reader(request(keys[number % len(keys)], number))
        readers.append(reader)
        await loop.create_connection(lambda r=reader: r, "127.0.0.1", port)
        if number % 20 == 19:
            await asyncio.sleep(0.02)
    wait_until = time.perf_counter() + 30
    while len(streams) < count:
        await asyncio.sleep(0.05)
        if time.perf_counter() > wait_until:
            refused = {reader.status for reader in readers}
            raise SystemExit(f"{len(streams)} of {count} streams began; statuses {refused}")
    seen = Seen(count, int(seconds * CHUNKS_A_SECOND))
    ordered = list(streams)
    groups = [ordered[group::GROUPS] for group in range(GROUPS)]
    window = min(WINDOW_S * CHUNKS_A_SECOND, seen.ticks // 3)
    spent, before = rig.cpu_s([pid]), 0
    first_s, began = spent, time.perf_counter()
    for tick in range(seen.ticks):
        for group, members in enumerate(groups):
            wait = began + (tick + group / GROUPS) / CHUNKS_A_SECOND - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            for stream in members:
                stream.tick()
        if (tick + 1) % window == 0:
            now, arrived = rig.cpu_s([pid]), sum(reader.chunks for reader in readers)
            seen.each_us.append(1e6 * (now - spent) / max(1, arrived - before))
            spent, before = now, arrived
    seen.cores = (rig.cpu_s([pid]) - first_s) / (time.perf_counter() - began)
    for stream in ordered:
        stream.end()
    end = time.perf_counter() + 20
    while not all(reader.done for reader in readers) and time.perf_counter() < end:
        await asyncio.sleep(0.05)
    for reader in readers:
        whole = reader.done and reader.chunks == seen.ticks and not reader.disorder
        seen.held += whole and reader.worst_us < LATE_S * 1e6
        seen.arrived += reader.chunks
        seen.joined += reader.joined
        seen.worst_ms = max(seen.worst_ms, reader.worst_us / 1000)
    return seen


async def hold(folder: Path, *, bare: bool, count: int, seconds: float) -> Seen:
    """Start the gateway or the bare pass-through on the measured core and load it."""
    streams: set[Model] = set()
    server = await asyncio.get_running_loop().create_server(
        lambda: Model(streams), "127.0.0.1", 0, backlog=4096
    )
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    port = rig.free_port()
    with contextlib.ExitStack() as stack:
        if bare:
            keys, command = ["none"], rig.python("stream_through", str(port), url)
        else:
            model = {"max_output_tokens": 20_000}
            path = write(folder / "gateway.yaml", f"127.0.0.1:{port}", url, model=model)
            keys, command = list(fill(path, 100).keys), gateway(path)
        process = stack.enter_context(rig.started(command, port, core=rig.MEASURED, wait_s=120))
        seen = await load(streams, port, keys, process.pid, count=count, seconds=seconds)
        server.close()
    return seen


def measure(run: Part) -> None:
    """Hold the streams, bare and guarded."""
    os.sched_setaffinity(0, {rig.LOADING})
    count, seconds, through_s = (100, 3, 3) if run.smoke else (STREAMS, SECONDS, THROUGH_S)
    seen: dict[bool, Seen] = {}
    for bare, length in ((True, through_s), (False, seconds)):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            seen[bare] = runner.run(hold(run.folder, bare=bare, count=count, seconds=length))
        print(f"{'bare pass-through' if bare else 'gateway'}: {seen[bare].text}", flush=True)
    added = scipy.stats.ttest_ind(seen[False].each_us, seen[True].each_us, equal_var=False)
    low, high = added.confidence_interval(0.95)
    bare_us = statistics.fmean(seen[True].each_us)
    run.tell(
        "stream_added_us_per_chunk",
        statistics.fmean(seen[False].each_us) - bare_us,
        "us",
        low=low,
        high=high,
        peer="own pass-through",
        peer_value=bare_us,
    )
    run.tell("streams_held", seen[False].held, "streams")


if __name__ == "__main__":
    with part(__doc__) as found:
        measure(found)
