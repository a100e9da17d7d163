"""The data path's view: what a key may do, and how soon it learns of a change."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import fields

import pytest
from tests.accounts.conftest import Clock, Office, peppers

from stillhouse.accounts import (
    AccountRow,
    Act,
    Delta,
    Furnished,
    KeyFacts,
    KeyRow,
    KeyUses,
    Measure,
    OrganisationRow,
    Origin,
    Snapshot,
    Store,
    Terms,
    follow,
    mint,
    parse_address,
    poll,
)
from stillhouse.accounts.acts import (
    AssignCampaign,
    Ban,
    Block,
    ChangeTier,
    CloseAccount,
    CloseOrganisation,
    DefineTier,
    IssueKey,
    ListOrigin,
    PublishTerms,
    RevokeKey,
    RotateKey,
    Suspend,
    Undo,
    UnlistOrigin,
)
from stillhouse.accounts.snapshot import STALE_AFTER_US


def code(snapshot: Snapshot, key: str, now_us: int) -> str:
    found = snapshot.authenticate(key, now_us)
    if not isinstance(found, KeyFacts):
        return found.code
    denied = snapshot.standing(found, now_us)
    return denied.code if denied else "served"


def test_a_key_speaks_for_its_account(office: Office, clock: Clock) -> None:
    snapshot = office.store.load_snapshot()
    facts = snapshot.authenticate(office.made.keys[1], clock())
    assert isinstance(facts, KeyFacts)
    assert (facts.account, facts.organisation) == (
        office.made.accounts[1],
        office.made.organisation,
    )
    assert (facts.tier, facts.scopes) == ("new", {"inference"})
    assert snapshot.standing(facts, clock()) is None
    assert snapshot.tier(facts).level == 0


@pytest.mark.parametrize("change", ["unknown", "secret", "token", "short", "empty", "wide"])
def test_anything_but_the_whole_key_is_invalid(office: Office, clock: Clock, change: str) -> None:
    key = office.made.keys[0]
    wrong = {
        "unknown": mint().text,
        "secret": key[:18] + mint().text[18:],
        "token": office.made.token,
        "short": key[:-1],
        "empty": "",
        "wide": key[:-1] + "\udcff",
    }[change]
    assert code(office.store.load_snapshot(), wrong, clock()) == "invalid_key"


def test_only_the_holder_learns_that_a_key_is_revoked(office: Office, clock: Clock) -> None:
    key = office.made.keys[0]
    office.perform("sue", RevokeKey(key=key.split("_")[1], reason="leaked"))
    snapshot = office.store.load_snapshot()
    assert code(snapshot, key, clock()) == "revoked_key"
    assert code(snapshot, key[:18] + mint().text[18:], clock()) == "invalid_key"


def test_a_rotated_key_works_until_its_grace_ends(office: Office, clock: Clock) -> None:
    old = office.made.keys[0]
    done = office.perform("sue", RotateKey(key=old.split("_")[1], grace_hours=2))
    assert done.secret is not None
    snapshot = office.store.load_snapshot()
    assert [code(snapshot, key, clock()) for key in (old, done.secret)] == ["served", "served"]
    clock.step(hours=2)
    assert code(snapshot, old, clock()) == "expired_key"
    assert code(snapshot, done.secret, clock()) == "served"


def test_keys_expire(office: Office, clock: Clock) -> None:
    done = office.perform("sue", IssueKey(account=office.made.accounts[0], days=1))
    assert done.secret is not None
    snapshot = office.store.load_snapshot()
    clock.step(days=1, us=-1)
    assert code(snapshot, done.secret, clock()) == "served"
    clock.step(us=1)
    assert code(snapshot, done.secret, clock()) == "expired_key"


def test_a_pepper_is_replaced_without_a_new_key(
    database_url: str, opened: Callable[..., Store], clock: Clock
) -> None:
    from tests.accounts.conftest import office_of

    office = office_of(opened(database_url, "first"))
    key = office.made.keys[0]
    both = opened(database_url, "first", "second")
    snapshot = both.load_snapshot()
    facts = snapshot.authenticate(key, clock())
    assert isinstance(facts, KeyFacts)
    uses = KeyUses(both.peppers)
    uses.note(facts, key, clock())
    uses.note(facts, key, clock())
    both.record_uses(uses.drain())
    assert uses.drain() == []
    # The first pepper is gone: the key that was used still works, one that was not does not.
    later = opened(database_url, "first", "second")
    later.peppers._keys["still"].pop(1)
    snapshot = later.load_snapshot()
    assert code(snapshot, key, clock()) == "served"
    assert code(snapshot, office.made.keys[1], clock()) == "invalid_key"


def test_every_change_reaches_a_follower_as_a_new_process_would_see_it(
    office: Office, clock: Clock
) -> None:
    store, made = office.store, office.made
    follower = store.load_snapshot()
    assert not poll(store, follower)
    account = made.accounts[0]
    proposal = office.perform(
        "ann", Ban(scope="account", subject=made.accounts[1], acknowledged=1, reason="case 1")
    ).proposal
    assert proposal
    cap = {"scope": "account", "measure": "requests", "amount": 5, "window_us": 1000}
    steps = [
        ("sue", IssueKey(account=account)),
        ("sue", ChangeTier(account=account, tier="verified", reason="ID")),
        ("ann", AssignCampaign(campaign="c1", accounts=[account], reason="case 2")),
        ("ada", DefineTier(name="new", level=0, caps=[cap], max_output_tokens=10)),
        ("ada", ListOrigin(kind="country", value="xx", verdict="refuse", reason="law")),
        ("ada", ListOrigin(kind="hosting", value="198.51.100.0/24", verdict="verify", level=1,
                           reason="rented")),
        ("ada", UnlistOrigin(kind="country", value="XX", reason="law")),
        ("ada", PublishTerms(text="second", notice_days=8, grace_days=1)),
        ("ann", Block(network="203.0.113.0/24", acknowledged=0, reason="case 3")),
        ("ann", Suspend(scope="campaign", subject="c1", hours=3, reason="case 2")),
        ("sue", CloseAccount(account=made.accounts[2], reason="asked")),
        ("sue", CloseOrganisation(organisation=made.organisation, reason="ended")),
    ]  # fmt: skip
    seen = {code(follower, made.keys[0], clock())}
    for who, act in steps:
        office.perform(who, act)
        assert poll(store, follower)
        fresh = store.load_snapshot()
        for name in ("_accounts", "_organisations", "_tiers", "_deadlines", "_bans", "_measures"):
            assert getattr(follower, name) == getattr(fresh, name), (act.NAME, name)
        assert {k: v.facts for k, v in follower._keys.items()} == {
            k: v.facts for k, v in fresh._keys.items()
        }
        assert follower._origins._entries == fresh._origins._entries
        assert follower.sequence == fresh.sequence
        seen.add(code(follower, made.keys[0], clock()))
    assert seen == {"served", "suspended", "account_closed"}


def test_a_ban_and_its_undoing_reach_every_scope(office: Office, clock: Clock) -> None:
    store, made = office.store, office.made
    snapshot = store.load_snapshot()
    office.perform("ann", AssignCampaign(campaign="c", accounts=[made.accounts[0]], reason="x"))
    subjects = {
        "key": made.keys[0].split("_")[1],
        "account": made.accounts[0],
        "organisation": made.organisation,
        "campaign": "c",
    }
    facts = snapshot.authenticate(made.keys[0], clock())
    assert isinstance(facts, KeyFacts)
    for scope, subject in subjects.items():
        act = Ban(scope=scope, subject=subject, acknowledged=3, reason="r")  # type: ignore[arg-type]
        done = office.agreed("ann", "ben", act)
        poll(store, snapshot)
        denied = snapshot.standing(facts, clock())
        assert denied is not None
        assert (denied.code, denied.scope, denied.measure) == ("banned", scope, done.subject)
        office.perform("ben", Undo(measure=done.subject, reason="wrong"))
        poll(store, snapshot)
        assert snapshot.standing(facts, clock()) is None
        clock.step(days=8)
        poll(store, snapshot)


def test_origins_are_judged_by_the_lists(office: Office) -> None:
    home, rented = parse_address("192.0.2.1"), parse_address("::ffff:198.51.100.9")
    lists = [
        ListOrigin(kind="country", value="XX", verdict="refuse", reason="law"),
        ListOrigin(kind="asn", value="AS64500", verdict="refuse", reason="proxies"),
        ListOrigin(kind="hosting", value="198.51.100.0/24", verdict="verify", level=1, reason="r"),
    ]
    for act in lists:
        office.perform("ada", act)
    snapshot = office.store.load_snapshot()

    def judged(address: object, origin: Origin, level: int | None) -> str | None:
        denied = snapshot.origin_denial(address, origin, level)  # type: ignore[arg-type]
        return denied and denied.code

    assert judged(home, Origin("FR", 1), 0) is None
    assert judged(home, Origin("XX"), 9) == "country_refused"
    assert judged(home, Origin("FR", 64500), 9) == "network_refused"
    assert [judged(rented, Origin(), level) for level in (None, 0, 1)] == [
        None,
        "verification_required",
        None,
    ]
    office.perform("ada", ListOrigin(kind="country", value="FR", verdict="only", reason="law"))
    poll(office.store, snapshot)
    assert judged(home, Origin("FR"), 0) is None
    assert judged(home, Origin("DE"), 0) == "country_refused"
    assert judged(home, Origin(), 0) == "country_refused"


@pytest.mark.parametrize(
    ("denied", "act"),
    [
        ("suspended", lambda made: Suspend(scope="account", subject=made.accounts[0], reason="x")),
        ("revoked_key", lambda made: RevokeKey(key=made.keys[0].split("_")[1], reason="x")),
        ("revoked_key", lambda made: RotateKey(key=made.keys[0].split("_")[1], grace_hours=0)),
        ("address_blocked", lambda _: Block(network="203.0.113.0/24", acknowledged=0, reason="x")),
    ],
)
def test_what_is_decided_by_a_clock_that_is_ahead_holds_from_its_arrival(
    office: Office, clock: Clock, denied: str, act: Callable[[Furnished], Act]
) -> None:
    """As where NTP answered after the gateway began, or on an admin's machine that is ahead."""
    snapshot, asked_us = office.store.load_snapshot(), clock()
    clock.step(hours=1)
    office.perform("ada", act(office.made))
    poll(office.store, snapshot)
    blocked = snapshot.blocks.match(parse_address("203.0.113.7"), asked_us)
    code_now = blocked.code if blocked else code(snapshot, office.made.keys[0], asked_us)
    assert code_now == denied


