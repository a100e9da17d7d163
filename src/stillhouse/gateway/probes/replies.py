"""The adversarial upstream: replies that hold a secret at every documented place."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gateway.probes import chat_fields, item_fields
from stillhouse.gateway.probes.probe import ANSWER, ReplyProbe, Secret
from stillhouse.gateway.reasoning import ReasoningFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stillhouse.gateway.surfaces import Surface

# The reasoning a model is declared with, by the name a probe gives; configure one model for each.
PROBE_FORMATS = {
    "plain": ReasoningFormat(),
    "think": ReasoningFormat((("<think>", "</think>"),)),
    "open": ReasoningFormat((("<think>", "</think>"),), starts_open=True),
    "bracket": ReasoningFormat((("[THINK]", "[/THINK]"),)),
    "channel": ReasoningFormat(
        (
            (
                "<|channel|>analysis<|message|>",
                "<|end|><|start|>assistant<|channel|>final<|message|>",
            ),
        )
    ),
}

# What a call of the client's own tool needs in order to be one.
_CALLS: dict[str, dict[str, Any]] = {
    "function_call": {"call_id": "call_1", "name": "run", "arguments": "{}"},
    "tool_use": {"id": "toolu_1", "name": "run", "input": {}},
}
_CHAT_USAGE = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
_NEW_USAGE = {"input_tokens": 7, "output_tokens": 9, "total_tokens": 16}


def stream_of(events: list[Any], *, done: bool = True) -> bytes:
    """Return events as a stream's bytes."""
    out = [b"data: " + orjson.dumps(event) + b"\n\n" for event in events]
    return b"".join(out) + (b"data: [DONE]\n\n" if done else b"")


def chat_reply(said: dict[str, Any]) -> dict[str, Any]:
    """Return a plain chat completion."""
    message = {"role": "assistant", **said}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "upstream",
        "choices": [choice],
        "usage": dict(_CHAT_USAGE),
    }


