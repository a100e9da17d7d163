"""Replies of upstreams, whole or an event of a stream, taken apart into what they say.

Each reader looks only for what it knows; everything else in a reply is never touched again, so it
cannot reach the client. Nothing here trusts a type: an upstream may send anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gateway.surfaces.produced import anthropic_usage, llamacpp_usage, openai_usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.gateway.surfaces.listener import Listener
    from stillhouse.gateway.surfaces.policy import Surface

    Reader = Callable[[dict[str, Any], Listener], None]

_FINISH = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
# How vLLM and SGLang end a reply that they gave up: what there is of it is not all of it.
_GIVEN_UP = frozenset({"abort", "error"})


def read_chat(reply: dict[str, Any], to: Listener) -> None:
    """Read a chat completion, or a chunk of one."""
    choices = reply.get("choices")
    if type(choices) is list:
        for choice in choices:
            if type(choice) is not dict:
                continue
            index = _index(choice)
            said = choice.get("delta")
            if type(said) is not dict:
                said = choice.get("message")
            if type(said) is dict:
                _said(said, index, choice, to)
            _finish(choice, index, to)
    _bill(reply, to)


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index", 0)
    return index if type(index) is int else -1  # of no choice: counted and not served


def _finish(choice: dict[str, Any], index: int, to: Listener) -> None:
    reason = choice.get("finish_reason")
    if type(reason) is not str:
        return
    if reason in _GIVEN_UP:
        to.take_error()
    else:
        stopped_by = choice.get("stop_reason", choice.get("matched_stop"))  # vLLM's, SGLang's
        to.take_finish(index, _FINISH.get(reason, "stop"), stopped_by)


def _said(said: dict[str, Any], index: int, choice: dict[str, Any], to: Listener) -> None:
    to.take_start(index)
    for name in ("reasoning_content", "reasoning"):
        thought = said.get(name)
        if type(thought) is str and thought:
            to.take_reasoning(index, thought)
            break
    content = said.get("content")
    entries = None
    if to.logprobs_wanted:
        given = choice.get("logprobs")
        entries = given.get("content") if type(given) is dict else None
    if type(content) is str:
        if content or entries:
            to.take_text(index, content, entries)
    elif type(content) is list:
        for part in content:
            if type(part) is dict and part.get("type") == "text" and type(part.get("text")) is str:
                to.take_text(index, part["text"], None)
    elif entries:
        to.take_text(index, "", entries)
    refusal = said.get("refusal")
    if type(refusal) is str and refusal:
        to.take_refusal(index, refusal)
    calls = said.get("tool_calls")
    if type(calls) is list:
        for position, call in enumerate(calls):
            if type(call) is dict:
                slot = call.get("index")
                _call(call, index, slot if type(slot) is int else position, to)


def _call(call: dict[str, Any], index: int, slot: int, to: Listener) -> None:
    function = call.get("function")
    if type(function) is not dict:
        return
    to.take_tool(index, slot, call.get("id"), function.get("name"))
    arguments = function.get("arguments")
    if type(arguments) is dict:
        arguments = orjson.dumps(arguments).decode()
    if type(arguments) is str and arguments:
        to.take_arguments(index, slot, arguments)


def read_completion(reply: dict[str, Any], to: Listener) -> None:
    """Read a text completion, or a chunk of one."""
    choices = reply.get("choices")
    if type(choices) is list:
        for choice in choices:
            if type(choice) is not dict:
                continue
            index, said = _index(choice), choice.get("text")
            to.take_start(index)
            if type(said) is str and said:
                entries = _listed(choice.get("logprobs")) if to.logprobs_wanted else None
                to.take_text(index, said, entries)
            _finish(choice, index, to)
    _bill(reply, to)


def _listed(given: Any) -> list[dict[str, Any]] | None:
    """Bring the older form of log-probabilities (lists side by side) into the newer one."""
    if type(given) is not dict:
        return None
    if type(given.get("content")) is list:  # llama.cpp writes the newer form here too
        content: list[dict[str, Any]] = given["content"]
        return content
    tokens, values, tops = (
        value if type(value := given.get(name)) is list else []
        for name in ("tokens", "token_logprobs", "top_logprobs")
    )
    return [
        {
            "token": token,
            "logprob": value,
            "top_logprobs": [{"token": name, "logprob": other} for name, other in top.items()]
            if type(top) is dict
            else [],
        }
        for token, value, top in zip(tokens, values, tops or [None] * len(tokens), strict=False)
    ]


def _bill(reply: dict[str, Any], to: Listener) -> None:
    usage = openai_usage(reply.get("usage"))
    if usage is None and "timings" in reply:
        usage = llamacpp_usage(reply["timings"])
    to.take_usage(usage)
    if reply.get("error") is not None:
        to.take_error()


def read_message(reply: dict[str, Any], to: Listener) -> None:
    """Read a whole Anthropic message."""
    if reply.get("type") == "error" or reply.get("error") is not None:
        to.take_error()
        return
    to.take_usage(anthropic_usage(reply.get("usage"), to.usage))
    blocks = reply.get("content")
    if type(blocks) is not list:
        return
    to.take_start(0)
    for slot, block in enumerate(blocks):
        if type(block) is dict:
            _block(block, slot, to)
    reason = reply.get("stop_reason")
    if type(reason) is str:
        to.take_finish(0, _FINISH.get(reason, "stop"), reply.get("stop_sequence"))


def _block(block: dict[str, Any], slot: int, to: Listener) -> None:
    kind = block.get("type")
    if kind == "text" and type(block.get("text")) is str:
        to.take_text(0, block["text"], None)
    elif kind == "tool_use":
        to.take_tool(0, slot, block.get("id"), block.get("name"))
        if type(block.get("input")) is dict and block["input"]:
            to.take_arguments(0, slot, orjson.dumps(block["input"]).decode())
    elif kind == "thinking":
        if type(block.get("thinking")) is str:
            to.take_reasoning(0, block["thinking"])
        if type(block.get("signature")) is str:
            to.take_signature(block["signature"])
    elif kind == "redacted_thinking" and type(block.get("data")) is str:
        to.take_blob({"d": block["data"]})


def read_message_event(event: dict[str, Any], to: Listener) -> None:
    """Read an event of an Anthropic stream."""
    kind = event.get("type")
    slot = event.get("index")
    if kind == "content_block_delta":
        delta = event.get("delta")
        if type(delta) is dict:
            _message_delta(delta, slot if type(slot) is int else 0, to)
    elif kind == "content_block_start":
        block = event.get("content_block")
        if type(block) is dict:
            _block(block, slot if type(slot) is int else 0, to)
    elif kind == "message_start":
        message = event.get("message")
        given = message.get("usage") if type(message) is dict else None
        to.take_usage(anthropic_usage(given, to.usage))
        to.take_start(0)
    elif kind == "message_delta":
        to.take_usage(anthropic_usage(event.get("usage"), to.usage))
        delta = event.get("delta")
        if type(delta) is dict and type(delta.get("stop_reason")) is str:
            reason = _FINISH.get(delta["stop_reason"], "stop")
            to.take_finish(0, reason, delta.get("stop_sequence"))
    elif kind == "message_stop":
        to.take_end()
    elif kind == "error":
        to.take_error()


def _message_delta(delta: dict[str, Any], slot: int, to: Listener) -> None:
    kind = delta.get("type")
    if kind == "text_delta" and type(delta.get("text")) is str:
        to.take_text(0, delta["text"], None)
    elif kind == "input_json_delta" and type(delta.get("partial_json")) is str:
        to.take_arguments(0, slot, delta["partial_json"])
    elif kind == "thinking_delta" and type(delta.get("thinking")) is str:
        to.take_reasoning(0, delta["thinking"])
    elif kind == "signature_delta" and type(delta.get("signature")) is str:
        to.take_signature(delta["signature"])


def read_response(reply: dict[str, Any], to: Listener) -> None:
    """Read a whole response object."""
    if reply.get("error") is not None or reply.get("status") in ("failed", "cancelled"):
        to.take_error()
        return
    items = reply.get("output")
    if type(items) is not list:
        return
    to.take_start(0)
    for slot, item in enumerate(items):
        if type(item) is dict:
            _item(item, slot, to)
    _response_end(reply, to)


def _response_end(reply: dict[str, Any], to: Listener) -> None:
    to.take_usage(openai_usage(reply.get("usage")))
    reason = "stop"
    if reply.get("status") == "incomplete":
        details = reply.get("incomplete_details")
        why = details.get("reason") if type(details) is dict else None
        reason = "content_filter" if why == "content_filter" else "length"
    to.take_finish(0, reason, None)


def _item(item: dict[str, Any], slot: int, to: Listener) -> None:
    kind = item.get("type")
    parts = item.get("content")
    if kind == "message":
        for part in parts if type(parts) is list else ():
            if type(part) is not dict:
                continue
            if part.get("type") == "output_text" and type(part.get("text")) is str:
                to.take_text(0, part["text"], part.get("logprobs"))
            elif part.get("type") == "refusal" and type(part.get("refusal")) is str:
                to.take_refusal(0, part["refusal"])
    elif kind == "function_call":
        to.take_tool(0, slot, item.get("call_id"), item.get("name"))
        if type(item.get("arguments")) is str:
            to.take_arguments(0, slot, item["arguments"])
    elif kind == "reasoning":
        for part in parts if type(parts) is list else ():
            if type(part) is dict and type(part.get("text")) is str:
                to.take_reasoning(0, part["text"])
        _encrypted(item, to)


def _encrypted(item: dict[str, Any], to: Listener) -> None:
    if type(item.get("encrypted_content")) is str:
        blob = {"e": item["encrypted_content"]}
        if type(item.get("id")) is str:
            blob["i"] = item["id"]
        to.take_blob(blob)


def read_response_event(event: dict[str, Any], to: Listener) -> None:
    """Read an event of a Responses stream.

    Servers send deltas and then the whole again, or the whole only: a part of which a delta was
    seen is not read twice.
    """
    kind = event.get("type")
    at = event.get("output_index")
    slot = at if type(at) is int else 0
    delta = event.get("delta")
    if kind == "response.output_text.delta":
        if type(delta) is str:
            to.take_once("text", slot, event.get("content_index"))
            to.take_text(0, delta, event.get("logprobs"))
    elif kind == "response.output_text.done":
        if type(event.get("text")) is str and to.take_once(
            "text", slot, event.get("content_index")
        ):
            to.take_text(0, event["text"], event.get("logprobs"))
    elif kind == "response.refusal.delta":
        if type(delta) is str:
            to.take_refusal(0, delta)
    elif kind == "response.function_call_arguments.delta":
        if type(delta) is str:
            to.take_once("arguments", slot, None)
            to.take_arguments(0, slot, delta)
    elif kind == "response.function_call_arguments.done":
        if type(event.get("arguments")) is str and to.take_once("arguments", slot, None):
            to.take_arguments(0, slot, event["arguments"])
    elif kind == "response.reasoning_text.delta":
        if type(delta) is str:
            to.take_reasoning(0, delta)
    elif kind in ("response.output_item.added", "response.output_item.done"):
        _item_event(event.get("item"), slot, kind.endswith("done"), to)
    elif kind in ("response.created", "response.in_progress"):
        to.take_start(0)
    elif kind in ("response.completed", "response.incomplete"):
        reply = event.get("response")
        _response_end(reply if type(reply) is dict else {}, to)
        to.take_end()
    elif kind in ("response.failed", "error"):
        to.take_error()


def _item_event(item: Any, slot: int, done: bool, to: Listener) -> None:
    if type(item) is not dict:
        return
    if item.get("type") == "function_call":
        to.take_tool(0, slot, item.get("call_id"), item.get("name"))
        arguments = item.get("arguments")
        if done and type(arguments) is str and to.take_once("arguments", slot, None):
            to.take_arguments(0, slot, arguments)
    elif item.get("type") == "message" and done:
        parts = item.get("content")
        for place, part in enumerate(parts if type(parts) is list else ()):
            if (
                type(part) is dict
                and type(part.get("text")) is str
                and (part.get("type") == "output_text" and to.take_once("text", slot, place))
            ):
                to.take_text(0, part["text"], part.get("logprobs"))
    elif item.get("type") == "reasoning" and done:
        _encrypted(item, to)


WHOLE: dict[Surface, Reader] = {
    "chat": read_chat,
    "completions": read_completion,
    "messages": read_message,
    "responses": read_response,
}
EVENT: dict[Surface, Reader] = {
    "chat": read_chat,
    "completions": read_completion,
    "messages": read_message_event,
    "responses": read_response_event,
}
