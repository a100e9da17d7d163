"""Holes that were found in other gateways, each tried on ours (docs/holes.md lists them all)."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import sys
import threading
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from tests.gateway.asking import USER, ask
from tests.gateway.running import Running, running
from tests.gateway.scripted import Script, chunks, completion

import stillhouse
from stillhouse.accounts.acts import DefineTier
from stillhouse.exchanges import InputError, SkeletonHash
from stillhouse.gateway.config import build_config
from stillhouse.gateway.recorder import LARGE_CHARS
from stillhouse.gateway.surfaces import ReplyRebuilder, parse_request

SOURCES = Path(stillhouse.__file__).parent


def asking(gateway: Running, text: str = "Hi", **more: Any) -> dict[str, Any]:
    key = more.pop("key", gateway.key)
    return {
        "url": f"{gateway.url}/v1/chat/completions",
        "json": {"model": "small", "messages": [{"role": "user", "content": text}], **more},
        "headers": {"authorization": f"Bearer {key}"},
    }


async def statuses(gateway: Running, *requests: dict[str, Any]) -> list[int]:
    """Ask all at once."""

    async def one(request: dict[str, Any]) -> int:
        async with session.post(**request) as reply:
            await reply.read()
            return reply.status

    async with aiohttp.ClientSession() as session:
        return list(await asyncio.gather(*map(one, requests)))


async def widen(gateway: Running) -> None:
    """Let the tier of the accounts be no reason to refuse."""
    cap = {"scope": "key", "measure": "requests", "amount": 10**6, "window_us": 10**6}
    tier = DefineTier(name="new", level=0, caps=[cap], max_output_tokens=4096)  # type: ignore[list-item]
    await asyncio.to_thread(gateway.store.perform, gateway.furnished.operator, tier)
    app = gateway.service.app
    facts = app.snapshot.authenticate(gateway.key, gateway.store.clock())
    async with asyncio.timeout(60):
        while len(app.snapshot.tier(facts).caps) > 1:  # type: ignore[arg-type]
            await asyncio.sleep(0.01)


def test_a_refused_key_is_not_told_in_any_part(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway, aiohttp.ClientSession() as session:
            secret = gateway.key.split("_")[2]
            for wrong in (gateway.key[:-1] + "~", gateway.key[:-6] + "000000", f"sk-{secret}"):
                async with session.post(**asking(gateway, key=wrong)) as reply:
                    told = f"{await reply.text()} {reply.headers}"
                    assert reply.status == 401
                said = told + gateway.log.getvalue()
                for part in (secret[:8], secret[8:16], wrong[-8:]):
                    assert part not in said
                for name in ("sha256", "sha1", "md5"):
                    assert hashlib.new(name, wrong.encode()).hexdigest() not in said

    asyncio.run(scenario())


def test_a_key_in_a_url_is_no_key_and_is_not_logged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway, aiohttp.ClientSession() as session:
            key, secret = gateway.key, gateway.key.split("_")[2]
            for path in (f"/v1/models?key={key}", f"/v1/models?api_key={key}", f"/key/info/{key}"):
                async with session.get(gateway.url + path) as reply:
                    told = await reply.text()
                    assert reply.status in (401, 404)
                    assert secret not in told
            async with session.post(**{**asking(gateway), "headers": {}}, params={"key": key}) as r:
                assert r.status == 401
            assert secret not in gateway.log.getvalue()

    asyncio.run(scenario())


def test_what_an_upstream_redirects_to_is_neither_asked_nor_told(tmp_path: Path) -> None:
    inner: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner.append((await reader.readline()).decode())
        writer.close()

    async def scenario() -> None:
        other = await asyncio.start_server(listen, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        place = f"http://127.0.0.1:{port}/latest/meta-data"
        answer = Script(status=302, body=b"{}", headers=(f"location: {place}",))
        async with (
            running(tmp_path, lambda _: answer) as gateway,
            aiohttp.ClientSession() as session,
            session.post(**asking(gateway), allow_redirects=False) as reply,
        ):
            assert reply.status in (502, 503)
            assert place not in f"{await reply.text()} {reply.headers}"
        other.close()
        assert inner == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.0.0.1", "100.64.0.1", "169.254.169.254", "2130706433", "0x7f.0.0.1",
        "[::1]", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "fec0::1", "localhost",
        "images.example.org:8080", "images.example.org/x", "user@images.example.org", "",
    ],
)  # fmt: skip
def test_no_address_can_be_a_host_of_images(host: str) -> None:
    models = [{"name": "m", "upstreams": [{"url": "http://127.0.0.1:1/v1"}]}]
    good = {"models": models, "offer": {"image_hosts": ["images.example.org"]}}
    assert build_config(good).offer.image_hosts == ("images.example.org",)
    with pytest.raises(InputError, match="image_hosts"):
        build_config({"models": models, "offer": {"image_hosts": [host]}})


FORBIDDEN = {"eval", "exec", "compile", "__import__", "import_module", "system", "popen", "Popen"}
LOADERS = {("pickle", None), ("marshal", None), ("shelve", None), ("subprocess", None),
           ("ctypes", None), ("runpy", None), ("jinja2", None)}  # fmt: skip


def code_that_runs_code(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in FORBIDDEN:
                found.append(called.id)
            if isinstance(called, ast.Attribute) and called.attr in FORBIDDEN:
                owner = called.value.id if isinstance(called.value, ast.Name) else ""
                if (owner, called.attr) != ("re", "compile"):
                    found.append(f"{owner}.{called.attr}")
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        found += [name for name in names if (name.split(".")[0], None) in LOADERS]
    return found


def test_no_code_of_anybodys_runs_in_the_process() -> None:
    assert code_that_runs_code("import pickle\neval('1')\nre.compile('a')") == ["pickle", "eval"]
    checked = 0
    for room in ("gateway", "accounts", "limits", "exchanges"):
        for path in (SOURCES / room).rglob("*.py"):
            assert code_that_runs_code(path.read_text(encoding="utf-8")) == [], path
            checked += 1
    assert checked > 80


def test_eight_first_requests_of_a_new_end_user_do_not_pass_its_limit_together(
    tmp_path: Path,
) -> None:
    limit = {"scope": "end_user", "measure": "requests", "amount": 4, "burst": 3, "window_s": 3600}

    async def scenario() -> None:
        async with running(tmp_path, more_limits=[limit]) as gateway:
            await widen(gateway)
            for user in ("ann", "ben"):
                told = await statuses(gateway, *[asking(gateway, user=user)] * 8)
                assert Counter(told) == {200: 3, 429: 5}

    asyncio.run(scenario())


def test_nobody_is_refused_for_money_where_no_budget_is_set(tmp_path: Path) -> None:
    dear = {"price_in_nano": 10**9, "price_out_nano": 10**9}

    async def scenario() -> None:
        async with running(tmp_path, model=dear) as gateway:
            assert await statuses(gateway, asking(gateway), asking(gateway)) == [200, 200]

    asyncio.run(scenario())


def test_usage_of_zero_is_believed_and_not_replaced_by_a_guess(tmp_path: Path) -> None:
    empty = Script(body=completion("", tokens_in=0, tokens_out=0))
    ended = Script(chunks=chunks([], usage=(0, 0)))

    async def scenario() -> None:
        answer = lambda asked: ended if asked.body.get("stream") else empty  # noqa: E731
        async with running(tmp_path, answer) as gateway:
            await statuses(gateway, asking(gateway), asking(gateway, stream=True))
            for row in await gateway.settled(2):
                assert (row["tokens_in"], row["tokens_out"], row["price_nano"]) == (0, 0, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 9},
        {"prompt_tokens": 9, "completion_tokens": None},
        {"prompt_tokens": 9, "completion_tokens": 50.0},
        None,
    ],
    ids=["half", "null", "a float", "none"],
)
@pytest.mark.parametrize(("bound", "paid"), [(100, 100), (1000, 250)])
def test_without_the_outputs_usage_it_is_counted_and_never_beyond_its_bound(
    tmp_path: Path, usage: dict[str, Any] | None, bound: int, paid: int
) -> None:
    body = orjson.loads(completion("word " * 50))
    body["usage"] = usage
    script = Script(body=orjson.dumps(body))

    async def scenario() -> None:
        async with running(tmp_path, lambda _: script) as gateway:
            assert await statuses(gateway, asking(gateway, max_tokens=bound)) == [200]
            row = (await gateway.settled())[0]
            assert row["tokens_out"] == paid  # by bytes
            assert (row["tokens_in"] == 9) == (usage is not None)

    asyncio.run(scenario())


def test_a_stream_that_was_left_holds_its_place_until_it_is_paid(tmp_path: Path) -> None:
    """Else whoever opens streams and leaves them would have any number read to their end."""
    limit = {"scope": "account", "measure": "concurrency", "amount": 1, "window_s": 60.0}

    async def scenario() -> None:
        release = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """A server that does not notice that its client has gone."""
            await reader.readuntil(b"\r\n\r\n")
            events = chunks(["a "] * 5)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
            writer.write(b"connection: close\r\n\r\n" + b"".join(events[:3]))
            await release.wait()
            writer.write(b"".join(events[3:]))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with (
            running(tmp_path, model={"upstreams": [{"url": url}]}, more_limits=[limit]) as gateway,
            aiohttp.ClientSession() as session,
        ):
            reply = await session.post(**asking(gateway, stream=True))
            await reply.content.readuntil(b"\n\n")
            reply.close()
            async with asyncio.timeout(60):
                while not gateway.service._pumps():
                    await asyncio.sleep(0.005)
            assert await statuses(gateway, asking(gateway)) == [429]
            release.set()
            (row,) = await gateway.settled()
            assert row["status"] == 499
            assert await statuses(gateway, asking(gateway, stream=True)) == [200]
        server.close()

    asyncio.run(scenario())


def test_a_long_prompt_is_sketched_while_others_are_served(tmp_path: Path) -> None:
    """The event loop sketches short ones, together never more text than one long prompt."""
    seen: list[tuple[bool, int]] = []

    class Watched(SkeletonHash):
        def signatures(self, skeleton_texts: Any) -> list[bytes]:
            on_loop = threading.current_thread() is threading.main_thread()
            seen.append((on_loop, sum(map(len, skeleton_texts))))
            return super().signatures(skeleton_texts)

    async def scenario() -> list[dict[str, Any]]:
        async with running(tmp_path, model={"context_tokens": 10**6}) as gateway:
            await widen(gateway)
            recorder = gateway.service.recorder
            recorder._skeletons = Watched(gateway.service.store.digests)
            long, half = "lorem ipsum " * (LARGE_CHARS // 10), "dolor sit " * (LARGE_CHARS // 18)
            texts = ["short", long, "short", half, half, half]
            await statuses(gateway, *[asking(gateway, text) for text in texts])
            async with asyncio.timeout(30):
                while len(recorder):
                    await asyncio.sleep(0.01)
            return gateway.exchanges()

    rows = asyncio.run(scenario())
    assert len(rows) == 6
    assert all(len(row["skeleton"]) == 128 for row in rows)
    assert len({row["skeleton"] for row in rows}) == 3
    assert sum(not on_loop for on_loop, _ in seen) == 1
    assert max(size for on_loop, size in seen if on_loop) <= LARGE_CHARS
    assert max(size for on_loop, size in seen if not on_loop) > LARGE_CHARS


def test_a_long_prompt_is_counted_while_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, bool] = {}

    class Tokenizer:
        def encode(self, text: str, *, add_special_tokens: bool) -> Any:
            seen[len(text)] = threading.current_thread() is threading.main_thread()
            return type("Encoding", (), {"ids": text.split()})

    monkeypatch.setattr("stillhouse.gateway.tokens._load", lambda _: Tokenizer())

    async def scenario() -> None:
        async with running(tmp_path, model={"tokenizer": "tokenizer.json"}) as gateway:
            texts = ["a b c", "word " * 8_000]
            assert await statuses(gateway, *[asking(gateway, text) for text in texts]) == [200, 200]

    asyncio.run(scenario())
    assert seen[5] is True
    assert seen[40_000] is False


def test_a_large_body_is_read_while_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[bool, bool] = {}

    def parse(surface: Any, body: bytes, *rest: Any) -> Any:
        seen[len(body) > 200_000] = threading.current_thread() is threading.main_thread()
        return parse_request(surface, body, *rest)

    slept: list[float] = []
    monkeypatch.setattr("stillhouse.gateway.app.parse_request", parse)
    monkeypatch.setattr("stillhouse.gateway.app.time.sleep", slept.append)

    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            deep: list[Any] = []
            for _ in range(70):
                deep = [deep]
            requests = [asking(gateway), asking(gateway, "x" * 200_000, metadata=deep)]
            assert await statuses(gateway, *requests) == [200, 400]

    asyncio.run(scenario())
    assert seen == {False: True, True: False}
    assert slept  # as long as it worked: others have their turn


def test_many_long_prompts_keep_the_feed_of_bans_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()

    def count(*_: Any) -> int:
        free.wait(60)
        return 1

    monkeypatch.setattr("stillhouse.gateway.tokens._load", lambda _: object())
    monkeypatch.setattr("stillhouse.gateway.tokens.TokenBound.count", count)

    async def scenario() -> None:
        async with running(tmp_path, model={"tokenizer": "tokenizer.json"}) as gateway:
            long = [asking(gateway, "word " * 8_000)] * 40  # more than there are common threads
            waiting = asyncio.ensure_future(statuses(gateway, *long))
            app = gateway.service.app
            while len(app.turns) < len(long):
                await asyncio.sleep(0.01)
            try:
                # Two polls that began after all the threads were taken.
                for _ in range(2):
                    before = app.snapshot.confirmed_at_us
                    async with asyncio.timeout(10):
                        while app.snapshot.confirmed_at_us == before:
                            await asyncio.sleep(0.01)
            finally:
                free.set()
            assert set(await waiting) <= {200, 429}

    asyncio.run(scenario())


@pytest.mark.parametrize("opening", ["", "<think>"], ids=["answer", "reasoning"])
@pytest.mark.parametrize("piece", ["some words < of text ", '{"a": "<thi'], ids=["text", "tags"])
def test_the_last_chunk_of_a_long_stream_is_no_more_work_than_an_early_one(
    opening: str, piece: str
) -> None:
    asked = ask("chat", model="thinks", stream=True, messages=[USER])
    rebuild = ReplyRebuilder(asked, reply_id="r1", created_s=1)
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    events = chunks([opening + "go on. ", *[piece * 25] * 1_000])[:-3]
    work, memory = [], []
    tracemalloc.start()
    try:
        for event in events:
            calls = 0
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            sys.setprofile(count)
            rebuild.feed(event)
            sys.setprofile(None)
            work.append(calls)
            memory.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        sys.setprofile(None)
        tracemalloc.stop()
    assert len(events) * len(piece) * 25 > 250_000
    assert max(work[-500:]) <= max(work[10:500]) + 5
    # Lists grow by reallocation; one more copy of all the text would be a quarter of a megabyte.
    assert max(memory[-500:]) < 100_000
