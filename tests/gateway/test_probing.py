"""`stillhouse probe`: the bypass suite against a running gateway of any make, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
import yaml
from click.testing import CliRunner
from tests.gateway.running import running
from tests.ports import free_port

from stillhouse.accounts.acts.settings import DefineTier
from stillhouse.cli.probe import probe
from stillhouse.exchanges import InputError
from stillhouse.gateway.config import build_config
from stillhouse.gateway.probes import Tried, probe_configuration, try_gateway
from stillhouse.gateway.serving import bind, server

WIDE = [
    {
        "scope": "account",
        "measure": "requests",
        "amount": 10**6,
        "window_us": 60_000_000,
        "burst": 10**5,
    }
]


def run(work: Coroutine[Any, Any, Tried]) -> Tried:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def test_our_own_gateway_lets_nothing_through(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    models = probe_configuration(f"http://{listen}/v1")["models"]

    async def scenario() -> Tried:
        async with running(tmp_path, models=models) as gateway:
            tier = DefineTier(name="new", level=0, caps=WIDE, max_output_tokens=10**6)
            await asyncio.to_thread(gateway.store.perform, gateway.furnished.operator, tier)
            await asyncio.sleep(0.5)  # until the gateway has read of it
            return await try_gateway(f"{gateway.url}/v1", gateway.key, listen=listen, every=5)

    tried = run(scenario())
    assert tried.leaked == ()
    assert tried.altered == ()
    assert tried.asked > 100
    assert tried.refused > 20  # what a request may not ask for


@contextlib.asynccontextmanager
async def pass_through(upstream: str) -> AsyncIterator[str]:
    """A gateway that guards nothing."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        async with sessions[0].post(f"http://{upstream}{scope['path']}", data=body) as got:
            data = await got.read()
        headers = [(b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    sessions = [aiohttp.ClientSession()]
    listening = server(app, drain_s=1)
    listener = bind("127.0.0.1:0")
    serving = asyncio.ensure_future(listening.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listening.should_exit = True
        await serving
        await sessions[0].close()


def test_a_gateway_that_guards_nothing_leaks_every_probe() -> None:
    listen = f"127.0.0.1:{free_port()}"

    async def scenario() -> Tried:
        async with pass_through(listen) as url:
            return await try_gateway(url, "key", listen=listen, every=5)

    tried = run(scenario())
    assert tried.refused == 0
    requests = sum(name.startswith("request/") for name in tried.leaked)
    replies = len(tried.leaked) - requests
    assert requests > 30
    assert replies > 60
    # All but the plain request and the honest replies, some of which tags make look like reasoning.
    assert replies + requests >= 0.7 * tried.asked


def test_the_command_prints_models_that_a_gateway_reads(tmp_path: Path) -> None:
    done = CliRunner().invoke(probe, ["--listen", "127.0.0.1:9905"])
    assert done.exit_code == 0
    config = build_config(yaml.safe_load(done.output), folder=tmp_path)
    assert {model.dialect for model in config.models} == {"vllm", "anthropic"}
    assert config.models[0].upstreams[0].url == "http://127.0.0.1:9905/v1"


def test_the_command_needs_a_key_and_a_gateway_that_asks_its_upstream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = CliRunner().invoke(probe, ["http://127.0.0.1:9/v1"])
    assert "STILLHOUSE_PROBE_KEY" in missing.output
    monkeypatch.setenv("STILLHOUSE_PROBE_KEY", "key")
    listen = f"127.0.0.1:{free_port()}"
    dead = CliRunner().invoke(probe, ["http://127.0.0.1:9/v1", "--listen", listen])
    assert isinstance(dead.exception, InputError)
    assert "key" not in str(dead.exception).replace("use a key", "")


def test_the_command_ends_with_7_where_something_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_PROBE_KEY", "key")

    async def found(*_: object, **__: object) -> Tried:
        return Tried(5, 1, ("vllm/chat/choice.token_ids (whole)",), ())

    monkeypatch.setattr("stillhouse.gateway.probes.try_gateway", found)
    done = CliRunner().invoke(probe, ["http://127.0.0.1:9/v1"])
    assert done.exit_code == 7
    assert "leaked   vllm/chat/choice.token_ids (whole)" in done.output
