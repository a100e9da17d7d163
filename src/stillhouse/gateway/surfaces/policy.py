"""What is served and sold, and what a request was found to ask for: the values surfaces share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from stillhouse.exchanges import InputError
from stillhouse.gateway.reasoning import ReasoningFormat
from stillhouse.gateway.strict_json import MAX_BYTES, MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillhouse.exchanges import KeyedDigests
    from stillhouse.gateway.surfaces.seal import ReasoningSeal

Surface = Literal["chat", "completions", "responses", "embeddings", "messages"]
PATHS: dict[Surface, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
    "messages": "/v1/messages",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one kind of upstream server speaks, beyond what all of them share.

    `surfaces`: what it answers itself (messages are translated where it answers chat only).
    `extras`: optional fields it understands. `running_usage`: how to make it report usage with
    every piece of a stream. `history`: the field of an assistant message that holds its reasoning.
    """

    name: str
    surfaces: frozenset[Surface]
    extras: frozenset[str] = frozenset()
    completion_tokens: bool = False  # chat takes max_completion_tokens instead of max_tokens
    developer: bool = False  # the role "developer" is known
    cache_salt: bool = False
    running_usage: Literal["continuous_usage_stats", "timings_per_token"] | None = None
    history: str | None = None
    prefill: tuple[tuple[str, bool], ...] = ()  # what makes it continue a last assistant message


