"""Requests to /v1/completions and /v1/embeddings, rebuilt from what they may hold."""

from __future__ import annotations

from typing import Any, TypeGuard

from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.surfaces.chat import read_stream_options
from stillhouse.gateway.surfaces.fields import (
    Fate,
    Table,
    anything,
    exactly,
    flag,
    integer,
    logit_bias,
    number,
    one_of,
    read_fields,
    short,
    stop_sequences,
    string_map,
    text,
    wrong,
)
from stillhouse.gateway.surfaces.parts import Prompt
from stillhouse.gateway.surfaces.reading import (
    Reading,
    ask_for_stream,
    bounded_tokens,
    check_bias,
    check_choices,
    check_logprobs,
    choose_upstream,
    hides_reasoning,
)

# echo would return the prompt's own tokens (and with log-probabilities their likelihood), best_of
# above n pays for replies that nobody counts.
COMPLETION_TABLE: Table = {
    "model": (Fate.TAKEN, anything),
    "prompt": (Fate.TAKEN, anything),
    "stream": (Fate.TAKEN, flag),
    "stream_options": (Fate.TAKEN, anything),
    "max_tokens": (Fate.TAKEN, integer(1, 2**31)),
    "n": (Fate.TAKEN, integer(1, 128)),
    "best_of": (Fate.TAKEN, integer(1, 128)),
    "stop": (Fate.TAKEN, stop_sequences),
    "logprobs": (Fate.TAKEN, integer(0, 20)),
    "logit_bias": (Fate.TAKEN, logit_bias),
    "user": (Fate.TAKEN, short(512)),
    "safety_identifier": (Fate.TAKEN, short(512)),
    "temperature": (Fate.SENT, number(0, 2)),
    "top_p": (Fate.SENT, number(0, 1)),
    "frequency_penalty": (Fate.SENT, number(-2, 2)),
    "presence_penalty": (Fate.SENT, number(-2, 2)),
    "seed": (Fate.SENT, integer(-(2**63), 2**63 - 1)),
    "suffix": (Fate.EXTRA, text),
    "top_k": (Fate.EXTRA, integer(-1, 1_000_000)),
    "min_p": (Fate.EXTRA, number(0, 1)),
    "repetition_penalty": (Fate.EXTRA, number(0.01, 10)),
    "echo": (Fate.IGNORED, exactly(False)),
    "metadata": (Fate.IGNORED, string_map),
}
# OpenAI's default, which its clients know.
_DEFAULT_TOKENS = 16

EMBEDDING_TABLE: Table = {
    "model": (Fate.TAKEN, anything),
    "input": (Fate.TAKEN, anything),
    "user": (Fate.TAKEN, short(512)),
    "safety_identifier": (Fate.TAKEN, short(512)),
    "encoding_format": (Fate.SENT, one_of("float", "base64")),
    "dimensions": (Fate.SENT, integer(1, 65_536)),
}
_MOST_INPUTS = 2048


def read_completion(given: dict[str, Any], prompt: Prompt) -> Reading:
    """Read a request to /v1/completions. Raises `RefusedError`."""
    served, tier = prompt.served, prompt.policy.tier
    dialect = served.dialect
    upstream_surface = choose_upstream("completions", dialect)
    if hides_reasoning(served, tier):
        # The client's prompt decides where reasoning begins: its place is not known here.
        raise RefusedError("unsupported_value", "model: not offered on this endpoint")
    sent, taken = read_fields(given, COMPLETION_TABLE, dialect.extras)
    # Token ids are refused: no skeleton could be made of them.
    asked = taken.get("prompt")
    prompts = asked if type(asked) is list else [asked]
    if not 0 < len(prompts) <= _MOST_INPUTS:
        raise RefusedError("bad_request", "prompt is empty or holds too many texts")
    for one in prompts:
        prompt.text("user", one, "prompt")
    if "suffix" in sent:
        prompt.text("user", sent["suffix"], "suffix")
    each = taken.get("n", 1)
    if taken.get("best_of", each) != each:
        raise wrong("best_of", "the same as n")
    reading = Reading(
        taken=taken,
        sent=sent,
        upstream={"model": served.upstream_name, "prompt": asked, **sent},
        upstream_surface=upstream_surface,
        max_tokens=bounded_tokens(taken.get("max_tokens", _DEFAULT_TOKENS), served, tier),
        choices=check_choices(prompt, each * len(prompts)),
        stop=tuple(taken.get("stop", ())),
    )
    upstream = reading.upstream
    upstream["max_tokens"] = reading.max_tokens
    if each > 1:
        upstream["n"] = each
    if reading.stop:
        upstream["stop"] = taken["stop"]
    if taken.get("stream"):
        reading.stream = True
        ask_for_stream(upstream, dialect)
    if "stream_options" in taken:
        reading.include_usage = read_stream_options(taken["stream_options"]) and reading.stream
    biased = check_bias(prompt, taken.get("logit_bias"))
    if biased:
        upstream["logit_bias"] = taken["logit_bias"]
    if "logprobs" in taken:
        top = check_logprobs(prompt, taken["logprobs"], biased=biased, where="logprobs")
        reading.top_logprobs = upstream["logprobs"] = top
    return reading


def read_embedding(given: dict[str, Any], prompt: Prompt) -> Reading:
    """Read a request to /v1/embeddings. Raises `RefusedError`."""
    dialect = prompt.served.dialect
    upstream_surface = choose_upstream("embeddings", dialect)
    sent, taken = read_fields(given, EMBEDDING_TABLE, dialect.extras)
    asked = taken.get("input")
    inputs = asked if type(asked) is list and not _is_tokens(asked) else [asked]
    if not inputs:
        raise RefusedError("bad_request", "input is empty")
    if len(inputs) > _MOST_INPUTS:
        raise wrong("input", f"at most {_MOST_INPUTS} texts")
    for one in inputs:
        if _is_tokens(one):
            prompt.tokens(one)
        else:
            prompt.text("user", one, "input")
    return Reading(
        taken=taken,
        sent=sent,
        upstream={"model": prompt.served.upstream_name, "input": asked, **sent},
        upstream_surface=upstream_surface,
    )


def _is_tokens(value: Any) -> TypeGuard[list[int]]:
    return (
        type(value) is list
        and bool(value)
        and all(type(token) is int and 0 <= token < 2**31 for token in value)
    )
