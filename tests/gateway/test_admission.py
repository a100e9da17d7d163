"""The decision is a function of values and a clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillhouse.accounts import Origin, Snapshot, furnish, open_store, parse_address
from stillhouse.accounts.acts import ChangeTier, CreditAccount, DefineTier, RevokeKey, Suspend
from stillhouse.exchanges import InputError
from stillhouse.gateway.admission import (
    Admit,
    Asking,
    Bound,
    Refuse,
    Rules,
    decide,
    refusal_of,
    used_units,
)
from stillhouse.gateway.config import LimitSetting
from stillhouse.gateway.refusals import REFUSALS, shown
from stillhouse.limits import Exceeded, Limit, Memory, Reserved

ADDRESS = parse_address("203.0.113.7")


def asking(key: str | None, **changes: Any) -> Asking:
    values: dict[str, Any] = {
        "address": ADDRESS,
        "origin": Origin(),
        "key_text": key,
        "model": "small",
        "bound": Bound(100, 50, 2500),
        "prompt": b"p" * 32,
        "end_user": None,
    }
    return Asking(**(values | changes))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("accounts")
    store = open_store(str(folder / "a.sqlite"), secrets=folder / "secrets")
    made = furnish(store, accounts=3)
    yield store, made
    store.close()


def snapshot_of(store: Any) -> tuple[Snapshot, int]:
    return store.load_snapshot(), store.clock()


def test_an_admitted_request_reserves_over_every_scope(world: Any) -> None:
    store, made = world
    snapshot, now_us = snapshot_of(store)
    more = [
        LimitSetting(scope="address", measure="requests", amount=100),
        LimitSetting(scope="global", measure="money_nano", amount=10**9, per="month"),
        LimitSetting(scope="end_user", measure="requests", amount=100),
        LimitSetting(scope="campaign", measure="requests", amount=100),
        LimitSetting(scope="model", measure="output_tokens", amount=1000, shadow=True),
    ]
    found = decide(snapshot, Rules(more), asking(made.keys[0], end_user=b"e" * 32), now_us)
    assert isinstance(found, Admit)
    kinds = {demand.scope.kind for demand in found.demands}
    # No campaign is known of this account; the two networks of the address are one limit each.
    assert kinds == {"account", "organisation", "key", "address", "global", "end_user", "model"}
    assert sum(demand.scope.kind == "address" for demand in found.demands) == 2
    costs = {(d.scope.kind, d.limit.unit): d.cost for d in found.demands}
    assert costs["account", "input_tokens"] == 100
    assert costs["account", "output_tokens"] == 50
    assert costs["global", "money"] == 2500
    prompts = [d for d in found.demands if d.limit.unit == "prompts"]
    assert prompts[0].item == b"p" * 32
    limiter = Memory()
    assert isinstance(limiter.reserve_now(b"1" * 16, found.demands, now_us), Reserved)
    assert decide(snapshot, Rules(more), asking(made.keys[0]), now_us) != found


def names_of(rules: Rules, world: Any, **changes: Any) -> list[tuple[str, str, int, bytes]]:
    store, made = world
    snapshot, now_us = snapshot_of(store)
    found = decide(snapshot, rules, asking(made.keys[0], **changes), now_us)
    assert isinstance(found, Admit)
    return [
        (scope.kind, limit.name, cost, item)
        for scope, limit, cost, item in found.demands
        if limit.name.startswith("own/")
    ]


def test_a_limit_of_one_model_for_each_key_counts_no_other_model(world: Any) -> None:
    named = {"scope": "key", "measure": "output_tokens", "amount": 100, "models": ("small",)}
    rules = Rules([LimitSetting(**named), LimitSetting(**{**named, "models": ()})])  # type: ignore[arg-type]
    of_all = ("key", "own/key/output_tokens/window/60000000", 50, b"")
    of_one = ("key", "own/key/output_tokens/window/60000000/small", 50, b"")
    assert names_of(rules, world) == [of_all, of_one]
    assert names_of(rules, world, model="large") == [of_all]


def test_an_account_that_is_shared_is_seen_by_its_networks(world: Any) -> None:
    """Two people behind one /24 or /48 count once; a third network is one too many."""
    store, made = world
    snapshot, now_us = snapshot_of(store)
    days = {"amount": 2, "window_s": 86_400.0}
    rules = Rules([LimitSetting(scope="account", measure="distinct_networks", **days)])  # type: ignore[arg-type]
    limiter = Memory()
    told = []
    for number, text in enumerate(
        (
            "203.0.113.7", "203.0.113.99", "2001:db8:7:1::1", "2001:db8:7:2::1",
            "::ffff:203.0.113.5", "198.51.100.1", "2001:db8:8::1", "203.0.113.1",
        )
    ):  # fmt: skip
        found = decide(snapshot, rules, asking(made.keys[0], address=parse_address(text)), now_us)
        assert isinstance(found, Admit)
        name = number.to_bytes(16, "big")
        told.append(isinstance(limiter.reserve_now(name, found.demands, now_us), Reserved))
        limiter.settle_now(name, {}, now_us)
    assert told == [True, True, True, True, True, False, False, True]


def test_a_prepaid_account_is_served_while_its_balance_lasts(world: Any) -> None:
    store, made = world
    rules, limiter, count = Rules(), Memory(), 0

    def admitted() -> int:
        """How many requests of 0.3 dollars each are."""
        nonlocal count
        snapshot, now_us = snapshot_of(store)
        for before in range(10):
            count += 1
            now_us += count * 3600 * 10**6  # no other cap of the tier refuses
            bound = Bound(100, 50, 300_000_000)
            found = decide(snapshot, rules, asking(made.keys[1], bound=bound), now_us)
            assert isinstance(found, Admit)
            name = count.to_bytes(16, "big")
            told = limiter.reserve_now(name, found.demands, now_us)
            if isinstance(told, Exceeded):
                limit = told.demand.limit
                assert refusal_of(limit, public=told.public, ever=False) == "budget_exhausted"
                return before
            limiter.settle_now(name, {"concurrent": 1, "money": 300_000_000}, now_us)
        return 10

    def credit(dollars: int) -> None:
        act = CreditAccount(account=made.accounts[1], dollars=dollars, reason="invoice")
        store.perform(made.operator, act)

    assert admitted() == 10, "who has not paid in is not limited by it"
    credit(1)
    assert admitted() == 3
    credit(2)
    assert admitted() == 7


def test_a_shadow_cap_of_a_tier_refuses_nothing_and_is_told(world: Any) -> None:
    store, made = world
    window = {"scope": "account", "measure": "requests", "window_us": 60_000_000}
    caps = [{**window, "amount": 2, "shadow": True}, {**window, "amount": 100}]
    tier = DefineTier(name="watched", level=7, caps=caps, max_output_tokens=9)  # type: ignore[arg-type]
    store.perform(made.operator, tier)
    change = ChangeTier(account=made.accounts[0], tier="watched", reason="a test")
    store.perform(made.operator, change)
    snapshot, now_us = snapshot_of(store)
    limiter, would = Memory(), []
    for number in range(3):
        found = decide(snapshot, Rules(), asking(made.keys[0]), now_us)
        assert isinstance(found, Admit)
        told = limiter.reserve_now(number.to_bytes(16, "big"), found.demands, now_us)
        assert isinstance(told, Reserved)
        would.append([demand.limit.name for demand in told.would_refuse])
    assert would == [[], ["shadow/requests/60000000"], ["shadow/requests/60000000"]]
    back = ChangeTier(account=made.accounts[0], tier="new", reason="a test")
    store.perform(made.operator, back)


def test_two_caps_that_count_the_same_are_refused(world: Any) -> None:
    store, made = world
    cap = {"scope": "key", "measure": "requests", "amount": 5, "window_us": 10**6}
    tier = DefineTier(name="twice", level=8, caps=[cap, cap], max_output_tokens=9)  # type: ignore[list-item]
    with pytest.raises(InputError, match="count the same"):
        store.perform(made.operator, tier)


MINUTE = {"scope": "account", "measure": "requests", "window_us": 60 * 10**6}


@pytest.mark.parametrize(
    ("cap", "said"),
    [
        (MINUTE | {"amount": 0}, "an amount of 0"),
        (MINUTE | {"amount": 1}, "an amount of 1"),
        (MINUTE | {"amount": 2**51}, "an amount of"),
        (MINUTE | {"amount": 9, "window_us": 401 * 86_400 * 10**6}, "a window of"),
        (MINUTE | {"amount": 0, "measure": "distinct_prompts"}, "an amount of 0"),
        (MINUTE | {"amount": 0, "measure": "concurrency", "window_us": 0}, "an amount of 0"),
    ],
)
def test_a_cap_that_no_limit_can_be_is_refused(world: Any, cap: dict[str, Any], said: str) -> None:
    store, made = world
    tier = DefineTier(name="odd", level=8, caps=[cap], max_output_tokens=9)  # type: ignore[list-item]
    with pytest.raises(InputError, match=said):
        store.perform(made.operator, tier)


def test_the_same_question_has_the_same_answer(world: Any) -> None:
    store, made = world
    snapshot, now_us = snapshot_of(store)
    rules = Rules()
    first = decide(snapshot, rules, asking(made.keys[0]), now_us)
    assert decide(snapshot, rules, asking(made.keys[0]), now_us) == first
    assert decide(snapshot, Rules(), asking(made.keys[0]), now_us) == first


@pytest.mark.parametrize(
    ("key", "code"), [(None, "no_key"), ("", "invalid_key"), ("still_x", "invalid_key")]
)
def test_no_key_no_service(world: Any, key: str | None, code: str) -> None:
    store, _ = world
    snapshot, now_us = snapshot_of(store)
    assert decide(snapshot, Rules(), asking(key), now_us) == Refuse(code)


def test_a_revoked_key_and_a_suspended_account_are_refused(world: Any) -> None:
    store, made = world
    who = made.operator
    store.perform(who, Suspend(scope="account", subject=made.accounts[1], hours=1, reason="test"))
    snapshot, now_us = snapshot_of(store)
    found = decide(snapshot, Rules(), asking(made.keys[1]), now_us)
    assert isinstance(found, Refuse)
    assert found.code == "suspended"
    facts = snapshot.authenticate(made.keys[2], now_us)
    store.perform(who, RevokeKey(key=facts.key_id, reason="test"))
    snapshot, now_us = snapshot_of(store)
    revoked = decide(snapshot, Rules(), asking(made.keys[2]), now_us)
    assert isinstance(revoked, Refuse)
    assert revoked.code == "revoked_key"


def test_every_code_that_can_come_out_is_in_the_table() -> None:
    limits = [
        Limit.rolling("r", "requests", 10, 10**6),
        Limit.concurrency("c", 1, 10**6),
        Limit.balance("b", "money", 10),
    ]
    for limit in limits:
        for public in (True, False):
            for ever in (True, False):
                code = refusal_of(limit, public=public, ever=ever)
                assert code in REFUSALS
                if not public:
                    assert shown(code).code == "rate_limited"


def test_unknown_usage_is_left_out_so_that_it_is_paid_whole() -> None:
    assert "output_tokens" not in used_units(5, None, None)
    assert used_units(5, 0, 7)["output_tokens"] == 0
