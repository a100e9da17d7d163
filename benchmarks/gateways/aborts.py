"""Clients that leave a stream after each of its events: is what was produced always paid?

Every surface that streams, over every kind of upstream, text, tool calls and hidden reasoning; an
event brings one to three tokens. The upstream counts the tokens that it wrote before it noticed.
`abort_underbilled`: streams that were settled below that. `abort_settled_over_produced_median`:
over the streams whose tokens can be known (the upstream reports usage with every piece, or a
tokenizer is named and the reply is text). Where neither is so, bytes bound the tokens: such
streams count for the first figure, and their ratio is only printed.

    python -m benchmarks.gateways.aborts [--smoke]
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from tests.gateway.running import running
from tests.gateway.scripted import Asked, Script

from benchmarks.gateways.part import Part, part, wide
from stillhouse.accounts.acts.settings import DefineTier
from stillhouse.gateway.probes import client_request
from stillhouse.gateway.surfaces.policy import PATHS

EVENTS = 24  # pieces of a reply
GAP_S = 0.002
Event = tuple[bytes, int]  # what is written, and the tokens that it took


@dataclass(frozen=True)
class Case:
    """A client's surface over an upstream. `known`: its tokens can be known after an abort."""

    surface: str
    dialect: str
    kind: str = "text"  # or tools, reasoning
    tokenizer: bool = False

    @property
    def known(self) -> bool:
        """Whether the tokens of an aborted stream can be known."""
        return self.running or (self.tokenizer and self.kind == "text")

    @property
    def running(self) -> bool:
        """Whether the upstream reports usage with every piece."""
        return self.dialect in ("vllm", "sglang", "llamacpp")

    @property
    def name(self) -> str:
        """For the eye, and for folders."""
        ending = "-tokenizer" if self.tokenizer else ""
        return f"{self.surface}-{self.dialect}-{self.kind}{ending}"

    @property
    def upstream_surface(self) -> str:
        """What the upstream is asked on."""
        native = {
            "responses": ("openai", "vllm", "transformers"),
            "messages": ("anthropic",),
        }
        return self.surface if self.dialect in native.get(self.surface, (self.dialect,)) else "chat"


CASES = (
    *(Case(s, d) for s in ("chat", "messages") for d in ("vllm", "sglang", "llamacpp")),
    *(Case(s, d, "tools") for s in ("chat", "messages") for d in ("vllm", "llamacpp")),
    *(Case(s, "vllm", "reasoning") for s in ("chat", "messages")),
    Case("completions", "vllm"),
    Case("responses", "sglang"),
    *(
        Case(surface, dialect, tokenizer=tokenizer)
        for surface, dialect in (
            ("chat", "openai"),
            ("chat", "transformers"),
            ("completions", "openai"),
            ("responses", "openai"),
            ("responses", "transformers"),
            ("messages", "openai"),
            ("messages", "anthropic"),
        )
        for tokenizer in (True, False)
    ),
    Case("chat", "openai", "tools", tokenizer=True),
    Case("messages", "anthropic", "tools", tokenizer=True),
    Case("responses", "openai", "tools", tokenizer=True),
    Case("chat", "openai", "reasoning", tokenizer=True),
    Case("messages", "anthropic", "reasoning", tokenizer=True),
)


@dataclass
class Seen:
    """What a case gave."""

    under: list[str] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    streams: int = 0


def word_tokenizer(path: Path) -> Path:
    """Write a tokenizer that makes one token of every word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = models.WordLevel({"?": 0}, unk_token="?")  # noqa: S106 (a token of text)
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path


def events(case: Case, rng: random.Random) -> list[Event]:
    """Return an upstream's stream: the bytes of each event and how many tokens it brings."""
    counts = [rng.randint(1, 3) for _ in range(EVENTS)]
    pieces = ["".join(f"w{rng.randrange(1000)} " for _ in range(count)) for count in counts]
    if case.upstream_surface == "messages":
        return list(_messages(case, pieces, counts))
    if case.upstream_surface == "responses":
        return list(_responses(case, pieces, counts))
    return list(_chat(case, pieces, counts))


def _data(value: dict[str, Any], tokens: int = 0) -> Event:
    return b"data: " + orjson.dumps(value) + b"\n\n", tokens


