"""Requests for messages: to an upstream of their kind, and translated to chat."""

from __future__ import annotations

import json

import pytest
from tests.gateway.asking import MODELS, NOW_US, PNG, SCHEMA, USER, ask, refusal, served

from stillhouse.gateway.probes.replies import chat_reply
from stillhouse.gateway.surfaces import ReplyRebuilder, RequestPolicy, TierPolicy, parse_request

ANTHROPIC = {
    "system": [{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "look", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
            {"type": "image",
             "source": {"type": "base64", "media_type": "image/png", "data": PNG}}]},
        {"role": "assistant", "content": [
            {"type": "text", "text": "ok", "citations": None},
            {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "is_error": False, "content": [
                {"type": "text", "text": "3"},
                {"type": "image",
                 "source": {"type": "base64", "media_type": "image/png", "data": PNG}}]},
            {"type": "text", "text": "go on"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t2", "name": "add",
                                           "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t2"}]},
    ],
    "max_tokens": 2000,
    "stop_sequences": ["END"],
    "temperature": 1,
    "tools": [{"name": "add", "description": "adds", "input_schema": {"type": "object"},
               "strict": True, "cache_control": {"type": "ephemeral"}}],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1500},
    "output_config": {"effort": "max", "format": {"type": "json_schema", "schema": SCHEMA}},
    "metadata": {"user_id": "u1"},
    "cache_control": {"type": "ephemeral"},
}  # fmt: skip


def test_a_message_request_reaches_an_upstream_of_its_kind():
    asked = ask("messages", model="anthropic", stream=True, **ANTHROPIC)
    upstream = json.loads(asked.upstream_body)
    dropped = {"metadata", "cache_control"}
    for name in ANTHROPIC.keys() - dropped - {"max_tokens", "messages", "thinking"}:
        assert upstream[name] == ANTHROPIC[name], name
    assert upstream["max_tokens"] == 1000
    assert upstream["thinking"] == {"type": "disabled"}  # no budget fits below the bound
    assert upstream["messages"][0] == ANTHROPIC["messages"][0]
    assert (asked.end_user, asked.stop, asked.tools) == ("u1", ("END",), ("add",))
    assert (asked.blobs, asked.stream, len(asked.images)) == (True, True, 2)
    assert "cache_salt" not in upstream


def test_a_message_request_reaches_a_chat_upstream_translated():
    asked = ask("messages", model="vllm", stream=True, **ANTHROPIC)
    upstream = json.loads(asked.upstream_body)
    assert asked.upstream_path == "/v1/chat/completions"
    url = f"data:image/png;base64,{PNG}"
    picture = {"type": "image_url", "image_url": {"url": url}}

    def call(name, arguments):
        return {"id": name, "type": "function",
                "function": {"name": "add", "arguments": arguments}}  # fmt: skip

    assert upstream["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "look"}, picture]},
        {"role": "assistant", "content": "ok", "tool_calls": [call("t1", '{"a":1}')]},
        {"role": "tool", "tool_call_id": "t1", "content": "3"},
        {"role": "user", "content": [picture, {"type": "text", "text": "go on"}]},
        {"role": "assistant", "content": None, "tool_calls": [call("t2", "{}")]},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
    ]
    assert upstream["tools"][0]["function"]["parameters"] == {"type": "object"}
    assert upstream["tool_choice"] == "required"
    assert upstream["parallel_tool_calls"] is False
    assert upstream["stop"] == ["END"]
    assert upstream["reasoning_effort"] == "high"
    assert upstream["response_format"]["json_schema"]["schema"] == SCHEMA
    assert upstream["stream_options"]["include_usage"] is True
    assert asked.input_bytes == len(asked.upstream_body) - 2 * len(PNG)


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("bad_request", {"max_tokens": None}),
        ("bad_request", {"messages": []}),
        ("bad_request", {"messages": [{"role": "user", "content": 7}]}),
        ("unsupported_value", {"messages": [{"role": "system", "content": "x"}]}),
        ("unsupported_value", {"messages": [{"role": "user", "content": [{"type": "document"}]}]}),
        ("unsupported_value", {"messages": [{"role": "user", "content": [{"type": "thinking"}]}]}),
        ("unsupported_field", {"messages": [{"role": "user", "content": "x", "name": "y"}]}),
        ("unsupported_value", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
        ("unsupported_value", {"tools": {}}),
        ("unsupported_value", {"tools": [{"name": "f", "input_schema": None}]}),
        ("unsupported_value", {"thinking": {"type": "always"}}),
        ("unsupported_value", {"thinking": {"type": "enabled"}}),
        ("unsupported_value", {"output_config": {"format": {"type": "grammar"}}}),
        ("unsupported_field", {"mcp_servers": []}),
        ("unsupported_field", {"container": "c"}),
        ("unsupported_value", {"temperature": 1.5}),
        ("image_refused", {"messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "file", "data": "f"}}]}]}),
        ("image_refused", {"messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "url", "url": "http://x/"}}]}]}),
        ("image_refused", {"messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/svg"}}]}]}),
        ("unsupported_value", {"messages": [{"role": "assistant", "content": [
            {"type": "tool_use", "id": "a", "name": "b", "input": "c"}]}, USER]}),
        ("unsupported_value", {"system": [{"type": "text", "text": "x",
                                           "cache_control": {"type": "for ever"}}]}),
    ],
)  # fmt: skip
def test_a_message_request_that_is_not_offered_is_refused(code, body):
    base = {"model": "anthropic", "messages": [USER], "max_tokens": 9}
    assert refusal("messages", **base | body) == code


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "add"}, {"type": "function", "function": {"name": "add"}}),
    ],
)
def test_a_choice_of_tools_is_translated(choice, sent):
    base = {"model": "vllm", "messages": [USER], "max_tokens": 9, "tools": ANTHROPIC["tools"]}
    asked = ask("messages", tool_choice=choice, **base)
    assert json.loads(asked.upstream_body)["tool_choice"] == sent
    odd = {"type": "tool", "name": "other"}
    assert refusal("messages", tool_choice=odd, **base) == "unsupported_value"


def test_thinking_has_a_budget_below_the_bound():
    base = {"model": "anthropic", "messages": [USER], "max_tokens": 9000}
    models = dict(MODELS, anthropic=served("anthropic", "anthropic", max_output_tokens=4000))
    policy = RequestPolicy(account="a", models=models, tier=TierPolicy())
    for given, sent in ((8000, 2000), (1500, 1500)):
        thinking = {"type": "enabled", "budget_tokens": given}
        asked = parse_request(
            "messages", json.dumps({**base, "thinking": thinking}).encode(), policy, NOW_US
        )
        assert json.loads(asked.upstream_body)["thinking"]["budget_tokens"] == sent
        assert not asked.blobs  # there is no seal


@pytest.mark.parametrize(("model", "field"), [("vllm", "stop_reason"), ("sglang", "matched_stop")])
def test_a_stop_sequence_of_the_client_is_named_and_no_other(model, field):
    base = {"model": model, "messages": [USER], "max_tokens": 9, "stop_sequences": ["END"]}
    for stopped_by, reason in (("END", "stop_sequence"), ("</s>", "end_turn"), (7, "end_turn")):
        reply = chat_reply({"content": "Hi"})
        reply["choices"][0][field] = stopped_by
        rebuild = ReplyRebuilder(ask("messages", **base), reply_id="r", created_s=1)
        served = json.loads(rebuild.whole(json.dumps(reply).encode()).body)
        assert served["stop_reason"] == reason
        assert served["stop_sequence"] == ("END" if reason == "stop_sequence" else None)
