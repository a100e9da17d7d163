"""A real gateway process, killed at random under load, and its books afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from tests.gateway.running import prepare
from tests.gateway.scripted import Asked, Script, Upstream, chunks, completion
from tests.ports import free_port

from stillhouse.accounts import open_store
from stillhouse.accounts.acts import DefineTier
from stillhouse.exchanges import iterate_journal
from stillhouse.gateway.config import Config, read_config
from stillhouse.limits import Memory

PROGRAM = "from stillhouse.cli import main; main()"
CLIENTS = 12
CAPS: Any = [
    {"scope": "account", "measure": "concurrency", "amount": 1000},
    {"scope": "key", "measure": "requests", "amount": 10**8, "window_us": 10**9, "burst": 10**7},
]


def configure(folder: Path, upstream_url: str) -> tuple[Config, Path]:
    model = {
        "name": "small",
        "upstreams": [{"url": upstream_url}],
        "price_in_nano": 10,
        "price_out_nano": 30,
    }
    balance = {"scope": "global", "measure": "money_nano", "amount": 10**14, "per": "balance"}
    value = {
        "listen": f"127.0.0.1:{free_port()}",
        "models": [model],
        "more_limits": [balance],
        "timeouts": {"abandoned_s": 0.5},
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(value))
    return read_config(path), path


class Load:
    """Clients that go on asking; what they were served is noted."""

    def __init__(self, listen: str, key: str):
        self.url = f"http://{listen}/v1/chat/completions"
        self.headers = {"authorization": f"Bearer {key}"}
        self.served: list[str] = []
        self.asked = 0

    async def run(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                self.asked += 1
                message = {"role": "user", "content": f"Question {self.asked}"}
                body = {"model": "small", "messages": [message], "stream": self.asked % 3 == 0}
                try:
                    async with session.post(self.url, json=body, headers=self.headers) as reply:
                        data = await reply.read()
                        whole = data.endswith((b"}", b"data: [DONE]\n\n"))
                        if reply.status == 200 and whole:
                            self.served.append(reply.headers["x-request-id"])
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.02)


async def start(path: Path, listen: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "gateway", str(path)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    host, port = listen.split(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            assert process.returncode is None, "the gateway did not start"
            await asyncio.sleep(0.02)
        else:
            writer.close()
            await writer.wait_closed()
            return process


@dataclass(frozen=True)
class Books:
    """What the books say after the last kill. `over_nano`: charged by limits beyond the records."""

    lost: int  # served whole to a client, not recorded as served
    free: int  # reached the upstream, not recorded at all
    twice: int  # recorded more than once
    crashed: int
    over_nano: int
    largest_nano: int


def killed_under_load(folder: Path, *, seed: int, kills: int) -> Books:
    """Kill the gateway `kills` times while clients ask, end it in order, read the books."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)

    def answer(asked: Asked) -> Script:
        if asked.body.get("stream"):
            return Script(chunks=chunks(["a ", "b "]), gate=lambda _: asyncio.sleep(0.005))
        return Script(body=completion())

    async def scenario() -> tuple[Load, int, Config]:
        upstream = Upstream(answer)
        await upstream.start()
        config, path = configure(folder, upstream.url)
        made = prepare(folder, config)
        store = open_store(config.accounts, secrets=config.secrets)
        tier = DefineTier(name="new", level=0, caps=CAPS, max_output_tokens=2048)
        store.perform(made.operator, tier)
        store.close()
        load = Load(config.listen, made.keys[0])
        clients = []
        for kill in range(kills + 1):
            process = await start(path, config.listen)
            if not clients:
                clients = [asyncio.ensure_future(load.run()) for _ in range(CLIENTS)]
            goal = len(load.served) + rng.randint(20, 60)
            while len(load.served) < goal:
                assert process.returncode is None, "the gateway ended by itself"
                await asyncio.sleep(0.001 * rng.randint(1, 5))
            if kill < kills:
                os.kill(process.pid, signal.SIGKILL)
            else:
                for client in clients:
                    client.cancel()
                await asyncio.gather(*clients, return_exceptions=True)
                process.terminate()
            await process.wait()
        count = len(upstream.asked)
        await upstream.stop()
        return load, count, config

    load, reached, config = asyncio.run(scenario())
    paths = sorted((config.state / "exchanges/journal").glob("*.journal"))
    rows = [record for path in paths for record in iterate_journal(path)]
    kept = {row["id"]: row for row in rows}
    lost = sum(
        kept.get(request_id.removeprefix("req_"), {}).get("status") != 200
        for request_id in load.served
    )
    limiter = Memory(folder=config.state / "process-0" / "limits")
    states = [c.state for c in limiter.dump() if c.limit.kind == "balance"]
    limiter.close_now()
    return Books(
        lost=lost,
        free=max(0, reached - len(kept)),
        twice=len(rows) - len(kept),
        crashed=sum(row.get("refusal") == "crashed" for row in rows),
        over_nano=states[0][0] - sum(row["price_nano"] for row in rows),
        largest_nano=max(row["price_nano"] for row in rows),
    )