def _chat(case: Case, pieces: list[str], counts: list[int]) -> Iterator[Event]:
    def event(delta: dict[str, Any], tokens: int, finish: str | None = None) -> Event:
        nonlocal made
        made += tokens
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        if case.surface == "completions":
            choice["text"] = delta.get("content", "")
        else:
            choice["delta"] = delta
        value: dict[str, Any] = {"id": "u", "created": 1, "model": "m", "choices": [choice]}
        if case.dialect == "llamacpp":
            value["timings"] = {"prompt_n": 9, "predicted_n": made}
        elif case.running:
            value["usage"] = usage()
        return _data(value, tokens)

    def usage() -> dict[str, int]:
        return {"prompt_tokens": 9, "completion_tokens": made, "total_tokens": 9 + made}

    made = 0
    yield event({"role": "assistant", "content": ""}, 0)
    half = len(pieces) // 2
    for number, (piece, count) in enumerate(zip(pieces, counts, strict=True)):
        if case.kind == "text" or (number < half and case.kind == "tools"):
            yield event({"content": piece}, count)
        elif case.kind == "reasoning":
            yield event({"reasoning_content" if number < half else "content": piece}, count)
        else:
            call: dict[str, Any] = {"index": 0, "function": {"arguments": piece}}
            if number == half:
                call |= {"id": "call_1", "type": "function"}
                call["function"]["name"] = "weather"
            yield event({"tool_calls": [call]}, count)
    yield event({}, 0, "tool_calls" if case.kind == "tools" else "stop")
    yield _data({"id": "u", "created": 1, "model": "m", "choices": [], "usage": usage()})
    yield b"data: [DONE]\n\n", 0


def _responses(case: Case, pieces: list[str], counts: list[int]) -> Iterator[Event]:
    yield _data({"type": "response.created", "response": {"id": "r", "status": "in_progress"}})
    tools = case.kind == "tools"
    item: dict[str, Any] = {"type": "message", "id": "m1", "role": "assistant", "content": []}
    if tools:
        item = {"type": "function_call", "id": "f1", "call_id": "c1", "name": "weather"}
    yield _data({"type": "response.output_item.added", "output_index": 0, "item": item})
    kind = "response.function_call_arguments.delta" if tools else "response.output_text.delta"
    for piece, count in zip(pieces, counts, strict=True):
        yield _data({"type": kind, "output_index": 0, "content_index": 0, "delta": piece}, count)
    text = "".join(pieces)
    if not tools:
        done = {"type": "response.output_text.done", "output_index": 0, "content_index": 0}
        yield _data(done | {"text": text})
    made = sum(counts)
    usage = {"input_tokens": 9, "output_tokens": made, "total_tokens": 9 + made}
    reply = {"id": "r", "status": "completed", "output": [], "usage": usage}
    yield _data({"type": "response.completed", "response": reply})


