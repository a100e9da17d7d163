"""The bypass suite: with hardening off every probe leaks, with it on none does."""

from __future__ import annotations

import functools

import pytest

from stillhouse.exchanges import KeyedDigests
from stillhouse.gateway.probes import (
    BENIGN_REPLIES,
    REPLY_PROBES,
    REQUEST_PROBES,
    check_benign,
    check_replies,
    check_requests,
    client_request,
    probe_models,
    served_chat,
)
from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.surfaces import (
    ReasoningSeal,
    ReplyRebuilder,
    RequestPolicy,
    TierPolicy,
    parse_request,
)

NOW_US = 1_700_000_000_000_000
SEAL = ReasoningSeal(KeyedDigests(b"a test's deployment secret......"))
NATIVE = {"responses": "openai", "messages": "anthropic"}


@functools.cache
def policy(upstream, tier=TierPolicy()):  # noqa: B008
    return RequestPolicy(
        account="acct", models=probe_models(upstream), tier=tier, seal=SEAL, cache_salt="salt"
    )


def rebuilder(probe_model, upstream, surface, stream, client_surface=None, tier=TierPolicy()):  # noqa: B008
    surface = client_surface or surface
    body = client_request(surface, probe_model, stream=stream)
    asked = parse_request(surface, body, policy(upstream, tier), NOW_US)
    return ReplyRebuilder(asked, reply_id="r1", created_s=1)


def serve_in(pieces, rebuild, reply, stream):
    if not stream:
        return rebuild.whole(reply).body
    return b"".join(map(rebuild.feed, pieces(reply))) + rebuild.finish()


def in_one_piece(reply):
    return [reply]


def byte_by_byte(reply):
    return [reply[at : at + 1] for at in range(len(reply))]


def test_probe_names_are_unique_and_there_are_many():
    names = [probe.name for probe in (*REPLY_PROBES, *REQUEST_PROBES)]
    assert len(set(names)) == len(names)
    assert len(REPLY_PROBES) > 250
    assert len(REQUEST_PROBES) > 350


def test_every_reply_probe_leaks_when_the_reply_is_handed_on():
    forms = sum((probe.whole is not None) + (probe.stream is not None) for probe in REPLY_PROBES)
    assert len(check_replies(lambda probe, reply, stream: reply)) == forms


def test_every_request_probe_leaks_when_the_request_is_handed_on():
    leaked = check_requests(lambda probe: probe.body)
    assert leaked == [probe.name for probe in REQUEST_PROBES]


@pytest.mark.parametrize("pieces", [in_one_piece, byte_by_byte])
def test_no_reply_probe_leaks(pieces):
    def serve(probe, reply, stream):
        rebuild = rebuilder(probe.model, probe.upstream, probe.surface, stream)
        served = serve_in(pieces, rebuild, reply, stream)
        if "error" not in probe.name:
            assert rebuild.failed is None, probe.name
            answered = "unclosed" not in probe.name and probe.surface != "embeddings"
            assert not answered or rebuild.text.endswith(" is 42."), probe.name
        return served

    assert check_replies(serve) == []


def test_no_reply_probe_leaks_through_a_translated_surface():
    for client_surface in ("messages", "responses"):

        def serve(probe, reply, stream, client_surface=client_surface):
            upstream = "sglang"  # speaks chat only
            rebuild = rebuilder(probe.model, upstream, "chat", stream, client_surface)
            return serve_in(in_one_piece, rebuild, reply, stream)

        chat_probes = tuple(probe for probe in REPLY_PROBES if probe.surface == "chat")
        assert check_replies(serve, chat_probes) == []


def test_no_reply_probe_leaks_at_any_byte_split():
    """Two pieces, cut everywhere: what is served is what is served in one piece."""
    for probe in REPLY_PROBES[::7]:
        if probe.stream is None:
            continue
        expected = None
        for cut in range(0, len(probe.stream), 3):
            rebuild = rebuilder(probe.model, probe.upstream, probe.surface, stream=True)
            served = rebuild.feed(probe.stream[:cut]) + rebuild.feed(probe.stream[cut:])
            served += rebuild.finish()
            expected = served if expected is None else expected
            assert served == expected, (probe.name, cut)
        assert not probe.secret.is_in(expected), probe.name


def test_no_request_probe_reaches_the_upstream():
    def send(probe):
        upstreams = {"responses": "openai", "messages": "anthropic"}
        for upstream in {"vllm", "sglang", "llamacpp", upstreams.get(probe.surface, "openai")}:
            try:
                asked = parse_request(probe.surface, probe.body, policy(upstream), NOW_US)
            except RefusedError:
                continue
            if probe.mark in asked.upstream_body:
                return asked.upstream_body
        return None

    # The gateway sends two of its own accord, with its own values.
    ours = {"request/chat/timings_per_token", "request/completions/timings_per_token"}
    assert set(check_requests(send)) <= ours


def test_what_is_sold_is_served_so_the_probes_can_tell():
    """The control: a tier that buys reasoning gets it, and the probes notice."""
    tier = TierPolicy(reasoning=True)

    def serve(probe, reply, stream):
        rebuild = rebuilder(probe.model, probe.upstream, probe.surface, stream, tier=tier)
        return serve_in(in_one_piece, rebuild, reply, stream)

    leaked = check_replies(serve)
    assert any("text/chat/think" in name for name in leaked)
    assert any("said.reasoning_content" in name for name in leaked)
    assert any("block thinking" in name for name in leaked)
    assert not any(".system_fingerprint" in name or "token_ids" in name for name in leaked)


@pytest.mark.parametrize("pieces", [in_one_piece, byte_by_byte])
def test_replies_that_quote_the_tags_come_through_unaltered(pieces):
    def serve(reply, body, stream):
        return serve_in(pieces, rebuilder(reply.model, "vllm", "chat", stream), body, stream)

    assert len(BENIGN_REPLIES) > 80
    assert check_benign(serve) == []


def test_the_benign_check_notices_a_filter_that_searches_everywhere():
    def serve(reply, body, stream):
        return body.replace(b"<think>", b"").replace(b"</think>", b"")

    assert check_benign(serve)


def test_hidden_reasoning_is_counted_though_it_is_not_served():
    probe = next(probe for probe in REPLY_PROBES if probe.name == "text/chat/think/closed/0")
    for stream in (False, True):
        rebuild = rebuilder("think", "vllm", "chat", stream)
        served = serve_in(in_one_piece, rebuild, probe.stream if stream else probe.whole, stream)
        assert served_chat(served)[0] == "The answer is 42."
        assert rebuild.produced.reasoning_bytes == len(f"I think {probe.secret.word}, so.")
        assert rebuild.usage.tokens_out == 9