def test_a_store_whose_clock_was_wrong_for_a_moment_ends_no_measure(
    office: Office, clock: Clock
) -> None:
    snapshot = office.store.load_snapshot()
    office.perform("ann", Suspend(scope="account", subject=office.made.accounts[0], reason="x"))
    poll(office.store, snapshot)
    asked_us = clock()
    clock.step(hours=48)
    poll(office.store, snapshot)
    assert code(snapshot, office.made.keys[0], asked_us) == "suspended"
    assert code(office.store.load_snapshot(), office.made.keys[0], asked_us) == "suspended"


def test_a_snapshot_that_is_not_confirmed_for_a_second_is_stale(
    office: Office, clock: Clock
) -> None:
    snapshot = office.store.load_snapshot()
    confirmed_us = snapshot.confirmed_at_us
    assert not snapshot.is_stale(confirmed_us + STALE_AFTER_US - 1)
    assert snapshot.is_stale(confirmed_us + STALE_AFTER_US)
    # What counts is when the question was asked: an answer that took long confirms only that.
    clock.step(us=500_000)
    delta = office.store.changes_since(snapshot.sequence)
    clock.step(us=700_000)
    snapshot.apply(delta)
    assert snapshot.confirmed_at_us == confirmed_us + 500_000


def test_following_goes_on_after_the_store_failed(
    office: Office, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = office.store
    snapshot, asked = store.load_snapshot(), store.changes_since
    polls: list[bool] = []
    answers = iter([OSError("gone"), OSError("gone"), None, None])

    def failing(sequence: int) -> Delta:
        if error := next(answers, None):
            raise error
        return asked(sequence)

    monkeypatch.setattr(store, "changes_since", failing)
    office.perform("ann", Suspend(scope="account", subject=office.made.accounts[0], reason="x"))

    async def run() -> None:
        task = asyncio.create_task(follow(store, snapshot, on_poll=polls.append, period_s=0.001))
        while len(polls) < 2:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(run(), 60))
    assert polls[:2] == [True, False]
    assert code(snapshot, office.made.keys[0], clock()) == "suspended"
    assert sum("does not answer" in record.message for record in caplog.records) == 1


