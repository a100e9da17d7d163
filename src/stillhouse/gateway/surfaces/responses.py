"""Requests to OpenAI's /v1/responses, rebuilt from what they may hold. Nothing is stored."""

from __future__ import annotations

from typing import Any

from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.surfaces.chat import EFFORTS
from stillhouse.gateway.surfaces.fields import (
    Fate,
    Table,
    anything,
    flag,
    integer,
    keep_only,
    number,
    one_of,
    read_fields,
    short,
    string_map,
    wrong,
)
from stillhouse.gateway.surfaces.parts import (
    Prompt,
    call_id,
    canonical,
    function,
    reply_schema,
    tool_list,
    tool_name,
)
from stillhouse.gateway.surfaces.reading import (
    Reading,
    bounded_tokens,
    check_logprobs,
    check_prefill,
    choose_upstream,
)
from stillhouse.gateway.surfaces.translation import responses_to_chat

# `store` is sent as false whatever the client leaves out. Tools that the provider runs, stored
# prompts, files and item references are refused by not being named.
TABLE: Table = {
    "model": (Fate.TAKEN, anything),
    "input": (Fate.TAKEN, anything),
    "instructions": (Fate.TAKEN, anything),
    "stream": (Fate.TAKEN, flag),
    "max_output_tokens": (Fate.TAKEN, integer(1, 2**31)),
    "tools": (Fate.TAKEN, anything),
    "tool_choice": (Fate.TAKEN, anything),
    "text": (Fate.TAKEN, anything),
    "reasoning": (Fate.TAKEN, anything),
    "include": (Fate.TAKEN, anything),
    "top_logprobs": (Fate.TAKEN, integer(0, 20)),
    "user": (Fate.TAKEN, short(512)),
    "safety_identifier": (Fate.TAKEN, short(512)),
    "metadata": (Fate.TAKEN, string_map),
    "temperature": (Fate.SENT, number(0, 2)),
    "top_p": (Fate.SENT, number(0, 1)),
    "parallel_tool_calls": (Fate.HINT, flag),
    "truncation": (Fate.HINT, one_of("auto", "disabled")),
    "stream_options": (Fate.IGNORED, anything),
    "service_tier": (Fate.IGNORED, short(32)),
    "prompt_cache_key": (Fate.IGNORED, short(512)),
    "prompt_cache_retention": (Fate.IGNORED, short(32)),
    "max_tool_calls": (Fate.IGNORED, integer(1, 2**31)),
    "store": (Fate.STATE, anything),
    "background": (Fate.STATE, anything),
    "previous_response_id": (Fate.STATE, anything),
    "conversation": (Fate.STATE, anything),
}

_BLOBS = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"
# Clients send items back as they came; id, status and phase say nothing to a model.
_MESSAGE = frozenset({"type", "role", "content", "id", "status", "phase"})
_CALL = frozenset({"type", "call_id", "name", "arguments", "id", "status"})
_OUTPUT = frozenset({"type", "call_id", "output", "id", "status"})
_REASONING = frozenset({"type", "id", "summary", "content", "encrypted_content", "status"})
_PARTS = {
    "input_text": frozenset({"type", "text"}),
    "output_text": frozenset({"type", "text", "annotations", "logprobs"}),
    "refusal": frozenset({"type", "refusal"}),
    "input_image": frozenset({"type", "image_url", "detail", "file_id"}),
}
# Items without a role that are the assistant's: chat upstreams get them in its last message.
_ASSISTANTS = ("function_call", "reasoning")
_ROLES = ("user", "assistant", "system", "developer")
_DETAIL = one_of("auto", "low", "high")


def read(given: dict[str, Any], prompt: Prompt) -> Reading:
    """Read a request. Raises `RefusedError`."""
    served = prompt.served
    dialect = served.dialect
    upstream_surface = choose_upstream("responses", dialect)
    sent, taken = read_fields(given, TABLE, dialect.extras)
    upstream: dict[str, Any] = {"model": served.upstream_name}
    if "instructions" in taken:
        upstream["instructions"] = prompt.text("system", taken["instructions"], "instructions")
    asked = taken.get("input")
    items = [{"role": "user", "content": asked}] if type(asked) is str else asked
    if type(items) is not list or not items:
        raise RefusedError("bad_request", "input is neither text nor a list with items")
    prompt.bind(_beginning(items))
    rebuilt = [kept for item in items if (kept := _item(item, prompt)) is not None]
    if not rebuilt:
        raise RefusedError("bad_request", "input holds nothing to answer")
    upstream["input"] = rebuilt
    upstream |= sent
    include = _include(taken.get("include"))
    reading = Reading(
        taken=taken,
        sent=sent,
        upstream=upstream,
        upstream_surface=upstream_surface,
        max_tokens=bounded_tokens(taken.get("max_output_tokens"), served, prompt.policy.tier),
        turns=len(rebuilt),
        stream=bool(taken.get("stream")),
        include_usage=True,
        blobs=_BLOBS in include and prompt.seals,
    )
    upstream["max_output_tokens"] = reading.max_tokens
    upstream["store"] = False
    _read_rarer(taken, include, prompt, reading)
    reading.echo = _echo(taken, sent, upstream)
    if upstream_surface == "chat":
        reading.upstream = responses_to_chat(upstream, dialect, stream=reading.stream)
    elif reading.stream:
        upstream["stream"] = True
    last = rebuilt[-1]
    role = "assistant" if last.get("type") in _ASSISTANTS else last.get("role", "")
    check_prefill(prompt, role, reading.upstream)
    return reading


