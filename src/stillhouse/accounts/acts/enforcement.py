"""Acts that keep people out, and those that let them in again."""

from __future__ import annotations

import abc
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from sqlalchemy import select

from stillhouse.accounts import schema
from stillhouse.accounts.acts.words import Id, Name, Reason, Sentence, Subject
from stillhouse.accounts.behind import Behind, behind, earlier_measures, subject_of
from stillhouse.accounts.desk import Act, Desk, Done, named
from stillhouse.accounts.measures import (
    ALONE_HOURS,
    DAY_US,
    HOUR_US,
    Kind,
    Scope,
    escalated_us,
    why_second,
)
from stillhouse.accounts.networks import parse_network
from stillhouse.accounts.roles import ForbiddenError, Right
from stillhouse.exchanges import InputError

Holder = Literal["key", "account", "organisation", "campaign"]
Evidence = Annotated[
    list[Sentence], Field(max_length=100, description="Cases, request ids, documents.")
]
Clauses = Annotated[list[Name], Field(max_length=20, description="Clauses of the terms cited.")]
Seen = Annotated[
    int,
    Field(
        ge=0,
        description="How many accounts the preview showed behind the subject; more than that "
        "by now, and nothing is done.",
    ),
]


class Measures(Act):
    """What suspensions, bans and blocks have in common."""

    NAME: ClassVar[str] = ""
    RIGHT: ClassVar[Right] = Right.MODERATE
    EXAMPLE: ClassVar[str] = ""
    KIND: ClassVar[Kind]

    reason: Reason
    evidence: Evidence = Field(default=[])
    clauses: Clauses = Field(default=[])

    @abc.abstractmethod
    def aim(self) -> tuple[Scope, str]:
        """Return scope and subject as given."""

    @abc.abstractmethod
    def asked_us(self) -> int | None:
        """Return the duration asked for; None leaves it to the escalation."""

    def why_second(self, desk: Desk) -> str | None:
        """Ask the rules, with who is behind the subject and what was done about them before."""
        scope, subject = self.aim()
        subject = subject_of(desk.connection, scope, subject)
        who = behind(desk, scope, subject)
        self.check_seen(who)
        self.check_clauses(desk)
        earlier = earlier_measures(desk, scope, subject)
        duration_us = self.duration_us(desk, scope, subject)
        return why_second(self.KIND, duration_us, who.affected, earlier, desk.now_us, desk.policy)

    def check_seen(self, who: Behind) -> None:
        """Raise `InputError` where more people are behind the subject than were shown."""

    def check_clauses(self, desk: Desk) -> None:
        """Raise `InputError` where a clause is cited that no published terms hold."""
        if not self.clauses:
            return
        rows = desk.connection.execute(select(schema.terms.c.clauses)).scalars()
        strange = sorted(set(self.clauses).difference(*rows))
        if strange:
            raise InputError(
                f"no published terms have a clause {strange[0]!r}",
                repair="list terms shows their clauses by name",
            )

    def duration_us(self, desk: Desk, scope: Scope, subject: str) -> int | None:
        """Return how long it lasts: what was asked for, or the next step of the escalation."""
        asked_us = self.asked_us()
        if asked_us is not None:
            return asked_us
        before = [
            measure
            for measure in earlier_measures(desk, scope, subject, exact=True)
            if measure.kind == self.KIND and measure.undone_us is None
        ]
        return escalated_us(self.KIND, len(before))

    def carry_out(self, desk: Desk) -> Done:
        """Put it in force."""
        scope, subject = self.aim()
        subject = subject_of(desk.connection, scope, subject)
        who = behind(desk, scope, subject)
        self.check_seen(who)
        self.check_clauses(desk)
        duration_us = self.duration_us(desk, scope, subject)
        expires_us = None if duration_us is None else desk.now_us + duration_us
        identity = named("msr")
        desk.put(
            schema.measures,
            id=identity,
            kind=self.KIND,
            scope=scope,
            subject=subject,
            reason=self.reason,
            evidence=list(self.evidence),
            clauses=list(self.clauses),
            author=desk.actor.id,
            approver=desk.approver.id if desk.approver else None,
            affected=who.affected,
            low=parse_network(subject).span[0] if scope == "address" else None,
            start_us=desk.now_us,
            expires_us=expires_us,
            appeal="none",
        )
        desk.changed("measure", identity)
        result = {"expires_us": expires_us, "affected": who.affected}
        return Done(self.NAME, identity, {"scope": scope, "subject": subject, **result})


