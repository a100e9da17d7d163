"""Whether a request is let in, and what it must reserve: decisions of values and a clock, no I/O.

`identify` needs only the address and the key, so that nobody's body is read for nothing; `decide`
is the whole decision and what a simulation calls. Neither changes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from stillhouse.accounts import TERMS_SCOPE, Denied
from stillhouse.limits import Binding, Demand, Limit, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stillhouse.accounts import Address, Cap, KeyFacts, Origin, Snapshot, Tier
    from stillhouse.gateway.config import LimitSetting

INFERENCE = "inference"
_TERMS = ("terms_required", "terms_lapsed")
# What an accounts' cap measures -> the unit by which a reservation is settled.
UNITS = {
    "requests": "requests",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "money_nano": "money",
    "distinct_prompts": "prompts",
    "distinct_networks": "networks",
    "concurrency": "concurrent",
}
_KEPT = 262_144
_new = tuple.__new__
if TYPE_CHECKING:
    # A scope (or the kind of one that depends on the request), its limit, what it counts, and the
    # models whose requests it counts (none: of all).
    _Row = tuple[Scope | str, Limit, str, tuple[str, ...]]
    _Rule = tuple[str, Limit, str, tuple[str, ...]]  # the same, for a kind of scope
    _Kept = tuple[KeyFacts, Tier, Binding, tuple[str, ...], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Not served. `code` is a row of the table of refusals; the rest is for the log alone."""

    code: str
    scope: str | None = None
    measure: str | None = None


class Bound(NamedTuple):
    """The most that a request can cost, before it is asked of the upstream."""

    input_tokens: int
    output_tokens: int
    money: int  # nano-dollars


class Asking(NamedTuple):
    """One request as the decision sees it."""

    address: Address
    origin: Origin
    key_text: str | None
    model: str
    bound: Bound
    prompt: bytes  # keyed digest of the prompt, for limits on distinct ones
    end_user: bytes | None = None


class Claim(NamedTuple):
    """What a request must reserve: a cost for each row that its key always asks of, and more."""

    binding: Binding
    costs: Sequence[int]
    item: bytes  # keyed digest of the prompt, for limits on distinct ones
    more: Sequence[Demand]

    @property
    def demands(self) -> tuple[Demand, ...]:
        """All of it, one by one."""
        return (*self.binding.demands(self.costs, self.item), *self.more)


class Admit(NamedTuple):
    """Served if all of `demands` can be reserved at once."""

    facts: KeyFacts
    tier: Tier
    claim: Claim

    @property
    def demands(self) -> tuple[Demand, ...]:
        """What must be reserved, over every scope."""
        return self.claim.demands


