"""Labelling against a bare client: the same loopback server, in turns, in one run.

`share_of_bare_client`: a server of its own process takes 2,000 requests a second (later ones wait),
answers each after 20 ms and refuses 5 % with HTTP 429. Items labelled a second by
`stillhouse.teachers.label_all` (journal and budget on, from cold each time) over items a second by
64 aiohttp workers that write nothing, count nothing and ask again at once. The interval is that of
the mean ratio of neighbouring turns (Student's t). Beside it, printed only: both clients against
the same server without its speed limit, which is what a request costs in the client.

On a machine that is busy with other work start it under `chrt -f 5` (both processes then run at
once whenever they want to); the row's command says so.

`share_of_server_peak`: the same two clients, at most 16 in flight, against `transformers serve`
with continuous batching (give --teacher FOLDER; on a busy machine that server can stall).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import orjson
import scipy.stats

from benchmarks import rows
from stillhouse.teachers import (
    Budget,
    Caps,
    ChatRequest,
    EndpointSettings,
    EndpointTeacher,
    LabelSettings,
    Message,
    Price,
    Reply,
    Sampling,
    label_all,
    open_journal,
)

RATE_PER_S = 2_000
LATENCY_S = 0.020
REFUSED = 0.05
CONCURRENCY = 64
SERVER_IN_FLIGHT = 16  # where transformers serve with continuous batching was seen at its peak
REVIEW = "The battery lasts two days and the case feels solid, but the buttons rattle. " * 3

REPLY = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "loopback",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "positive"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 80, "completion_tokens": 2, "total_tokens": 82},
    }
)
REFUSAL = orjson.dumps({"error": {"message": "slow down", "code": "rate_limit_exceeded"}})
HEAD = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Server(asyncio.Protocol):
    """Just enough HTTP to be no bottleneck: one request at a time on each connection."""

    rate_per_s = 0
    next_turn_s = 0.0
    rng = random.Random(5)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start with nothing received."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Answer each whole request in its turn."""
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self.received = body[length:]
        refused = self.rng.random() < REFUSED
        payload = REFUSAL if refused else REPLY
        status = b"429 Too Many Requests" if refused else b"200 OK"
        answer = HEAD % (status, len(payload)) + payload
        if not self.rate_per_s:
            self.transport.write(answer)
            return
        loop = asyncio.get_running_loop()
        Server.next_turn_s = max(loop.time(), Server.next_turn_s) + 1 / self.rate_per_s
        loop.call_at(Server.next_turn_s + LATENCY_S, self.transport.write, answer)