def _read_rarer(
    taken: dict[str, Any], include: list[str], prompt: Prompt, reading: Reading
) -> None:
    upstream = reading.upstream
    if "tools" in taken:
        upstream["tools"] = _tools(taken["tools"], prompt)
        reading.tools = tuple(tool["name"] for tool in upstream["tools"])
    if "tool_choice" in taken and reading.tools:
        upstream["tool_choice"] = _choice(taken["tool_choice"], reading.tools)
    if "text" in taken:
        upstream["text"], reading.schema = _text(taken["text"], prompt)
    if "reasoning" in taken:
        upstream["reasoning"] = _reasoning(taken["reasoning"])
    if reading.blobs and reading.upstream_surface == "responses":
        upstream["include"] = [_BLOBS]
    wanted = taken.get("top_logprobs", 0)
    if wanted or _LOGPROBS in include:
        top = check_logprobs(prompt, wanted, biased=False, where="top_logprobs")
        reading.top_logprobs = upstream["top_logprobs"] = top
        upstream["include"] = [*upstream.get("include", ()), _LOGPROBS]


def _beginning(items: list[Any]) -> Any:
    """Return what the first message says: a conversation's reasoning is bound by it."""
    first = next((item for item in items if type(item) is dict and item.get("role") == "user"), {})
    content = first.get("content")
    if type(content) is list and len(content) == 1 and type(content[0]) is dict:
        content = content[0].get("text", content)
    return content


def _item(value: Any, prompt: Prompt) -> dict[str, Any] | None:
    if type(value) is not dict:
        raise RefusedError("bad_request", "an item of input is not an object")
    kind = value.get("type", "message")
    read_item = _ITEMS.get(kind) if type(kind) is str else None
    if read_item is None:
        code = "stateful_refused" if kind == "item_reference" else "unsupported_value"
        raise RefusedError(code, "the type of an item of input")
    return read_item(value, prompt)


