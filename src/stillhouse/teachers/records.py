"""Requests and replies as JSON values: the exact-request key, and the form kept on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillhouse.exchanges.canonical import content_digest
from stillhouse.teachers.chat import ChatRequest, Failure, Message, Reply, TokenLogprob

if TYPE_CHECKING:
    from collections.abc import Mapping


_REPLY = (
    "tokens_in",
    "tokens_out",
    "tokens_reasoning",
    "reasoning",
    "system_fingerprint",
    "label_scores",
    "price_nano",
    "latency_us",
)


def request_key(request: ChatRequest) -> str:
    """Return the SHA-256 of the canonical request: messages and sampling, not the model.

    Numbers are compared by value (temperature 0 and 0.0 are one request).
    """
    s = request.sampling
    sampling = {
        "max_tokens": s.max_tokens,
        "temperature": float(s.temperature),
        "top_p": float(s.top_p),
        "seed": s.seed,
        "stop": s.stop,
        "response_schema": s.response_schema,
        "top_logprobs": s.top_logprobs,
    }
    return content_digest({"messages": messages_value(request.messages), "sampling": sampling})


def messages_key(messages: tuple[Message, ...]) -> str:
    """Return the SHA-256 of the messages alone, for recordings that do not say how they sampled."""
    return content_digest({"messages": messages_value(messages)})


def item_seed(seed: int, messages: tuple[Message, ...]) -> int:
    """Return what one item is sampled with, of a run's seed: 31 bits, as every server takes.

    One seed for all would meet every prompt with the same random numbers. It is made of the
    messages, not of the item's name, so that identical requests stay one request.
    """
    return int(content_digest([seed, messages_value(messages)])[:8], 16) & 0x7FFF_FFFF


def messages_value(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    """Return messages in the form of the chat API."""
    return [{"role": m.role, "content": m.content} for m in messages]


def reply_record(reply: Reply) -> dict[str, Any]:
    """Return a reply as a JSON value; what it does not hold is left out."""
    record: dict[str, Any] = {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "model": reply.model,
    }
    for name in _REPLY:
        value = getattr(reply, name)
        if value is not None:
            record[name] = value
    if reply.logprobs is not None:
        record["logprobs"] = [(t.token, t.logprob, t.top) for t in reply.logprobs]
    if reply.extra:
        record["extra"] = reply.extra
    return record


def read_reply(record: Mapping[str, Any]) -> Reply:
    """Return the reply that `reply_record` wrote."""
    fields = dict(record)
    if "logprobs" in fields:
        fields["logprobs"] = tuple(
            TokenLogprob(token=t, logprob=p, top=tuple((a, b) for a, b in top))
            for t, p, top in fields["logprobs"]
        )
    if "label_scores" in fields:
        fields["label_scores"] = tuple(fields["label_scores"])
    return Reply(**fields)


def failure_record(failure: Failure) -> dict[str, Any]:
    """Return a failure as a JSON value."""
    record: dict[str, Any] = {
        "code": failure.code,
        "message": failure.message,
        "attempts": failure.attempts,
    }
    if failure.charged_nano is not None:
        record["charged_nano"] = failure.charged_nano
    return record
