"""Requests: what may be asked reaches the upstream as asked, and nothing else does."""

from __future__ import annotations

import base64
import itertools
import json

import pytest

from stillhouse.exchanges import InputError, KeyedDigests
from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.surfaces import (
    DIALECTS,
    ReasoningFormat,
    ReasoningSeal,
    RequestPolicy,
    ServedModel,
    TierPolicy,
    derive_cache_salt,
    model_body,
    models_body,
    parse_request,
)

NOW_US = 1_700_000_000_000_000
DIGESTS = KeyedDigests(b"a test's deployment secret......")
SEAL = ReasoningSeal(DIGESTS)
THINK = ReasoningFormat((("<think>", "</think>"),))
EVERYWHERE = frozenset({"chat", "completions", "responses", "messages", "embeddings"})
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 30).decode()
USER = {"role": "user", "content": "hi"}
FUNCTION = {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}}
SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"$ref": "#/b"}}}


def served(name, dialect, **more):
    options = {"max_output_tokens": 1000, "images": True, "surfaces": EVERYWHERE} | more
    return ServedModel(name=name, upstream_name="up", dialect=DIALECTS[dialect], **options)


MODELS = {name: served(name, name) for name in DIALECTS} | {
    "thinks": served("thinks", "vllm", reasoning=THINK),
    "blind": served("blind", "vllm", images=False),
    "chat-only": served("chat-only", "vllm", surfaces=frozenset({"chat"})),
    "small": served("small", "vllm", default_output_tokens=50),
}
RICH = TierPolicy(choices=4, top_logprobs=5, logit_bias=True, prefill=True)
HOSTS = TierPolicy(image_hosts=frozenset({"images.example"}), max_images=2)


def ask(surface, tier=TierPolicy(), session=None, now_us=NOW_US, account="a", **body):  # noqa: B008
    policy = RequestPolicy(
        account=account, models=MODELS, tier=tier, seal=SEAL, cache_salt="salt", session=session
    )
    return parse_request(surface, json.dumps(body).encode(), policy, now_us)


def chat(model="vllm", tier=TierPolicy(), **body):  # noqa: B008
    asked = ask("chat", tier, **{"model": model, "messages": [USER]} | body)
    return asked, json.loads(asked.upstream_body)


def refusal(surface, tier=TierPolicy(), **body):  # noqa: B008
    with pytest.raises(RefusedError) as refused:
        ask(surface, tier, **body)
    return refused.value.code


