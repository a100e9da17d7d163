"""Structured damage for the fuzzer: values of other types, and events dropped, repeated, cut."""

from __future__ import annotations

import json
import random
from typing import Any

import orjson

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**63, "", "x" * 40, "🤖", "</think>"),
    *([], {}, [[]], {"a": [None]}, [0] * 30),
)
_TURNS = [
    {"role": "system", "content": "Be kind"},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {
        "role": "assistant",
        "content": "Yes",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
    {"role": "user", "content": "Go on"},
]
_FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
_SCHEMA = {"type": "object", "properties": {"a": {"$ref": "#/b"}}}
_BLOCKS = [
    {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": None}]},
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "3"}]},
]
_ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "3"},
]
_SAMPLING = {"temperature": 0.5, "top_p": 0.9, "stream": True}
_REQUESTS: list[tuple[Any, dict[str, Any]]] = [
    ("chat", {"messages": _TURNS, "max_tokens": 9, "stop": ["x"], "n": 1, **_SAMPLING}),
    (
        "chat",
        {
            "messages": _TURNS,
            "tools": [{"type": "function", "function": _FUNCTION}],
            "tool_choice": "auto",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "r", "schema": _SCHEMA},
            },
            "logprobs": True,
            "top_logprobs": 2,
            "stream_options": {"include_usage": True},
            "user": "u",
            "metadata": {"a": "b"},
            "store": False,
        },
    ),
    ("completions", {"prompt": ["a", "b"], "n": 1, "logprobs": 1, "stop": "x", "echo": False}),
    ("embeddings", {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 3}),
    (
        "responses",
        {
            "input": _ITEMS,
            "instructions": "Be kind",
            "tools": [{"type": "function", **_FUNCTION}],
            "text": {"format": {"type": "json_schema", "name": "r", "schema": _SCHEMA}},
            "reasoning": {"effort": "low"},
            "include": ["reasoning.encrypted_content"],
            "store": False,
            **_SAMPLING,
        },
    ),
    (
        "messages",
        {
            "messages": _BLOCKS,
            "max_tokens": 2000,
            "system": [{"type": "text", "text": "Be kind"}],
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any"},
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}},
            "metadata": {"user_id": "u"},
            **_SAMPLING,
        },
    ),
]
SEEDS: tuple[tuple[Any, bytes], ...] = tuple(
    (surface, json.dumps({"model": "plain", **body}).encode()) for surface, body in _REQUESTS
)


def damaged_value(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with something in it replaced, dropped, added or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        deed = rng.choice(("into", "into", "into", "drop", "add"))
        if deed == "drop":
            return {name: one for name, one in value.items() if name != key}
        if deed == "add":
            return {**value, "unheard_of": rng.choice(JUNK)}
        return {**value, key: damaged_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        if rng.random() < 0.2:
            return [*value[:place], value[place], *value[place:]]
        return [*value[:place], damaged_value(value[place], rng), *value[place + 1 :]]
    return rng.choice(JUNK)


def damaged_stream(stream: bytes, rng: random.Random) -> bytes:
    """Return a stream of events with one to four of them damaged."""
    events = stream.split(b"\n\n")
    for _ in range(rng.randint(1, 4)):
        if not events:
            break
        place = rng.randrange(len(events))
        deed = rng.choice(("value", "value", "value", "value", "drop", "twice", "cut", "swap"))
        head, found, text = events[place].partition(b"data: ")
        if deed == "drop":
            del events[place]
        elif deed == "twice":
            events.insert(place, events[place])
        elif deed == "cut":
            events[place] = events[place][: rng.randint(0, len(events[place]))]
        elif deed == "swap":
            other = rng.randrange(len(events))
            events[place], events[other] = events[other], events[place]
        elif found and text.startswith(b"{"):
            try:
                value = orjson.loads(text)
            except orjson.JSONDecodeError:
                continue  # cut before
            events[place] = head + found + orjson.dumps(damaged_value(value, rng))
    ending = rng.choice((b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r"))
    return ending.join(events)
