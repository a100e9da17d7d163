"""Requests to /v1/chat/completions, rebuilt from what they may hold."""

from __future__ import annotations

from typing import Any

from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.surfaces.fields import (
    Fate,
    Table,
    anything,
    exactly,
    flag,
    integer,
    keep_only,
    logit_bias,
    number,
    one_of,
    read_fields,
    short,
    shown_name,
    stop_sequences,
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
    ask_for_stream,
    bounded_tokens,
    check_bias,
    check_choices,
    check_logprobs,
    check_prefill,
    choose_upstream,
)

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

# What may be asked. Whatever is not named is refused, among it everything that shows more than the
# reply (prompt_logprobs, return_token_ids), rewrites the prompt (chat_template,
# chat_template_kwargs, continue_final_message, add_generation_prompt), changes what text is
# (skip_special_tokens, include_stop_str_in_output, stop_token_ids, ignore_eos), reaches into the
# server (priority, kv_transfer_params, vllm_xargs, lora, cache_salt), or is a decoder of its own.
TABLE: Table = {
    "model": (Fate.TAKEN, anything),
    "messages": (Fate.TAKEN, anything),
    "stream": (Fate.TAKEN, flag),
    "stream_options": (Fate.TAKEN, anything),
    "max_tokens": (Fate.TAKEN, integer(1, 2**31)),
    "max_completion_tokens": (Fate.TAKEN, integer(1, 2**31)),
    "n": (Fate.TAKEN, integer(1, 128)),
    "stop": (Fate.TAKEN, stop_sequences),
    "tools": (Fate.TAKEN, anything),
    "tool_choice": (Fate.TAKEN, anything),
    "response_format": (Fate.TAKEN, anything),
    "logprobs": (Fate.TAKEN, flag),
    "top_logprobs": (Fate.TAKEN, integer(0, 20)),
    "logit_bias": (Fate.TAKEN, logit_bias),
    "user": (Fate.TAKEN, short(512)),
    "safety_identifier": (Fate.TAKEN, short(512)),
    "temperature": (Fate.SENT, number(0, 2)),
    "top_p": (Fate.SENT, number(0, 1)),
    "frequency_penalty": (Fate.SENT, number(-2, 2)),
    "presence_penalty": (Fate.SENT, number(-2, 2)),
    "seed": (Fate.SENT, integer(-(2**63), 2**63 - 1)),
    "reasoning_effort": (Fate.HINT, one_of(*EFFORTS)),
    "verbosity": (Fate.HINT, one_of("low", "medium", "high")),
    "parallel_tool_calls": (Fate.HINT, flag),
    "top_k": (Fate.EXTRA, integer(-1, 1_000_000)),
    "min_p": (Fate.EXTRA, number(0, 1)),
    "repetition_penalty": (Fate.EXTRA, number(0.01, 10)),
    "metadata": (Fate.IGNORED, string_map),
    "service_tier": (Fate.IGNORED, short(32)),
    "prompt_cache_key": (Fate.IGNORED, short(512)),
    "prompt_cache_retention": (Fate.IGNORED, short(32)),
    "modalities": (Fate.IGNORED, exactly(["text"])),
    "store": (Fate.STATE, anything),
}

_EMPTY: tuple[Any, ...] = (None, [], {})
_MESSAGE = {
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
    # What a client gets when it sends a reply back as it came; the last four are left out.
    "assistant": frozenset(
        {"role", "content", "name", "refusal", "tool_calls", "annotations", "audio"}
        | {"function_call", "reasoning", "reasoning_content"}
    ),
}
_CALL = frozenset({"id", "type", "function", "index"})
_CALLED = frozenset({"name", "arguments"})
_TEXT_PART = frozenset({"type", "text"})
_REFUSAL_PART = frozenset({"type", "refusal"})
_IMAGE_PART = frozenset({"type", "image_url"})
_IMAGE_URL = frozenset({"url", "detail"})
_DETAIL = one_of("auto", "low", "high")


