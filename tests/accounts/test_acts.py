"""What operators can and cannot do, alone and together, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy
from tests.accounts.conftest import Clock, Office

from stillhouse.accounts import (
    ConflictError,
    Done,
    ForbiddenError,
    KeyFacts,
    Right,
    Role,
    Sightings,
    first_admin,
    mint,
    parse_address,
    schema,
)
from stillhouse.accounts.acts import (
    ACTS,
    AcceptTerms,
    AddOperator,
    AddRepresentative,
    AppealMeasure,
    Approve,
    AssignCampaign,
    Ban,
    Block,
    ChangeRole,
    CreateAccount,
    CreateOrganisation,
    CreditAccount,
    DecideAppeal,
    EraseFacts,
    Extend,
    IssueKey,
    ListOrigin,
    PauseOperator,
    RecordFacts,
    Reject,
    RemoveOperator,
    ReplaceToken,
    RotateOwnToken,
    Suspend,
    Undo,
)
from stillhouse.accounts.measures import DAY_US, HOUR_US
from stillhouse.accounts.roles import RIGHTS
from stillhouse.accounts.views import preview
from stillhouse.exchanges import InputError


def ban(office: Office, account: int = 0, **options: object) -> Ban:
    fields = {"scope": "account", "subject": office.made.accounts[account], "acknowledged": 1}
    return Ban.model_validate(fields | {"reason": "case 12"} | options)


def suspend(office: Office, **options: object) -> Suspend:
    fields = {"scope": "account", "subject": office.made.accounts[0], "reason": "case 12"}
    return Suspend.model_validate(fields | options)


def seen(office: Office, clock: Clock, *addresses: str) -> None:
    sightings = Sightings()
    for address in addresses:
        for account in office.made.accounts:
            sightings.note(parse_address(address), account, clock())
    office.store.record_sightings(sightings.drain())


def rows(office: Office, table: sqlalchemy.Table) -> list[sqlalchemy.Row[object]]:
    with office.store.reading() as connection:
        return list(connection.execute(sqlalchemy.select(table)).all())


def test_every_act_demands_its_right(office: Office) -> None:
    assert len(ACTS) >= 30
    for name, act in ACTS.items():
        lacking = [role for role in Role if act.RIGHT not in RIGHTS[role]]
        assert name == act.NAME
        assert act.EXAMPLE, name
        assert act.RIGHT is Right.READ or lacking, name
    with pytest.raises(ForbiddenError, match="moderate"):
        office.perform("sue", suspend(office))
    with pytest.raises(ForbiddenError, match="enrol"):
        office.perform("vic", CreateOrganisation(name="x", purpose="y"))


def test_one_person_suspends_for_a_day_and_not_again(office: Office, clock: Clock) -> None:
    done = office.perform("ann", suspend(office))
    assert done.proposal is None
    assert done.result["expires_us"] == clock() + 24 * HOUR_US
    with pytest.raises(ValueError, match="hours"):
        suspend(office, hours=25)
    clock.step(hours=25)
    key, organisation = office.made.keys[0].split("_")[1], office.made.organisation
    for again in (
        suspend(office),
        suspend(office, scope="key", subject=key),
        suspend(office, scope="organisation", subject=organisation),
    ):
        assert office.perform("ben", again).proposal, "whoever prolongs it needs a second person"
    clock.step(days=8)
    assert office.perform("ben", suspend(office)).proposal is None


def assign(campaign: str, *accounts: str) -> AssignCampaign:
    return AssignCampaign(campaign=campaign, accounts=list(accounts), reason="case 12")


def test_nobody_is_stopped_by_one_person_through_a_campaign(office: Office, clock: Clock) -> None:
    first, *others = office.made.accounts
    act = suspend(office, scope="campaign", subject="c-1")
    assert office.perform("ann", assign("c-1", first)).proposal is None
    assert office.perform("ann", act).proposal is None
    assert office.perform("ann", assign("c-1", *others)).proposal
    assert office.perform("ann", assign("c-1", first)).proposal is None, "it is in it already"
    assert office.perform("ann", assign("", first)).proposal is None, "to let go is like undoing"
    assert office.perform("ann", assign("c-1", first)).proposal
    clock.step(days=2)
    assert office.perform("ann", assign("c-1", *others)).proposal is None
    assert office.perform("ann", act).proposal


def test_who_is_moved_to_another_campaign_is_remembered(office: Office, clock: Clock) -> None:
    account = office.made.accounts[0]
    for day, campaign in enumerate(("c-0", "", "c-1", "c-0")):
        office.perform("ann", assign(campaign, account))
        act = suspend(office, scope="campaign", subject=campaign) if campaign else suspend(office)
        done = office.perform("ann", act)
        assert (done.proposal is None) == (day == 0), campaign
        clock.step(days=1)
    office.perform("ann", assign("c-2", account))
    clock.step(days=8)
    act = suspend(office, scope="campaign", subject="c-2")
    assert office.perform("ann", act).proposal is None


def test_a_large_campaign_is_made_by_two(office: Office) -> None:
    made = office.store.perform_all(
        office.operators["sue"],
        [CreateAccount(organisation=office.made.organisation, name=f"{n}") for n in range(3)],
    )
    accounts = [*office.made.accounts, *(done.subject for done in made)]
    assert office.perform("ann", assign("c-1", *accounts[:5])).proposal is None
    assert office.perform("ann", assign("c-1", *accounts[5:])).proposal
    assert office.perform("ann", assign("c-2", *accounts)).proposal


def test_undoing_and_suspending_again_is_an_extension(office: Office) -> None:
    done = office.perform("ann", suspend(office))
    office.perform("ann", Undo(measure=done.subject, reason="oops"))
    assert office.perform("ann", suspend(office)).proposal


def test_a_ban_needs_a_second_different_person(office: Office, clock: Clock) -> None:
    proposal = office.perform("ann", ban(office)).proposal
    assert proposal is not None
    assert rows(office, schema.measures) == []
    approve = Approve(proposal=proposal, reason="checked")
    with pytest.raises(ForbiddenError, match="own proposal"):
        office.perform("ann", approve)
    for who in ("sue", "vic"):
        with pytest.raises(ForbiddenError, match="moderate"):
            office.perform(who, approve)
    office.perform("ben", approve)
    (measure,) = rows(office, schema.measures)
    assert (measure.author, measure.approver) == (office.operators["ann"], office.operators["ben"])
    assert measure.expires_us == clock() + 7 * DAY_US
    with pytest.raises(InputError, match="was approved"):
        office.perform("bob", approve)


def test_a_proposal_dies_with_time_with_its_author_or_by_rejection(
    office: Office, clock: Clock
) -> None:
    proposals = [office.perform("ann", ban(office, n)).proposal or "" for n in range(3)]
    office.perform("ann", Reject(proposal=proposals[0], reason="withdrawn"))
    with pytest.raises(InputError, match="withdrawn"):
        office.perform("ben", Approve(proposal=proposals[0], reason="x"))
    office.perform("ada", PauseOperator(operator=office.operators["ann"], reason="laptop stolen"))
    with pytest.raises(ForbiddenError, match="ann is paused"):
        office.perform("ben", Approve(proposal=proposals[1], reason="x"))
    clock.step(days=7)
    with pytest.raises(InputError, match="expired"):
        office.perform("ben", Approve(proposal=proposals[2], reason="x"))
    assert rows(office, schema.measures) == []


def test_bans_escalate_unless_undone(office: Office, clock: Clock) -> None:
    lengths = []
    for turn in range(6):
        done = office.agreed("ann", "ben", ban(office))
        ends = done.result["expires_us"]
        lengths.append(None if ends is None else (ends - clock()) // DAY_US)
        if turn == 0:
            office.perform("ben", Undo(measure=done.subject, reason="wrong"))
        clock.step(days=400)
    assert lengths == [7, 7, 30, 90, 365, None]


def test_an_extension_needs_a_second_person(office: Office, clock: Clock) -> None:
    measure = office.perform("ann", suspend(office)).subject
    extend = Extend(measure=measure, days=3, reason="still going on")
    done = office.agreed("ann", "ben", extend)
    assert done.result["expires_us"] == clock() + 4 * DAY_US
    clock.step(days=5)
    with pytest.raises(InputError, match="ended"):
        office.perform("ann", extend)


def test_a_block_shows_whom_it_hits_and_needs_a_second_person_above_the_cap(
    office: Office, clock: Clock
) -> None:
    seen(office, clock, "2001:db8:1:2::9", "203.0.113.5")
    for network in ("203.0.113.5", "203.0.112.0/22", "2001:db8:1::/48", "2001:db8:1:2::9"):
        with pytest.raises(InputError, match="3 accounts are behind it now"):
            office.perform("ann", Block(network=network, acknowledged=2, reason="x"))
    block = Block(network="203.0.113.0/24", acknowledged=3, reason="x")
    assert office.perform("ann", block).result["affected"] == 3
    assert office.perform("ann", block).proposal, "a longer block of the same is an extension"
    inside = Block(network="203.0.113.128/25", acknowledged=3, reason="x")
    assert office.perform("ben", inside).proposal
    wide = Block(network="2001:db8::/32", acknowledged=0, reason="x")
    assert office.perform("ann", wide).proposal
    long = Block(network="192.0.2.0/24", acknowledged=0, days=31, reason="x")
    assert office.perform("ann", long).proposal
    opened = [CreateAccount(organisation=office.made.organisation, name=f"{n}") for n in range(3)]
    sightings = Sightings()
    for done in office.store.perform_all(office.operators["sue"], opened):
        sightings.note(parse_address("2001:db8:1:3::1"), done.subject, clock())
    office.store.record_sightings(sightings.drain())
    many = Block(network="2001:db8:1::/48", acknowledged=6, reason="x")
    assert "6 accounts" in office.perform("ann", many).result["why"]


def test_a_block_around_ipv4_clients_in_another_form_needs_a_second_person(
    office: Office, clock: Clock
) -> None:
    seen(office, clock, "64:ff9b::203.0.113.7")
    assert preview(office.store, "address", "64:ff9b::/64").affected is None
    block = Block(network="64:ff9b::/64", acknowledged=0, reason="x")
    assert office.perform("ann", block).proposal


def test_a_range_is_refused_for_ever_by_two_admins(office: Office, clock: Clock) -> None:
    seen(office, clock, "203.0.113.5")

    def listed(value: str, verdict: str) -> Done:
        fields = {"kind": "hosting", "value": value, "verdict": verdict, "reason": "rented"}
        return office.perform("ada", ListOrigin.model_validate(fields))

    assert "behind it: 3" in listed("203.0.113.0/24", "refuse").result["why"]
    assert "cannot be told" in listed("0.0.0.0/0", "refuse").result["why"]
    assert listed("203.0.113.0/24", "verify").proposal is None
    bob = office.operators["bob"]
    office.perform("bob", ChangeRole(operator=bob, role=Role.SUPPORT, reason="enough"))
    assert listed("203.0.113.0/24", "refuse").proposal is None, "nobody else could agree"


def test_sightings_are_forgotten_after_thirty_days(office: Office, clock: Clock) -> None:
    seen(office, clock, "203.0.113.5")
    clock.step(days=31)
    block = Block(network="203.0.113.0/24", acknowledged=0, reason="x")
    assert office.perform("ann", block).result["affected"] == 0
    assert len(rows(office, schema.sightings)) == 6
    seen(office, clock, "198.51.100.1")
    assert len(rows(office, schema.sightings)) == 6, "the old ones made room"
    office.store.tidy()
    assert len(rows(office, schema.sightings)) == 6


def test_whoever_decided_a_measure_does_not_decide_the_appeal(office: Office) -> None:
    measure = office.agreed("ann", "ben", ban(office)).subject
    office.perform("sue", AppealMeasure(measure=measure, text="we run a benchmark"))
    decide = DecideAppeal(measure=measure, grant=True, reason="it was one")
    for who in ("ann", "ben"):
        with pytest.raises(ForbiddenError, match="appeal against it"):
            office.perform(who, decide)
    office.perform("ada", decide)
    (row,) = rows(office, schema.measures)
    assert (row.appeal, row.undone_by) == ("granted", office.operators["ada"])


def test_whoever_extended_a_measure_does_not_decide_the_appeal(office: Office) -> None:
    measure = office.perform("ben", suspend(office)).subject
    office.agreed("ann", "bob", Extend(measure=measure, days=1, reason="goes on"))
    office.perform("sue", AppealMeasure(measure=measure, text="why"))
    decide = DecideAppeal(measure=measure, grant=False, reason="no")
    for who in ("ann", "ben", "bob"):
        with pytest.raises(ForbiddenError, match="appeal against it"):
            office.perform(who, decide)
    assert office.perform("ada", decide).result["appeal"] == "upheld"


def test_nobody_raises_their_own_rights(office: Office) -> None:
    ada, ann = office.operators["ada"], office.operators["ann"]
    with pytest.raises(ForbiddenError):
        office.perform("ann", ChangeRole(operator=ann, role=Role.ADMIN, reason="please"))
    raise_ann = ChangeRole(operator=ann, role=Role.ADMIN, reason="promoted")
    proposal = office.perform("ada", raise_ann).proposal
    assert proposal
    with pytest.raises(ForbiddenError, match="own rights"):
        office.perform("ann", Approve(proposal=proposal, reason="yes"))
    office.perform("bob", Approve(proposal=proposal, reason="yes"))
    assert (
        office.perform("ada", ChangeRole(operator=ada, role=Role.SUPPORT, reason="enough")).result[
            "role"
        ]
        == "support"
    )
    with pytest.raises(ForbiddenError):
        office.perform("ada", ChangeRole(operator=ada, role=Role.ADMIN, reason="again"))


def test_an_admin_cannot_make_a_second_person_of_their_own(office: Office) -> None:
    puppet = mint("stilladmin")
    add = AddOperator(name="puppet", role=Role.MODERATOR, enrolment=puppet.enrolment)
    replace = ReplaceToken(
        operator=office.operators["ann"], enrolment=puppet.enrolment, reason="lost"
    )
    assert office.perform("ada", add).proposal
    assert office.perform("ada", replace).proposal
    # Pausing the other admin does not make one the only one.
    office.perform("ada", PauseOperator(operator=office.operators["bob"], reason="x"))
    assert office.perform("ada", add).proposal
    remove = RemoveOperator(operator=office.operators["bob"], reason="x")
    assert office.perform("ada", remove).proposal
    assert office.store.operator_of(puppet.text) is None


def test_an_operator_rotates_their_own_token(office: Office) -> None:
    fresh = mint("stilladmin")
    office.perform("vic", RotateOwnToken(enrolment=fresh.enrolment))
    assert office.store.operator_of(office.tokens["vic"]) is None
    who = office.store.operator_of(fresh.text)
    assert who is not None
    assert who.name == "vic"
    assert office.store.operator_of(fresh.text[:-1] + "x") is None


def test_the_first_admin_is_made_once(office: Office) -> None:
    with pytest.raises(InputError, match="made once"):
        first_admin(office.store, "eve")
    token = first_admin(office.store, "eve", rescue=True)
    who = office.store.operator_of(token.text)
    assert who is not None
    assert who.role is Role.ADMIN
    assert rows(office, schema.audit)[-1].act == "rescue-admin"


def test_terms_are_accepted_by_those_who_may(office: Office) -> None:
    organisation = office.perform("sue", CreateOrganisation(name="Acme", purpose="chat")).subject
    person = AddRepresentative(organisation=organisation, name="Grace", contact="g@acme.example")
    representative = office.perform("sue", person).subject
    (document,) = rows(office, schema.terms)
    fields = {
        "organisation": organisation,
        "representative": representative,
        "version": 1,
        "digest": document.digest,
        "address": "::ffff:203.0.113.7",
        "purpose": "chat",
    }
    for wrong, message in (
        ({"digest": "0" * 64}, "not this document"),
        ({"organisation": office.made.organisation}, "does not speak"),
        ({"version": 2}, "no such row"),
    ):
        with pytest.raises(InputError, match=message):
            office.perform("sue", AcceptTerms.model_validate(fields | wrong))
    account = office.perform("sue", CreateAccount(organisation=organisation, name="a")).subject
    key = office.perform("sue", IssueKey(account=account)).secret or ""
    snapshot = office.store.load_snapshot()
    now_us = office.store.clock()
    assert snapshot.terms(organisation, now_us) is not None
    office.perform("sue", AcceptTerms.model_validate(fields))
    snapshot = office.store.load_snapshot()
    assert snapshot.terms(organisation, now_us) is None
    assert snapshot.standing(snapshot.authenticate(key, now_us), now_us) is None  # type: ignore[arg-type]
    kept = [row for row in rows(office, schema.acceptances) if row.organisation == organisation]
    assert [(row.representative, row.recorder) for row in kept] == [
        (representative, office.operators["sue"])
    ]


def test_facts_are_digests_of_one_purpose_and_can_be_erased(office: Office) -> None:
    def record(account: int, kind: str, value: str) -> int:
        act = RecordFacts(account=office.made.accounts[account], kind=kind, value=value)  # type: ignore[arg-type]
        return int(office.perform("sue", act).result["shared_with"])

    assert record(0, "email-domain", "Acme.Example.") == 0
    assert record(1, "email-domain", "acme.example") == 1
    assert record(1, "device", "acme.example") == 0, "kinds are not compared with each other"
    assert record(0, "sign-up-address", "203.0.113.7") == 0
    assert record(1, "sign-up-address", "::ffff:203.0.113.7") == 1
    kept = rows(office, schema.facts)
    assert len({row.digest for row in kept}) == 3
    office.perform("sue", EraseFacts(account=office.made.accounts[0], reason="asked"))
    assert {row.account for row in rows(office, schema.facts)} == {office.made.accounts[1]}


def test_what_is_paid_in_for_an_account_adds_up_and_is_bounded(office: Office) -> None:
    account = office.made.accounts[0]

    def credit(dollars: int) -> CreditAccount:
        return CreditAccount(account=account, dollars=dollars, reason="invoice")

    def known() -> int | None:
        facts = office.store.load_snapshot().authenticate(office.made.keys[0], office.store.clock())
        return facts.prepaid_nano if isinstance(facts, KeyFacts) else -1

    assert known() is None
    office.perform("sue", credit(5))
    assert office.perform("sue", credit(20)).result["prepaid_nano"] == known() == 25 * 10**9
    with pytest.raises(InputError, match="at most"):
        office.perform("sue", credit(1_000_000))
    with pytest.raises(ForbiddenError):
        office.perform("vic", credit(1))
    assert known() == 25 * 10**9


def test_a_repeated_request_is_carried_out_once(office: Office) -> None:
    act = IssueKey(account=office.made.accounts[0])
    first = office.perform("sue", act, request_key="r1")
    second = office.perform("sue", act, request_key="r1")
    assert (second.subject, second.secret) == (first.subject, None)
    assert first.secret is not None
    with pytest.raises(ConflictError):
        office.perform("sue", IssueKey(account=office.made.accounts[1]), request_key="r1")
    assert office.perform("ann", act, request_key="r1").subject != first.subject
    assert len(rows(office, schema.keys)) == 3 + 2


def test_all_or_nothing(office: Office) -> None:
    before = len(rows(office, schema.audit))
    acts = [
        CreateOrganisation(name="x", purpose="y"),
        CreateAccount(organisation="org_000000000000", name="z"),
    ]
    with pytest.raises(InputError, match="no such row"):
        office.store.perform_all(office.operators["sue"], acts)
    assert len(rows(office, schema.organisations)) == 1
    assert len(rows(office, schema.audit)) == before


def test_the_audit_cannot_be_changed_and_shows_when_it_was(office: Office) -> None:
    count = office.store.check_audit()
    assert count == len(rows(office, schema.audit))
    audit = schema.audit
    for statement in (sqlalchemy.update(audit).values(actor="eve"), sqlalchemy.delete(audit)):
        with (
            pytest.raises(sqlalchemy.exc.DBAPIError, match="append-only"),
            office.store.engine.begin() as connection,
        ):
            connection.execute(statement)
    last = rows(office, audit)[-3].sequence
    with office.store.engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("DROP TRIGGER audit_no_update")
        else:
            connection.exec_driver_sql("DROP TRIGGER audit_no_change ON audit")
        connection.execute(
            sqlalchemy.update(audit).where(audit.c.sequence == last).values(actor="eve")
        )
    with pytest.raises(InputError, match="altered") as raised:
        office.store.check_audit()
    assert raised.value.place == f"audit row {last}"


def test_before_a_ban_the_operator_sees_who_else_was_there(office: Office, clock: Clock) -> None:
    """Neighbours of 30 days: seen on the same addresses, not stopped by the measure."""
    suspect, other, stranger = office.made.accounts
    sightings = Sightings()
    sightings.note(parse_address("203.0.113.5"), suspect, clock())
    sightings.note(parse_address("203.0.113.5"), other, clock())
    sightings.note(parse_address("198.51.100.1"), stranger, clock())
    office.store.record_sightings(sightings.drain())
    seen_now = preview(office.store, "account", suspect)
    assert (seen_now.affected, seen_now.accounts) == (1, (suspect,))
    assert seen_now.neighbours == (other,)
    clock.step(days=31)
    assert preview(office.store, "account", suspect).neighbours == ()
