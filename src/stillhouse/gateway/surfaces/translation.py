"""A request to one surface, already checked, as the same request to an upstream of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gateway.surfaces.reading import ask_for_stream

if TYPE_CHECKING:
    from stillhouse.gateway.surfaces.policy import Dialect

_EFFORTS = {"xhigh": "high", "max": "high"}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def messages_to_chat(asked: dict[str, Any], dialect: Dialect, *, stream: bool) -> dict[str, Any]:
    """Return a chat completions request that asks what an Anthropic messages request asks."""
    chat: dict[str, Any] = {"model": asked["model"], "messages": []}
    system = asked.get("system")
    if system:
        text = system if type(system) is str else "\n".join(block["text"] for block in system)
        chat["messages"].append({"role": "system", "content": text})
    for message in asked["messages"]:
        role, content = message["role"], message["content"]
        if type(content) is str:
            chat["messages"].append({"role": role, "content": content})
        elif role == "user":
            chat["messages"] += _from_user(content)
        else:
            chat["messages"].append(_from_assistant(content, dialect))
    for name in ("temperature", "top_p", "top_k"):
        if name in asked:
            chat[name] = asked[name]
    limit = "max_completion_tokens" if dialect.completion_tokens else "max_tokens"
    chat[limit] = asked["max_tokens"]
    if "stop_sequences" in asked:
        chat["stop"] = asked["stop_sequences"]
    if "tools" in asked:
        chat["tools"] = [_tool(tool) for tool in asked["tools"]]
    _choose(asked.get("tool_choice"), chat, dialect)
    config = asked.get("output_config", {})
    if "effort" in config and "reasoning_effort" in dialect.extras:
        chat["reasoning_effort"] = _EFFORTS.get(config["effort"], config["effort"])
    if "format" in config:
        named = {"name": "reply", "schema": config["format"]["schema"], "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": named}
    if stream:
        ask_for_stream(chat, dialect)
    return chat


def _from_user(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tool results are messages of their own in chat; their images go to the user's message."""
    results, parts = [], []
    for block in blocks:
        if block["type"] != "tool_result":
            parts.append(_part(block))
            continue
        content = block.get("content", "")
        if type(content) is list:
            parts += [_part(inner) for inner in content if inner["type"] == "image"]
            content = "\n".join(inner["text"] for inner in content if inner["type"] == "text")
        results.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": content})
    if len(parts) == 1 and parts[0]["type"] == "text":
        return [*results, {"role": "user", "content": parts[0]["text"]}]
    return [*results, {"role": "user", "content": parts}] if parts or not results else results


def _part(block: dict[str, Any]) -> dict[str, Any]:
    if block["type"] == "text":
        return {"type": "text", "text": block["text"]}
    source = block["source"]
    url = source.get("url") or f"data:{source['media_type']};base64,{source['data']}"
    return {"type": "image_url", "image_url": {"url": url}}


def _from_assistant(blocks: list[dict[str, Any]], dialect: Dialect) -> dict[str, Any]:
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": orjson.dumps(block["input"]).decode()},
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]
    if calls:
        message["tool_calls"] = calls
    elif message["content"] is None:
        message["content"] = ""
    thought = "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    if thought and dialect.history:
        message[dialect.history] = thought
    return message


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool["name"], "parameters": tool["input_schema"]}
    for name in ("description", "strict"):
        if name in tool:
            function[name] = tool[name]
    return {"type": "function", "function": function}


def _choose(choice: dict[str, Any] | None, chat: dict[str, Any], dialect: Dialect) -> None:
    if choice is None:
        return
    if choice["type"] == "tool":
        chat["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    else:
        chat["tool_choice"] = _CHOICES[choice["type"]]
    if choice.get("disable_parallel_tool_use") and "parallel_tool_calls" in dialect.extras:
        chat["parallel_tool_calls"] = False


def responses_to_chat(asked: dict[str, Any], dialect: Dialect, *, stream: bool) -> dict[str, Any]:
    """Return a chat completions request that asks what a Responses request asks."""
    messages: list[dict[str, Any]] = []
    if "instructions" in asked:
        messages.append({"role": "system", "content": asked["instructions"]})
    thought = ""
    for item in asked["input"]:
        kind = item.get("type", "message")
        if kind == "reasoning":
            thought += "".join(part["text"] for part in item.get("content", ()))
            continue
        if kind == "function_call_output":
            messages.append(_tool_message(item))
            continue
        if kind == "message":
            message = {"role": item["role"], "content": _chat_content(item["content"])}
            messages.append(message)
        else:
            message = _calling(messages)
            called = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": called}
            message["tool_calls"].append(call)
        if thought and dialect.history and message["role"] == "assistant":
            message[dialect.history], thought = thought, ""
    chat: dict[str, Any] = {"model": asked["model"], "messages": messages}
    for name in ("temperature", "top_p", "parallel_tool_calls"):
        if name in asked:
            chat[name] = asked[name]
    limit = "max_completion_tokens" if dialect.completion_tokens else "max_tokens"
    chat[limit] = asked["max_output_tokens"]
    if asked.get("tools"):
        chat["tools"] = [
            {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
            for tool in asked["tools"]
        ]
    choice = asked.get("tool_choice")
    if type(choice) is dict:
        chat["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif choice is not None:
        chat["tool_choice"] = choice
    effort = asked.get("reasoning", {}).get("effort")
    if effort is not None and "reasoning_effort" in dialect.extras:
        chat["reasoning_effort"] = effort
    text = asked.get("text", {})
    if "verbosity" in text:
        chat["verbosity"] = text["verbosity"]
    form = text.get("format", {"type": "text"})
    if form["type"] == "json_schema":
        named = {name: value for name, value in form.items() if name != "type"}
        chat["response_format"] = {"type": "json_schema", "json_schema": named}
    elif form["type"] != "text":
        chat["response_format"] = form
    if "top_logprobs" in asked:
        chat["logprobs"] = True
        chat["top_logprobs"] = asked["top_logprobs"]
    if stream:
        ask_for_stream(chat, dialect)
    return chat


def _calling(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the assistant message that a call belongs to: the last one, or a new one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", [])
    return messages[-1]


def _tool_message(item: dict[str, Any]) -> dict[str, Any]:
    output = item["output"]
    if type(output) is list:
        output = "\n".join(part["text"] for part in output if part["type"] == "input_text")
    return {"role": "tool", "tool_call_id": item["call_id"], "content": output}


def _chat_content(content: Any) -> Any:
    if type(content) is str:
        return content
    if all(part["type"] != "input_image" for part in content):
        return "".join(part.get("text", part.get("refusal", "")) for part in content)
    return [
        {"type": "text", "text": part["text"]}
        if part["type"] == "input_text"
        else {
            "type": "image_url",
            "image_url": {"url": part["image_url"], "detail": part["detail"]},
        }
        for part in content
    ]