class Rules:
    """The limits that bind: those of the tiers and the operator's own. Built once a configuration.

    `lease_us` is how long a request can hold a place of a concurrency limit at most.
    """

    def __init__(self, more: Sequence[LimitSetting] = (), *, lease_us: int = 3_600_000_000):
        self._lease_us = lease_us
        self._more: tuple[_Rule, ...] = tuple(
            (row.scope, _own_limit(row, lease_us), UNITS[row.measure], row.models) for row in more
        )
        self._tiers: dict[str, tuple[Tier, tuple[_Rule, ...]]] = {}
        self._limits: dict[tuple[object, ...], Limit] = {}
        self._seen: dict[str, _Kept] = {}

    def claim(self, asking: Asking, facts: KeyFacts, tier: Tier) -> Claim:
        """Return what `asking` must reserve, over every scope."""
        kept = self._seen.get(facts.key_id)
        if kept is None or kept[0] is not facts or kept[1] is not tier:
            kept = self._remember(facts, tier)
        _, _, binding, units, varying = kept
        costs = {
            "requests": 1,
            "concurrent": 1,
            "prompts": 1,
            "networks": 1,
            "input_tokens": asking.bound.input_tokens,
            "output_tokens": asking.bound.output_tokens,
            "money": asking.bound.money,
        }
        more = []
        for kind, limit, unit, models in varying:
            cost = costs[unit]
            if cost and (not models or asking.model in models):
                item = _item(unit, asking)
                for scope in _scopes(kind, asking):
                    # As its constructor does, at a third of the price.
                    more.append(_new(Demand, (scope, limit, cost, item)))
        return Claim(binding, [costs[unit] for unit in units], asking.prompt, more)

    def _remember(self, facts: KeyFacts, tier: Tier) -> _Kept:
        own = {
            "key": facts.key_id,
            "account": facts.account,
            "organisation": facts.organisation,
            "campaign": facts.campaign,
            "global": "all",
        }
        account = Scope("account", facts.account)
        rows: dict[tuple[Scope | str, str], _Row] = {}
        for kind, limit, unit, models in (*self._of_tier(tier), *self._more):
            identity = own.get(kind)
            scope = kind if kind not in own else identity and Scope(kind, identity)
            if scope:
                rows[scope, limit.name] = (scope, limit, unit, models)
        if facts.prepaid_nano is not None:
            limit = self._balance(facts.prepaid_nano)
            rows[account, limit.name] = (account, limit, limit.unit, ())
        if len(self._seen) >= _KEPT:
            self._seen.clear()
        always: list[tuple[Scope, Limit]] = []
        varying: list[_Row] = []
        for row in rows.values():
            scope, limit, unit, models = row
            if isinstance(scope, Scope) and not models and unit != "networks":
                always.append((scope, limit))
            else:
                varying.append(row)
        kept = self._seen[facts.key_id] = (
            facts,
            tier,
            Binding(always),
            tuple(limit.unit for _, limit in always),
            tuple(varying),
        )
        return kept

    def _of_tier(self, tier: Tier) -> tuple[_Rule, ...]:
        kept = self._tiers.get(tier.name)
        if kept is None or kept[0] != tier:
            rows = tuple((cap.scope, self._limit(cap), UNITS[cap.measure], ()) for cap in tier.caps)
            self._tiers[tier.name] = kept = (tier, rows)
        return kept[1]

    def _balance(self, paid_nano: int) -> Limit:
        limit = self._limits.get((paid_nano,))
        if limit is None:
            limit = self._limits[(paid_nano,)] = Limit.balance("prepaid", "money", paid_nano)
        return limit

    def _limit(self, cap: Cap) -> Limit:
        # One object for one meaning: two tiers with the same cap share it.
        key = (cap.measure, cap.amount, cap.window_us, cap.burst, cap.shadow)
        limit = self._limits.get(key)
        if limit is None:
            limit = self._limits[key] = tier_limit(cap, self._lease_us)
        return limit


def tier_limit(cap: Cap, lease_us: int) -> Limit:
    """Return the limit that a tier's cap stands for. Its name keeps its level between tiers."""
    shadow = cap.shadow
    name = f"{'shadow/' if shadow else ''}{cap.measure}/{cap.window_us}"
    unit = UNITS[cap.measure]
    if cap.measure == "concurrency":
        return Limit.concurrency(name, cap.amount, lease_us, shadow=shadow)
    if cap.measure == "distinct_prompts":
        return Limit.distinct(name, cap.amount, cap.window_us, shadow=shadow)
    burst = cap.burst or None
    return Limit.rolling(name, unit, cap.amount, cap.window_us, burst=burst, shadow=shadow)


def identify(
    snapshot: Snapshot,
    address: Address,
    origin: Origin,
    key_text: str | None,
    now_us: int,
    scope: str = INFERENCE,
) -> KeyFacts | Refuse:
    """Return who asks, or why they may not: by address and key alone.

    `scope` is what the key must be for. With the scope of accepting terms, terms that are not
    accepted are no reason to refuse.
    """
    denied = snapshot.blocks.match(address, now_us) or snapshot.origin_denial(address, origin, None)
    if denied is not None:
        return _refuse(denied)
    if key_text is None:
        return Refuse("no_key")
    facts = snapshot.authenticate(key_text, now_us)
    if isinstance(facts, Denied):
        return _refuse(facts)
    denied = snapshot.standing(facts, now_us)
    if denied is not None and scope == TERMS_SCOPE and denied.code in _TERMS:
        denied = None
    if denied is None:
        denied = snapshot.origin_denial(address, origin, snapshot.tier(facts).level)
    if denied is not None:
        return _refuse(denied)
    if scope not in facts.scopes:
        return Refuse("scope_missing")
    return facts


