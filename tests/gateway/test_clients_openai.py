"""The official `openai` client on responses, completions and embeddings, through a whole gateway.

Chat is in test_serving.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from tests.gateway.running import Running, running
from tests.gateway.scripted import Script, chunks
from tests.gateway.upstreams import FUNCTION, PIXEL, VECTOR, answer

TOOL: Any = {"type": "function", **FUNCTION}
# Two kinds of server: one that has the endpoint itself, one that has chat alone.
NATIVE, CHAT_ONLY = "vllm", "sglang"


class City(pydantic.BaseModel):
    city: str


def client(gateway: Running) -> openai.AsyncOpenAI:
    made = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0)
    gateway.clients.append(made)
    return made


@pytest.mark.parametrize(
    ("dialect", "path"), [(NATIVE, "/v1/responses"), (CHAT_ONLY, "/v1/chat/completions")]
)
def test_responses_are_served(tmp_path: Path, dialect: str, path: str) -> None:
    async def scenario() -> None:
        model = {"dialect": dialect, "images": True}
        async with running(tmp_path, answer, model=model) as gateway:
            responses = client(gateway).responses
            whole = await responses.create(model="small", input="Say hello", instructions="Be kind")
            assert whole.output_text == "Hello there"
            assert whole.status == "completed"
            assert whole.model == "small"
            assert whole.usage is not None
            assert whole.usage.output_tokens > 0
            assert gateway.upstream.asked[-1].path == path

            async with responses.stream(model="small", input="Say hello") as stream:
                said = [e.delta async for e in stream if e.type == "response.output_text.delta"]
                last = await stream.get_final_response()
            assert "".join(said) == last.output_text == "Hello there"

            called = await responses.create(model="small", input="Weather?", tools=[TOOL])
            assert called.output[-1].type == "function_call"
            assert called.output[-1].arguments == '{"city":"Lisbon"}'
            async with responses.stream(model="small", input="Weather?", tools=[TOOL]) as stream:
                last = await stream.get_final_response()
            assert last.output[-1].type == "function_call"
            assert (last.output[-1].name, last.output[-1].arguments) == (
                "weather",
                '{"city":"Lisbon"}',
            )
            turns: Any = [
                {"role": "user", "content": "Weather?"},
                *called.output,
                {"type": "function_call_output", "call_id": "call_1", "output": "Sunny"},
            ]
            again = await responses.create(model="small", input=turns)
            assert again.output_text == "Hello there"

            shaped = await responses.parse(model="small", input="Where?", text_format=City)
            assert shaped.output_parsed == City(city="Lisbon")

            seen: Any = [
                {"type": "input_text", "text": "What is it?"},
                {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
            ]
            await responses.create(model="small", input=[{"role": "user", "content": seen}])
            assert PIXEL in str(gateway.upstream.asked[-1].body)
            rows = await gateway.settled(7)
            assert [row["status"] for row in rows] == [200] * 7
            assert all(row["tokens_out"] > 0 and row["price_nano"] > 0 for row in rows)

    asyncio.run(scenario())


def test_a_chat_that_is_streamed_calls_tools_and_keeps_to_a_schema(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, answer, model={"dialect": CHAT_ONLY}) as gateway:
            chat = client(gateway).chat.completions
            hello: Any = [{"role": "user", "content": "Weather?"}]
            offered: Any = [{"type": "function", "function": FUNCTION}]
            stream = await chat.create(model="small", messages=hello, tools=offered, stream=True)
            events = [event.choices[0] async for event in stream if event.choices]
            calls = [call.function for one in events for call in one.delta.tool_calls or ()]
            assert [called.name for called in calls if called and called.name] == ["weather"]
            pieces = [called.arguments or "" for called in calls if called]
            assert "".join(pieces) == '{"city":"Lisbon"}'
            assert events[-1].finish_reason == "tool_calls"

            shaped = await chat.parse(model="small", messages=hello, response_format=City)
            assert shaped.choices[0].message.parsed == City(city="Lisbon")
            asked = gateway.upstream.asked[-1].body["response_format"]["json_schema"]
            assert asked["schema"]["properties"]["city"]["type"] == "string"

            async with chat.stream(
                model="small", messages=hello, stop=["END"], max_tokens=5
            ) as spoken:
                last = await spoken.get_final_completion()
            assert last.choices[0].message.content == "Hello there"
            assert gateway.upstream.asked[-1].body["stop"] == ["END"]

    asyncio.run(scenario())


def test_nothing_of_a_response_is_kept_or_found_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, answer, model={"dialect": NATIVE}) as gateway:
            responses = client(gateway).responses
            first = await responses.create(model="small", input="Say hello")
            assert gateway.upstream.asked[-1].body["store"] is False
            asked = len(gateway.upstream.asked)
            conversation: Any = {"id": "conv_1"}
            reaches: list[dict[str, Any]] = [
                {"previous_response_id": first.id},
                {"previous_response_id": "resp_1"},
                {"conversation": conversation},
                {"store": True},
                {"background": True},
                {"input": [{"type": "item_reference", "id": first.output[0].id}]},
            ]
            for reach in reaches:
                with pytest.raises(openai.BadRequestError) as refused:
                    await responses.create(**{"model": "small", "input": "Go on", **reach})
                assert refused.value.code == "stateful_refused"
            for act in (responses.retrieve, responses.cancel, responses.delete):
                with pytest.raises(openai.NotFoundError):
                    await act(first.id)
            assert len(gateway.upstream.asked) == asked

    asyncio.run(scenario())


def test_completions_are_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, answer, model={"dialect": NATIVE}) as gateway:
            create = client(gateway).completions.create
            whole = await create(model="small", prompt="6 times 7 is", stop=["."], max_tokens=9)
            assert whole.choices[0].text == " forty-two"
            assert whole.choices[0].finish_reason == "stop"
            assert whole.usage is not None
            assert whole.usage.completion_tokens == 2
            sent = gateway.upstream.asked[-1]
            assert (sent.path, sent.body["stop"]) == ("/v1/completions", ["."])
            options: Any = {"include_usage": True}
            stream = await create(model="small", prompt="6", stream=True, stream_options=options)
            events = [event async for event in stream]
            text = "".join(event.choices[0].text for event in events if event.choices)
            assert text == " forty-two"
            assert events[-1].usage is not None
            assert events[-1].usage.total_tokens == 6
            for refused in ({"echo": True}, {"best_of": 2}, {"logprobs": 1}, {"suffix": "x"}):
                with pytest.raises(openai.BadRequestError):
                    await create(model="small", prompt="6", **refused)  # type: ignore[call-overload]
            with pytest.raises(openai.BadRequestError):
                await create(model="small", prompt=[1, 2, 3])

    asyncio.run(scenario())


def test_embeddings_are_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, answer, model={"dialect": NATIVE}) as gateway:
            create = client(gateway).embeddings.create
            # Left to itself, the client asks for base64 and makes numbers of it.
            plain = await create(model="small", input=["a", "b"])
            assert [row.embedding for row in plain.data] == [VECTOR, VECTOR]
            assert gateway.upstream.asked[-1].body["encoding_format"] == "base64"
            floats = await create(model="small", input="a", encoding_format="float", dimensions=3)
            assert floats.data[0].embedding == VECTOR
            assert floats.usage.prompt_tokens == 5
            with pytest.raises(openai.BadRequestError):
                await create(model="small", input=[])
            rows = await gateway.settled(2)
            assert [row["tokens_in"] for row in rows] == [5, 5]

    asyncio.run(scenario())


def test_a_stream_that_breaks_raises_the_clients_own_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        broken = Script(chunks=chunks(["Hel", "lo"])[:2])  # closed before any finish
        model = {"dialect": CHAT_ONLY}
        async with running(tmp_path, lambda _: broken, model=model) as gateway:
            made = client(gateway)
            with pytest.raises(openai.APIError):
                async for _ in await made.chat.completions.create(
                    model="small", messages=[{"role": "user", "content": "Hi"}], stream=True
                ):
                    pass
            with pytest.raises(openai.APIError):
                async for _ in await made.responses.create(model="small", input="Hi", stream=True):
                    pass

    asyncio.run(scenario())


def test_each_account_has_a_prefix_cache_of_its_own_where_the_server_has_one(
    tmp_path: Path,
) -> None:
    async def salts(dialect: str) -> list[Any]:
        async with running(
            tmp_path / dialect, answer, model={"dialect": dialect}, accounts=2
        ) as gateway:
            for key in (gateway.key, gateway.key, gateway.furnished.keys[1]):
                made = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)
                gateway.clients.append(made)
                hello: Any = [{"role": "user", "content": "Hi"}]
                await made.chat.completions.create(model="small", messages=hello, user="UNIQUE")
            assert "UNIQUE" not in str([asked.body for asked in gateway.upstream.asked])
            return [asked.body.get("cache_salt") for asked in gateway.upstream.asked]

    for dialect in ("vllm", "sglang", "openai"):
        (tmp_path / dialect).mkdir()
    for dialect in ("vllm", "sglang"):
        first, again, other = asyncio.run(salts(dialect))
        assert first == again != other
        assert len(first) == 48
    assert asyncio.run(salts("openai")) == [None] * 3
