"""The official clients, unmodified, against a whole gateway and a scripted upstream."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anthropic
import openai
import orjson
import pytest
from tests.gateway.running import Running, running
from tests.gateway.scripted import Asked, Script, chunks, completion

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwAD"
    "hgGAWjR9awAAAABJRU5ErkJggg=="
)
HELLO: Any = [{"role": "user", "content": "Say hello"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Lisbon"}'},
        }
    ]
}


def client(gateway: Running, **options: Any) -> openai.AsyncOpenAI:
    made = openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1",
        **{"api_key": gateway.key, "max_retries": 0, **options},
    )
    gateway.clients.append(made)
    return made


def anthropic_client(gateway: Running) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0)


def answer(asked: Asked) -> Script:
    """Whatever is asked for, in the form it is asked for."""
    if asked.body.get("stream"):
        return Script(chunks=chunks(["Hel", "lo", " there"]))
    if asked.body.get("tools"):
        return Script(body=completion("", **CALL))
    if "response_format" in asked.body:
        return Script(body=completion('{"city":"Lisbon"}'))
    return Script(body=completion())


def test_the_openai_client_is_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running(tmp_path, answer, model={"images": True}) as gateway,
            client(gateway) as c,
        ):
            create = c.chat.completions.create
            whole = await create(model="small", messages=HELLO, stop=["\n\n"])
            assert whole.choices[0].message.content == "Hello there"
            assert whole.usage is not None
            assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (9, 3)
            assert whole._request_id is not None
            assert whole._request_id.startswith("req_")
            assert gateway.upstream.asked[-1].body["stop"] == ["\n\n"]
            assert gateway.upstream.asked[-1].body["model"] == "upstream-model"

            stream = await create(model="small", messages=HELLO, stream=True)
            text = [c.choices[0].delta.content async for c in stream if c.choices]
            assert "".join(piece or "" for piece in text) == "Hello there"

            tools = await create(model="small", messages=HELLO, tools=[TOOL])
            called = tools.choices[0].message.tool_calls
            assert called is not None
            assert called[0].function.arguments == '{"city":"Lisbon"}'
            assert tools.choices[0].finish_reason == "tool_calls"

            schema: Any = {
                "type": "json_schema",
                "json_schema": {"name": "city", "schema": {"type": "object"}},
            }
            shaped = await create(model="small", messages=HELLO, response_format=schema)
            assert orjson.loads(shaped.choices[0].message.content or "") == {"city": "Lisbon"}

            image: Any = [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": PIXEL}},
                    ],
                }
            ]
            await create(model="small", messages=image)
            sent = gateway.upstream.asked[-1].body["messages"][0]["content"]
            assert sent[1]["image_url"]["url"] == PIXEL

            models = [model.id async for model in c.models.list()]
            assert models == ["small"]
            rows = await gateway.settled(5)
            assert [row["status"] for row in rows] == [200] * 5
            assert rows[0]["tokens_in"] == 9
            assert rows[0]["tokens_out"] == 3
            assert rows[0]["price_nano"] == 9 * 10 + 3 * 30

    asyncio.run(scenario())


def test_the_anthropic_client_is_served_over_a_chat_upstream(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, answer) as gateway, anthropic_client(gateway) as c:
            whole = await c.messages.create(model="small", max_tokens=50, messages=HELLO)
            assert whole.content[0].text == "Hello there"
            assert whole.usage.output_tokens == 3
            assert whole.stop_reason == "end_turn"
            async with c.messages.stream(model="small", max_tokens=50, messages=HELLO) as stream:
                assert await stream.get_final_text() == "Hello there"
            tool: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
            called = await c.messages.create(
                model="small", max_tokens=50, messages=HELLO, tools=[tool], stop_sequences=["X"]
            )
            assert called.stop_reason == "tool_use"
            assert called.content[-1].input == {"city": "Lisbon"}
            assert gateway.upstream.asked[-1].path == "/v1/chat/completions"
            with pytest.raises(anthropic.NotFoundError):
                await c.messages.create(model="none", max_tokens=5, messages=HELLO)

    asyncio.run(scenario())


def test_what_is_refused_is_refused_with_the_clients_own_class(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, answer) as gateway:
            create = client(gateway).chat.completions.create
            with pytest.raises(openai.AuthenticationError):
                await client(gateway, api_key="sk-wrong").models.list()
            with pytest.raises(openai.NotFoundError):
                await create(model="Small", messages=HELLO)
            with pytest.raises(openai.BadRequestError):
                await create(model="small", messages=HELLO, extra_body={"prompt_logprobs": 1})
            with pytest.raises(openai.BadRequestError):
                await create(model="small", messages=HELLO, n=3)
            with pytest.raises(openai.RateLimitError) as limited:
                await asyncio.gather(*[create(model="small", messages=HELLO) for _ in range(30)])
            assert limited.value.response.headers["retry-after"].isdecimal()
            assert not [h for h in limited.value.response.headers if "ratelimit" in h]

    asyncio.run(scenario())


def test_an_upstream_that_fails_is_an_error_and_costs_nothing(tmp_path: Path) -> None:
    scripts = [
        Script(status=500, body=b"{}"),
        Script(status=400, body=b'{"error": "secret trace"}'),
        Script(status=307, body=b"", headers=("location: http://169.254.169.254/",)),
        Script(body=b"<html>"),
        Script(body=completion(), headers=("content-encoding: gzip",)),
    ]

    async def scenario() -> None:
        queue: list[Script] = []
        async with running(tmp_path, lambda _: queue[-1]) as gateway, client(gateway) as c:
            for script in scripts:
                queue.append(script)
                with pytest.raises(openai.APIStatusError) as raised:
                    await c.chat.completions.create(model="small", messages=HELLO)
                assert "secret" not in str(raised.value)
            rows = await gateway.settled(len(scripts))
            assert [row["price_nano"] for row in rows] == [0] * len(scripts)
            assert all(row["refusal"].startswith("upstream") for row in rows)

    asyncio.run(scenario())


def test_another_upstream_answers_when_the_first_is_down(tmp_path: Path) -> None:
    async def scenario() -> None:
        dead = "http://127.0.0.1:9/v1"
        async with running(tmp_path, answer) as gateway:
            service = gateway.service
            live = service.config.models[0].upstreams[0].url
            value = [{"url": dead}, {"url": live}]
            from tests.gateway.running import configuration

            from stillhouse.gateway.offering import Offering

            config = configuration(tmp_path, live, model={"upstreams": value})
            service.app.offering = Offering(config, service.store.digests, service._books)
            for _ in range(4):
                reply = await client(gateway).chat.completions.create(model="small", messages=HELLO)
                assert reply.choices[0].message.content == "Hello there"

    asyncio.run(scenario())


def test_bounds_hold_before_anything_is_believed(tmp_path: Path) -> None:
    async def scenario() -> None:
        bounds = {"body_bytes": 2000, "depth": 8, "header_bytes": 4000}
        async with running(tmp_path, answer, bounds=bounds) as gateway:
            path = f"{gateway.url}/v1/chat/completions"
            import aiohttp

            good = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
            deep = b'{"model":"small","messages":' + b"[" * 50 + b"]" * 50 + b"}"
            cases: list[tuple[int, dict[str, str], bytes]] = [
                (413, good, b"x" * 3000),
                (413, {**good, "x-long": "y" * 5000}, b"{}"),
                (400, good, deep),
                (400, good, b'{"model":"small","model":"small","messages":[]}'),
                (400, good, b"{"),
                (415, {**good, "content-type": "text/plain"}, b"{}"),
                (415, {**good, "content-encoding": "gzip"}, b"{}"),
                (401, {"content-type": "application/json"}, b"{}"),
                (401, {**good, "authorization": f"Bearer {gateway.key[:-1]}"}, b"{}"),
            ]
            async with aiohttp.ClientSession() as session:
                for status, headers, body in cases:
                    async with session.post(path, data=body, headers=headers) as reply:
                        assert reply.status == status, (status, body, await reply.text())
                async with session.get(path, headers=good) as reply:
                    assert reply.status == 405
                async with session.get(f"{gateway.url}/v1/nothing", headers=good) as reply:
                    assert reply.status == 404
                async with session.get(f"{gateway.url}/readyz") as reply:
                    assert reply.status == 200
            assert gateway.upstream.asked == []

    asyncio.run(scenario())


def test_nothing_that_is_written_holds_a_key_a_prompt_or_a_reply(tmp_path: Path) -> None:
    prompt, said = "UNIQUEPROMPT about barley", "UNIQUEREPLY of rye"

    async def scenario() -> str:
        async with running(tmp_path, lambda _: Script(body=completion(said))) as gateway:
            messages: Any = [{"role": "user", "content": prompt}]
            create = client(gateway).chat.completions.create
            await create(model="small", messages=messages, user="UNIQUEUSER")
            with pytest.raises(openai.APIStatusError):
                await create(model="UNIQUEMODEL", messages=messages)
            with pytest.raises(openai.APIStatusError):
                await client(gateway, api_key="still_UNIQUEKEY").models.list()
            await gateway.settled()
            gateway.service.metrics.render()
            (tmp_path / "log.txt").write_text(gateway.log.getvalue())
            return gateway.key

    key = asyncio.run(scenario())
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    for path in written:
        data = path.read_bytes()
        for secret in (
            key,
            "UNIQUEPROMPT",
            "UNIQUEREPLY",
            "UNIQUEUSER",
            "UNIQUEMODEL",
            "UNIQUEKEY",
        ):
            assert secret.encode() not in data, (secret, path)