def test_a_follower_that_missed_too_much_reads_everything_again(
    office: Office, clock: Clock
) -> None:
    store = office.store
    snapshot = store.load_snapshot()
    office.perform("ann", Suspend(scope="account", subject=office.made.accounts[0], reason="x"))
    clock.step(days=2)
    office.perform("sue", IssueKey(account=office.made.accounts[0]))
    store.tidy()
    assert store.changes_since(snapshot.sequence).full
    assert not store.changes_since(store.load_snapshot().sequence).full
    poll(store, snapshot)
    assert snapshot.sequence == store.load_snapshot().sequence
    assert store.changes_since(snapshot.sequence + 5).full, "the database went back in time"


def test_concurrent_writers_never_hide_a_change_from_a_follower(
    office: Office, clock: Clock
) -> None:
    """On PostgreSQL a plain sequence would show 11 before 10 is committed."""
    from concurrent.futures import ThreadPoolExecutor

    store, account = office.store, office.made.accounts[0]
    follower = store.load_snapshot()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(office.perform, "sue", IssueKey(account=account)) for _ in range(24)]
        while not all(one.done() for one in waiting):
            poll(store, follower)
    poll(store, follower)
    keys = [one.result().secret for one in waiting]
    assert [code(follower, key, clock()) for key in keys if key] == ["served"] * 24


