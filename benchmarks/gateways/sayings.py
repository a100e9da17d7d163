"""Replies drawn from a grammar for the fuzzer, as each kind of upstream writes them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from stillhouse.gateway.probes import PROBE_FORMATS, events_of
from stillhouse.gateway.probes.replies import chat_events, chat_reply, stream_of
from stillhouse.gateway.reasoning import ReasoningFormat

_SPACE = " \t\r\n"
_TAGS = [tag for form in PROBE_FORMATS.values() for pair in form.tags for tag in pair]
_PIECES = [
    *("a", "the answer", " ", "\n", "\n\n", "\t", "é", "🤖", "\u2028", '"', "\\", "<", "</", "{"),
    *("```python\n", "data: ", "[DONE]", "event: x\n\n", '{"reasoning_content": 1}', "<th", "nk>"),
    *_TAGS,
]


@dataclass(frozen=True)
class Saying:
    """What an upstream says: reasoning (in a field, or between tags before the text), text, calls.

    `said` is the text as it leaves the upstream, `text` what of it is the answer.
    """

    thought: str
    said: str
    text: str
    calls: tuple[tuple[str, str], ...]

    def shown(self) -> tuple[str, list[tuple[str, Any]]]:
        """Return what a client must be served."""
        return self.text, [(name, json.loads(arguments)) for name, arguments in self.calls]


def draw_saying(rng: random.Random, form: ReasoningFormat, *, fields: bool) -> Saying:
    """Draw a reply of a model that reasons in this form; `fields`: or in a field of its own."""
    text = _text(rng)
    calls = tuple(
        (f"tool_{number}", json.dumps({"q": _text(rng), "n": [number, None]}))
        for number in range(rng.choice((0, 0, 0, 1, 2)))
    )
    if form.tags and (form.starts_open or rng.random() < 0.7):
        opening, closing = rng.choice(form.tags)
        thought = _text(rng).replace(closing[:2], "")
        begin = "" if form.starts_open else rng.choice(("", "\n ")) + opening
        said = begin + thought + closing + rng.choice(("", "\n\n")) + text
        return Saying("", said, text.lstrip(_SPACE), calls)
    while any(text.lstrip(_SPACE).startswith(opening) for opening, _ in form.tags):
        text = "It is " + text
    return Saying(_text(rng) if fields and rng.random() < 0.5 else "", text, text, calls)


def _text(rng: random.Random) -> str:
    return "".join(rng.choice(_PIECES) for _ in range(rng.randint(0, 9)))


def _split(text: str, rng: random.Random) -> list[str]:
    pieces = []
    while text:
        size = rng.randint(1, 6)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def _chat(reasoning: str) -> Callable[[Saying, random.Random], tuple[bytes, bytes]]:
    def write(saying: Saying, rng: random.Random) -> tuple[bytes, bytes]:
        calls = [
            {"index": i, "id": f"call_{i}", "type": "function",
             "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(saying.calls)
        ]  # fmt: skip
        said: dict[str, Any] = {"content": saying.said}
        deltas: list[dict[str, Any]] = []
        if saying.thought:
            said[reasoning] = saying.thought
            deltas += [{reasoning: piece} for piece in _split(saying.thought, rng)]
        deltas += [{"content": piece} for piece in _split(saying.said, rng)]
        if calls:
            said["tool_calls"] = calls
        for call in calls:
            function: Any = call["function"]
            named = {**call, "function": {"name": function["name"], "arguments": ""}}
            deltas.append({"tool_calls": [named]})
            for piece in _split(function["arguments"], rng):
                part = {"index": call["index"], "function": {"arguments": piece}}
                deltas.append({"tool_calls": [part]})
        return orjson.dumps(chat_reply(said)), stream_of(chat_events(deltas))

    return write


def _response(saying: Saying, rng: random.Random) -> tuple[bytes, bytes]:
    items: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []

    def add(item: dict[str, Any], deltas: str, name: str, pieces: list[str], **place: int) -> None:
        at = {"output_index": len(items), **place}
        events.append({"type": "response.output_item.added", **at, "item": {**item, **_EMPTY}})
        if rng.random() < 0.8:  # some servers send the whole only
            events.extend({"type": f"{deltas}.delta", **at, "delta": piece} for piece in pieces)
        events.append({"type": f"{deltas}.done", **at, name: "".join(pieces)})
        events.append({"type": "response.output_item.done", **at, "item": item})
        items.append(item)

    if saying.thought:
        content = [{"type": "reasoning_text", "text": saying.thought}]
        item = {"type": "reasoning", "id": "rs_1", "summary": [], "content": content}
        add(item, "response.reasoning_text", "text", _split(saying.thought, rng), content_index=0)
    if saying.said or not saying.calls:
        part = {"type": "output_text", "text": saying.said, "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]}
        add(item, "response.output_text", "text", _split(saying.said, rng), content_index=0)
    for number, (name, arguments) in enumerate(saying.calls):
        call = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}"}
        item = {**call, "name": name, "arguments": arguments}
        pieces = _split(arguments, rng)
        add(item, "response.function_call_arguments", "arguments", pieces)
    usage = {"input_tokens": 7, "output_tokens": 9, "total_tokens": 16}
    reply = {"id": "resp_1", "status": "completed", "output": items, "usage": usage}
    begun = {"type": "response.created", "response": {**reply, "output": []}}
    ended = {"type": "response.completed", "response": reply}
    return orjson.dumps(reply), stream_of([begun, *events, ended], done=False)


_EMPTY: dict[str, Any] = {"content": [], "arguments": ""}


def _message(saying: Saying, rng: random.Random) -> tuple[bytes, bytes]:
    blocks: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []

    def add(block: dict[str, Any], begun: dict[str, Any], kind: str, name: str, text: str) -> None:
        at = {"index": len(blocks)}
        shown = {**block, **begun}
        events.append({"type": "content_block_start", **at, "content_block": shown})
        events.extend(
            {"type": "content_block_delta", **at, "delta": {"type": kind, name: piece}}
            for piece in _split(text, rng)
        )
        events.append({"type": "content_block_stop", **at})
        blocks.append(block)

    if saying.thought:
        block = {"type": "thinking", "thinking": saying.thought, "signature": ""}
        add(block, {"thinking": ""}, "thinking_delta", "thinking", saying.thought)
    if saying.said:
        add({"type": "text", "text": saying.said}, {"text": ""}, "text_delta", "text", saying.said)
    for number, (name, arguments) in enumerate(saying.calls):
        call = {"type": "tool_use", "id": f"toolu_{number}", "name": name}
        block = {**call, "input": json.loads(arguments)}
        add(block, {"input": {}}, "input_json_delta", "partial_json", arguments)
    usage = {"input_tokens": 7, "output_tokens": 9}
    reply = {"type": "message", "role": "assistant", "content": blocks, "usage": usage}
    reply |= {"stop_reason": "end_turn", "stop_sequence": None}
    begun = {"type": "message_start", "message": {**reply, "content": []}}
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    stream = stream_of([begun, *events, last, {"type": "message_stop"}], done=False)
    return orjson.dumps(reply), stream


# (upstream, surface it is asked on) -> writes a saying whole and as a stream.
FORMS: dict[tuple[str, str], Callable[[Saying, random.Random], tuple[bytes, bytes]]] = {
    ("vllm", "chat"): _chat("reasoning"),
    ("sglang", "chat"): _chat("reasoning_content"),
    ("llamacpp", "chat"): _chat("reasoning_content"),
    ("openai", "chat"): _chat("reasoning_content"),
    ("vllm", "responses"): _response,
    ("openai", "responses"): _response,
    ("anthropic", "messages"): _message,
}


def served_saying(surface: str, served: bytes) -> tuple[str, list[tuple[str, Any]]]:
    """Return (text, calls) of a reply or of a stream of one, put together as a client would."""
    events = [event for event in events_of(served) if event is not None]
    text = ""
    calls: dict[Any, list[str]] = {}
    if surface == "responses":
        reply = events[-1].get("response", events[-1])
        for at, item in enumerate(reply["output"]):
            if item["type"] == "function_call":
                calls[at] = [item["name"], item["arguments"]]
            text += "".join(part["text"] for part in item.get("content", ()))
    elif surface == "messages":
        for event in events:
            for at, block in enumerate(event.get("content", ())):
                text += block.get("text", "")
                if block["type"] == "tool_use":
                    calls[at] = [block["name"], json.dumps(block["input"])]
            block, delta = event.get("content_block", {}), event.get("delta", {})
            if block.get("type") == "tool_use":
                calls[event["index"]] = [block["name"], ""]
            text += delta.get("text", "")
            if delta.get("type") == "input_json_delta":
                calls[event["index"]][1] += delta["partial_json"]
    else:
        for event in events:
            for choice in event["choices"]:
                said = choice.get("delta") or choice.get("message") or {}
                text += said.get("content") or ""
                for at, call in enumerate(said.get("tool_calls") or ()):
                    function = call["function"]
                    kept = calls.setdefault(call.get("index", at), ["", ""])
                    kept[0] += function.get("name", "")
                    kept[1] += function["arguments"]
    return text, [(name, json.loads(arguments)) for name, arguments in calls.values()]