class Suspend(Measures):
    """Stop a key, account, organisation or campaign for at most 24 hours."""

    NAME: ClassVar[str] = "suspend"
    EXAMPLE: ClassVar[str] = (
        "--scope account --subject acct_4Zq0p9XbT1aK --hours 12 --reason 'case 12: sweeps'"
    )
    KIND: ClassVar[Kind] = "suspend"

    scope: Holder
    subject: Subject
    hours: Annotated[int, Field(ge=1, le=ALONE_HOURS)] = ALONE_HOURS

    def aim(self) -> tuple[Scope, str]:
        """Whom it stops."""
        return self.scope, self.subject

    def asked_us(self) -> int | None:
        """How long."""
        return self.hours * HOUR_US


class Ban(Measures):
    """Ban a key, account, organisation or campaign; a second person must approve."""

    NAME: ClassVar[str] = "ban"
    EXAMPLE: ClassVar[str] = (
        "--scope account --subject acct_4Zq0p9XbT1aK --acknowledged 1 "
        "--clauses no-training --reason 'case 12'"
    )
    KIND: ClassVar[Kind] = "ban"

    scope: Holder
    subject: Subject
    days: Annotated[
        int | None, Field(ge=1, le=3650, description="Without it: 7, 30, 90, 365, no end.")
    ] = None
    acknowledged: Seen

    def aim(self) -> tuple[Scope, str]:
        """Whom it bans."""
        return self.scope, self.subject

    def asked_us(self) -> int | None:
        """How long."""
        return None if self.days is None else self.days * DAY_US

    def check_seen(self, who: Behind) -> None:
        """Compare with what the preview showed."""
        _check_seen(who, self.acknowledged)


class Block(Measures):
    """Block a network of addresses; beyond a few accounts a second person must approve."""

    NAME: ClassVar[str] = "block"
    EXAMPLE: ClassVar[str] = "--network 2001:db8:7::/48 --acknowledged 2 --reason 'case 12'"
    KIND: ClassVar[Kind] = "block"

    network: Annotated[Subject, Field(description="An address or CIDR.")]
    days: Annotated[
        int | None, Field(ge=1, le=3650, description="Without it: 1, 3, 7, 30, 90.")
    ] = None
    acknowledged: Seen

    def aim(self) -> tuple[Scope, str]:
        """What it blocks."""
        return "address", self.network

    def asked_us(self) -> int | None:
        """How long."""
        return None if self.days is None else self.days * DAY_US

    def check_seen(self, who: Behind) -> None:
        """Compare with what the preview showed."""
        _check_seen(who, self.acknowledged)


class Extend(Act):
    """Let a suspension, ban or block last longer; a second person must approve."""

    NAME: ClassVar[str] = "extend"
    RIGHT: ClassVar[Right] = Right.MODERATE
    EXAMPLE: ClassVar[str] = "--measure msr_4Zq0p9XbT1aK --days 7 --reason 'still going on'"

    measure: Id
    days: Annotated[int, Field(ge=1, le=3650, description="Days from its present end.")]
    reason: Reason

    def why_second(self, desk: Desk) -> str | None:
        """Say so always, of what can still be extended."""
        _extended(desk, self.measure)
        return "an extension needs a second person"

    def carry_out(self, desk: Desk) -> Done:
        """Move its end."""
        row = _extended(desk, self.measure)
        expires_us = row.expires_us + self.days * DAY_US
        desk.change(
            schema.measures,
            row.id,
            expires_us=expires_us,
            approver=desk.approver.id if desk.approver else None,
        )
        desk.changed("measure", row.id)
        return Done(self.NAME, row.id, {"expires_us": expires_us})


