"""Requests for chat: what may be asked reaches the upstream as asked, and nothing else does."""

from __future__ import annotations

import base64
import json

import pytest
from tests.gateway.asking import (
    FUNCTION,
    HOSTS,
    MODELS,
    NOW_US,
    PNG,
    RICH,
    SCHEMA,
    USER,
    ask,
    chat,
    refusal,
)

from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.surfaces import RequestPolicy, TierPolicy, parse_request


def test_a_plain_request_is_bounded_salted_and_renamed():
    asked, upstream = chat(temperature=0.5)
    assert upstream == {
        "model": "up",
        "messages": [USER],
        "temperature": 0.5,
        "max_tokens": 1000,
        "stream": False,
        "cache_salt": "salt",
    }
    assert (asked.texts, asked.roles, asked.turns) == (("hi",), ("user",), 1)
    assert asked.input_bytes == len(asked.upstream_body)
    assert asked.upstream_path == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("model", "tier", "asked", "sent"),
    [
        ("vllm", TierPolicy(), 7, 7),
        ("vllm", TierPolicy(), 10**6, 1000),
        ("vllm", TierPolicy(max_output_tokens=30), 10**6, 30),
        ("vllm", TierPolicy(max_output_tokens=30), None, 30),
        ("small", TierPolicy(), None, 50),
        ("small", TierPolicy(max_output_tokens=30), None, 30),
    ],
)
def test_the_bound_of_output_is_always_set_and_clamped(model, tier, asked, sent):
    body = {} if asked is None else {"max_tokens": asked}
    parsed, upstream = chat(model, tier, **body)
    assert upstream["max_tokens"] == parsed.max_tokens == sent


def test_of_two_bounds_the_newer_counts_and_openai_gets_its_own_field():
    _, upstream = chat("openai", max_tokens=900, max_completion_tokens=8)
    assert upstream["max_completion_tokens"] == 8
    assert "max_tokens" not in upstream


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("vllm", {"include_usage": True, "continuous_usage_stats": True}),
        ("openai", {"include_usage": True}),
    ],
)
def test_a_stream_reports_its_usage_whatever_the_client_asked(model, options):
    told = {"include_usage": True, "include_obfuscation": False}
    for given, wanted in ((None, False), ({"include_usage": False}, False), (told, True)):
        asked, upstream = chat(model, stream=True, stream_options=given)
        assert upstream["stream_options"] == options
        assert asked.include_usage is wanted
    assert chat("llamacpp", stream=True)[1]["timings_per_token"] is True
    assert chat("openai", stream=False)[0].stream is False


def test_what_the_official_clients_send_of_their_own_accord_works():
    asked, upstream = chat(
        "transformers",
        user="u",
        safety_identifier="end user",
        metadata={"a": "b"},
        service_tier="auto",
        prompt_cache_key="k",
        store=False,
        modalities=["text"],
        n=1,
        parallel_tool_calls=True,
        reasoning_effort="low",
        verbosity="low",
        logprobs=False,
        top_logprobs=None,
        logit_bias={},
        tools=[],
        response_format={"type": "text"},
        stop=None,
        seed=7,
    )
    assert asked.end_user == "end user"
    assert upstream.keys() == {"model", "messages", "max_tokens", "stream"} | {
        "response_format",
        "seed",
    }


def test_hints_go_to_those_who_know_them_and_sampling_is_not_ignored():
    assert chat("openai", reasoning_effort="low")[1]["reasoning_effort"] == "low"
    assert chat("vllm", top_k=5)[1]["top_k"] == 5
    assert refusal("chat", model="openai", messages=[USER], top_k=5) == "unsupported_field"