def _messages(case: Case, pieces: list[str], counts: list[int]) -> Iterator[Event]:
    start = {"id": "m", "role": "assistant", "content": [], "usage": {"input_tokens": 9}}
    start["usage"]["output_tokens"] = 1  # type: ignore[index] (as Anthropic's servers say it)
    yield _data({"type": "message_start", "message": start})
    half = len(pieces) // 2
    blocks = {
        "text": ({"type": "text", "text": ""}, "text_delta", "text"),
        "tools": (
            {"type": "tool_use", "id": "c1", "name": "weather", "input": {}},
            "input_json_delta",
            "partial_json",
        ),
        "reasoning": ({"type": "thinking", "thinking": ""}, "thinking_delta", "thinking"),
    }
    order = {"text": ("text",), "tools": ("text", "tools"), "reasoning": ("reasoning", "text")}
    parts = order[case.kind]
    cuts = [0, half, len(pieces)] if len(parts) > 1 else [0, len(pieces)]
    for index, (name, (first, last)) in enumerate(
        zip(parts, itertools.pairwise(cuts), strict=True)
    ):
        block, kind, key = blocks[name]
        yield _data({"type": "content_block_start", "index": index, "content_block": block})
        for piece, count in zip(pieces[first:last], counts[first:last], strict=True):
            delta = {"type": kind, key: piece}
            yield _data({"type": "content_block_delta", "index": index, "delta": delta}, count)
        yield _data({"type": "content_block_stop", "index": index})
    reason = "tool_use" if case.kind == "tools" else "end_turn"
    told = {"output_tokens": sum(counts)}
    yield _data({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": told})
    yield _data({"type": "message_stop"})


async def measure_case(folder: Path, case: Case, tokenizer: Path, repeats: int, step: int) -> Seen:
    """Leave a stream after each of its events (or each `step`-th), `repeats` times."""
    rng = random.Random(case.name)
    wrote = 0

    def answer(_: Asked) -> Script:
        def told() -> Iterator[bytes]:
            nonlocal wrote
            for data, tokens in events(case, rng):
                yield data
                wrote += tokens  # taken up again only when it was written

        return Script(chunks=told(), gate=lambda _: asyncio.sleep(GAP_S))

    model: dict[str, Any] = {"dialect": case.dialect, "max_output_tokens": 4096}
    if case.tokenizer:
        model["tokenizer"] = str(tokenizer)
    if case.dialect == "anthropic":
        model["surfaces"] = ["messages"]
    seen = Seen()
    folder.mkdir(parents=True)
    async with (
        running(folder, answer, model=model) as gateway,
        aiohttp.ClientSession() as session,
    ):
        tier = DefineTier(name="new", level=0, caps=wide(), max_output_tokens=4096)
        await asyncio.to_thread(gateway.store.perform, gateway.furnished.operator, tier)
        await asyncio.sleep(0.5)
        body = orjson.loads(client_request(case.surface, "small", stream=True))  # type: ignore[arg-type]
        body["max_output_tokens" if case.surface == "responses" else "max_tokens"] = 500
        if case.kind == "tools":
            body["tools"] = _tools(case.surface)
        headers = {"authorization": f"Bearer {gateway.key}"}
        url = gateway.url + PATHS[case.surface]  # type: ignore[index]
        for index in range(0, EVENTS + 6, step):
            for _ in range(repeats):
                wrote = 0
                reply = await session.post(url, json=body, headers=headers)
                while reply.status == 503:  # its feed is stale: the machine is too busy
                    reply.close()
                    await asyncio.sleep(0.1)
                    reply = await session.post(url, json=body, headers=headers)
                async with reply:
                    if reply.status != 200:
                        raise SystemExit(f"{case.name}: {reply.status} {await reply.read()!r}")
                    for _ in range(index):
                        event = await reply.content.readuntil(b"\n\n")
                        if not event:
                            break
                    reply.close()
                seen.streams += 1
                row = (await gateway.settled(seen.streams))[-1]
                if row["tokens_out"] < wrote:
                    seen.under.append(f"{case.name} at {index}: {row['tokens_out']} of {wrote}")
                if wrote:
                    seen.ratios.append(row["tokens_out"] / wrote)
    return seen


def _tools(surface: str) -> list[dict[str, Any]]:
    schema = {"type": "object", "properties": {"town": {"type": "string"}}}
    if surface == "messages":
        return [{"name": "weather", "input_schema": schema}]
    function = {"name": "weather", "parameters": schema}
    if surface == "responses":
        return [{"type": "function", **function}]
    return [{"type": "function", "function": function}]


async def measure_all(
    folder: Path, repeats: int, cases: tuple[Case, ...], step: int = 1
) -> dict[Case, Seen]:
    """Measure cases, some at a time: they mostly wait."""
    tokenizer = word_tokenizer(folder / "tokenizer.json")
    room = asyncio.Semaphore(6)

    async def one(case: Case) -> Seen:
        async with room:
            return await measure_case(folder / case.name, case, tokenizer, repeats, step)

    return dict(zip(cases, await asyncio.gather(*map(one, cases)), strict=True))


def measure(run: Part) -> None:
    """Measure and tell."""
    cases = CASES[::5] if run.smoke else CASES
    found = asyncio.run(measure_all(run.folder, 1 if run.smoke else 2, cases))
    for case, seen in found.items():
        middle = statistics.median(seen.ratios)
        print(
            f"{case.name:36}{seen.streams:5} streams, {len(seen.under)} under, median "
            f"{middle:.3f}, largest {max(seen.ratios):.2f}{'' if case.known else ' (by bytes)'}"
        )
        for text in seen.under[:3]:
            print(f"    {text}")
    known = [ratio for case, seen in found.items() if case.known for ratio in seen.ratios]
    run.tell("abort_underbilled", sum(len(seen.under) for seen in found.values()), "count")
    run.tell("abort_settled_over_produced_median", statistics.median(known), "x")


if __name__ == "__main__":
    with part(__doc__) as found:
        measure(found)
