"""The recipes under recipes/gateway as they stand, with ports and paths of a test's own."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.gateway.scripted import Asked, Script, chunks, completion

from stillhouse.exchanges import iterate_journal

RECIPES = Path(__file__).parents[2] / "recipes" / "gateway"
CLIENT = "127.0.7.7"  # another address than the proxy's
WORDS = ["one ", "two ", "three ", "four "]
STILLHOUSE = (sys.executable, "-c", "from stillhouse.cli import main; main()")


def laid_out(recipe: str, folder: Path, changes: dict[str, str]) -> Path:
    """Copy a recipe, with `changes` made to its text; each must be there to be changed."""
    target = folder / recipe
    target.mkdir()
    made = set()
    for source in (RECIPES / recipe).iterdir():
        text = source.read_text(encoding="utf-8")
        for before, after in changes.items():
            if before in text:
                made.add(before)
                text = text.replace(before, after)
        (target / source.name).write_text(text, encoding="utf-8")
    assert made == set(changes), f"{recipe} does not hold {set(changes) - made}"
    return target


def certificate(folder: Path) -> None:
    """Write certificate.pem and key.pem for the loopback."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(made.public_bytes(encoding))
    private = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)


@contextmanager
def started(
    command: list[str],
    folder: Path,
    name: str,
    port: int | None = None,
    **environment: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program; end it by its pid. Its output is in `folder`.

    With `port` it has begun to listen there.
    """
    output = folder / f"{name}.output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, stdout=file, stderr=file, env={**os.environ, **environment}
        )
    try:
        if port is not None:
            await_listening(process, port, output)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_listening(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.02)


class Paced:
    """Answers streams an event at a time, each when the test says so."""

    def __init__(self) -> None:
        self.allowed = asyncio.Semaphore(0)

    def answer(self, asked: Asked) -> Script:
        if asked.body.get("stream"):
            return Script(chunks=chunks(WORDS), gate=lambda _: self.allowed.acquire())
        return Script(body=completion())


def session(folder: Path) -> aiohttp.ClientSession:
    """A client at another address that trusts the recipe's certificate."""
    tls = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
    connector = aiohttp.TCPConnector(ssl=tls, local_addr=(CLIENT, 0))
    return aiohttp.ClientSession(connector=connector)


def asking(port: int, key: str, *, stream: bool = False, **headers: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Count"}]
    return {
        "url": f"https://127.0.0.1:{port}/v1/chat/completions",
        "json": {"model": "small", "stream": stream, "messages": messages},
        "headers": {"authorization": f"Bearer {key}", **headers},
    }


async def streamed_unbuffered(client: aiohttp.ClientSession, port: int, key: str, p: Paced) -> None:
    """Each event must have reached the client before the model's server sends the next one."""
    async with client.post(**asking(port, key, stream=True)) as reply:
        assert reply.status == 200
        p.allowed.release()  # the role, which carries no text
        for word in WORDS:
            p.allowed.release()
            async with asyncio.timeout(60):
                while word.encode() not in await reply.content.readuntil(b"\n\n"):
                    pass
        for _ in range(4):
            p.allowed.release()
        async with asyncio.timeout(60):
            assert (await reply.content.read()).endswith(b"data: [DONE]\n\n")
        p.allowed = asyncio.Semaphore(0)


async def recorded(state: Path, count: int) -> list[dict[str, Any]]:
    """Wait until `count` exchanges are recorded, then return them."""
    async with asyncio.timeout(60):
        while True:
            paths = sorted((state / "exchanges" / "journal").glob("*.journal"))
            rows = [record for path in paths for record in iterate_journal(path)]
            if len(rows) >= count:
                return rows
            await asyncio.sleep(0.05)
