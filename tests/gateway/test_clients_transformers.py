"""The official clients through a whole gateway in front of a real `transformers serve`."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.gateway.running import running
from tests.ports import free_port

PROGRAM = Path(sys.executable).with_name("transformers")
HELLO: Any = [{"role": "user", "content": "the film"}]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PROGRAM.exists() or importlib.util.find_spec("fastapi") is None,
        reason="transformers serve is not installed (the extra transformers[serving])",
    ),
]


@dataclass
class Server:
    port: int
    model: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """Ask it without the gateway."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            text = json.dumps({"model": self.model, **body})
            connection.request("POST", path, text, {"Content-Type": "application/json"})
            return json.load(connection.getresponse())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Callable[..., Any],
    tiny_tokenizer: Callable[..., Any],
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("transformers")
    model = folder / "model"
    tiny_model(layers=2).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    port = free_port()
    command = [str(PROGRAM), "serve", str(model), "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            server = Server(port, str(model))
            deadline = time.monotonic() + 180
            while True:
                try:
                    server.ask("/v1/chat/completions", {"messages": HELLO, "max_tokens": 1})
                    break
                except ConnectionRefusedError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)  # waiting for another process to listen; nothing is timed
            yield server
        finally:
            process.terminate()
            process.wait(60)


def model_of(server: Server) -> dict[str, Any]:
    return {
        "dialect": "transformers",
        "upstream_name": server.model,
        "upstreams": [{"url": server.url}],
    }


def test_a_real_server_answers_the_official_clients(served: Server, tmp_path: Path) -> None:
    chat = served.ask("/v1/chat/completions", {"messages": HELLO, "max_tokens": 8})
    said = chat["choices"][0]["message"]["content"]
    counted = chat["usage"]["completion_tokens"]

    async def scenario() -> None:
        async with running(tmp_path, model=model_of(served)) as gateway:
            # On a busy machine a feed is stale now and then, and nothing is admitted: asked again.
            one = openai.AsyncOpenAI(
                base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=5
            )
            two = anthropic.AsyncAnthropic(base_url=gateway.url, api_key=gateway.key, max_retries=5)
            gateway.clients += [one, two]
            names = [model.id async for model in one.models.list()]
            assert names == ["small"]

            create = one.chat.completions.create
            whole = await create(model="small", messages=HELLO, max_tokens=8)
            assert whole.choices[0].message.content == said
            assert whole.usage is not None
            assert whole.usage.completion_tokens == counted
            options: Any = {"include_usage": True}
            stream = await create(
                model="small", messages=HELLO, max_tokens=8, stream=True, stream_options=options
            )
            events = [event async for event in stream]
            pieces = [event.choices[0].delta.content or "" for event in events if event.choices]
            assert "".join(pieces) == said
            assert events[-1].usage is not None
            assert events[-1].usage.completion_tokens == counted

            base: Any = {"model": "small", "max_tokens": 8, "messages": HELLO}
            message = await two.messages.create(**base)
            assert message.content[0].text == said
            async with two.messages.stream(**base) as spoken:
                assert await spoken.get_final_text() == said

            limit: Any = {"model": "small", "max_output_tokens": 8}
            reply = await one.responses.create(input=HELLO, **limit)
            assert reply.output_text == said
            async with one.responses.stream(input=HELLO, **limit) as told:
                assert (await told.get_final_response()).output_text == said

            old = await one.completions.create(model="small", prompt="the film", max_tokens=8)
            direct = served.ask("/v1/completions", {"prompt": "the film", "max_tokens": 8})
            assert old.choices[0].text == direct["choices"][0]["text"]

            rows = await gateway.settled(7)
            assert [row["status"] for row in rows] == [200] * 7
            assert all(row["tokens_out"] == counted for row in rows[:4])
            assert gateway.upstream.asked == []  # not the scripted one

    asyncio.run(scenario())


def test_what_it_does_not_do_is_refused_before_it_is_asked(served: Server, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, model=model_of(served)) as gateway:
            one = openai.AsyncOpenAI(
                base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0
            )
            gateway.clients.append(one)
            template: Any = {"chat_template_kwargs": {"enable_thinking": True}}
            for extra in (template, {"generation_config": "{}"}, {"top_k": 3}):
                with pytest.raises(openai.BadRequestError) as error:
                    await one.chat.completions.create(
                        model="small", messages=HELLO, extra_body=extra
                    )
                assert error.value.code == "unsupported_field"
            with pytest.raises(openai.NotFoundError):
                await one.chat.completions.create(model=served.model, messages=HELLO)
            with pytest.raises(openai.BadRequestError):
                await one.embeddings.create(model="small", input="the film")

    asyncio.run(scenario())
