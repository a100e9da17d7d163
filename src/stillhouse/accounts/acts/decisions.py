"""Acts on proposals: a second person approves, or somebody takes it off the table."""

from __future__ import annotations

from typing import Any, ClassVar

from stillhouse.accounts import schema
from stillhouse.accounts.acts.words import Id, Reason
from stillhouse.accounts.desk import ACTS, Act, Desk, Done
from stillhouse.accounts.roles import Right, demand, demand_second
from stillhouse.exchanges import InputError


class Approve(Act):
    """Approve what somebody else proposed; it is carried out at once."""

    NAME: ClassVar[str] = "approve"
    RIGHT: ClassVar[Right] = Right.READ  # the right of the proposed act is demanded below
    EXAMPLE: ClassVar[str] = "--proposal prop_4Zq0p9XbT1aK --reason 'evidence checked'"

    proposal: Id
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Carry the act out in the name of its author, with this operator as the approver."""
        row = open_proposal(desk, self.proposal)
        act = ACTS[row.act].model_validate(row.request)
        author, approver = desk.operator(row.author), desk.actor
        demand_second(author, approver, act.RIGHT, act.target())
        _decide(desk, row.id, "approved")
        desk.actor, desk.approver = author, approver
        done = act.carry_out(desk)
        desk.record(act.NAME, done.subject, act.for_audit())
        desk.actor, desk.approver = approver, None
        return done


class Reject(Act):
    """Turn a proposal down, or withdraw one's own."""

    NAME: ClassVar[str] = "reject"
    RIGHT: ClassVar[Right] = Right.READ
    EXAMPLE: ClassVar[str] = "--proposal prop_4Zq0p9XbT1aK --reason 'shared university network'"

    proposal: Id
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Close the proposal; nothing else happens."""
        row = open_proposal(desk, self.proposal)
        own = row.author == desk.actor.id
        if not own:
            demand(desk.actor, ACTS[row.act].RIGHT)
        state = "withdrawn" if own else "rejected"
        _decide(desk, row.id, state)
        return Done(self.NAME, row.id, {"state": state})


def open_proposal(desk: Desk, identity: str) -> Any:
    """Return a proposal that can still be decided. Raises `InputError` otherwise."""
    row = desk.get(schema.proposals, identity)
    if row.state != "open":
        raise InputError(f"this proposal was {row.state}", place=row.id)
    if row.expires_us <= desk.now_us:
        raise InputError("this proposal has expired", place=row.id, repair="propose it again")
    return row


def _decide(desk: Desk, identity: str, state: str) -> None:
    desk.change(
        schema.proposals, identity, state=state, decider=desk.actor.id, decided_us=desk.now_us
    )