def permit(snapshot: Snapshot, rules: Rules, facts: KeyFacts, asking: Asking) -> Admit | Refuse:
    """Return what an identified client must reserve, or why the model is not for it."""
    tier = snapshot.tier(facts)
    if tier.models and asking.model not in tier.models:
        return Refuse("unknown_model")
    return Admit(facts, tier, rules.claim(asking, facts, tier))


def decide(snapshot: Snapshot, rules: Rules, asking: Asking, now_us: int) -> Admit | Refuse:
    """Decide on a request: who asks, whether they may, and what must be reserved first.

    Does not look at how fresh the snapshot is: that is a matter of the process, not of the request.
    """
    facts = identify(snapshot, asking.address, asking.origin, asking.key_text, now_us)
    return facts if isinstance(facts, Refuse) else permit(snapshot, rules, facts, asking)


def price(input_tokens: int, output_tokens: int, in_nano: int, out_nano: int) -> int:
    """Return the price in nano-dollars."""
    return input_tokens * in_nano + output_tokens * out_nano


def refusal_of(limit: Limit, *, public: bool, ever: bool) -> str:
    """Return the code for a limit that has no room; `ever`: waiting would help."""
    if not public:
        return "rate_limited_linked"
    if limit.unit == "concurrent":
        return "concurrency_limited"
    if limit.unit == "money":
        return "budget_exhausted"
    return "rate_limited" if ever else "exceeds_limit"


def used_units(
    input_tokens: int | None, output_tokens: int | None, money: int | None
) -> Mapping[str, int]:
    """Return what a reservation is settled by; what is unknown is left out, so it is paid whole."""
    found = {"requests": 1, "prompts": 1}
    if input_tokens is not None:
        found["input_tokens"] = input_tokens
    if output_tokens is not None:
        found["output_tokens"] = output_tokens
    if money is not None:
        found["money"] = money
    return found


def _refuse(denied: Denied) -> Refuse:
    return Refuse(denied.code, denied.scope, denied.measure)


def _own_limit(row: LimitSetting, lease_us: int) -> Limit:
    window_us = int(row.window_s * 1_000_000)
    name = "/".join(("own", row.scope, row.measure, row.per, str(window_us), *row.models))
    unit = UNITS[row.measure]
    if row.measure == "concurrency":
        return Limit.concurrency(name, row.amount, lease_us, shadow=row.shadow)
    if row.measure in ("distinct_prompts", "distinct_networks"):
        return Limit.distinct(name, row.amount, window_us, shadow=row.shadow)
    if row.per == "month":
        return Limit.month(name, unit, row.amount, shadow=row.shadow)
    if row.per == "balance":
        return Limit.balance(name, unit, row.amount, shadow=row.shadow)
    return Limit.rolling(name, unit, row.amount, window_us, burst=row.burst, shadow=row.shadow)


def _item(unit: str, asking: Asking) -> bytes:
    if unit == "prompts":
        return asking.prompt
    return _network(asking.address) if unit == "networks" else b""


@lru_cache(maxsize=16_384)
def _network(address: Address) -> bytes:
    """The widest network that counts as one place: IPv4 /24, IPv6 /48."""
    network = address.networks[-1]
    return b"%d/%x" % (network.version, network.prefix)


def _scopes(kind: Scope | str, asking: Asking) -> Iterable[Scope]:
    if isinstance(kind, Scope):
        return (kind,)
    if kind == "address":
        return _address_scopes(asking.address)
    if kind == "model":
        return (Scope("model", asking.model),)
    if kind == "end_user" and asking.end_user is not None:
        return (Scope("end_user", asking.end_user.hex()),)
    return ()


@lru_cache(maxsize=16_384)
def _address_scopes(address: Address) -> tuple[Scope, ...]:
    return tuple(Scope("address", text) for text in address.scopes)