async def serve(rate_per_s: int) -> None:
    """Serve until killed; print the port."""
    Server.rate_per_s = rate_per_s
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def server_process(rate_per_s: int, core: int | None) -> Iterator[str]:
    """Run the server in a process of its own, on a core of its own where there are two."""
    command = [sys.executable, "-m", "benchmarks.labelling", "--serve", str(rate_per_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def prompts(count: int) -> dict[str, ChatRequest]:
    """Requests that differ, of about 300 bytes."""
    return {
        f"item-{i}": ChatRequest(
            messages=(Message("user", f"{i}: {REVIEW}\nPositive or negative? One word."),),
            sampling=Sampling(max_tokens=4),
        )
        for i in range(count)
    }


async def bare(
    url: str, model: str, requests: dict[str, ChatRequest], in_flight: int = CONCURRENCY
) -> float:
    """Items a second of aiohttp workers that do nothing else."""
    bodies = iter(
        [
            {
                "model": model,
                "messages": [{"role": m.role, "content": m.content} for m in request.messages],
                "max_tokens": request.sampling.max_tokens,
                "temperature": 0.0,
            }
            for request in requests.values()
        ]
    )
    texts: list[str] = []

    async def work(session: aiohttp.ClientSession) -> None:
        for body in bodies:
            while True:
                async with session.post(f"{url}/chat/completions", json=body) as response:
                    answer = orjson.loads(await response.read())
                    if response.status == 200:
                        break
            texts.append(answer["choices"][0]["message"]["content"])

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        began_s = time.perf_counter()
        await asyncio.gather(*(work(session) for _ in range(in_flight)))
        elapsed_s = time.perf_counter() - began_s
    assert len(texts) == len(requests)
    return len(texts) / elapsed_s


async def ours(
    url: str, model: str, requests: dict[str, ChatRequest], in_flight: int = CONCURRENCY
) -> float:
    """Items a second of `label_all`, from an empty journal to the last synced line."""
    settings = LabelSettings(concurrency=in_flight, max_attempts=20)
    with tempfile.TemporaryDirectory() as folder:
        async with EndpointTeacher(EndpointSettings(url=url, model=model)) as teacher:
            began_s = time.perf_counter()
            with open_journal(Path(folder) / "labels.journal", teacher) as journal:
                caps = Caps(money_nano=10**12, tokens=10**10, requests=10**8)
                budget = Budget(caps, Price.per_token(100, 400))
                result = await label_all(requests, teacher, journal, budget, settings=settings)
            elapsed_s = time.perf_counter() - began_s
    assert result.stopped is None, result.stopped
    assert all(isinstance(answer, Reply) for answer in result.answers.values())
    return len(requests) / elapsed_s


Client = Callable[[str, str, dict[str, ChatRequest], int], Awaitable[float]]


def in_turns(
    url: str, model: str, count: int, turns: int, in_flight: int = CONCURRENCY
) -> tuple[list[float], list[float]]:
    """Run both clients `turns` times, each first in every other turn; return their rates."""
    requests = prompts(count)
    rates: dict[Client, list[float]] = {ours: [], bare: []}
    for client in (ours, bare):
        asyncio.run(client(url, model, dict(list(requests.items())[: count // 10]), in_flight))
    for turn in range(turns):
        for client in (ours, bare) if turn % 2 else (bare, ours):
            rates[client].append(asyncio.run(client(url, model, requests, in_flight)))
        print(f"turn {turn}: ours {rates[ours][-1]:.0f}/s, bare {rates[bare][-1]:.0f}/s")
    return rates[ours], rates[bare]


def ratio(mine: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Mean ratio of neighbouring turns with its 95 % interval."""
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    mean = statistics.fmean(ratios)
    error = statistics.stdev(ratios) / math.sqrt(len(ratios))
    half = float(scipy.stats.t.ppf(0.975, len(ratios) - 1)) * error
    return mean, mean - half, mean + half


def started_as() -> str:
    """This process's command, with its scheduling class when a busy machine made one needed."""
    fifo = os.sched_getscheduler(0) == os.SCHED_FIFO
    return ("chrt -f 5 " if fifo else "") + rows.started_as()


def measure_bare_client(count: int, turns: int, *, floor: bool) -> None:
    """The goal's figure, and the client's cost without the speed limit."""
    cores = sorted(os.sched_getaffinity(0))
    server_core = cores[1] if len(cores) > 1 else None
    if server_core is not None:
        os.sched_setaffinity(0, {cores[0]})
    if floor:
        with server_process(0, server_core) as url:
            fastest, fastest_bare = in_turns(url, "loopback", count // 4, 3)
        print(
            f"without a speed limit: ours {statistics.fmean(fastest):.0f}/s,"
            f" bare {statistics.fmean(fastest_bare):.0f}/s"
        )
    with server_process(RATE_PER_S, server_core) as url:
        mine, theirs = in_turns(url, "loopback", count, turns)
    mean, low, high = ratio(mine, theirs)
    os.sched_setaffinity(0, cores)  # the row names the machine's cores
    rows.append(
        "labelling",
        "share_of_bare_client",
        mean,
        low=low,
        high=high,
        unit="share",
        peer="aiohttp workers (items/s)",
        peer_value=statistics.fmean(theirs),
        packages=("aiohttp",),
        command=started_as(),
    )


@contextlib.contextmanager
def transformers_serve(folder: Path, port: int) -> Iterator[str]:
    """Start `transformers serve` on a model folder and wait until it answers."""
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    command += ["--device", "cpu", "--dtype", "bfloat16", "--port", str(port)]
    command += ["--continuous-batching", "--cb-max-memory-percent", "0.2"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline_s = time.monotonic() + 300
        while True:
            try:
                asyncio.run(bare(url, str(folder), prompts(1)))
                break
            except (aiohttp.ClientError, KeyError) as error:
                if time.monotonic() > deadline_s or process.poll() is not None:
                    raise RuntimeError("transformers serve did not start") from error
                time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait()


def measure_server_peak(folder: Path, count: int, turns: int) -> None:
    """Our rate over the bare load generator's against a server that others wrote."""
    with transformers_serve(folder, 8765) as url:
        mine, theirs = in_turns(url, str(folder), count, turns, SERVER_IN_FLIGHT)
    mean, low, high = ratio(mine, theirs)
    rows.append(
        "labelling",
        "share_of_server_peak",
        mean,
        low=low,
        high=high,
        unit="share",
        peer="aiohttp workers (items/s)",
        peer_value=statistics.fmean(theirs),
        packages=("aiohttp", "transformers", "torch"),
        command=started_as(),
    )


def main() -> None:
    """Measure and append rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labelling")
    parser.add_argument("--serve", type=int, metavar="RATE", help=argparse.SUPPRESS)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--skip-floor", action="store_true", help="no turns at full speed")
    parser.add_argument("--teacher", type=Path, help="model folder: measure share_of_server_peak")
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.serve))
    elif arguments.teacher is not None:
        measure_server_peak(arguments.teacher, arguments.items, arguments.turns)
    else:
        measure_bare_client(arguments.items, arguments.turns, floor=not arguments.skip_floor)


if __name__ == "__main__":
    main()
