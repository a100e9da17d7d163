"""Scripted model servers that answer every endpoint in its own form, whole and streamed."""

from __future__ import annotations

import base64
import struct
from typing import Any

import orjson
from tests.gateway.scripted import Asked, Script, chunks, completion

from stillhouse.gateway.probes.replies import (
    message_events,
    message_reply,
    response_events,
    response_reply,
    stream_of,
)

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwAD"
    "hgGAWjR9awAAAABJRU5ErkJggg=="
)
PIXEL = f"data:image/png;base64,{PNG}"
ARGUMENTS = '{"city":"Lisbon"}'
FUNCTION = {
    "name": "weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = {
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": ARGUMENTS},
        }
    ]
}
VECTOR = [0.25, -0.5, 1.0]


def answer(asked: Asked) -> Script:
    """Whatever is asked for, in the form it is asked for."""
    return _ANSWERS[asked.path](asked.body)


def _chat(asked: dict[str, Any]) -> Script:
    streamed = asked.get("stream")
    if asked.get("tools"):
        return Script(chunks=_called()) if streamed else Script(body=completion("", **CALL))
    if "response_format" in asked:
        return Script(body=completion(ARGUMENTS))
    return Script(chunks=chunks(["Hel", "lo", " there"])) if streamed else Script(body=completion())


def _called() -> list[bytes]:
    head: dict[str, Any] = {"id": "up-1", "object": "chat.completion.chunk", "model": "m"}
    call = CALL["tool_calls"][0]
    named = {"name": "weather", "arguments": ""}
    deltas: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": None}, None),
        ({"tool_calls": [{"index": 0, **call, "function": named}]}, None),
        ({"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS[:7]}}]}, None),
        ({"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS[7:]}}]}, None),
        ({}, "tool_calls"),
    ]
    choices = [{"index": 0, "delta": said, "finish_reason": why} for said, why in deltas]
    return [stream_of([{**head, "choices": [one]} for one in choices])]


def _completions(asked: dict[str, Any]) -> Script:
    def reply(text: str, finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {"id": "up-1", "object": "text_completion", "model": "m", "choices": [choice]}

    usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    if not asked.get("stream"):
        return Script(body=orjson.dumps({**reply(" forty-two", "stop"), "usage": usage}))
    events = [reply(" forty", None), reply("-two", "stop"), {"choices": [], "usage": usage}]
    return Script(chunks=[*(stream_of([e], done=False) for e in events), b"data: [DONE]\n\n"])


def _embeddings(asked: dict[str, Any]) -> Script:
    vector: Any = VECTOR
    if asked.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
    count = len(asked["input"]) if type(asked["input"]) is list else 1
    rows = [{"object": "embedding", "index": i, "embedding": vector} for i in range(count)]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return Script(body=orjson.dumps({"object": "list", "data": rows, "usage": usage}))


def _responses(asked: dict[str, Any]) -> Script:
    if asked.get("tools"):
        reply = response_reply("")
        call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "status": "completed"}
        reply["output"] = [{**call, "name": "weather", "arguments": ARGUMENTS}]
        if not asked.get("stream"):
            return Script(body=orjson.dumps(reply))
        item = {**reply["output"][0], "arguments": ""}
        place = {"output_index": 0, "item_id": "fc_1"}
        kind = "response.function_call_arguments"
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": {**reply, "output": []}},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": f"{kind}.delta", **place, "delta": ARGUMENTS},
            {"type": f"{kind}.done", **place, "arguments": ARGUMENTS},
            {"type": "response.output_item.done", "output_index": 0, "item": reply["output"][0]},
            {"type": "response.completed", "response": reply},
        ]
        return Script(chunks=[stream_of(events, done=False)])
    reply = response_reply(ARGUMENTS if "format" in asked.get("text", {}) else "Hello there")
    if not asked.get("stream"):
        return Script(body=orjson.dumps(reply))
    return Script(chunks=[stream_of(response_events(reply, ["Hello", " there"]), done=False)])


def _messages(asked: dict[str, Any]) -> Script:
    called = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Lisbon"}}
    shaped = "format" in asked.get("output_config", {})
    reply = message_reply(ARGUMENTS if shaped else "Hello there")
    if not asked.get("stream"):
        if asked.get("tools"):
            reply["content"].append(called)
            reply["stop_reason"] = "tool_use"
        return Script(body=orjson.dumps(reply))
    events = message_events(reply, ["Hello", " there"])
    if asked.get("tools"):
        delta = {"type": "input_json_delta", "partial_json": ARGUMENTS}
        events[-2]["delta"]["stop_reason"] = "tool_use"
        events[-2:-2] = [
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {**called, "input": {}},
            },
            {"type": "content_block_delta", "index": 1, "delta": delta},
            {"type": "content_block_stop", "index": 1},
        ]
    return Script(chunks=[stream_of(events, done=False)])


_ANSWERS = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completions,
    "/v1/embeddings": _embeddings,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
}
