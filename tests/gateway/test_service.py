"""The process around the application: the command line, reloads, admin and metrics ports, ends."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
import weakref
from pathlib import Path

import aiohttp
import pytest
import sqlalchemy.exc
import yaml
from tests.gateway.running import configuration, prepare, running
from tests.gateway.scripted import Script, completion
from tests.ports import free_port

from stillhouse.accounts import Store
from stillhouse.exchanges import InUseError
from stillhouse.gateway.config import read_config
from stillhouse.gateway.service import Service
from stillhouse.gateway.turn import Turn

PROGRAM = "from stillhouse.cli import main; main()"


def test_the_demonstration_prints_a_curl_line_that_works() -> None:
    async def scenario() -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, "gateway", "--demo"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert line.startswith("curl -sS http://127.0.0.1:")
        curl = await asyncio.create_subprocess_shell(line, stdout=asyncio.subprocess.PIPE)
        told, _ = await curl.communicate()
        assert b"You said: Hello" in told
        url, key = line.split()[2].removesuffix("/chat/completions"), line.split("'")[1][22:]
        for path, body in (
            ("responses", {"input": "Bonjour"}),
            ("messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "Bonjour"}]}),
        ):
            async with (
                aiohttp.ClientSession(headers={"x-api-key": key}) as session,
                session.post(f"{url}/{path}", json={"model": "echo", **body}) as reply,
            ):
                assert reply.status == 200
                assert b"You said: Bonjour" in await reply.read()
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
        assert process.returncode == 0, log
        assert key.encode() not in log

    asyncio.run(scenario())


def test_a_reload_takes_a_good_file_and_refuses_a_bad_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "gateway.yaml"
        good = {
            "models": [{"name": "one", "upstreams": [{"url": "http://127.0.0.1:9/v1"}]}],
        }
        path.write_text(yaml.safe_dump(good))
        config = read_config(path)
        prepare(tmp_path, config)
        over = {"listen": "127.0.0.1:8082"}  # as the command line says: a reload keeps to it
        service = await Service.open(read_config(path, over), path=path, over=over)
        try:
            path.write_text(yaml.safe_dump({**good, "bounds": {"depth": 7}}))
            assert service.reload()
            assert service.app.offering.bounds.depth == 7
            (tmp_path / "origins.csv").write_text("network,country,asn\n203.0.113.0/24,FR,\n")
            changes = ({"state": "elsewhere"}, {"origins": "origins.csv"})
            for bad in ("models: [", *(yaml.safe_dump({**good, **one}) for one in changes)):
                path.write_text(bad)
                assert not service.reload()
                assert service.app.offering.bounds.depth == 7
        finally:
            await service.close()

    asyncio.run(scenario())


def test_what_a_reload_replaced_stays_while_somebody_is_on_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "gateway.yaml"
        models = [{"name": "one", "upstreams": [{"url": "http://127.0.0.1:9/v1"}]}]
        path.write_text(yaml.safe_dump({"models": models}))
        config = read_config(path)
        prepare(tmp_path, config)
        service = await Service.open(config, path=path)
        try:
            turn = Turn(b"x" * 16, 0, time.monotonic(), "openai")
            service.app.turns.add(turn)
            before = weakref.ref(service.app.offering)
            assert service.reload()
            await asyncio.sleep(0.2)
            gc.collect()
            assert before() is not None
            service.app.turns.discard(turn)
            async with asyncio.timeout(60):
                while before() is not None:
                    await asyncio.sleep(0.01)
                    gc.collect()
        finally:
            await service.close()

    asyncio.run(scenario())


def test_a_second_process_on_the_same_state_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = configuration(tmp_path, "http://127.0.0.1:9/v1")
        prepare(tmp_path, config)
        service = await Service.open(config)
        try:
            with pytest.raises(InUseError):
                await Service.open(config)
        finally:
            await service.close()

    asyncio.run(scenario())


def test_a_database_that_is_away_at_the_end_keeps_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise sqlalchemy.exc.OperationalError("", {}, Exception("gone"))

    async def scenario() -> None:
        config = configuration(tmp_path, "http://127.0.0.1:9/v1")
        prepare(tmp_path, config)
        service = await Service.open(config)
        with monkeypatch.context() as patched:
            patched.setattr(Store, "record_sightings", away)
            await service.close()
        again = await Service.open(config)
        await again.close()

    asyncio.run(scenario())


def test_admin_and_metrics_have_ports_of_their_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        admin, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
        ports = {"admin": {"listen": admin}, "metrics": {"listen": metrics}}
        async with (
            running(tmp_path, lambda _: Script(body=completion()), **ports) as gateway,
            aiohttp.ClientSession() as session,
        ):
            body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}
            headers = {"authorization": f"Bearer {gateway.key}"}
            url = f"{gateway.url}/v1/chat/completions"
            async with session.post(url, json=body, headers=headers) as reply:
                assert reply.status == 200
            async with session.get(f"http://{metrics}/metrics") as reply:
                text = await reply.text()
                assert 'stillhouse_served_total{model="small"} 1.0' in text
                assert gateway.furnished.accounts[0] not in text
            async with session.get(f"http://{admin}/healthz") as reply:
                assert reply.status == 200
            async with session.get(f"{gateway.url}/metrics") as reply:
                assert reply.status == 404

    asyncio.run(scenario())
