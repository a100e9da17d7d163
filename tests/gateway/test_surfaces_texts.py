"""Requests for text completions and embeddings, and what the list of models says."""

from __future__ import annotations

import json

import pytest
from tests.gateway.asking import DIGESTS, MODELS, RICH, ask, refusal, served

from stillhouse.exchanges import InputError
from stillhouse.gateway.surfaces import TierPolicy, derive_cache_salt, model_body, models_body


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
