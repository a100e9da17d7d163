"""Log-probabilities where they are sold: of the served text, few, coarse; and nowhere else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.asking import MODELS, NOW_US, SEAL, USER, refusal

from stillhouse.gateway.probes import events_of
from stillhouse.gateway.probes.replies import (
    chat_events,
    chat_reply,
    response_events,
    response_reply,
    stream_of,
)
from stillhouse.gateway.surfaces import ReplyRebuilder, RequestPolicy, TierPolicy, parse_request

SOLD = TierPolicy(top_logprobs=2, logprob_step_milli=250, choices=2)


def rebuilder(surface, tier=SOLD, harder=None, **body):
    policy = RequestPolicy(account="a", models=MODELS, tier=tier, seal=SEAL)
    asked = parse_request(surface, json.dumps(body).encode(), policy, NOW_US)
    return ReplyRebuilder(asked, reply_id="r", created_s=1, tier=harder)


def chat(stream=False, top=2, **more):
    asked = {"model": "vllm", "messages": [USER], "logprobs": True, "top_logprobs": top}
    return rebuilder("chat", **{**asked, "stream": stream, **more})


def entry(token, logprob=-0.3, others=("x", "y", "z"), **more):
    top = [{"token": other, "logprob": -1.1 - i, "bytes": None} for i, other in enumerate(others)]
    return {"token": token, "logprob": logprob, "bytes": None, "top_logprobs": top, **more}


def whole(text, entries, rebuild=None):
    reply = chat_reply({"content": text})
    reply["choices"][0]["logprobs"] = {"content": entries, "refusal": entries}
    served = json.loads((rebuild or chat()).whole(json.dumps(reply).encode()).body)
    return served["choices"][0]["logprobs"]


def test_they_are_capped_and_coarse_and_hold_nothing_else():
    found = whole("Hi", [entry("Hi", -0.3, rank=7, token_id=123_456, decoded="secret")])
    assert found["refusal"] is None
    (one,) = found["content"]
    assert one.keys() == {"token", "logprob", "bytes", "top_logprobs"}
    assert one["logprob"] == -0.25
    assert one["bytes"] == list(b"Hi")
    assert [other["token"] for other in one["top_logprobs"]] == ["x", "y"]
    assert [other["logprob"] for other in one["top_logprobs"]] == [-1.0, -2.0]


@given(st.floats(-50, 0.5), st.integers(1, 3000))
def test_every_value_is_a_multiple_of_the_step_and_no_gain_over_it(value, step_milli):
    tier = TierPolicy(top_logprobs=2, logprob_step_milli=step_milli)
    found = whole("Hi", [entry("Hi", value)], chat(tier=tier))["content"][0]["logprob"]
    assert found <= 0
    assert abs(found * 1000 / step_milli - round(found * 1000 / step_milli)) < 1 / step_milli
    assert abs(found - min(value, 0)) <= step_milli / 2000 + 0.0011


def test_a_client_gets_no_more_than_it_asked_for_and_a_harder_tier_less():
    assert len(whole("Hi", [entry("Hi")], chat(top=1))["content"][0]["top_logprobs"]) == 1
    assert whole("Hi", [entry("Hi")], chat(top=0))["content"][0]["top_logprobs"] == []
    harder = TierPolicy(top_logprobs=1, logprob_step_milli=2000)
    (one,) = whole("Hi", [entry("Hi", -1.6)], chat(harder=harder))["content"]
    assert len(one["top_logprobs"]) == 1
    assert one["logprob"] == -2.0
    assert whole("Hi", [entry("Hi")], chat(harder=TierPolicy())) is None
    plain = rebuilder("chat", model="vllm", messages=[USER])
    assert whole("Hi", [entry("Hi")], plain) is None


def test_only_tokens_that_spell_the_served_text_are_listed():
    thought = [entry("Let"), entry(" me"), entry(" think")]
    answer = [entry("4"), entry("2")]
    assert [one["token"] for one in whole("42", thought + answer)["content"]] == ["4", "2"]
    # Where they do not spell it, there are none: better nothing than another text's.
    assert whole("42", [entry("4"), entry("3")]) is None
    assert whole("42", thought) is None


def test_a_character_of_several_tokens_is_spelt_by_their_bytes():
    robot = "🤖".encode()
    for spelt in ("�", "bytes:SECRET"):
        halves = [entry(spelt, bytes=list(robot[:2])), entry(spelt, bytes=list(robot[2:]))]
        found = whole("🤖", halves)["content"]
        assert bytes(found[0]["bytes"] + found[1]["bytes"]) == robot
        assert [one["token"] for one in found] == ["�", "��"]
    # Bytes that say something else than the token are not believed.
    lying = whole("Hi", [entry("Hi", bytes=list(b"SECRET"))])["content"]
    assert lying[0]["bytes"] == list(b"Hi")


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        {},
        {"token": 7, "logprob": -1},
        {"token": "Hi", "logprob": "x"},
        {"token": "Hi", "logprob": True},
        {"token": "Hi"},
    ],
)
def test_entries_that_are_none_are_dropped(bad):
    assert whole("Hi", [bad]) is None
    assert whole("Hi", 7) is None
    # A bad alternative does not spoil the token.
    (one,) = whole("Hi", [{**entry("Hi"), "top_logprobs": [bad]}])["content"]
    assert one["top_logprobs"] == []


def streamed(pieces, rebuild):
    events = chat_events([{"content": text} for text, _ in pieces])
    for event, (_, entries) in zip(events[1:], pieces, strict=False):
        event["choices"][0]["logprobs"] = {"content": entries}
    served = rebuild.feed(stream_of(events)) + rebuild.finish()
    listed = []
    for event in events_of(served):
        for choice in (event or {}).get("choices", ()):
            listed += (choice.get("logprobs") or {}).get("content", [])
    return [one["token"] for one in listed]


def test_a_stream_lists_them_with_their_text():
    pieces = [("He", [entry("He")]), ("llo", [entry("l"), entry("lo")]), ("!", [entry("!")])]
    assert streamed(pieces, chat(stream=True)) == ["He", "l", "lo", "!"]
    # Reasoning in fields of its own: its tokens come with empty text, and are not listed.
    hidden = [("", [entry("think")]), ("", [entry("ing")]), ("42", [entry("42")])]
    assert streamed(hidden, chat(stream=True)) == ["42"]
    # A character held back until it is whole brings the tokens of all its pieces.
    robot = "🤖".encode()
    late = [
        ("", [entry("�", bytes=list(robot[:2]))]),
        ("🤖", [entry("�", bytes=list(robot[2:]))]),
    ]
    assert streamed(late, chat(stream=True)) == ["�", "��"]


def test_text_completions_list_them_side_by_side_at_their_place():
    old = {"tokens": ["4", "2"], "token_logprobs": [-0.3, -1.6]}
    old |= {"top_logprobs": [{"x": -1, "y": -2, "z": -3}, None], "text_offset": [90, 91]}
    new = {"content": [entry("4"), entry("2", -1.6, others=())]}  # llama.cpp's form
    for given_as in (old, new):
        rebuild = rebuilder("completions", model="vllm", prompt="6*7=", logprobs=2)
        choice = {"index": 0, "text": "42", "logprobs": given_as, "finish_reason": "stop"}
        served = json.loads(rebuild.whole(json.dumps({"choices": [choice]}).encode()).body)
        found = served["choices"][0]["logprobs"]
        assert found["tokens"] == ["4", "2"]
        assert found["token_logprobs"] == [-0.25, -1.5]
        assert found["text_offset"] == [0, 1]
        assert [len(top) for top in found["top_logprobs"]] == [2, 0]


def test_responses_list_them_in_their_part():
    for stream in (False, True):
        asked = {"model": "openai", "input": "hi", "top_logprobs": 2, "stream": stream}
        rebuild = rebuilder("responses", **asked)
        reply = response_reply("Hi")
        reply["output"][0]["content"][0]["logprobs"] = [entry("Hi")]
        if stream:
            events = response_events(reply, ["Hi"])
            events[4]["logprobs"] = [entry("Hi")]
            served = events_of(rebuild.feed(stream_of(events, done=False)))[-1]["response"]
        else:
            served = json.loads(rebuild.whole(json.dumps(reply).encode()).body)
        (one,) = served["output"][0]["content"][0]["logprobs"]
        assert (one["token"], len(one["top_logprobs"])) == ("Hi", 2)


def test_they_never_go_with_a_bias_or_with_reasoning_in_the_text():
    both = TierPolicy(top_logprobs=2, logit_bias=True)
    base = {"messages": [USER], "logprobs": True}
    assert refusal("chat", both, model="vllm", **base, logit_bias={"5": 1}) == "unsupported_value"
    assert refusal("chat", both, model="thinks", **base) == "unsupported_field"
    assert refusal("chat", model="vllm", **base) == "unsupported_field"
    old = {"model": "vllm", "prompt": "x", "logprobs": 1}
    assert refusal("completions", both, **old, logit_bias={"5": 1}) == "unsupported_value"