def _message(value: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    item = keep_only(value, _MESSAGE, "a message")
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise wrong("input.role", " or ".join(_ROLES))
    if role == "developer" and not prompt.served.dialect.developer:
        role = "system"
    if type(content) is str:
        return {"role": role, "content": prompt.text(role, content, "content")}
    if type(content) is not list:
        raise RefusedError("bad_request", "a message's content is neither text nor parts")
    kept: dict[str, Any] = {"role": role, "content": [_part(one, role, prompt) for one in content]}
    return kept


def _part(value: Any, role: str, prompt: Prompt) -> dict[str, Any]:
    kind = value.get("type") if type(value) is dict else None
    allowed = ("output_text", "refusal") if role == "assistant" else ("input_text", "input_image")
    if kind not in allowed:
        raise wrong(f"a part's type in {role}", " or ".join(allowed))
    part = keep_only(value, _PARTS[kind], "a part")
    if kind == "refusal":
        return {"type": kind, "refusal": prompt.text(role, part.get("refusal"), "a refusal")}
    if kind == "input_image":
        if part.get("file_id") is not None:
            raise RefusedError("image_refused")
        detail = part.get("detail")
        detail = "auto" if detail is None else _DETAIL(detail, "input_image.detail")
        url = prompt.image_url(part.get("image_url"), detail)
        return {"type": kind, "image_url": url, "detail": detail}
    kept: dict[str, Any] = {"type": kind, "text": prompt.text(role, part.get("text"), "a part")}
    if kind == "output_text":
        kept["annotations"] = []
    return kept


def _function_call(value: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    item = keep_only(value, _CALL, "a function_call")
    if type(item.get("arguments")) is not str:
        raise wrong("function_call.arguments", "text")
    kept = {
        "type": "function_call",
        "call_id": call_id(item.get("call_id"), "function_call.call_id"),
        "name": tool_name(item.get("name"), "function_call.name"),
        "arguments": prompt.text("assistant", item["arguments"], "function_call.arguments"),
    }
    prompt.part(kept)
    return kept


def _call_output(value: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    item = keep_only(value, _OUTPUT, "a function_call_output")
    output = item.get("output")
    if type(output) is list:
        output = [_part(part, "tool", prompt) for part in output]
    else:
        output = prompt.text("tool", output, "function_call_output.output")
    called = call_id(item.get("call_id"), "function_call_output.call_id")
    prompt.part(called)
    return {"type": "function_call_output", "call_id": called, "output": output}


def _reasoning_item(value: dict[str, Any], prompt: Prompt) -> dict[str, Any] | None:
    item = keep_only(value, _REASONING, "a reasoning item")
    if item.get("encrypted_content") is None:
        return None  # was shown without being sealed: there is nothing to give back
    opened = prompt.open_blob(item["encrypted_content"])
    if "e" in opened:
        prompt.part(opened)
        kept = {"type": "reasoning", "summary": [], "encrypted_content": opened["e"]}
        return kept | ({"id": opened["i"]} if "i" in opened else {})
    if "t" in opened:
        dialect = prompt.served.dialect
        sent = "responses" in dialect.surfaces or bool(dialect.history)
        prompt.thought(opened["t"], sent=sent)
        thought = {"type": "reasoning_text", "text": opened["t"]}
        return {"type": "reasoning", "id": "rs_0", "summary": [], "content": [thought]}
    raise RefusedError("foreign_reasoning")


_ITEMS = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _call_output,
    "reasoning": _reasoning_item,
}


def _tools(value: Any, prompt: Prompt) -> list[dict[str, Any]]:
    tools = []
    for given in tool_list(value):
        if type(given) is not dict or given.get("type") != "function":
            raise wrong("tools.type", "function: tools that the provider runs are not offered")
        rest = {name: item for name, item in given.items() if name != "type"}
        tools.append({"type": "function", **function(rest, prompt, "tools")})
    return tools


def _choice(value: Any, names: tuple[str, ...]) -> Any:
    if type(value) is str and value in ("none", "auto", "required"):
        return value
    if type(value) is dict and value.get("type") == "function" and value.get("name") in names:
        keep_only(value, frozenset({"type", "name"}), "tool_choice")
        return {"type": "function", "name": value["name"]}
    raise wrong("tool_choice", "none, auto, required or a tool that is offered")


def _text(value: Any, prompt: Prompt) -> tuple[dict[str, Any], bytes | None]:
    config = keep_only(value, frozenset({"format", "verbosity"}), "text")
    kept: dict[str, Any] = {}
    schema = None
    if config.get("verbosity") is not None:
        verbosity = one_of("low", "medium", "high")(config["verbosity"], "text.verbosity")
        if "verbosity" in prompt.served.dialect.extras:
            kept["verbosity"] = verbosity
    form = config.get("format")
    if form is not None:
        kind = form.get("type") if type(form) is dict else None
        if kind in ("text", "json_object"):
            keep_only(form, frozenset({"type"}), "text.format")
            kept["format"] = {"type": kind}
        elif kind == "json_schema":
            kept["format"] = {"type": kind, **reply_schema(form, prompt, "text.format")}
            schema = canonical(kept["format"]["schema"])
        else:
            raise wrong("text.format.type", "text, json_object or json_schema")
    return kept, schema


def _reasoning(value: Any) -> dict[str, Any]:
    asked = keep_only(value, frozenset({"effort", "summary", "generate_summary"}), "reasoning")
    kept = {}
    if asked.get("effort") is not None:
        kept["effort"] = one_of(*EFFORTS)(asked["effort"], "reasoning.effort")
    for name in ("summary", "generate_summary"):
        if asked.get(name) is not None:
            one_of("auto", "concise", "detailed")(asked[name], f"reasoning.{name}")
    return kept


def _include(value: Any) -> list[str]:
    if value is None:
        return []
    if type(value) is not list or any(item not in (_BLOBS, _LOGPROBS) for item in value):
        raise wrong("include", f"{_BLOBS} or {_LOGPROBS}")
    return value


def _echo(taken: dict[str, Any], sent: dict[str, Any], upstream: dict[str, Any]) -> dict[str, Any]:
    """Return what a response object repeats of its request: ours, never the upstream's words."""
    return {
        "instructions": taken.get("instructions"),
        "max_output_tokens": upstream["max_output_tokens"],
        "metadata": taken.get("metadata", {}),
        "parallel_tool_calls": sent.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": upstream.get("reasoning", {}).get("effort"), "summary": None},
        "store": False,
        "temperature": sent.get("temperature", 1.0),
        "text": {"format": upstream.get("text", {}).get("format", {"type": "text"})},
        "tool_choice": upstream.get("tool_choice", "auto"),
        "tools": upstream.get("tools", []),
        "top_p": sent.get("top_p", 1.0),
        "truncation": sent.get("truncation", "disabled"),
    }