def chat_events(saids: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a plain chat stream: one delta each, the reason, the usage."""
    fixed = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "up"}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *saids]
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": said, "finish_reason": None} for said in deltas
    ]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    events: list[dict[str, Any]] = [{**fixed, "choices": [choice]} for choice in choices]
    return [*events, {**fixed, "choices": [], "usage": dict(_CHAT_USAGE)}]


def _chat_probes() -> Iterator[ReplyProbe]:
    for upstream, places in chat_fields.CHAT.items():
        for place, table in places.items():
            for field, shape in table.items():
                name = f"{upstream}/chat/{place}.{field}"
                secret = Secret.of(name)
                value = shape(secret.word, secret.number)
                whole = chat_reply({"content": ANSWER})
                _put_chat(whole, "message", place, field, value)
                events = chat_events([{"content": ANSWER[:4]}, {"content": ANSWER[4:]}])
                _put_chat(events[1], "delta", place, field, value)
                _put_chat(events[-2], "delta", place, field, value)
                _put_chat(events[-1], "delta", place, field, value)
                yield ReplyProbe(name, upstream, "chat", orjson.dumps(whole), stream_of(events))


def _put_chat(reply: dict[str, Any], said: str, place: str, field: str, value: Any) -> None:
    if place == "reply":
        reply[field] = value
    elif place == "usage":
        if "usage" in reply:
            reply["usage"][field] = value
    elif reply["choices"]:
        choice = reply["choices"][0]
        if place == "call":
            function = {"name": "run", "arguments": "{}"}
            call = {"index": 0, "id": "call_1", "type": "function", "function": function}
            choice[said]["tool_calls"] = [{**call, field: value}]
        else:
            (choice if place == "choice" else choice[said])[field] = value


def _completion_probes() -> Iterator[ReplyProbe]:
    for upstream, places in chat_fields.COMPLETIONS.items():
        for place, table in places.items():
            for field, shape in table.items():
                name = f"{upstream}/completions/{place}.{field}"
                secret = Secret.of(name)
                value = shape(secret.word, secret.number)
                bodies = []
                for text in (ANSWER, ANSWER[:4], ANSWER[4:]):
                    last = None if text == ANSWER[:4] else "stop"
                    choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": last}
                    body: dict[str, Any] = {"object": "text_completion", "choices": [choice]}
                    (body if place == "reply" else choice)[field] = value
                    bodies.append(body)
                whole = orjson.dumps(bodies[0])
                yield ReplyProbe(name, upstream, "completions", whole, stream_of(bodies[1:]))


def response_events(reply: dict[str, Any], pieces: list[str]) -> list[dict[str, Any]]:
    """Return a plain Responses stream of a reply with one message."""
    item = reply["output"][-1]
    place = {"output_index": len(reply["output"]) - 1}
    at = {**place, "content_index": 0, "item_id": "msg_1"}
    begun = {**reply, "output": [], "status": "in_progress"}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": "response.output_item.added", **place, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **at, "part": {**item["content"][0], "text": ""}},
    ]
    events += [{"type": "response.output_text.delta", **at, "delta": piece} for piece in pieces]
    part = item["content"][0]
    events += [
        {"type": "response.output_text.done", **at, "text": "".join(pieces)},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", **place, "item": item},
        {"type": "response.completed", "response": reply},
    ]
    return events


def response_reply(text: str = ANSWER) -> dict[str, Any]:
    """Return a plain response object."""
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    return {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "output": [{**item, "content": [part]}],
        "usage": dict(_NEW_USAGE),
    }


def _response_probes() -> Iterator[ReplyProbe]:
    for upstream, places in item_fields.RESPONSES.items():
        for place, table in places.items():
            for field, shape in table.items():
                name = f"{upstream}/responses/{place}.{field}"
                reply = response_reply()
                item = reply["output"][0]
                holder = {
                    "reply": reply,
                    "item": item,
                    "part": item["content"][0],
                    "usage": reply["usage"],
                }[place]
                secret = Secret.of(name)
                holder[field] = shape(secret.word, secret.number)
                yield _response_probe(name, upstream, reply, [])
    for kind, table in item_fields.RESPONSE_ITEMS.items():
        for field, shape in table.items():
            name = f"openai/responses/item {kind}.{field}"
            secret = Secret.of(name)
            reply = response_reply()
            item = {"type": kind, "id": "x_1", **_CALLS.get(kind, {})}
            item[field] = shape(secret.word, secret.number)
            reply["output"].insert(0, item)
            extra = [
                {"type": "response.output_item.added", "output_index": 0, "item": item},
                {"type": "response.output_item.done", "output_index": 0, "item": item},
            ]
            yield _response_probe(name, "openai", reply, extra)
    for kind, table in item_fields.RESPONSE_EVENTS.items():
        for field, shape in table.items():
            name = f"openai/responses/event {kind}.{field}"
            secret = Secret.of(name)
            event = {"type": kind, "output_index": 0, field: shape(secret.word, secret.number)}
            probe = _response_probe(name, "openai", response_reply(), [event])
            yield ReplyProbe(name, "openai", "responses", None, probe.stream)


def _response_probe(
    name: str, upstream: str, reply: dict[str, Any], extra: list[dict[str, Any]]
) -> ReplyProbe:
    events = response_events(copy.deepcopy(reply), [ANSWER[:4], ANSWER[4:]])
    events[2:2] = extra
    stream = stream_of(events, done=False)
    return ReplyProbe(name, upstream, "responses", orjson.dumps(reply), stream)


def message_reply(text: str = ANSWER) -> dict[str, Any]:
    """Return a plain Anthropic message."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "up",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 9},
    }


