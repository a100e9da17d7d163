"""The parts of reading a request that the surfaces share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.surfaces.fields import wrong

if TYPE_CHECKING:
    from stillhouse.gateway.surfaces.parts import Prompt
    from stillhouse.gateway.surfaces.policy import Dialect, ServedModel, Surface, TierPolicy


@dataclass(slots=True, kw_only=True)
class Reading:
    """What a surface found in a request; `upstream` is the object to send."""

    taken: dict[str, Any]
    sent: dict[str, Any]
    upstream: dict[str, Any]
    upstream_surface: Surface
    stream: bool = False
    include_usage: bool = False
    max_tokens: int = 0
    choices: int = 1
    top_logprobs: int | None = None
    turns: int = 1
    tools: tuple[str, ...] = ()
    schema: bytes | None = None
    end_user: str | None = None
    stop: tuple[str, ...] = ()
    blobs: bool = False
    echo: dict[str, Any] = field(default_factory=dict)


def bounded_tokens(asked: int | None, served: ServedModel, tier: TierPolicy) -> int:
    """Return the output tokens of a request: what it asks for, clamped; never unset."""
    most = min(served.max_output_tokens, tier.max_output_tokens)
    if asked is None:
        asked = served.default_output_tokens or most
    return min(asked, most)


def choose_upstream(surface: Surface, dialect: Dialect) -> Surface:
    """Return the surface to ask the upstream on. Raises `RefusedError` where there is none."""
    if surface in dialect.surfaces:
        return surface
    if surface in ("messages", "responses") and "chat" in dialect.surfaces:
        return "chat"
    raise RefusedError("unsupported_value", "model: not offered on this endpoint")


def hides_reasoning(served: ServedModel, tier: TierPolicy) -> bool:
    """Return True where reasoning is part of the upstream's text and not for this account."""
    return served.reasoning.in_text and not tier.reasoning


def check_logprobs(prompt: Prompt, wanted: int, *, biased: bool, where: str) -> int:
    """Return the alternatives a token may show. Raises `RefusedError` where they are not sold."""
    tier = prompt.policy.tier
    if tier.top_logprobs == 0 or hides_reasoning(prompt.served, tier):
        # Where reasoning is in the text, its tokens would be among those listed.
        raise RefusedError("unsupported_field", where)
    if biased:
        # Together they give the whole distribution, and from it the last layer (2403.06634).
        raise RefusedError("unsupported_value", f"{where} with logit_bias")
    if wanted > tier.top_logprobs:
        raise wrong(where, f"at most {tier.top_logprobs}")
    return wanted


def check_bias(prompt: Prompt, bias: dict[str, float] | None) -> bool:
    """Return whether there is a bias to send. Raises `RefusedError` where none may be."""
    if not bias:
        return False
    if not prompt.policy.tier.logit_bias:
        raise RefusedError("unsupported_field", "logit_bias")
    return True


def check_choices(prompt: Prompt, count: int) -> int:
    """Return the number of choices. Raises `RefusedError` above the tier's."""
    if count > prompt.policy.tier.choices:
        raise RefusedError("too_many_choices", f"at most {prompt.policy.tier.choices}")
    return count


def ask_for_stream(upstream: dict[str, Any], dialect: Dialect) -> None:
    """Have a chat or completions upstream stream, and report usage whatever the client asked."""
    upstream["stream"] = True
    options = upstream["stream_options"] = {"include_usage": True}
    if dialect.running_usage == "continuous_usage_stats":
        options["continuous_usage_stats"] = True
    elif dialect.running_usage == "timings_per_token":
        upstream["timings_per_token"] = True


def check_prefill(prompt: Prompt, last_role: str, upstream: dict[str, Any]) -> None:
    """Refuse a last assistant message, which some servers continue and others do not.

    A one-word prefill undoes most defences of the reply (2606.25059), and one that opens the
    model's reasoning moves it out of the place where it is known.
    """
    if last_role != "assistant":
        return
    tier = prompt.policy.tier
    if not tier.prefill or hides_reasoning(prompt.served, tier):
        raise RefusedError("unsupported_value", "the last message is the assistant's (prefill)")
    upstream.update(prompt.served.dialect.prefill)
