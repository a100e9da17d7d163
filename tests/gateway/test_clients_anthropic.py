"""The official `anthropic` client through a whole gateway, over chat and over messages upstreams.

Plain messages over a chat upstream are in test_serving.py too.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anthropic
import pydantic
import pytest
from tests.gateway.running import Running, running
from tests.gateway.scripted import Script, chunks
from tests.gateway.upstreams import FUNCTION, PNG, answer

HELLO: Any = [{"role": "user", "content": "Say hello"}]
TOOL: Any = {
    "name": FUNCTION["name"],
    "description": FUNCTION["description"],
    "input_schema": FUNCTION["parameters"],
}
NATIVE = {"dialect": "anthropic", "surfaces": ["messages"], "images": True}
OVER_CHAT = {"dialect": "vllm", "images": True}


class City(pydantic.BaseModel):
    city: str


def client(gateway: Running, **options: Any) -> anthropic.AsyncAnthropic:
    made = anthropic.AsyncAnthropic(
        base_url=gateway.url, **{"api_key": gateway.key, "max_retries": 0, **options}
    )
    gateway.clients.append(made)
    return made


@pytest.mark.parametrize(
    ("model", "path"), [(NATIVE, "/v1/messages"), (OVER_CHAT, "/v1/chat/completions")]
)
def test_messages_are_served(tmp_path: Path, model: dict[str, Any], path: str) -> None:
    async def scenario() -> None:
        async with running(tmp_path, answer, model=model) as gateway:
            messages = client(gateway).messages
            base: Any = {"model": "small", "max_tokens": 50, "messages": HELLO}

            def sent() -> dict[str, Any]:
                return gateway.upstream.asked[-1].body

            whole = await messages.create(**base, system="Be kind", stop_sequences=["X"])
            assert whole.content[0].text == "Hello there"
            assert (whole.stop_reason, whole.model) == ("end_turn", "small")
            assert whole.usage.output_tokens > 0
            assert gateway.upstream.asked[-1].path == path
            assert sent().get("stop_sequences", sent().get("stop")) == ["X"]

            async with messages.stream(**base) as stream:
                assert [piece async for piece in stream.text_stream]
                assert await stream.get_final_text() == "Hello there"
            assert (await stream.get_final_message()).stop_reason == "end_turn"

            called = await messages.create(**base, tools=[TOOL], tool_choice={"type": "any"})
            assert called.stop_reason == "tool_use"
            assert called.content[-1].input == {"city": "Lisbon"}
            async with messages.stream(**base, tools=[TOOL]) as stream:
                last = await stream.get_final_message()
            assert (last.stop_reason, last.content[-1].input) == ("tool_use", {"city": "Lisbon"})
            result = {"type": "tool_result", "tool_use_id": last.content[-1].id, "content": "Sunny"}
            turns: Any = [
                *HELLO,
                {"role": "assistant", "content": last.content},
                {"role": "user", "content": [result]},
            ]
            again = await messages.create(**{**base, "messages": turns}, tools=[TOOL])
            assert again.stop_reason == "tool_use"

            shaped = await messages.parse(**base, output_format=City)
            assert shaped.parsed_output == City(city="Lisbon")
            assert "json_schema" in str(sent())

            source = {"type": "base64", "media_type": "image/png", "data": PNG}
            seen: Any = [{"type": "text", "text": "?"}, {"type": "image", "source": source}]
            await messages.create(**{**base, "messages": [{"role": "user", "content": seen}]})
            assert PNG in str(sent())

            names = [one.id async for one in client(gateway).models.list()]
            assert names == ["small"]
            rows = await gateway.settled(7)
            assert [row["status"] for row in rows] == [200] * 7
            assert all(row["tokens_out"] > 0 and row["price_nano"] > 0 for row in rows)

    asyncio.run(scenario())


def test_a_schema_forced_through_a_tool_is_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, answer, model=OVER_CHAT) as gateway:
            forced = await client(gateway).messages.create(
                model="small",
                max_tokens=50,
                messages=HELLO,
                tools=[TOOL],
                tool_choice={"type": "tool", "name": "weather"},
            )
            assert forced.content[-1].input == {"city": "Lisbon"}
            choice = gateway.upstream.asked[-1].body["tool_choice"]
            assert choice == {"type": "function", "function": {"name": "weather"}}

    asyncio.run(scenario())


def test_what_is_refused_is_refused_with_the_clients_own_class(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, answer, model=OVER_CHAT) as gateway:
            base: Any = {"model": "small", "max_tokens": 50, "messages": HELLO}
            create = client(gateway).messages.create
            with pytest.raises(anthropic.AuthenticationError):
                await client(gateway, api_key="sk-wrong").messages.create(**base)
            with pytest.raises(anthropic.NotFoundError):
                await create(**{**base, "model": "Small"})
            refused: list[dict[str, Any]] = [
                {"service_tier": 7},
                {"extra_body": {"container": "c"}},
                {"extra_body": {"mcp_servers": []}},
                {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
                {"messages": [*HELLO, {"role": "assistant", "content": "Sure,"}]},
                {"thinking": {"type": "enabled", "budget_tokens": 5}},
            ]
            for more in refused:
                with pytest.raises(anthropic.BadRequestError) as error:
                    await create(**{**base, **more})
                assert error.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
            assert gateway.upstream.asked == []

    asyncio.run(scenario())


def test_a_stream_that_breaks_raises_the_clients_own_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        broken = Script(chunks=chunks(["Hel", "lo"])[:2])  # closed before any finish
        async with running(tmp_path, lambda _: broken, model=OVER_CHAT) as gateway:
            with pytest.raises(anthropic.APIError):
                async with client(gateway).messages.stream(
                    model="small", max_tokens=50, messages=HELLO
                ) as stream:
                    await stream.get_final_message()

    asyncio.run(scenario())


def test_reasoning_is_carried_sealed_and_only_back_to_where_it_came_from(tmp_path: Path) -> None:
    async def scenario() -> None:
        said = Script(
            body=(
                b'{"type":"message","role":"assistant","content":[{"type":"thinking","thinking":'
                b'"SECRET plan","signature":"SIGNED"},{"type":"text","text":"Done"}],'
                b'"stop_reason":"end_turn","usage":{"input_tokens":5,"output_tokens":9}}'
            )
        )
        offer = {"reasoning_blobs": True}
        async with running(
            tmp_path, lambda _: said, model=NATIVE, offer=offer, accounts=2
        ) as gateway:
            thinking: Any = {"type": "enabled", "budget_tokens": 1024}
            base: Any = {"model": "small", "max_tokens": 3000, "thinking": thinking}
            first = await client(gateway).messages.create(**base, messages=HELLO)
            assert [block.type for block in first.content] == ["thinking", "text"]
            assert "SECRET" not in first.to_json()
            assert "SIGNED" not in first.to_json()
            turns: Any = [
                *HELLO,
                {"role": "assistant", "content": first.content},
                {"role": "user", "content": "Go on"},
            ]
            await client(gateway).messages.create(**base, messages=turns)
            block = gateway.upstream.asked[-1].body["messages"][1]["content"][0]
            assert (block["thinking"], block["signature"]) == ("SECRET plan", "SIGNED")
            elsewhere = [{"role": "user", "content": "Another"}, *turns[1:]]
            other = client(gateway, api_key=gateway.furnished.keys[1])
            for asking, asked in ((client(gateway), elsewhere), (other, turns)):
                with pytest.raises(anthropic.BadRequestError) as error:
                    await asking.messages.create(**base, messages=asked)
                assert error.value.body["error"]["code"] == "foreign_reasoning"  # type: ignore[index]
            assert len(gateway.upstream.asked) == 2

    asyncio.run(scenario())
