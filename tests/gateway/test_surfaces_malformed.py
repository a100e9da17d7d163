"""Replies that no server should send: cut, no JSON, of other types, huge, deep. None raises."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from tests.gateway.running import running
from tests.gateway.scripted import Script, completion
from tests.gateway.upstreams import answer

from stillhouse.gateway.probes import client_request, probe_models
from stillhouse.gateway.probes.replies import (
    chat_events,
    chat_reply,
    message_events,
    message_reply,
    response_events,
    response_reply,
    stream_of,
)
from stillhouse.gateway.surfaces import ReplyRebuilder, RequestPolicy, TierPolicy, parse_request

NATIVE = {"chat": "vllm", "responses": "openai", "messages": "anthropic", "embeddings": "vllm"}
WHOLE: dict[str, dict[str, Any]] = {
    "chat": chat_reply({"content": "Hello there"}),
    "responses": response_reply("Hello there"),
    "messages": message_reply("Hello there"),
}
STREAMS = {
    "chat": stream_of(chat_events([{"content": "Hello"}, {"content": " there"}])),
    "responses": stream_of(response_events(WHOLE["responses"], ["Hello", " there"]), done=False),
    "messages": stream_of(message_events(WHOLE["messages"], ["Hello", " there"]), done=False),
}
UNREADABLE = ("upstream_malformed", "upstream_failed")


def rebuilder(surface: Any, *, stream: bool) -> ReplyRebuilder:
    models = probe_models(NATIVE[surface])
    policy = RequestPolicy(account="acct", models=models, tier=TierPolicy())
    asked = parse_request(surface, client_request(surface, "plain", stream=stream), policy, 1)
    return ReplyRebuilder(asked, reply_id="r1", created_s=1)


def deep(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


BAD = [
    b"",
    b"null",
    b"[]",
    b"7",
    b'"text"',
    b"<html>502</html>",
    b"{",
    b'{"choices": [}',
    b"{}",
    b'{"choices": null}',
    b'{"choices": [null, 7, "x", []]}',
    b'{"choices": {"0": {}}}',
    b'{"output": "x", "content": "x", "data": "x"}',
    b'{"output": [7], "content": [7], "data": [7]}',
    b"\xff\xfe\x00",
    b"\x1f\x8b\x08\x00",
    b'{"a": ' + b"9" * 10_000 + b"}",
    deep(5_000),
    deep(200_000),
    b"[" * 200_000,
    b'{"error": {"message": "SECRET trace"}}',
    b'{"object": "error", "message": "SECRET trace", "code": 500}',
]


@pytest.mark.parametrize("surface", [*WHOLE, "embeddings"])
@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_reply_that_cannot_be_read_is_a_refusal(surface: str, number: int) -> None:
    rebuild = rebuilder(surface, stream=False)
    rebuilt = rebuild.whole(BAD[number])
    if rebuilt.code is None:  # of the right form, and empty
        assert b"SECRET" not in rebuilt.body
        assert rebuild.text == ""
    else:
        assert rebuilt.code in UNREADABLE
        assert rebuilt.body == b""


@pytest.mark.parametrize("surface", STREAMS)
@pytest.mark.parametrize("number", range(len(BAD)))
def test_an_event_that_cannot_be_read_ends_the_stream_with_an_error(
    surface: str, number: int
) -> None:
    events = STREAMS[surface].split(b"\n\n")
    events.insert(3, b"data: " + BAD[number].replace(b"\n", b" "))
    rebuild = rebuilder(surface, stream=True)
    served = rebuild.feed(b"\n\n".join(events)) + rebuild.finish()
    assert b"SECRET" not in served
    assert rebuild.done
    # Either the event said nothing and the rest was served, or the client is told.
    assert (b'"error"' in served) is (rebuild.failed is not None) or rebuild.failed is None
    if rebuild.failed is None:
        assert rebuild.text == "Hello there"
    assert rebuild.feed(b"data: more\n\n") + rebuild.finish() + rebuild.cut() == b""


@pytest.mark.parametrize("surface", STREAMS)
def test_a_stream_cut_anywhere_is_never_taken_for_the_whole(surface: str) -> None:
    stream = STREAMS[surface]
    for cut in range(len(stream)):
        rebuild = rebuilder(surface, stream=True)
        served = rebuild.feed(stream[:cut]) + rebuild.finish()
        assert rebuild.done
        complete = rebuild.failed is None
        assert complete is (b'"error":{' not in served.replace(b" ", b"")), cut
        assert not complete or rebuild.text == "Hello there", cut


@pytest.mark.parametrize("surface", WHOLE)
def test_a_whole_reply_cut_anywhere_is_refused(surface: str) -> None:
    body = orjson.dumps(WHOLE[surface])
    for cut in range(len(body)):
        assert rebuilder(surface, stream=False).whole(body[:cut]).code == "upstream_malformed"


def test_what_python_servers_write_that_is_no_json_is_read_all_the_same() -> None:
    text = json.dumps({**WHOLE["chat"], "usage": {"prompt_tokens": float("nan")}})
    rebuild = rebuilder("chat", stream=False)
    assert rebuild.whole(text.encode()).code is None
    assert rebuild.usage is None


def test_a_large_event_in_small_pieces_is_read_whole() -> None:
    stream = stream_of(chat_events([{"content": "x" * 1_000_000}]))
    rebuild = rebuilder("chat", stream=True)
    for at in range(0, len(stream), 100):
        rebuild.feed(stream[at : at + 100])
    assert rebuild.text == "x" * 1_000_000


def test_an_event_larger_than_any_reply_is_given_up() -> None:
    rebuild = rebuilder("chat", stream=True)
    served = b"".join(rebuild.feed(b"data: " + b"x" * (1 << 20)) for _ in range(10))
    assert rebuild.failed == "upstream_malformed"
    assert served.count(b"error") >= 1


def test_finish_reasons_of_a_broken_server_are_no_end() -> None:
    """An aborted reply is not a complete one, whatever the server calls it."""
    for reason in ("abort", "error"):
        reply = chat_reply({"content": "Hello"})
        reply["choices"][0]["finish_reason"] = reason
        rebuild = rebuilder("chat", stream=False)
        assert rebuild.whole(orjson.dumps(reply)).code == "upstream_failed"


async def read(create: Any, *, stream: bool) -> None:
    hello = [{"role": "user", "content": "Hi"}]
    reply = await create(model="small", messages=hello, stream=stream)
    if stream:
        async for _ in reply:
            pass


def test_through_a_gateway_each_is_the_clients_own_error(tmp_path: Path) -> None:
    scripts = [
        Script(body=deep(5_000)),
        Script(body=b"x" * 200_000),  # above reply_bytes
        Script(body=completion("x" * 200_000)),
        Script(body=b""),
        Script(body=b'{"choices": [{"message": 7}]}'),
        Script(chunks=[b"data: {\n\n"]),
    ]

    async def scenario() -> None:
        queue: list[Script] = [Script(body=completion())]
        bounds = {"reply_bytes": 100_000}
        async with running(tmp_path, lambda _: queue[-1], bounds=bounds) as gateway:
            async with openai.AsyncOpenAI(
                base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0
            ) as client:
                create = client.chat.completions.create
                for script in scripts:
                    queue.append(script)
                    with pytest.raises(openai.APIError):
                        await read(create, stream=script.body is None)
                queue.append(answer(gateway.upstream.asked[0]))
                await read(create, stream=False)
            rows = await gateway.settled(len(scripts) + 1)
            assert [row["price_nano"] for row in rows[:-1]] == [0] * len(scripts)

    asyncio.run(scenario())