def test_messages_that_clients_send_back_as_they_came_are_rebuilt():
    call = {"id": "c1", "type": "function", "index": 0}
    call["function"] = {"name": "add", "arguments": "{}"}
    reply = {
        "role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None,
        "function_call": None, "tool_calls": [call], "reasoning_content": "someone's thoughts",
        "reasoning": "more",
    }  # fmt: skip
    parts = [{"type": "text", "text": "x"}, {"type": "refusal", "refusal": "y"}]
    said = [
        {"role": "developer", "content": "be kind"},
        {**USER, "name": "ann"},
        reply,
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "3"}]},
        {"role": "assistant", "content": parts},
        {"role": "assistant", "content": None, "refusal": "no"},
        USER,
    ]
    asked, upstream = chat(messages=said)
    assert [message["role"] for message in upstream["messages"]] == [
        "system", "user", "assistant", "tool", "assistant", "assistant", "user",
    ]  # fmt: skip
    sent = upstream["messages"][2]
    assert sent["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    ]
    assert set(sent) == {"role", "content", "tool_calls"}
    assert b"thoughts" not in asked.upstream_body
    assert asked.texts == ("be kind", "hi", "{}", "3", "x", "y", "no", "hi")
    assert chat("openai", messages=said)[1]["messages"][0]["role"] == "developer"


@pytest.mark.parametrize(
    ("code", "messages"),
    [
        ("bad_request", []),
        ("bad_request", "hi"),
        ("bad_request", [7]),
        ("bad_request", [{"role": "user"}]),
        ("bad_request", [{"role": "user", "content": 7}]),
        ("bad_request", [{"role": "user", "content": [{"type": "text", "text": 1}]}]),
        ("bad_request", [{"role": "assistant", "content": None}, USER]),
        ("unsupported_value", [{"role": "function", "content": "x", "name": "f"}]),
        ("unsupported_value", [{"role": 7, "content": "x"}]),
        ("unsupported_value", [{"role": "tool", "content": "x"}]),
        ("unsupported_value", [{"role": "user", "content": "x", "name": "a b"}]),
        ("unsupported_value", [{"role": "user", "content": [{"type": "input_audio"}]}]),
        ("unsupported_value", [{"role": "user", "content": ["x"]}]),
        ("unsupported_value", [{"role": "system", "content": [{"type": "image_url"}]}]),
        ("unsupported_field", [{"role": "user", "content": "x", "cache_control": {}}]),
        (
            "unsupported_field",
            [{"role": "user", "content": [{"type": "text", "text": "", "x": 1}]}],
        ),
        ("unsupported_field", [{"role": "assistant", "content": "", "function_call": {"a": 1}}]),
        ("bad_request", [{"role": "assistant", "tool_calls": [7]}, USER]),
        ("unsupported_value", [{"role": "assistant", "tool_calls": 7}, USER]),
        ("unsupported_value", [{"role": "assistant", "tool_calls": [{"type": "custom"}]}, USER]),
        ("unsupported_value", [USER, {"role": "assistant", "content": "Sure,"}]),
    ],
)
def test_a_message_that_is_not_one_is_refused(code, messages):
    assert refusal("chat", model="vllm", messages=messages) == code


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("unsupported_field", {"prompt_logprobs": None}),
        ("unsupported_field", {"a b": 1}),
        ("unsupported_field", {"logprobs": True}),
        ("unsupported_field", {"logit_bias": {"1": 1}}),
        ("unsupported_value", {"logit_bias": {"x": 1}}),
        ("unsupported_value", {"top_logprobs": 2}),
        ("too_many_choices", {"n": 2}),
        ("stateful_refused", {"store": True}),
        ("unsupported_value", {"temperature": 3}),
        ("unsupported_value", {"temperature": True}),
        ("unsupported_value", {"max_tokens": 0}),
        ("unsupported_value", {"max_tokens": 1.5}),
        ("unsupported_value", {"stream": 1}),
        ("unsupported_value", {"stop": [""]}),
        ("unsupported_value", {"stop": ["x"] * 17}),
        ("unsupported_value", {"metadata": {"a": 1}}),
        ("unsupported_value", {"user": "x" * 1000}),
        ("unsupported_value", {"modalities": ["text", "audio"]}),
        ("unsupported_value", {"tools": {}}),
        ("unsupported_value", {"tools": [{"type": "custom"}]}),
        ("unsupported_value", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
        ("unsupported_value", {"response_format": {"type": "grammar"}}),
        ("unsupported_value", {"verbosity": "loud"}),
        ("bad_request", {"stream_options": 7}),
        ("unsupported_value", {"stream_options": {"include_usage": 1}}),
    ],
)
def test_a_field_that_is_not_offered_is_refused_and_not_dropped(code, body):
    assert refusal("chat", **{"model": "vllm", "messages": [USER]} | body) == code


def test_a_refusal_names_the_field_but_never_the_text_of_a_strange_one():
    for name, shown in (("prompt_logprobs", "prompt_logprobs"), ("my secret text", "unusual")):
        with pytest.raises(RefusedError) as refused:
            chat(**{name: 1})
        assert shown in refused.value.detail


def test_tools_schema_stop_and_format_reach_the_upstream_rebuilt():
    form = {"type": "json_schema", "json_schema": {"name": "r", "schema": SCHEMA, "strict": True}}
    tool = {"type": "function", "function": {**FUNCTION, "description": "adds", "strict": True}}
    choice = {"type": "function", "function": {"name": "add"}}
    asked, upstream = chat(tools=[tool], tool_choice=choice, response_format=form, stop="end")
    assert upstream["tools"] == [tool]
    assert upstream["tool_choice"] == choice
    assert upstream["response_format"] == form
    assert (asked.tools, asked.stop) == (("add",), ("end",))
    turned = {"properties": {"a": {"$ref": "#/b"}, "b": {"type": "integer"}}, "type": "object"}
    form["json_schema"]["schema"] = turned
    assert chat(response_format=form)[0].schema == asked.schema
    for odd in ("other", {"type": "function", "function": {"name": "other"}}):
        assert refusal(
            "chat", model="vllm", messages=[USER], tools=[tool], tool_choice=odd
        ) == "unsupported_value"  # fmt: skip


