"""Reasoning blobs: issued by us, for one account, session and model, for a day."""

from __future__ import annotations

import itertools
import json

import pytest
from tests.gateway.asking import NOW_US, SEAL, USER, ask

from stillhouse.gateway.refusals import RefusedError


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