def read_messages(value: Any, prompt: Prompt) -> list[dict[str, Any]]:
    """Return the messages rebuilt; their texts and images go into `prompt`."""
    if type(value) is not list or not value:
        raise RefusedError("bad_request", "messages is not a list with messages")
    keep_developer = prompt.served.dialect.developer
    messages = []
    for message in value:
        if type(message) is not dict:
            raise RefusedError("bad_request", "a message is not an object")
        role, content = message.get("role"), message.get("content")
        if type(role) is not str or role not in _MESSAGE:
            raise wrong("messages.role", "system, developer, user, assistant or tool")
        if role == "developer" and not keep_developer:
            role = "system"
        kept: dict[str, Any] = {"role": role}
        if type(content) is str:
            prompt.texts.append(content)
            prompt.roles.append(role)
            kept["content"] = content
            if len(message) == 2 and role != "tool":
                messages.append(kept)
                continue
        elif type(content) is list:
            kept["content"] = [_part(part, role, prompt) for part in content]
        elif content is not None or role != "assistant":
            raise RefusedError("bad_request", "a message's content is neither text nor parts")
        _rest(message, role, kept, prompt)
        if len(kept) > 2:
            rest = {name: item for name, item in kept.items() if name not in ("role", "content")}
            prompt.part(rest)
        messages.append(kept)
    return messages


def _rest(message: dict[str, Any], role: str, kept: dict[str, Any], prompt: Prompt) -> None:
    if not message.keys() <= _MESSAGE[role]:
        name = next(iter(message.keys() - _MESSAGE[role]))
        raise RefusedError("unsupported_field", f"messages: {shown_name(name)}")
    if message.get("name") is not None:
        kept["name"] = tool_name(message["name"], "messages.name")
    if role == "tool":
        kept["tool_call_id"] = call_id(message.get("tool_call_id"), "messages.tool_call_id")
    if role != "assistant":
        return
    for name in ("annotations", "audio", "function_call"):
        if message.get(name) not in _EMPTY:
            raise RefusedError("unsupported_field", f"messages: {name}")
    refusal = message.get("refusal")
    if refusal is not None and "content" not in kept:
        # Servers other than OpenAI's know no refusals; the words are what the model said.
        refusal = short(1 << 20)(refusal, "messages.refusal")
        kept["content"] = prompt.text(role, refusal, "messages.refusal")
    calls = message.get("tool_calls")
    if calls not in _EMPTY:
        if type(calls) is not list:
            raise wrong("messages.tool_calls", "a list")
        kept["tool_calls"] = [_call(call, prompt) for call in calls]
    if "content" not in kept:
        if "tool_calls" not in kept:
            raise RefusedError("bad_request", "an assistant message holds neither text nor calls")
        kept["content"] = None


def _call(value: Any, prompt: Prompt) -> dict[str, Any]:
    call = keep_only(value, _CALL, "tool_calls")
    if call.get("type", "function") != "function":
        raise wrong("tool_calls.type", "function")
    called = keep_only(call.get("function"), _CALLED, "tool_calls.function")
    arguments = called.get("arguments")
    if type(arguments) is not str:
        raise wrong("tool_calls.function.arguments", "text")
    return {
        "id": call_id(call.get("id"), "tool_calls.id"),
        "type": "function",
        "function": {
            "name": tool_name(called.get("name"), "tool_calls.function.name"),
            "arguments": prompt.text("assistant", arguments, "arguments"),
        },
    }


def _part(value: Any, role: str, prompt: Prompt) -> dict[str, Any]:
    kind = value.get("type") if type(value) is dict else None
    if kind == "text":
        part = keep_only(value, _TEXT_PART, "a text part")
        return {"type": "text", "text": prompt.text(role, part.get("text"), "a text part")}
    if kind == "refusal" and role == "assistant":
        part = keep_only(value, _REFUSAL_PART, "a refusal part")
        return {"type": "text", "text": prompt.text(role, part.get("refusal"), "a refusal part")}
    if kind == "image_url" and role == "user":
        part = keep_only(value, _IMAGE_PART, "an image part")
        image = keep_only(part.get("image_url"), _IMAGE_URL, "image_url")
        detail = image.get("detail")
        detail = "auto" if detail is None else _DETAIL(detail, "image_url.detail")
        return {
            "type": "image_url",
            "image_url": {"url": prompt.image_url(image.get("url"), detail), "detail": detail},
        }
    raise wrong("a part's type", "text, or image_url in a user's message")