def test_a_plain_request_is_bounded_salted_and_renamed():
    asked, upstream = chat(temperature=0.5)
    assert upstream == {
        "model": "up",
        "messages": [USER],
        "temperature": 0.5,
        "max_tokens": 1000,
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
    assert set(upstream) == {"model", "messages", "max_tokens", "response_format", "seed"}


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
    assert asked.texts == ("be kind", "hi", "3", "x", "y", "hi")
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


def test_completions_count_every_choice_and_refuse_tokens():
    asked = ask("completions", RICH, model="vllm", prompt=["a", "b"], n=2, best_of=2, suffix=None)
    upstream = json.loads(asked.upstream_body)
    assert (asked.choices, upstream["n"], upstream["max_tokens"]) == (4, 2, 16)
    rest = {"stop": "x", "logprobs": 2, "stream": True, "stream_options": {"include_usage": True}}
    asked = ask("completions", RICH, model="openai", prompt="a", suffix="z", echo=False, **rest)
    assert asked.texts == ("a", "z")
    assert asked.top_logprobs == 2
    base = {"model": "vllm", "prompt": "a"}
    for code, body in {
        "too_many_choices": {"n": 5},
        "unsupported_value": {"best_of": 3},
        "unsupported_field": {"suffix": "z"},
        "bad_request": {"prompt": [1, 2]},
    }.items():
        assert refusal("completions", RICH, **base | body) == code
    assert refusal("completions", RICH, **base | {"echo": True}) == "unsupported_value"
    assert refusal("completions", RICH, **base | {"prompt": []}) == "bad_request"
    assert refusal("completions", RICH, **base | {"model": "thinks"}) == "unsupported_value"
    biased = base | {"logit_bias": {"1": 1}}
    assert json.loads(ask("completions", RICH, **biased).upstream_body)["logit_bias"] == {"1": 1}


def test_embeddings_take_texts_and_tokens():
    cases = ("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ()), ([[1], [2]], ())
    for given, texts in cases:
        asked = ask("embeddings", model="vllm", input=given, encoding_format="base64")
        assert json.loads(asked.upstream_body)["input"] == given
        assert asked.texts == texts
    for given in ([], 7, [7.5], [["a"]], [[]], [-1]):
        assert refusal("embeddings", model="vllm", input=given) == "bad_request"
    assert refusal("embeddings", model="vllm", input=["a"] * 3000) == "unsupported_value"


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


def blob(account="a", session=None, model="anthropic", now_us=NOW_US, kind="thinking", **content):
    first = ask("messages", model=model, account=account, messages=[USER], max_tokens=9,
                session=session)  # fmt: skip
    sealed = SEAL.seal(content, account=account, session=first.session, model=model, now_us=now_us)
    if kind == "thinking":
        return {"type": "thinking", "thinking": "", "signature": sealed}
    return {"type": kind, "data": sealed}


def replay(block, messages=(USER,), account="a", session=None, model="anthropic", now_us=NOW_US):
    turns = [*messages, {"role": "assistant", "content": [block, {"type": "text", "text": "x"}]}]
    asked = ask("messages", model=model, messages=[*turns, USER], max_tokens=9, account=account,
                session=session, now_us=now_us)  # fmt: skip
    return json.loads(asked.upstream_body)["messages"]


def test_a_reasoning_blob_comes_back_as_the_upstream_gave_it():
    assert replay(blob(t="I thought", s="signed"))[1]["content"][0] == {
        "type": "thinking", "thinking": "I thought", "signature": "signed",
    }  # fmt: skip
    redacted = blob(kind="redacted_thinking", d="opaque")
    assert replay(redacted)[1]["content"][0]["data"] == "opaque"
    shown = {"type": "thinking", "thinking": "shown, not sealed", "signature": ""}
    assert [part["type"] for part in replay(shown)[1]["content"]] == ["text"]
    # A marker of the cache that moved away does not make another conversation of it.
    marked = [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    assert replay(blob(t="I thought"), [{"role": "user", "content": marked}])
    # Over a chat upstream it goes where that one reads it.
    sent = replay(blob(t="I thought", model="vllm"), model="vllm")
    assert sent[1] == {"role": "assistant", "content": "x", "reasoning": "I thought"}
    assert replay(blob(t="b", session="s1"), [USER, USER], session="s1")


def test_a_reasoning_blob_is_refused_elsewhere_later_and_altered():
    hour = 3_600_000_000
    other = [{"role": "user", "content": "another conversation"}]
    good = blob(t="I thought")
    assert replay(good, now_us=NOW_US + 23 * hour)
    signature = good["signature"]
    altered = [
        {**good, "signature": signature[:-9] + ("A" if signature[-9] != "A" else "B")
         + signature[-8:]},
        {**good, "signature": "shr1_AAAA"},
        {**good, "signature": "shr1_!!!"},
        {**good, "signature": "EqQBCgIYAhIM"},
        {**good, "signature": None},
        blob(d="not thinking"),
        blob(kind="redacted_thinking", t="not redacted"),
    ]  # fmt: skip
    elsewhere = [
        {"messages": other},
        {"account": "b"},
        {"session": "s1"},
        {"model": "vllm"},
        {"now_us": NOW_US + 24 * hour},
    ]
    for block, place in itertools.chain(
        ((block, {}) for block in altered), ((good, place) for place in elsewhere)
    ):
        with pytest.raises(RefusedError, match="foreign_reasoning"):
            replay(block, **place)


def test_an_encrypted_item_of_a_response_is_bound_the_same_way():
    for model, content, expected in (
        ("openai", {"e": "gAAA", "i": "rs_1"},
         {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}),
        ("openai", {"t": "thought"},
         {"type": "reasoning", "id": "rs_0", "summary": [],
          "content": [{"type": "reasoning_text", "text": "thought"}]}),
    ):  # fmt: skip
        session = ask("responses", model=model, input="hi").session
        sealed = SEAL.seal(content, account="a", session=session, model=model, now_us=NOW_US)
        item = {"type": "reasoning", "id": "x", "summary": [], "encrypted_content": sealed}
        turns = [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}, item, USER]
        asked = ask("responses", model=model, input=turns)
        assert json.loads(asked.upstream_body)["input"][1] == expected
        with pytest.raises(RefusedError, match="foreign_reasoning"):
            ask("responses", model=model, input=turns, account="b")
        with pytest.raises(RefusedError, match="foreign_reasoning"):
            ask("responses", model=model, input=[{**USER, "content": "other"}, item, USER])
    session = ask("responses", model="sglang", input="hi").session
    sealed = SEAL.seal({"t": "T"}, account="a", session=session, model="sglang", now_us=NOW_US)
    item = {"type": "reasoning", "id": "x", "summary": [], "encrypted_content": sealed}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    asked = ask("responses", model="sglang", input=[USER, item, call, USER])
    assert json.loads(asked.upstream_body)["messages"][1]["reasoning_content"] == "T"
    wrong = SEAL.seal({"s": "x"}, account="a", session=session, model="sglang", now_us=NOW_US)
    with pytest.raises(RefusedError, match="foreign_reasoning"):
        ask("responses", model="sglang", input=[USER, {**item, "encrypted_content": wrong}, USER])
    assert ask("responses", model="sglang", session="s", input="hi").session != session


def test_each_account_has_a_cache_of_its_own():
    salts = {derive_cache_salt(DIGESTS, account) for account in ("a", "b")}
    assert len(salts) == 2
    assert all(len(salt) == 48 for salt in salts)


def test_the_list_of_models_says_names_and_nothing_of_upstreams():
    listed = json.loads(models_body([MODELS["vllm"], MODELS["small"]], "openai", 1))
    assert [row["id"] for row in listed["data"]] == ["vllm", "small"]
    listed = json.loads(models_body([MODELS["vllm"]], "anthropic", 86_400))
    assert listed["data"][0]["created_at"] == "1970-01-02T00:00:00Z"
    assert (listed["first_id"], listed["has_more"]) == ("vllm", False)
    assert json.loads(models_body([], "anthropic", 1))["last_id"] is None
    assert json.loads(model_body(MODELS["vllm"], "openai", 5))["created"] == 5
    assert b"up" not in models_body([MODELS["vllm"]], "openai", 1)


@pytest.mark.parametrize("bad", [{"choices": 0}, {"top_logprobs": -1}, {"max_output_tokens": 0}])
def test_a_tier_or_model_that_cannot_be_is_refused(bad):
    with pytest.raises(InputError):
        TierPolicy(**bad)
    with pytest.raises(InputError):
        served("x", "vllm", max_output_tokens=0)
    with pytest.raises(InputError):
        served("x", "vllm", default_output_tokens=0)
