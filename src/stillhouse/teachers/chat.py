"""The vocabulary of asking a model: messages, a request, a reply, a failure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "unknown"]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a reply is drawn. `max_tokens` counts hidden reasoning too and is always sent."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    response_schema: str | None = None  # JSON Schema as canonical JSON; None: free text
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What is asked of a teacher or a student."""

    messages: tuple[Message, ...]
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """One generated token, its natural-log probability, and the alternatives the server gave."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A finished answer.

    `label_scores` holds natural-log probabilities of the task's labels, in the task's order, when
    the model was asked to score labels instead of writing. `price_nano` is in nano-dollars; None
    means the price is unknown, never zero.
    """

    text: str
    finish_reason: FinishReason
    model: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_reasoning: int | None = None
    reasoning: str | None = None
    system_fingerprint: str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    label_scores: tuple[float, ...] | None = None
    price_nano: int | None = None
    latency_us: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A request that brought no reply. Never stored where a reply is expected.

    `code` is stable (docs/failures.md lists them), `message` tells a person what to do, `charge`
    says whether the attempt may have cost money and so was charged at its full reservation.
    """

    code: str
    message: str
    attempts: int = 1
    charged_nano: int | None = None
