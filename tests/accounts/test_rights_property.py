"""Whatever operators try, in any order: two people for a ban, and nobody raises their own rights.

The invariants are checked on what the store holds afterwards, not on what the rules meant to say;
mutants of the rules at the end show that the test sees them broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.accounts.conftest import Clock, office_of

from stillhouse.accounts import Act, Store, acts, mint, schema
from stillhouse.accounts.acts import decisions, enforcement, membership, staff
from stillhouse.accounts.measures import HOUR_US
from stillhouse.accounts.roles import RIGHTS, Role
from stillhouse.exchanges import InputError

PEOPLE = ("ada", "bob", "ann", "ben", "sue", "vic")
step = st.tuples(
    st.sampled_from(PEOPLE),
    st.sampled_from(
        ["assign", "suspend", "ban", "extend", "undo", "approve", "approve", "approve", "role",
         "pause", "resume", "remove", "replace", "add", "hours"]
    ),
    st.integers(0, 7),
    st.integers(0, 5),
)  # fmt: skip
plans = st.lists(step, min_size=1, max_size=14)


def of(store: Store, table: sqlalchemy.Table) -> list[Any]:
    with store.reading() as connection:
        return list(connection.execute(sqlalchemy.select(table)).all())


def act_of(store: Store, verb: str, pick: int, who: str, office: Any) -> Act | None:
    def one(rows: list[Any]) -> Any:
        return rows[pick % len(rows)] if rows else None

    proposal = one([row for row in of(store, schema.proposals) if row.state == "open"])
    measure = one(of(store, schema.measures))
    operator = office.operators[who]
    enrolment = mint("stilladmin").enrolment
    if verb in ("suspend", "ban"):
        scope, subject = [
            ("account", office.made.accounts[0]),
            ("key", office.made.keys[0].split("_")[1]),
            ("organisation", office.made.organisation),
            ("campaign", f"c{pick // 4}"),
        ][pick % 4]
        fields: dict[str, Any] = {"scope": scope, "subject": subject, "reason": "r"}
        return acts.Suspend(**fields) if verb == "suspend" else acts.Ban(**fields, acknowledged=9)
    if verb == "assign":
        account = office.made.accounts[0]
        return acts.AssignCampaign(campaign=f"c{pick % 2}", accounts=[account], reason="r")
    if verb in ("extend", "undo"):
        if measure is None:
            return None
        kind: dict[str, Callable[[], Act]] = {
            "extend": lambda: acts.Extend(measure=measure.id, days=1, reason="r"),
            "undo": lambda: acts.Undo(measure=measure.id, reason="r"),
        }
        return kind[verb]()
    if verb == "approve":
        return proposal and acts.Approve(proposal=proposal.id, reason="r")
    about = {"operator": operator, "reason": "r"}
    role = list(Role)[pick % 4]
    made: dict[str, Callable[[], Act]] = {
        "role": lambda: acts.ChangeRole(role=role, **about),
        "pause": lambda: acts.PauseOperator(**about),
        "resume": lambda: acts.ResumeOperator(**about),
        "remove": lambda: acts.RemoveOperator(**about),
        "replace": lambda: acts.ReplaceToken(enrolment=enrolment, **about),
        "add": lambda: acts.AddOperator(name="new", role=role, enrolment=enrolment),
    }
    return made[verb]()


def run(store: Store, clock: Clock, plan: list[tuple[str, str, int, int]]) -> None:
    """Carry the plan out and check every invariant after each step."""
    office = office_of(store)
    for who, verb, pick, target in plan:
        if verb == "hours":
            clock.step(hours=pick * 5)
            continue
        act = act_of(store, verb, pick, PEOPLE[target], office)
        if act is None:
            continue
        before = {row.id: row for row in of(store, schema.operators)}
        owners = {row.id: row.operator for row in of(store, schema.tokens)}
        try:
            done = office.perform(who, act)
        except InputError:
            continue
        if done.proposal is None:
            check_rights(store, before, owners, office.operators[who])
        check_measures(store)


def check_rights(store: Store, before: dict[str, Any], owners: dict[str, str], actor: str) -> None:
    last = of(store, schema.audit)
    approval = last[-2] if last[-1].act == "approve" else last[-1]
    for row in of(store, schema.operators):
        old = before.get(row.id)
        held = RIGHTS[Role(old.role)] if old else frozenset()
        if not RIGHTS[Role(row.role)] <= held:
            assert approval.approver not in (None, approval.actor), "rights grew by one person"
            assert approval.approver != row.id, "approved by who gained"
            assert row.id != actor or approval.approver == actor
    for row in of(store, schema.tokens):
        if row.id not in owners and row.operator != actor:
            assert approval.approver not in (None, approval.actor), "a token by one person"


def check_measures(store: Store) -> None:
    alone: list[tuple[int, int]] = []
    for row in of(store, schema.measures):
        if row.approver is None:
            assert row.kind == "suspend", "a ban by one person"
            assert row.expires_us - row.start_us <= 24 * HOUR_US, "longer than a day by one person"
            alone.append((row.start_us, row.expires_us))
        else:
            assert row.approver != row.author, "self-approval"
    # All subjects of the plan hold the same account: its time out by one person's word is a day.
    alone.sort()
    for (start, _), (later, _) in pairwise(alone):
        assert later - start > 24 * HOUR_US, "suspensions by one person, one after the other"


@pytest.fixture
def fresh(templates: Any, opened: Any, clock: Clock) -> Callable[[], Store]:
    def make() -> Store:
        store: Store = opened(templates("sqlite", ""))

        @sqlalchemy.event.listens_for(store.engine, "connect")
        def fast(connection: Any, _: object) -> None:
            connection.execute("PRAGMA synchronous=OFF")

        store.engine.dispose()
        return store

    return make


def explore(fresh: Callable[[], Store], clock: Clock, examples: int) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plans)
    def exploration(plan: list[tuple[str, str, int, int]]) -> None:
        store = fresh()
        try:
            run(store, clock, plan)
        finally:
            store.close()

    exploration()


def test_no_sequence_of_acts_breaks_the_rules_of_two(
    fresh: Callable[[], Store], clock: Clock
) -> None:
    explore(fresh, clock, 60)


def _nothing(*_arguments: object) -> None:
    return None


MUTANTS: dict[str, tuple[object, str, object, list[tuple[str, str, int, int]]]] = {
    "self-approval": (
        decisions, "demand_second", _nothing, [("ann", "ban", 0, 0), ("ann", "approve", 0, 0)],
    ),
    "bans alone": (enforcement, "why_second", _nothing, [("ann", "ban", 0, 0)]),
    "admins alone": (staff, "why_second_admin", _nothing, [("ada", "add", 3, 0)]),
    "role changes alone": (staff, "why_second_admin", _nothing, [("ada", "role", 3, 5)]),
    "tokens alone": (staff, "why_second_admin", _nothing, [("ada", "replace", 0, 2)]),
    "suspensions one after the other": (
        enforcement, "earlier_measures", lambda *_a, **_o: [],
        [("ann", "suspend", 0, 0), ("ben", "suspend", 1, 0)],
    ),
    "one campaign after the other": (
        membership, "_leave", _nothing,
        [("ann", "assign", 0, 0), ("ann", "suspend", 3, 0),
         ("ann", "assign", 1, 0), ("ann", "suspend", 7, 0)],
    ),
}  # fmt: skip


@contextmanager
def mutated(place: Any, name: str, value: object) -> Iterator[None]:
    kept = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, kept)


@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_broken_rule_is_noticed(name: str, fresh: Callable[[], Store], clock: Clock) -> None:
    place, attribute, value, plan = MUTANTS[name]
    with mutated(place, attribute, value), pytest.raises(AssertionError):
        run(fresh(), clock, plan)
    run(fresh(), clock, plan)
