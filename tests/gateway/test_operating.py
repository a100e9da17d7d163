"""What an operator relies on: draining, a full disk, small beginnings, no secret anywhere."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy.exc
import yaml
from tests.gateway.running import Running, configuration, prepare, running
from tests.gateway.scripted import Script, Upstream, chunks, completion
from tests.ports import free_port

from stillhouse.accounts import Store, acts
from stillhouse.accounts.views import page, preview
from stillhouse.exchanges import ExchangeLog, InputError
from stillhouse.gateway import recorder as recorder_module
from stillhouse.gateway import service
from stillhouse.gateway.ledger import Ledger

PROGRAM = "from stillhouse.cli import main; main()"


def asking(gateway: Running, **more: Any) -> dict[str, Any]:
    key = more.pop("key", gateway.key)
    messages = [{"role": "user", "content": "Count"}]
    return {
        "url": f"{gateway.url}/v1/chat/completions",
        "json": {"model": "small", "messages": messages, **more},
        "headers": {"authorization": f"Bearer {key}"},
    }


def test_draining_admits_nothing_and_lets_open_streams_finish(tmp_path: Path) -> None:
    async def scenario() -> None:
        go = asyncio.Event()
        script = Script(
            chunks=chunks(["one ", "two "]), gate=lambda i: go.wait() if i > 1 else None
        )
        async with (
            running(tmp_path, lambda _: script) as gateway,
            aiohttp.ClientSession() as session,
            session.post(**asking(gateway, stream=True)) as reply,
        ):
            await reply.content.readuntil(b"\n\n")
            draining = asyncio.ensure_future(gateway.service.drain())
            async with asyncio.timeout(60):
                while not gateway.service.app.draining:
                    await asyncio.sleep(0.005)
            async with session.post(**asking(gateway)) as refused:
                assert refused.status == 503
            async with session.get(f"{gateway.url}/readyz") as ready:
                assert ready.status == 503
            async with session.get(f"{gateway.url}/healthz") as alive:
                assert alive.status == 200
            assert not draining.done()
            go.set()
            assert (await reply.content.read()).endswith(b"data: [DONE]\n\n")
            await draining
            assert (await gateway.settled())[0]["status"] == 200

    asyncio.run(scenario())


def test_what_does_not_end_is_cut_when_the_drain_is_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        endless = Script(chunks=chunks(["a "] * 10_000), gate=lambda _: asyncio.sleep(0.01))
        times = {"drain_s": 0.2, "abandoned_s": 0.2}
        async with (
            running(tmp_path, lambda _: endless, timeouts=times) as gateway,
            aiohttp.ClientSession() as session,
            session.post(**asking(gateway, stream=True)) as reply,
        ):
            await reply.content.readuntil(b"\n\n")
            await gateway.service.drain()
            assert b'"code":"unavailable"' in await reply.content.read()
            assert (await gateway.settled())[0]["refusal"] == "draining"

    asyncio.run(scenario())


def test_a_full_disk_refuses_new_requests_and_lets_open_streams_finish(tmp_path: Path) -> None:
    """No file of this process may grow: what a full disk does, for every journal at once."""

    async def scenario() -> None:
        go = asyncio.Event()

        def answer(asked: Any) -> Script:
            if asked.body.get("stream"):
                words = chunks(["one ", "two "])
                return Script(chunks=words, gate=lambda i: go.wait() if i > 1 else None)
            return Script(body=completion())

        async with (
            running(tmp_path, answer) as gateway,
            aiohttp.ClientSession() as session,
            session.post(**asking(gateway, stream=True)) as reply,
        ):
            await reply.content.readuntil(b"\n\n")
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
            try:
                for _ in range(3):
                    async with session.post(**asking(gateway)) as refused:
                        assert refused.status == 503
                        assert (await refused.json())["error"]["code"] == "unavailable"
                assert len(gateway.upstream.asked) == 1  # none of them reached the model
                async with session.get(f"{gateway.url}/readyz") as ready:
                    assert ready.status == 503
                assert b"stillhouse_journal_failing 1.0" in gateway.service.metrics.render()
                go.set()
                assert (await reply.content.read()).endswith(b"data: [DONE]\n\n")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            async with asyncio.timeout(60):
                while gateway.service.ledger.failing:
                    await asyncio.sleep(0.01)
            async with session.post(**asking(gateway)) as again:
                assert again.status == 200
            rows = await gateway.settled(2)
            assert [row["status"] for row in rows] == [200, 200]
            assert gateway.service.limiter.open_count == 0
            assert "journal_works_again" in gateway.log.getvalue()

    asyncio.run(scenario())


def test_while_the_disk_refuses_to_sync_nothing_new_is_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[object] = []

    def refuse(paths: object) -> None:
        refused.append(paths)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(service, "_fsync", refuse)

    async def scenario() -> None:
        async with running(tmp_path) as gateway, aiohttp.ClientSession() as session:
            async with asyncio.timeout(60):
                while not refused:
                    await asyncio.sleep(0.01)
                while len(refused) < 10:
                    async with session.post(**asking(gateway)) as reply:
                        assert reply.status == 503
                monkeypatch.undo()
                while not gateway.service.app.is_ready():
                    await asyncio.sleep(0.01)
            async with session.post(**asking(gateway)) as reply:
                assert reply.status == 200

    asyncio.run(scenario())


def test_exchanges_that_could_not_be_recorded_are_recorded_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the exchanges is full for a while, that of the ledger is not."""

    def full(*_: object) -> None:
        raise InputError("the disk is full")

    async def scenario() -> None:
        async with running(tmp_path) as gateway, aiohttp.ClientSession() as session:
            ledger, recorder = gateway.service.ledger, gateway.service.recorder
            ledger._rotate = 1
            with monkeypatch.context() as patched:
                patched.setattr(recorder_module, "BACKLOG", 4)
                patched.setattr(ExchangeLog, "append_encoded", full)
                for _ in range(6):
                    async with session.post(**asking(gateway)) as reply:
                        assert reply.status == 200
            before = ledger.path
            async with asyncio.timeout(60):
                while len(recorder) or ledger.path == before:
                    await asyncio.sleep(0.01)
            assert 0 < len(gateway.exchanges()) < 6
        async with running(tmp_path, furnished=gateway.furnished) as again:
            assert len(again.exchanges()) == 6

    asyncio.run(scenario())