_OPEN_SAMPLING = frozenset({"top_k", "min_p", "repetition_penalty"})
_HINTS = frozenset({"reasoning_effort", "parallel_tool_calls"})

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            name="openai",
            surfaces=frozenset({"chat", "completions", "responses", "embeddings"}),
            extras=_HINTS | {"verbosity", "suffix", "truncation"},
            completion_tokens=True,
            developer=True,
        ),
        Dialect(
            name="vllm",
            surfaces=frozenset({"chat", "completions", "responses", "embeddings"}),
            extras=_HINTS | _OPEN_SAMPLING | {"truncation"},
            cache_salt=True,
            running_usage="continuous_usage_stats",
            history="reasoning",
            prefill=(("continue_final_message", True), ("add_generation_prompt", False)),
        ),
        Dialect(
            name="sglang",
            surfaces=frozenset({"chat", "completions", "embeddings"}),
            extras=_HINTS | _OPEN_SAMPLING,
            cache_salt=True,
            running_usage="continuous_usage_stats",
            history="reasoning_content",
            prefill=(("continue_final_message", True),),
        ),
        Dialect(
            name="llamacpp",
            surfaces=frozenset({"chat", "completions", "embeddings"}),
            extras=_OPEN_SAMPLING | {"parallel_tool_calls"},
            running_usage="timings_per_token",
            history="reasoning_content",
        ),
        Dialect(
            name="transformers",
            surfaces=frozenset({"chat", "completions", "responses"}),
        ),
        Dialect(
            name="anthropic",
            surfaces=frozenset({"messages"}),
            extras=frozenset({"top_k", "cache_control", "thinking", "effort"}),
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model as the operator configured it. `name` is the one spelling that clients may use.

    `surfaces`: where it is offered. Not by default: completions, where the client writes the whole
    prompt, template and all, so that a model that reasons can be made to do it in the open; and
    embeddings, which of a language model are its hidden states.
    """

    name: str
    upstream_name: str
    dialect: Dialect
    max_output_tokens: int
    default_output_tokens: int | None = None  # where the client names none; None: the maximum
    reasoning: ReasoningFormat = field(default_factory=ReasoningFormat)
    images: bool = False
    surfaces: frozenset[Surface] = frozenset({"chat", "responses", "messages"})

    def __post_init__(self) -> None:
        for what, count in (
            ("max_output_tokens", self.max_output_tokens),
            ("default_output_tokens", self.default_output_tokens),
        ):
            if count is not None and count < 1:
                raise InputError(f"{what} of model {self.name!r} is {count}", repair="at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPolicy:
    """What an account of a tier is sold. Every default is the closed one.

    `top_logprobs`: the most alternatives a token may show, 0 where log-probabilities are not sold;
    they are rounded to `logprob_step_milli` thousandths of a nat and never go with `logit_bias`.
    `reasoning`: the model's reasoning may be read. `reasoning_blobs`: it may be carried along
    sealed, which shows nothing but its length. `prefill`: a last assistant message is continued.
    """

    max_output_tokens: int = 32_768
    choices: int = 1
    top_logprobs: int = 0
    logprob_step_milli: int = 500
    logit_bias: bool = False
    reasoning: bool = False
    reasoning_blobs: bool = True
    prefill: bool = False
    image_hosts: frozenset[str] = frozenset()
    max_images: int = 20

    def __post_init__(self) -> None:
        for name, low in (
            ("max_output_tokens", 1),
            ("choices", 1),
            ("top_logprobs", 0),
            ("logprob_step_milli", 1),
            ("max_images", 0),
        ):
            if getattr(self, name) < low:
                raise InputError(
                    f"{name} of a tier is {getattr(self, name)}", repair=f"at least {low}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPolicy:
    """Whose request it is and what it may ask for. Build one per account and tier, and keep it."""

    account: str
    models: Mapping[str, ServedModel]
    tier: TierPolicy
    seal: ReasoningSeal | None = None
    cache_salt: str | None = None
    session: str | None = None
    max_bytes: int = MAX_BYTES
    max_depth: int = MAX_DEPTH


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a prompt. `size_bytes` is 0 for one that the upstream fetches itself."""

    media_type: str
    size_bytes: int
    detail: str = "auto"


@dataclass(slots=True, kw_only=True)
class Asked:
    """A request that was understood, and what to send upstream for it. Never changed.

    (Frozen, each of its fields would cost as much as the whole of it.)

    `texts`: every text of the prompt in order, calls and descriptions of tools included, and in
    `roles` whose each is. `others`: what is of the prompt beside them (schemas, names, ids, images,
    token ids), for digests alone; `by_bytes` where its template may write more of it than texts,
    `token_ids` how many came as such. `schema`: canonical bytes of the asked reply schema.
    `end_user` as sent: keep a keyed digest at most; it is never sent on.
    `input_bytes`: bytes of `upstream_body` without image data, which bounds the prompt's tokens,
    apart from what the chat template adds per turn. `echo`: what a response object repeats.
    """

    surface: Surface
    model: str
    served: ServedModel
    policy: RequestPolicy
    stream: bool
    include_usage: bool
    max_tokens: int
    choices: int
    top_logprobs: int | None
    texts: tuple[str, ...]
    roles: tuple[str, ...]
    others: tuple[bytes, ...]
    by_bytes: bool
    token_ids: int
    turns: int
    images: tuple[Image, ...]
    tools: tuple[str, ...]
    schema: bytes | None
    end_user: str | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: tuple[str, ...]
    blobs: bool
    session: bytes
    echo: dict[str, Any]
    upstream_surface: Surface
    upstream_body: bytes
    input_bytes: int

    @property
    def tier(self) -> TierPolicy:
        """What the account is sold."""
        return self.policy.tier

    @property
    def whole_prompt(self) -> bytes:
        """All by which its prompt differs from another: to be digested."""
        text = "\n".join(self.texts).encode("utf-8", "replace")
        return b"\0".join((text, *self.others)) if self.others else text

    @property
    def most_output_tokens(self) -> int:
        """What all its choices together may have: no more is reserved or served."""
        return 0 if self.surface == "embeddings" else self.max_tokens * self.choices

    @property
    def upstream_path(self) -> str:
        """The path to append to the upstream's root."""
        return PATHS[self.upstream_surface]


def derive_cache_salt(digests: KeyedDigests, account: str) -> str:
    """Return the salt that keeps an account's prefix cache apart from all others' (192 bits).

    Without it, the time to the first token tells whether someone else sent the same prompt.
    """
    return digests.digest("cache-salt", account.encode())[:24].hex()
