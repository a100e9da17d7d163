"""What a configuration offers, worked out once: models, their servers, limits, policies.

A reload builds a new one and swaps it in whole; requests that are open keep the one they began
with.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillhouse.exchanges import InputError
from stillhouse.gateway.admission import Rules
from stillhouse.gateway.fleet import Route
from stillhouse.gateway.relay import Relay
from stillhouse.gateway.surfaces import (
    DIALECTS,
    ReasoningFormat,
    ReasoningSeal,
    RequestPolicy,
    ServedModel,
    TierPolicy,
    derive_cache_salt,
)
from stillhouse.gateway.tokens import TokenBound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillhouse.accounts import KeyFacts, Tier
    from stillhouse.exchanges import KeyedDigests
    from stillhouse.gateway.accounting import Accounting
    from stillhouse.gateway.config import Config, Model, Upstream

_KEPT = 262_144
_SEAL_US = 24 * 3600 * 1_000_000


@dataclass(frozen=True, slots=True)
class Offered:
    """One model, ready to serve."""

    model: Model
    served: ServedModel
    tokens: TokenBound
    relay: Relay


class Offering:
    """Raises `InputError` where a credential or a tokenizer cannot be read."""

    def __init__(
        self,
        config: Config,
        digests: KeyedDigests,
        books: Accounting,
        environment: Mapping[str, str] | None = None,
    ):
        values = os.environ if environment is None else environment
        self.config = config
        self.bounds = config.bounds
        self.timeouts = config.timeouts
        self.hops = config.hops()
        self.rules = Rules(config.more_limits, lease_us=_lease_us(config))
        self.models: dict[str, Offered] = {}
        for model in config.models:
            keys = {i: credential(u, values) for i, u in enumerate(model.upstreams)}
            tokens = TokenBound(model)
            route = Route(model, config, keys)
            relay = Relay(route, tokens, config.timeouts, config.bounds, books)
            self.models[model.name] = Offered(model, _served(model), tokens, relay)
        self.served = {name: offered.served for name, offered in self.models.items()}
        self._digests = digests
        self._seal = ReasoningSeal(digests, ttl_us=_SEAL_US)
        self._tiers: dict[str, tuple[Tier, TierPolicy]] = {}
        self._policies: dict[str, tuple[Tier, RequestPolicy]] = {}

    def policy(self, facts: KeyFacts, tier: Tier) -> RequestPolicy:
        """Return what this account may ask for; kept, as it is asked for with every request."""
        kept = self._policies.get(facts.account)
        if kept is not None and kept[0] is tier:
            return kept[1]
        policy = RequestPolicy(
            account=facts.account,
            models=self.served
            if not tier.models
            else {name: self.served[name] for name in tier.models if name in self.served},
            tier=self._tier(tier),
            seal=self._seal,
            cache_salt=derive_cache_salt(self._digests, facts.account),
            max_bytes=self.bounds.body_bytes,
            max_depth=self.bounds.depth,
        )
        if len(self._policies) >= _KEPT:
            self._policies.clear()
        self._policies[facts.account] = (tier, policy)
        return policy

    def close(self) -> None:
        """Close the connections to every upstream."""
        for offered in self.models.values():
            offered.relay.route.close()

    def _tier(self, tier: Tier) -> TierPolicy:
        kept = self._tiers.get(tier.name)
        if kept is None or kept[0] is not tier:
            offer = self.config.offer
            policy = TierPolicy(
                max_output_tokens=tier.max_output_tokens,
                choices=offer.choices,
                top_logprobs=tier.top_logprobs,
                logit_bias=offer.logit_bias,
                reasoning=offer.reasoning,
                reasoning_blobs=offer.reasoning_blobs,
                prefill=offer.prefill,
                image_hosts=frozenset(offer.image_hosts),
            )
            kept = self._tiers[tier.name] = (tier, policy)
        return kept[1]


def credential(upstream: Upstream, environment: Mapping[str, str]) -> str | None:
    """Return the key of an upstream, from its variable or its 0600 file. Never shown anywhere."""
    if upstream.key_env is not None:
        value = environment.get(upstream.key_env)
        if value is None:
            raise InputError(
                f"the environment variable {upstream.key_env} is not set",
                repair="set it in the environment of the gateway, never in a file others read",
            )
        return _header_value(value, upstream.key_env)
    if upstream.key_file is None:
        return None
    place = str(upstream.key_file)
    try:
        descriptor = os.open(upstream.key_file, os.O_RDONLY | os.O_CLOEXEC)
        with open(descriptor, encoding="ascii") as file:  # noqa: PTH123 (its own descriptor)
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            value = file.read(4096)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", place=place) from None
    if mode & 0o077:
        raise InputError(
            f"others can read this key (mode {mode:04o})", place=place, repair=f"chmod 600 {place}"
        )
    return _header_value(value, place)


def _header_value(value: str, place: str) -> str:
    value = value.strip()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise InputError("this key is empty or cannot stand in a header", place=place)
    return value


def _served(model: Model) -> ServedModel:
    reasoning = ReasoningFormat()
    if model.reasoning is not None:
        reasoning = ReasoningFormat(
            tags=((model.reasoning.opening, model.reasoning.closing),),
            starts_open=model.reasoning.implicit_opening,
        )
    return ServedModel(
        name=model.name,
        upstream_name=model.upstream_name or model.name,
        dialect=DIALECTS[model.dialect],
        max_output_tokens=model.max_output_tokens,
        default_output_tokens=min(model.default_output_tokens, model.max_output_tokens),
        reasoning=reasoning,
        images=model.images,
        surfaces=frozenset(model.surfaces),
    )


def _lease_us(config: Config) -> int:
    # Longer than the longest request, or a place would be given away while it is held.
    times = config.timeouts
    return int((times.body_s + times.total_s + times.abandoned_s + 60.0) * 1_000_000)