def test_a_snapshot_of_many_accounts_and_blocks_answers_right() -> None:
    """10^4 here, 10^5 in the gateway's benchmark."""
    count, pepper = 10_000, peppers("first")
    made = [mint() for _ in range(20)]
    numbered = [*made, *[None] * (count - 20)]
    delta = Delta(
        "e", 1, 0, full=True,
        organisations=(OrganisationRow("org", 1),),
        terms=(Terms(1, 0, 0, 0),),
        accounts=tuple(AccountRow(f"a{n}", "org", "new") for n in range(count)),
        keys=tuple(
            KeyRow(key.id if key else f"k{n}", f"a{n}", 1,
                   pepper.digest_key(key.text) if key else b"", ("inference",))
            for n, key in enumerate(numbered)
        ),
        measures=tuple(
            Measure(f"m{n}", "block", "address", f"10.{n >> 8 & 255}.{n & 255}.0/24", 0, 9)
            for n in range(count)
        ),
    )  # fmt: skip
    snapshot = Snapshot(pepper.key_material(), delta)
    assert len(snapshot) == count
    for number, key in enumerate(made):
        facts = snapshot.authenticate(key.text, 5)
        assert isinstance(facts, KeyFacts)
        assert facts.account == f"a{number}"
    chosen = random.Random(0).randrange(count)
    address = parse_address(f"10.{chosen >> 8 & 255}.{chosen & 255}.77")
    denied = snapshot.blocks.match(address, 5)
    assert denied is not None
    assert denied.measure == f"m{chosen}"
    assert snapshot.blocks.match(address, 9) is None
    assert snapshot.blocks.match(parse_address("11.0.0.1"), 5) is None
    snapshot.forget_ended(9)
    assert len(snapshot.blocks.table) == 0, "ended measures are forgotten"


def test_everything_in_a_delta_is_a_tuple() -> None:
    empty = Delta("e", 0, time.monotonic_ns())
    values = [getattr(empty, field.name) for field in fields(empty)]
    assert sum(isinstance(value, tuple) for value in values) == 8