class Undo(Act):
    """End a suspension, ban or block now."""

    NAME: ClassVar[str] = "undo"
    RIGHT: ClassVar[Right] = Right.MODERATE
    EXAMPLE: ClassVar[str] = "--measure msr_4Zq0p9XbT1aK --reason 'the wrong account'"

    measure: Id
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """End it; it no longer counts for escalation."""
        row = desk.get(schema.measures, self.measure)
        if row.undone_us is not None:
            raise InputError("this was undone already", place=row.id)
        undo(desk, row.id, self.reason)
        return Done(self.NAME, row.id)


class AppealMeasure(Act):
    """Record that those concerned object to a measure."""

    NAME: ClassVar[str] = "appeal"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--measure msr_4Zq0p9XbT1aK --text 'we run a benchmark, see mail'"

    measure: Id
    text: Sentence

    def carry_out(self, desk: Desk) -> Done:
        """Open the appeal; the measure holds meanwhile."""
        row = desk.get(schema.measures, self.measure)
        if row.appeal == "open" or row.undone_us is not None:
            raise InputError("there is nothing to appeal", place=row.id)
        desk.change(schema.measures, row.id, appeal="open", appeal_text=self.text)
        return Done(self.NAME, row.id, {"appeal": "open"})


class DecideAppeal(Act):
    """Decide an appeal, as somebody who had no part in the measure."""

    NAME: ClassVar[str] = "decide-appeal"
    RIGHT: ClassVar[Right] = Right.MODERATE
    EXAMPLE: ClassVar[str] = "--measure msr_4Zq0p9XbT1aK --grant --reason 'it was a benchmark'"

    measure: Id
    grant: bool
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Grant it, which undoes the measure, or uphold the measure."""
        row = desk.get(schema.measures, self.measure)
        if row.appeal != "open":
            raise InputError("no appeal is open", place=row.id)
        if desk.actor.id in _deciders(desk, row.id):
            raise ForbiddenError("whoever decided a measure does not decide the appeal against it")
        state = "granted" if self.grant else "upheld"
        desk.change(schema.measures, row.id, appeal=state, appeal_decider=desk.actor.id)
        if self.grant and row.undone_us is None:
            undo(desk, row.id, self.reason)
        return Done(self.NAME, row.id, {"appeal": state})


def undo(desk: Desk, measure: str, reason: str) -> None:
    """End a measure now."""
    desk.change(
        schema.measures,
        measure,
        undone_us=desk.now_us,
        undone_by=desk.actor.id,
        undone_reason=reason,
    )
    desk.changed("measure", measure)


def _deciders(desk: Desk, measure: str) -> set[str | None]:
    # From the audit, as an extension has an author and an approver of its own.
    table = schema.audit
    statement = select(table.c.actor, table.c.approver).where(
        table.c.subject == measure,
        table.c.act.in_([act.NAME for act in (Suspend, Ban, Block, Extend)]),
    )
    return {who for row in desk.connection.execute(statement) for who in row}


def _extended(desk: Desk, measure: str) -> Any:
    row = desk.get(schema.measures, measure)
    if row.undone_us is not None or row.expires_us is None or row.expires_us <= desk.now_us:
        raise InputError(
            "this measure has ended or has no end", place=row.id, repair="make a new one"
        )
    return row


def _check_seen(who: Behind, acknowledged: int) -> None:
    if who.affected is not None and who.affected > acknowledged:
        raise InputError(
            f"{who.affected} accounts are behind it now, the preview showed {acknowledged}",
            repair="look at the preview again and acknowledge that number",
        )