def read_tools(value: Any, prompt: Prompt) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return (tools rebuilt, their names)."""
    tools: list[dict[str, Any]] = []
    for given in tool_list(value):
        tool = keep_only(given, frozenset({"type", "function"}), "tools")
        if tool.get("type") != "function":
            raise wrong("tools.type", "function")
        tools.append({"type": "function", "function": function(tool.get("function"), prompt, "fn")})
    return tools, tuple(tool["function"]["name"] for tool in tools)


def read_tool_choice(value: Any, names: tuple[str, ...]) -> Any:
    """Return the choice rebuilt."""
    if type(value) is str and value in ("none", "auto", "required"):
        return value
    if type(value) is dict and value.get("type") == "function":
        chosen = keep_only(value, frozenset({"type", "function"}), "tool_choice")
        named = keep_only(chosen.get("function"), frozenset({"name"}), "tool_choice.function")
        if named.get("name") in names:
            return {"type": "function", "function": {"name": named["name"]}}
    raise wrong("tool_choice", "none, auto, required or a tool that is offered")


def read_format(value: Any, prompt: Prompt) -> tuple[dict[str, Any], bytes | None]:
    """Return (response_format rebuilt, the canonical schema or None)."""
    kind = value.get("type") if type(value) is dict else None
    if kind in ("text", "json_object"):
        keep_only(value, frozenset({"type"}), "response_format")
        return {"type": kind}, None
    if kind == "json_schema":
        keep_only(value, frozenset({"type", "json_schema"}), "response_format")
        kept = reply_schema(value.get("json_schema"), prompt, "json_schema")
        return {"type": kind, "json_schema": kept}, canonical(kept["schema"])
    raise wrong("response_format.type", "text, json_object or json_schema")


def read_stream_options(value: Any) -> bool:
    """Return whether the client wants usage at the end of its stream."""
    options = keep_only(
        value, frozenset({"include_usage", "include_obfuscation"}), "stream_options"
    )
    for name, given in options.items():
        if given is not None:
            flag(given, f"stream_options.{name}")
    return options.get("include_usage") is True


def read(given: dict[str, Any], prompt: Prompt) -> Reading:
    """Read a request. Raises `RefusedError`."""
    served, tier = prompt.served, prompt.policy.tier
    dialect = served.dialect
    upstream_surface = choose_upstream("chat", dialect)
    sent, taken = read_fields(given, TABLE, dialect.extras)
    rebuilt = read_messages(taken.get("messages"), prompt)
    limit = taken.get("max_completion_tokens", taken.get("max_tokens"))
    reading = Reading(
        taken=taken,
        sent=sent,
        upstream={"model": served.upstream_name, "messages": rebuilt, **sent},
        upstream_surface=upstream_surface,
        max_tokens=bounded_tokens(limit, served, tier),
        turns=len(rebuilt),
    )
    upstream = reading.upstream
    tokens_field = "max_completion_tokens" if dialect.completion_tokens else "max_tokens"
    upstream[tokens_field] = reading.max_tokens
    if rebuilt[-1]["role"] == "assistant":
        check_prefill(prompt, "assistant", upstream)
    if taken.get("stream"):
        reading.stream = True
        ask_for_stream(upstream, dialect)
    if len(taken) > _PLAIN:
        _read_rarer(taken, prompt, reading)
    return reading


# model, messages, one bound of tokens; most requests take nothing else.
_PLAIN = 2


def _read_rarer(taken: dict[str, Any], prompt: Prompt, reading: Reading) -> None:
    upstream = reading.upstream
    if "stop" in taken:
        reading.stop = tuple(taken["stop"])
        upstream["stop"] = taken["stop"]
    if "n" in taken:
        reading.choices = check_choices(prompt, taken["n"])
        if reading.choices > 1:
            upstream["n"] = reading.choices
    if "tools" in taken:
        tools, reading.tools = read_tools(taken["tools"], prompt)
        if tools:
            upstream["tools"] = tools
    if "tool_choice" in taken and reading.tools:
        upstream["tool_choice"] = read_tool_choice(taken["tool_choice"], reading.tools)
    if "response_format" in taken:
        upstream["response_format"], reading.schema = read_format(taken["response_format"], prompt)
    if "stream_options" in taken:
        reading.include_usage = read_stream_options(taken["stream_options"]) and reading.stream
    biased = check_bias(prompt, taken.get("logit_bias"))
    if biased:
        upstream["logit_bias"] = taken["logit_bias"]
    if taken.get("logprobs"):
        wanted = taken.get("top_logprobs", 0)
        top = check_logprobs(prompt, wanted, biased=biased, where="logprobs")
        reading.top_logprobs = top
        upstream["logprobs"] = True
        upstream["top_logprobs"] = top
    elif taken.get("top_logprobs"):
        raise wrong("top_logprobs", "left out without logprobs")
