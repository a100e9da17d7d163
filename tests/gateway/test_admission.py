"""The decision is a function of values and a clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillhouse.accounts import Origin, Snapshot, furnish, open_store, parse_address
from stillhouse.accounts.acts import RevokeKey, Suspend
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
from stillhouse.limits import Limit, Memory, Reserved

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
