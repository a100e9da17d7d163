"""Requests for responses: to an upstream of their kind, or translated to chat; never stored."""

from __future__ import annotations

import json

import pytest
from tests.gateway.asking import FUNCTION, NOW_US, PNG, RICH, SCHEMA, SEAL, USER, ask, refusal

RESPONSE = {
    "instructions": "be kind",
    "input": [
        {"role": "user", "content": [
            {"type": "input_text", "text": "look"},
            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}]},
        {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": [
            {"type": "output_text", "text": "ok", "annotations": [], "logprobs": []},
            {"type": "refusal", "refusal": "no"}]},
        {"type": "function_call", "id": "f", "call_id": "c1", "name": "add", "arguments": "{}",
         "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
        {"type": "function_call_output", "call_id": "c1",
         "output": [{"type": "input_text", "text": "4"}]},
        {"role": "developer", "content": "short, please"},
    ],
    "max_output_tokens": 77,
    "tools": [{"type": "function", **FUNCTION}],
    "tool_choice": {"type": "function", "name": "add"},
    "text": {"format": {"type": "json_schema", "name": "r", "schema": SCHEMA}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "temperature": 0.5,
    "parallel_tool_calls": False,
    "metadata": {"a": "b"},
    "store": False,
    "background": False,
    "include": ["reasoning.encrypted_content"],
    "stream_options": {"include_obfuscation": False},
    "user": "u1",
}  # fmt: skip


def test_a_response_request_reaches_an_upstream_of_its_kind_and_nothing_is_stored():
    asked = ask("responses", model="openai", stream=True, **RESPONSE)
    upstream = json.loads(asked.upstream_body)
    assert upstream["store"] is False
    assert upstream["include"] == ["reasoning.encrypted_content"]
    assert upstream["input"][2] == {
        "type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}",
    }  # fmt: skip
    assert upstream["input"][1]["content"][0] == {
        "type": "output_text", "text": "ok", "annotations": [],
    }  # fmt: skip
    assert upstream["reasoning"] == {"effort": "low"}
    assert upstream["text"] == RESPONSE["text"]
    assert not {"user", "metadata", "background", "stream_options"} & upstream.keys()
    assert (asked.end_user, asked.blobs, asked.tools) == ("u1", True, ("add",))
    assert asked.echo["metadata"] == {"a": "b"}
    assert json.loads(ask("responses", model="openai", input="hi").upstream_body)["store"] is False


def test_a_response_request_reaches_a_chat_upstream_translated():
    asked = ask("responses", model="sglang", stream=True, **RESPONSE)
    upstream = json.loads(asked.upstream_body)
    picture = {"url": f"data:image/png;base64,{PNG}", "detail": "auto"}
    assert upstream["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "look"},
                                     {"type": "image_url", "image_url": picture}]},
        {"role": "assistant", "content": "okno", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "system", "content": "short, please"},
    ]  # fmt: skip
    assert upstream["tool_choice"] == {"type": "function", "function": {"name": "add"}}
    assert upstream["response_format"]["json_schema"]["name"] == "r"
    assert upstream["max_tokens"] == 77
    assert upstream["reasoning_effort"] == "low"
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    asked = ask("responses", model="sglang", tier=RICH, input=[{**USER}, call],
                top_logprobs=2, text={"format": {"type": "json_object"}})  # fmt: skip
    upstream = json.loads(asked.upstream_body)
    assert upstream["messages"][1]["content"] is None
    assert (upstream["top_logprobs"], asked.top_logprobs) == (2, 2)
    assert upstream["response_format"] == {"type": "json_object"}


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize("model", ["openai", "llamacpp", "sglang", "thinks"])
@pytest.mark.parametrize("last", ["call", "thought"])
def test_what_stands_behind_a_prefill_does_not_hide_it(model, last):
    session = SEAL.session(b'first\0"hi"')
    blob = SEAL.seal({"t": "x"}, account="a", session=session, model=model, now_us=NOW_US)
    thought = {"type": "reasoning", "summary": [], "encrypted_content": blob}
    prefill = {"role": "assistant", "content": "Sure, here"}
    items = [USER, prefill, {"call": CALL, "thought": thought}[last]]
    assert refusal("responses", model=model, input=items) == "unsupported_value"
    answered = {"type": "function_call_output", "call_id": "c", "output": "3"}
    ask("responses", model=model, input=[USER, thought, CALL, answered])


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("stateful_refused", {"store": True}),
        ("stateful_refused", {"background": True}),
        ("stateful_refused", {"previous_response_id": "resp_1"}),
        ("stateful_refused", {"conversation": "conv_1"}),
        ("stateful_refused", {"input": [{"type": "item_reference", "id": "x"}]}),
        ("unsupported_field", {"prompt": {"id": "p"}}),
        ("bad_request", {"input": []}),
        ("bad_request", {"input": 7}),
        ("bad_request", {"input": [7]}),
        ("bad_request", {"input": [{"role": "user", "content": 7}]}),
        ("bad_request", {"input": [{"type": "reasoning", "summary": []}]}),
        ("unsupported_value", {"input": [{"role": "owner", "content": "x"}]}),
        ("unsupported_value", {"input": [{"type": "computer_call"}]}),
        ("unsupported_value", {"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
        ("unsupported_value", {"input": [{"type": "function_call", "arguments": {}}]}),
        ("image_refused", {"input": [{"role": "user", "content": [
            {"type": "input_image", "file_id": "f"}]}]}),
        ("unsupported_value", {"tools": [{"type": "web_search"}]}),
        ("unsupported_value", {"tools": {}}),
        ("unsupported_value", {"include": ["file_search_call.results"]}),
        ("unsupported_field", {"include": ["message.output_text.logprobs"]}),
        ("unsupported_field", {"top_logprobs": 2}),
        ("unsupported_value", {"text": {"format": {"type": "grammar"}}}),
        ("unsupported_value", {"reasoning": {"effort": "huge"}}),
        ("unsupported_value", {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "x"}),
        ("unsupported_value", {"input": [{"role": "user", "content": "a"},
                                         {"role": "assistant", "content": "b"}]}),
    ],
)  # fmt: skip
def test_a_response_request_that_is_not_offered_is_refused(code, body):
    assert refusal("responses", **{"model": "openai", "input": "hi"} | body) == code
