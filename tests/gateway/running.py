"""A whole gateway on loopback in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.gateway.scripted import Asked, Script, Upstream, completion

from stillhouse.accounts import Furnished, Store, furnish, open_store
from stillhouse.exchanges import iterate_journal
from stillhouse.gateway.config import Config, build_config
from stillhouse.gateway.log import Log
from stillhouse.gateway.service import Service
from stillhouse.gateway.serving import bind, serve


@dataclass
class Running:
    url: str
    key: str
    furnished: Furnished
    service: Service
    upstream: Upstream
    log: io.StringIO
    folder: Path
    clients: list[Any] = field(default_factory=list)  # closed at the end

    @property
    def store(self) -> Store:
        return self.service.store

    def exchanges(self) -> list[dict[str, Any]]:
        """What was recorded so far."""
        self.service.recorder.work(budget_us=None)
        paths = sorted((self.folder / "state/exchanges/journal").glob("*.journal"))
        return [record for path in paths for record in iterate_journal(path)]

    async def settled(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait until `count` exchanges are there, then return all."""
        while len(found := self.exchanges()) < count:
            await asyncio.sleep(0.005)
        return found


def configuration(folder: Path, upstream_url: str, **changes: Any) -> Config:
    model = {
        "name": "small",
        "upstream_name": "upstream-model",
        "surfaces": ["chat", "completions", "responses", "embeddings", "messages"],
        "upstreams": [{"url": upstream_url}],
        "price_in_nano": 10,
        "price_out_nano": 30,
        **changes.pop("model", {}),
    }
    return build_config({"models": [model], **changes}, folder=folder)


def prepare(folder: Path, config: Config, accounts: int = 1) -> Furnished:
    store = open_store(config.accounts, secrets=config.secrets)
    try:
        return furnish(store, accounts=accounts)
    finally:
        store.close()


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    answer: Callable[[Asked], Script] = lambda _: Script(body=completion()),
    *,
    accounts: int = 1,
    furnished: Furnished | None = None,
    **changes: Any,
) -> AsyncIterator[Running]:
    """`furnished`: of a gateway that runs on the same store already."""
    upstream = Upstream(answer)
    await upstream.start()
    try:
        config = configuration(folder, upstream.url, **changes)
        furnished = furnished or prepare(folder, config, accounts)
        log = io.StringIO()
        service = await Service.open(config, log=Log(log))
        listener = bind("127.0.0.1:0")
        stop, ready = asyncio.Event(), asyncio.Event()
        serving = asyncio.ensure_future(
            serve(service, listener, ready=ready.set, signals=False, stop=stop)
        )
        try:
            await asyncio.wait(
                {serving, asyncio.ensure_future(ready.wait())},
                return_when=asyncio.FIRST_COMPLETED,
            )
            if serving.done():
                serving.result()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            gateway = Running(url, furnished.keys[0], furnished, service, upstream, log, folder)
            try:
                yield gateway
            finally:
                for client in gateway.clients:
                    await client.close()
        finally:
            stop.set()
            await serving
    finally:
        await upstream.stop()