def test_a_disk_that_is_full_when_the_ledger_turns_ends_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway, aiohttp.ClientSession() as session:
            ledger, begin = gateway.service.ledger, Ledger._begin
            ledger._rotate = 1
            tried: list[object] = []

            def full(*_: object) -> None:
                tried.append(_)
                raise InputError("the disk is full")

            async with session.post(**asking(gateway)) as reply:
                assert reply.status == 200
            monkeypatch.setattr(Ledger, "_begin", full)
            before = ledger.path
            async with asyncio.timeout(60):
                while not tried:
                    await asyncio.sleep(0.01)
                monkeypatch.setattr(Ledger, "_begin", begin)  # there is room again
                while ledger.path == before:
                    await asyncio.sleep(0.01)
            assert not [task for task in gateway.service._tasks if task.done()]

    asyncio.run(scenario())


def test_who_was_seen_while_the_database_was_away_is_known_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def away(*batch: object) -> None:
        tried.append(batch)
        raise sqlalchemy.exc.OperationalError("", {}, Exception("gone"))

    monkeypatch.setattr(service, "_WRITE_S", 0.1)

    async def scenario() -> None:
        async with running(tmp_path) as gateway, aiohttp.ClientSession() as session:
            with monkeypatch.context() as patched:
                patched.setattr(Store, "record_sightings", away)
                async with session.post(**asking(gateway)) as reply:
                    assert reply.status == 200
                before = len(tried)
                async with asyncio.timeout(60):
                    while len(tried) < before + 2:
                        await asyncio.sleep(0.01)
            async with asyncio.timeout(60):
                while preview(gateway.store, "address", "127.0.0.0/24").affected != 1:
                    await asyncio.sleep(0.01)
                while "last_used_us': None" in str(page(gateway.store, "keys")):
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_new_account_starts_small_and_grows_when_it_is_verified(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway, aiohttp.ClientSession() as session:

            async def ask() -> int:
                async with session.post(**asking(gateway)) as reply:
                    await reply.read()
                    return reply.status

            statuses = [await ask() for _ in range(14)]
            assert statuses[:10] == [200] * 10
            assert statuses[-1] == 429
            change = acts.ChangeTier(
                account=gateway.furnished.accounts[0], tier="verified", reason="papers seen"
            )
            await asyncio.to_thread(gateway.store.perform, gateway.furnished.operator, change)
            async with asyncio.timeout(60):
                while await ask() != 200:
                    await asyncio.sleep(0.02)
            assert [await ask() for _ in range(20)] == [200] * 20

    asyncio.run(scenario())


def test_end_users_are_kept_as_digests_that_no_other_account_shares(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, accounts=2) as gateway, aiohttp.ClientSession() as session:
            first, second = gateway.furnished.keys
            for key, more in (
                (first, {"user": "u1"}),
                (first, {"safety_identifier": "u1"}),
                (first, {"user": "u2"}),
                (second, {"user": "u1"}),
                (first, {}),
            ):
                async with session.post(**asking(gateway, key=key, **more)) as reply:
                    assert reply.status == 200
            rows = await gateway.settled(5)
            digests = [row.get("end_user_digest") for row in rows]
            assert digests[0] == digests[1]
            assert len({*digests[1:]}) == 4
            assert digests[4] is None
            assert all(len(one) == 64 for one in digests[:4])

    asyncio.run(scenario())


def test_nothing_that_a_process_wrote_or_showed_holds_a_secret_or_a_text(tmp_path: Path) -> None:
    upstream_key, secret_url = "UNIQUEUPSTREAMKEY", "UNIQUETEXT"

    def answer(asked: Any) -> Script:
        if "fail" in str(asked.body):
            # A server that quotes what it was sent, its key included.
            quoted = f'{{"error":"{upstream_key} {secret_url}"}}'.encode()
            return Script(status=400, body=quoted)
        if asked.body.get("stream"):
            return Script(chunks=chunks(["UNIQUEREPLY ", "again"]))
        return Script(body=completion("UNIQUEREPLY"))

    async def scenario() -> list[str]:
        upstream = Upstream(answer)
        await upstream.start()
        port, metrics, admin = free_port(), free_port(), free_port()
        value = {
            "listen": f"127.0.0.1:{port}",
            "metrics": {"listen": f"127.0.0.1:{metrics}"},
            "admin": {"listen": f"127.0.0.1:{admin}"},
            "models": [
                {
                    "name": "small",
                    "upstreams": [{"url": upstream.url, "key_env": "UPSTREAM_KEY"}],
                }
            ],
        }
        path = tmp_path / "gateway.yaml"
        path.write_text(yaml.safe_dump(value))
        made = prepare(tmp_path, configuration(tmp_path, upstream.url))
        with (tmp_path / "output").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", PROGRAM, "gateway", str(path)),
                stdout=output,
                stderr=output,
                env={**os.environ, "UPSTREAM_KEY": upstream_key},
            )
        url, shown = f"http://127.0.0.1:{port}", []
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(60):
                while True:
                    try:
                        async with session.get(f"{url}/readyz") as reply:
                            if reply.status == 200:
                                break
                    except OSError:
                        assert process.returncode is None, (tmp_path / "output").read_text()
                    await asyncio.sleep(0.05)

            async def ask(key: str, text: str, **more: Any) -> None:
                body = {
                    "model": "small",
                    "messages": [{"role": "user", "content": text}],
                    "user": "UNIQUEUSER",
                    **more,
                }
                headers = {"authorization": f"Bearer {key}"}
                chat = f"{url}/v1/chat/completions"
                async with session.post(chat, json=body, headers=headers) as reply:
                    data = await reply.text()
                    if reply.status != 200:
                        shown.append(data + str(reply.headers))

            await ask(made.keys[0], "UNIQUETEXT one")
            await ask(made.keys[0], "UNIQUETEXT two", stream=True)
            await ask(made.keys[0], "UNIQUETEXT fail")
            await ask(made.keys[0], "UNIQUETEXT", model="UNIQUEMODEL")
            await ask(made.keys[0], "UNIQUETEXT", tools="UNIQUETOOLS")
            await ask(made.keys[0][:-1] + "x", "UNIQUETEXT")
            await ask("still_UNIQUEKEY", "UNIQUETEXT")
            async with session.get(f"http://127.0.0.1:{metrics}/metrics") as reply:
                shown.append(await reply.text())
            token = {"authorization": f"Bearer {made.token}"}
            for name in ("keys", "accounts", "operators", "audit", "nothing"):
                async with session.get(f"http://127.0.0.1:{admin}/v1/{name}", headers=token) as r:
                    shown.append(await r.text())
            assert upstream.asked[0].headers["authorization"] == f"Bearer {upstream_key}"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        await upstream.stop()
        (tmp_path / "shown").write_text("\n".join(shown))
        body = made.keys[0].split("_")[2]
        return [made.keys[0], body, made.token, upstream_key]

    secrets = asyncio.run(scenario())
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in written} > {"output", "shown", "accounts.sqlite"}
    assert any(path.suffix == ".ledger" for path in written)
    texts = ["UNIQUETEXT", "UNIQUEREPLY", "UNIQUEUSER", "UNIQUEMODEL", "UNIQUETOOLS", "UNIQUEKEY"]
    for path in written:
        data = path.read_bytes()
        for secret in (*secrets, *texts):
            assert secret.encode() not in data, (secret, path)