def message_events(reply: dict[str, Any], pieces: list[str]) -> list[dict[str, Any]]:
    """Return an Anthropic stream of a message; its last block is text, said in pieces."""
    begun = {**reply, "content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(reply["content"]):
        last = index == len(reply["content"]) - 1
        shown = {**block, "text": ""} if last else block
        events.append({"type": "content_block_start", "index": index, "content_block": shown})
        if last:
            events += [
                {
                    "type": "content_block_delta",
                    "index": index,
                    "delta": {"type": "text_delta", "text": piece},
                }
                for piece in pieces
            ]
        events.append({"type": "content_block_stop", "index": index})
    last_words = ("stop_reason", "stop_sequence", "stop_details", "container")
    end = {name: reply[name] for name in last_words if name in reply}
    events.append({"type": "message_delta", "delta": end, "usage": reply["usage"]})
    return [*events, {"type": "message_stop"}]


def _message_probes() -> Iterator[ReplyProbe]:
    pieces = [ANSWER[:4], ANSWER[4:]]

    def probe(name: str, change: Callable[[dict[str, Any], Any], None], value: Any) -> ReplyProbe:
        reply = message_reply()
        change(reply, value)
        stream = stream_of(message_events(copy.deepcopy(reply), pieces), done=False)
        return ReplyProbe(name, "anthropic", "messages", orjson.dumps(reply), stream)

    for place, table in item_fields.MESSAGES.items():
        for field, shape in table.items():
            name = f"anthropic/messages/{place}.{field}"
            secret = Secret.of(name)

            def change(
                reply: dict[str, Any], value: Any, place: str = place, field: str = field
            ) -> None:
                holders = {"usage": reply["usage"], "part": reply["content"][0]}
                holders.get(place, reply)[field] = value

            yield probe(name, change, shape(secret.word, secret.number))
    for kind, table in item_fields.MESSAGE_BLOCKS.items():
        for field, shape in table.items():
            name = f"anthropic/messages/block {kind}.{field}"
            secret = Secret.of(name)
            block = {"type": kind, **_CALLS.get(kind, {}), field: shape(secret.word, secret.number)}
            yield probe(name, lambda reply, block: reply["content"].insert(0, block), block)
    for kind, table in item_fields.MESSAGE_DELTAS.items():
        for field, shape in table.items():
            name = f"anthropic/messages/delta {kind}.{field}"
            secret = Secret.of(name)
            events = message_events(message_reply(), pieces)
            delta = {"type": kind, field: shape(secret.word, secret.number)}
            events.insert(2, {"type": "content_block_delta", "index": 0, "delta": delta})
            stream = stream_of(events, done=False)
            yield ReplyProbe(name, "anthropic", "messages", None, stream)


def _embedding_probes() -> Iterator[ReplyProbe]:
    for place, table in chat_fields.EMBEDDINGS.items():
        for field, shape in table.items():
            name = f"openai/embeddings/{place}.{field}"
            secret = Secret.of(name)
            row: dict[str, Any] = {"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}
            reply: dict[str, Any] = {"object": "list", "data": [row], "usage": {"prompt_tokens": 3}}
            (reply if place == "reply" else row)[field] = shape(secret.word, secret.number)
            yield ReplyProbe(name, "openai", "embeddings", orjson.dumps(reply), None)


def _text_probes() -> Iterator[ReplyProbe]:
    """Reasoning inside the text, in every format a model may be declared with."""
    for model, form in PROBE_FORMATS.items():
        for opening, closing in form.tags:
            begins = ["", opening] if form.starts_open else [opening, "\n " + opening]
            for number, begin in enumerate(begins):
                for ending, rest in (("closed", closing + "\n\n" + ANSWER), ("unclosed", "")):
                    for surface in ("chat", "responses", "messages"):
                        name = f"text/{surface}/{model}/{ending}/{number}"
                        text = f"{begin}I think {Secret.of(name).word}, so.{rest}"
                        yield text_probe(name, surface, model, text)


def text_probe(name: str, surface: Surface, model: str, text: str) -> ReplyProbe:
    """Return a probe whose answer is `text`, said a few characters at a time."""
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
    if surface == "messages":
        reply = message_reply(text)
        stream = stream_of(message_events(reply, pieces), done=False)
        return ReplyProbe(name, "anthropic", surface, orjson.dumps(reply), stream, model)
    if surface == "responses":
        reply = response_reply(text)
        stream = stream_of(response_events(reply, pieces), done=False)
        return ReplyProbe(name, "openai", surface, orjson.dumps(reply), stream, model)
    reply = chat_reply({"content": text})
    stream = stream_of(chat_events([{"content": piece} for piece in pieces]))
    return ReplyProbe(name, "vllm", "chat", orjson.dumps(reply), stream, model)


def _more_choices() -> Iterator[ReplyProbe]:
    """Choices that nobody asked for."""
    name = "vllm/chat/choice that was not asked for"
    word = Secret.of(name).word
    whole = chat_reply({"content": ANSWER})
    whole["choices"].append({**whole["choices"][0], "index": 1, "message": {"content": word}})
    events = chat_events([{"content": ANSWER}])
    events.insert(2, {"choices": [{"index": 1, "delta": {"content": word}}]})
    yield ReplyProbe(name, "vllm", "chat", orjson.dumps(whole), stream_of(events))
    name = "vllm/chat/error"
    word = Secret.of(name).word
    failed = {"error": {"message": word, "type": word, "code": 500}}
    events = [*chat_events([{"content": ANSWER}])[:2], failed]
    yield ReplyProbe(name, "vllm", "chat", orjson.dumps(failed), stream_of(events))


REPLY_PROBES: tuple[ReplyProbe, ...] = (
    *_chat_probes(),
    *_completion_probes(),
    *_response_probes(),
    *_message_probes(),
    *_embedding_probes(),
    *_text_probes(),
    *_more_choices(),
)