@pytest.mark.parametrize("name", ["$ref", "\\u0024ref", "$dynamicRef"])
def test_a_schema_may_not_refer_to_another_document(name):
    body = json.dumps({"model": "vllm", "messages": [USER], "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {"a": [{"REF": "http://x"}]}}}
    ]}).replace("REF", name)  # fmt: skip
    policy = RequestPolicy(account="a", models=MODELS, tier=TierPolicy())
    with pytest.raises(RefusedError, match="other documents"):
        parse_request("chat", body.encode(), policy, NOW_US)


def image(url, **more):
    part = {"type": "image_url", "image_url": {"url": url, **more}}
    return [{"role": "user", "content": [part, {"type": "text", "text": "what is it?"}]}]


def test_an_image_is_data_and_its_bytes_do_not_count_as_text():
    asked, upstream = chat(messages=image(f"data:image/png;base64,{PNG}", detail="low"))
    assert asked.images[0].size_bytes == 38
    assert asked.images[0].detail == "low"
    assert upstream["messages"][0]["content"][0]["image_url"]["url"].endswith(PNG)
    assert asked.input_bytes == len(asked.upstream_body) - len(PNG)


@pytest.mark.parametrize(
    "url",
    [
        "https://images.example.evil.test/a.png",
        "https://images.example@evil.test/a.png",
        "https://images.example:8443/a.png",
        "https://images.example\\@evil.test/a.png",
        "http://images.example/a.png",
        "data:image/png;base64,!!!!",
        "data:image/png;base64," + base64.b64encode(b"GIF89a").decode(),
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/png," + PNG,
        7,
    ],
)
def test_an_image_from_elsewhere_is_refused(url):
    assert refusal("chat", HOSTS, model="vllm", messages=image(url)) == "image_refused"


def test_images_are_bounded_and_only_for_models_that_see():
    url = "https://images.example/a.png?b=c"
    assert chat(tier=HOSTS, messages=image(url))[0].images[0].size_bytes == 0
    assert refusal("chat", model="vllm", messages=image(url)) == "image_refused"
    assert refusal("chat", HOSTS, model="vllm", messages=image(url) * 3) == "image_refused"
    data = image(f"data:image/png;base64,{PNG}")
    assert refusal("chat", model="blind", messages=data) == "image_refused"


def test_logprobs_are_sold_capped_and_never_with_a_bias_or_hidden_reasoning():
    asked, upstream = chat(tier=RICH, logprobs=True, top_logprobs=5)
    assert (asked.top_logprobs, upstream["logprobs"], upstream["top_logprobs"]) == (5, True, 5)
    base = {"messages": [USER], "logprobs": True}
    assert refusal("chat", RICH, model="vllm", **base, top_logprobs=6) == "unsupported_value"
    assert refusal("chat", RICH, model="thinks", **base) == "unsupported_field"
    biased = {**base, "logit_bias": {"5": -100}}
    assert refusal("chat", RICH, model="vllm", **biased) == "unsupported_value"
    assert chat(tier=RICH, logit_bias={"5": -100})[1]["logit_bias"] == {"5": -100}
    assert chat(tier=RICH, n=3)[1]["n"] == 3


def test_a_prefill_is_sold_but_not_into_hidden_reasoning():
    turns = [USER, {"role": "assistant", "content": "Sure,"}]
    upstream = chat(tier=RICH, messages=turns)[1]
    assert upstream["continue_final_message"] is True
    assert upstream["add_generation_prompt"] is False
    assert refusal("chat", RICH, model="thinks", messages=turns) == "unsupported_value"
    asked = ask("messages", RICH, model="anthropic", messages=turns, max_tokens=9)
    assert json.loads(asked.upstream_body)["messages"] == turns


def test_only_the_configured_spelling_on_an_offered_endpoint():
    for name in ("VLLM", "vllm ", "up", "", None, 7, ["vllm"]):
        assert refusal("chat", model=name, messages=[USER]) == "unknown_model"
    for surface in ("responses", "messages", "completions", "embeddings"):
        assert refusal(surface, model="chat-only") == "unsupported_value"
    assert refusal("chat", model="anthropic", messages=[USER]) == "unsupported_value"
