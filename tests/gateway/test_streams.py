"""Streams: what is produced is paid, what is banned is cut, what is slow is shed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from tests.gateway.running import Running, running
from tests.gateway.scripted import Script, chunks

from stillhouse.accounts.acts import Suspend

WORDS = [f"w{i} " for i in range(12)]


def asking(gateway: Running, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Count"}]
    return {
        "url": f"{gateway.url}/v1/chat/completions",
        "json": {"model": "small", "stream": True, "messages": messages, **more},
        "headers": {"authorization": f"Bearer {gateway.key}"},
    }


def paced(seconds: float = 0.002, **options: Any) -> Any:
    return lambda _: Script(chunks=chunks(WORDS), gate=lambda _: asyncio.sleep(seconds), **options)


@pytest.mark.parametrize("index", range(len(WORDS) + 4))
def test_an_aborted_stream_pays_what_was_produced(tmp_path: Path, index: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path, paced()) as gateway, aiohttp.ClientSession() as session:
            async with session.post(**asking(gateway)) as reply:
                for _ in range(index):
                    if not await reply.content.readuntil(b"\n\n"):
                        break
                reply.close()
            row = (await gateway.settled())[0]
            produced = gateway.upstream.asked[0].produced
            assert row["status"] in (200, 499)
            if row["status"] == 499:
                # Without a tokenizer bytes bound what came: at least one for each token.
                assert produced <= row["tokens_out"] <= sum(map(len, WORDS))
                assert gateway.upstream.asked[0].closed or produced == len(WORDS)
            assert gateway.service.limiter.open_count == 0

    asyncio.run(scenario())


def test_the_mutant_that_bills_only_reported_usage_is_caught(tmp_path: Path) -> None:
    from stillhouse.gateway.tokens import TokenBound, Used

    def mutant(self: TokenBound, rebuilder: Any, *, whole: bool) -> Used:
        usage = rebuilder.usage
        return Used(0, 0) if usage is None else Used(usage.tokens_in, usage.tokens_out)

    async def scenario() -> None:
        async with running(tmp_path, paced()) as gateway, aiohttp.ClientSession() as session:
            async with session.post(**asking(gateway)) as reply:
                for _ in range(5):
                    await reply.content.readuntil(b"\n\n")
                reply.close()
            row = (await gateway.settled())[0]
            assert row["tokens_out"] < gateway.upstream.asked[0].produced

    right = TokenBound.used
    TokenBound.used = mutant  # type: ignore[method-assign]
    try:
        asyncio.run(scenario())
    finally:
        TokenBound.used = right  # type: ignore[method-assign]


def test_a_ban_cuts_open_streams_within_a_second(tmp_path: Path) -> None:
    async def scenario() -> None:
        forever = Script(chunks=chunks(["tick "] * 100_000), gate=lambda _: asyncio.sleep(0.01))
        async with (
            running(tmp_path, lambda _: forever) as gateway,
            aiohttp.ClientSession() as session,
            session.post(**asking(gateway)) as reply,
        ):
            await reply.content.readuntil(b"\n\n")
            act = Suspend(
                scope="account",
                subject=gateway.furnished.accounts[0],
                hours=1,
                reason="a test",
            )
            await asyncio.to_thread(gateway.store.perform, gateway.furnished.operator, act)
            began = time.monotonic()
            rest = await reply.content.read()
            assert time.monotonic() - began <= 1.0
            assert b'"code":"suspended"' in rest.split(b"\n\n")[-2]
            async with session.post(**asking(gateway)) as refused:
                assert refused.status == 403
            row = (await gateway.settled())[0]
            assert row["refusal"] == "suspended"
            assert row["tokens_out"] >= gateway.upstream.asked[0].produced

    asyncio.run(scenario())


def test_a_stale_feed_admits_nothing_and_cuts_streams(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(tmp_path, paced(0.2)) as gateway,
            aiohttp.ClientSession() as session,
            session.post(**asking(gateway)) as reply,
        ):
            await reply.content.readuntil(b"\n\n")
            gateway.service._tasks[0].cancel()  # the feed
            rest = await reply.content.read()
            assert b'"code":"unavailable"' in rest
            async with session.post(**asking(gateway)) as refused:
                assert refused.status == 503
            assert "stale_feed" in gateway.log.getvalue()

    asyncio.run(scenario())


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
def test_a_stream_is_cut_at_its_reservation(tmp_path: Path, end: bytes, together: bool) -> None:
    async def scenario() -> None:
        # The upstream ignores max_tokens.
        events = [one.replace(b"\n", end) for one in chunks(["x "] * 500, usage=None)]
        script = Script(chunks=[b"".join(events)] if together else events)
        async with (
            running(tmp_path, lambda _: script) as gateway,
            aiohttp.ClientSession() as session,
            session.post(**asking(gateway, max_tokens=20)) as reply,
        ):
            text = await reply.content.read()
            assert text.count(b'"content":"x "') <= 21
            assert b'"finish_reason":"length"' in text
            assert text.endswith(b"data: [DONE]\n\n")
            row = (await gateway.settled())[0]
            assert row["tokens_out"] == 20

    asyncio.run(scenario())


def test_a_report_that_more_follows_is_not_the_bill_of_all(tmp_path: Path) -> None:
    events = chunks(["w"] * 50, usage=None)
    first = orjson.loads(events[1][6:])
    first["usage"] = {"prompt_tokens": 9, "completion_tokens": 1}
    events[1] = b"data: " + orjson.dumps(first) + b"\n\n"
    # Half a report at the end takes nothing back of it, and is none of the rest.
    last = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":null}}\n\n'
    events.insert(-1, last)

    async def scenario() -> None:
        async with (
            running(tmp_path, lambda _: Script(chunks=events)) as gateway,
            aiohttp.ClientSession() as session,
            session.post(**asking(gateway)) as reply,
        ):
            assert (await reply.content.read()).endswith(b"data: [DONE]\n\n")
            row = (await gateway.settled())[0]
            assert (row["tokens_in"], row["tokens_out"]) == (9, 50)

    asyncio.run(scenario())


def test_an_anthropic_stream_that_just_fills_its_bound_is_served_whole(tmp_path: Path) -> None:
    """The empty text with which a block starts is no token."""

    def event(kind: str, **more: Any) -> bytes:
        data = orjson.dumps({"type": kind, **more})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

    usage = {"input_tokens": 9, "output_tokens": 1}
    events = [
        event("message_start", message={"role": "assistant", "content": [], "usage": usage}),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
            for word in ("one", " two", " three", " four")
        ),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}),
        event("message_stop"),
    ]
    model = {"dialect": "anthropic", "surfaces": ["messages"]}

    async def scenario() -> None:
        async with (
            running(tmp_path, lambda _: Script(chunks=events), model=model) as gateway,
            aiohttp.ClientSession() as session,
        ):
            request = asking(gateway, max_tokens=4)
            request["url"] = f"{gateway.url}/v1/messages"
            async with session.post(**request) as reply:
                assert b"end_turn" in await reply.content.read()
            row = (await gateway.settled())[0]
            assert (row["tokens_in"], row["tokens_out"]) == (9, 4)
            assert row["finish_reason"] == "stop"

    asyncio.run(scenario())


def test_an_upstream_that_breaks_off_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(tmp_path, paced(close_after=6)) as gateway,
            aiohttp.ClientSession() as session,
            session.post(**asking(gateway)) as reply,
        ):
            text = await reply.content.read()
            assert b'"error"' in text
            assert b"[DONE]" not in text
            row = (await gateway.settled())[0]
            assert row["refusal"] == "upstream_failed"
            assert row["tokens_out"] >= 5
            assert row["price_nano"] == 0

    asyncio.run(scenario())


def test_a_client_that_reads_nothing_is_shed(tmp_path: Path) -> None:
    async def scenario() -> None:
        big = Script(chunks=chunks(["y" * 4000] * 2000))
        times = {"slow_client_s": 0.3, "abandoned_s": 0.2}
        model = {"max_output_tokens": 4000, "default_output_tokens": 4000}
        async with running(tmp_path, lambda _: big, timeouts=times, model=model) as gateway:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(gateway.url.rpartition(":")[2]), limit=1024
            )
            body = b'{"model":"small","stream":true,"messages":[{"role":"user","content":"x"}]}'
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
                b"authorization: Bearer %b\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (gateway.key.encode(), len(body), body)
            )
            row = (await gateway.settled())[0]
            assert row["refusal"] == "slow_request"
            writer.transport.abort()
            del reader

    asyncio.run(scenario())


def test_a_journal_that_fails_refuses_new_requests_and_lets_open_streams_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with (
            running(tmp_path, paced(0.02)) as gateway,
            aiohttp.ClientSession() as session,
            session.post(**asking(gateway)) as reply,
        ):
            await reply.content.readuntil(b"\n\n")
            journal = gateway.service.ledger._journal
            append = journal.append_encoded

            def full(_: Any) -> int:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(journal, "append_encoded", full)
            gateway.service.ledger.failing = True
            async with session.post(**asking(gateway)) as refused:
                assert refused.status == 503
            assert (await reply.content.read()).endswith(b"data: [DONE]\n\n")
            monkeypatch.setattr(journal, "append_encoded", append)
            while gateway.service.ledger.failing:
                await asyncio.sleep(0.01)
            async with session.post(**asking(gateway)) as again:
                assert again.status == 200
                await again.content.read()
            assert len(await gateway.settled(2)) == 2
            text = journal.path.read_text()
            assert text.count('"outcome"') == 2

    asyncio.run(scenario())


def test_slow_headers_and_bodies_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, timeouts={"body_s": 0.2}) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            key = gateway.key.encode()
            starts = [
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n",
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
                b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{" % key,
            ]
            answers = []
            for start in starts:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(start)
                answers.append(await reader.read())
                writer.close()
                await writer.wait_closed()
            assert answers[0] == b""
            assert answers[1].startswith(b"HTTP/1.1 408 ")

    asyncio.run(scenario())