def test_failures_to_authenticate_are_slowed_down_but_a_right_key_is_served(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway, aiohttp.ClientSession() as session:
            statuses = []
            for number in range(25):
                wrong = f"{gateway.key[:-6]}{number:06d}"
                async with session.post(**asking(gateway, key=wrong)) as reply:
                    statuses.append(reply.status)
                    waited = reply.headers.get("retry-after")
            assert statuses[0] == 401
            assert statuses[-1] == 429
            assert waited is not None
            assert int(waited) >= 1
            async with session.post(**asking(gateway)) as reply:
                assert reply.status == 200
            assert gateway.key[:-6] not in gateway.log.getvalue()

    asyncio.run(scenario())


def test_a_campaign_is_stopped_with_its_open_streams_and_a_block_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        endless = Script(chunks=chunks(["a "] * 10_000), gate=lambda _: asyncio.sleep(0.01))
        async with (
            running(tmp_path, lambda _: endless, accounts=2) as gateway,
            aiohttp.ClientSession() as session,
        ):
            perform, operator = gateway.store.perform, gateway.furnished.operator
            first, second = gateway.furnished.accounts

            async def stopped(code: bytes, act: acts.Act) -> None:
                opened = [
                    await session.post(**asking(gateway, key=key, stream=True))
                    for key in gateway.furnished.keys
                ]
                for reply in opened:
                    await reply.content.readuntil(b"\n\n")
                done = await asyncio.to_thread(perform, operator, act)
                assert done.proposal is None
                async with asyncio.timeout(60):
                    for reply in opened:
                        assert b'"code":"%b"' % code in await reply.content.read()
                undo = acts.Undo(measure=done.subject, reason="a test")
                await asyncio.to_thread(perform, operator, undo)

            campaign = acts.AssignCampaign(
                campaign="c-1", accounts=[first, second], reason="one author"
            )
            await asyncio.to_thread(perform, operator, campaign)
            suspend = acts.Suspend(scope="campaign", subject="c-1", hours=1, reason="a test")
            await stopped(b"suspended", suspend)
            async with asyncio.timeout(60):
                while gateway.service.app.snapshot.bans(
                    gateway.service.app.snapshot.authenticate(gateway.key, gateway.store.clock()),  # type: ignore[arg-type]
                    gateway.store.clock(),
                ):
                    await asyncio.sleep(0.02)
            block = acts.Block(network="127.0.0.1", acknowledged=2, reason="a test", days=1)
            await stopped(b"address_blocked", block)

    asyncio.run(scenario())
