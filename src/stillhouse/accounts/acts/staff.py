"""Acts on operators. Nobody raises their own rights, and from two admins on no admin acts alone."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints
from sqlalchemy import func, select, update

from stillhouse.accounts import schema
from stillhouse.accounts.acts.words import Id, Name, Reason
from stillhouse.accounts.credentials import parse_enrolment
from stillhouse.accounts.desk import Act, Desk, Done, named
from stillhouse.accounts.roles import RIGHTS, ForbiddenError, Right, Role, demand_not_own
from stillhouse.exchanges import InputError

Enrolment = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9A-Za-z]{12}:[0-9a-f]{64}$"),
    Field(description="What `stillhouse accounts new-token` printed for its owner to hand over."),
]


class AddOperator(Act):
    """Let somebody work here; from two admins on another admin must approve."""

    NAME: ClassVar[str] = "add-operator"
    RIGHT: ClassVar[Right] = Right.GOVERN
    EXAMPLE: ClassVar[str] = "--name 'Alan' --role moderator --enrolment ID:SHA256"

    name: Name
    role: Role
    enrolment: Enrolment

    def why_second(self, desk: Desk) -> str | None:
        """Ask for a second admin where there is one."""
        demand_grantable(desk, self.role)
        return why_second_admin(desk)

    def carry_out(self, desk: Desk) -> Done:
        """Enrol them with a token that only they have seen."""
        demand_grantable(desk, self.role)
        identity = named("op")
        desk.put(
            schema.operators,
            id=identity,
            name=self.name,
            role=self.role,
            paused=False,
            sponsor=desk.actor.id,
            added_us=desk.now_us,
        )
        enrol(desk, identity, self.enrolment)
        return Done(self.NAME, identity, {"role": str(self.role)})


class ChangeRole(Act):
    """Give an operator another role; giving up rights of one's own needs nobody else."""

    NAME: ClassVar[str] = "change-role"
    RIGHT: ClassVar[Right] = Right.GOVERN
    EXAMPLE: ClassVar[str] = "--operator op_4Zq0p9XbT1aK --role support --reason 'moved team'"

    operator: Id
    role: Role
    reason: Reason

    def target(self) -> str | None:
        """Whose rights it is about."""
        return self.operator

    def why_second(self, desk: Desk) -> str | None:
        """Ask for a second admin, except where somebody only gives up rights."""
        target = desk.operator(self.operator)
        demand_not_own(desk.actor, target, self.role)
        return None if target.id == desk.actor.id else why_second_admin(desk)

    def carry_out(self, desk: Desk) -> Done:
        """Set the role."""
        target = desk.operator(self.operator)
        demand_not_own(desk.actor, target, self.role)
        if target.removed:
            raise InputError("this operator is removed", place=target.id)
        if target.role is Role.ADMIN and self.role is not Role.ADMIN and admins(desk) == 1:
            raise InputError("there must be an admin", repair="make somebody else one first")
        desk.change(schema.operators, target.id, role=self.role)
        return Done(self.NAME, target.id, {"before": str(target.role), "role": str(self.role)})


class PauseOperator(Act):
    """Take an operator's rights away for now: at once, and by one person."""

    NAME: ClassVar[str] = "pause-operator"
    RIGHT: ClassVar[Right] = Right.GOVERN
    EXAMPLE: ClassVar[str] = "--operator op_4Zq0p9XbT1aK --reason 'laptop stolen'"

    operator: Id
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Pause them. They still count as an admin, so this makes nobody the only one."""
        target = desk.operator(self.operator)
        if target.id == desk.actor.id:
            raise ForbiddenError("nobody pauses themself: another admin does, or nobody is left")
        desk.change(schema.operators, target.id, paused=True)
        return Done(self.NAME, target.id)


class ResumeOperator(Act):
    """Give a paused operator their rights back."""

    NAME: ClassVar[str] = "resume-operator"
    RIGHT: ClassVar[Right] = Right.GOVERN
    EXAMPLE: ClassVar[str] = "--operator op_4Zq0p9XbT1aK --reason 'new laptop'"

    operator: Id
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Resume them: the role they had, no more."""
        target = desk.operator(self.operator)
        desk.change(schema.operators, target.id, paused=False)
        return Done(self.NAME, target.id)


class RemoveOperator(Act):
    """Remove an operator for good; from two admins on another admin must approve."""

    NAME: ClassVar[str] = "remove-operator"
    RIGHT: ClassVar[Right] = Right.GOVERN
    EXAMPLE: ClassVar[str] = "--operator op_4Zq0p9XbT1aK --reason 'left the company'"

    operator: Id
    reason: Reason

    def target(self) -> str | None:
        """Whose rights it is about."""
        return self.operator

    def why_second(self, desk: Desk) -> str | None:
        """Ask for a second admin where there is one."""
        desk.operator(self.operator)
        return why_second_admin(desk)

    def carry_out(self, desk: Desk) -> Done:
        """Remove them and revoke their tokens."""
        target = desk.operator(self.operator)
        if target.id == desk.actor.id:
            raise ForbiddenError("nobody removes themself", repair="ask another admin")
        desk.change(schema.operators, target.id, removed_us=desk.now_us)
        revoke_tokens(desk, target.id)
        return Done(self.NAME, target.id)


class ReplaceToken(Act):
    """Enrol a new token for an operator who lost theirs; another admin must approve."""

    NAME: ClassVar[str] = "replace-token"
    RIGHT: ClassVar[Right] = Right.GOVERN
    EXAMPLE: ClassVar[str] = "--operator op_4Zq0p9XbT1aK --enrolment ID:SHA256 --reason 'lost'"

    operator: Id
    enrolment: Enrolment
    reason: Reason

    def target(self) -> str | None:
        """Whose rights it is about: whoever holds their token has them."""
        return self.operator

    def why_second(self, desk: Desk) -> str | None:
        """Ask for a second admin where there is one."""
        demand_grantable(desk, desk.operator(self.operator).role)
        return why_second_admin(desk)

    def carry_out(self, desk: Desk) -> Done:
        """Revoke the old tokens and enrol the new one."""
        target = desk.operator(self.operator)
        demand_grantable(desk, target.role)
        revoke_tokens(desk, target.id)
        enrol(desk, target.id, self.enrolment)
        return Done(self.NAME, target.id)


class RotateOwnToken(Act):
    """Replace one's own token."""

    NAME: ClassVar[str] = "rotate-own-token"
    RIGHT: ClassVar[Right] = Right.READ
    EXAMPLE: ClassVar[str] = "--enrolment ID:SHA256"

    enrolment: Enrolment

    def carry_out(self, desk: Desk) -> Done:
        """Revoke the old tokens and enrol the new one."""
        revoke_tokens(desk, desk.actor.id)
        enrol(desk, desk.actor.id, self.enrolment)
        return Done(self.NAME, desk.actor.id)


def enrol(desk: Desk, operator: str, enrolment: str) -> None:
    """Keep the digest of a token for its owner. Raises `InputError` where the id is taken."""
    identity, sha256 = parse_enrolment(enrolment)
    if desk.find(schema.tokens, identity) is not None:
        raise InputError("this token is enrolled already", place=identity)
    desk.put(
        schema.tokens,
        id=identity,
        operator=operator,
        pepper=desk.peppers.current,
        digest=desk.peppers.digest_token(sha256),
        added_us=desk.now_us,
    )


def revoke_tokens(desk: Desk, operator: str) -> None:
    """Revoke every token of an operator."""
    table = schema.tokens
    where = (table.c.operator == operator) & table.c.revoked_us.is_(None)
    desk.connection.execute(update(table).where(where).values(revoked_us=desk.now_us))


def admins(desk: Desk) -> int:
    """Count the admins, paused ones included: pausing the others makes nobody the only one."""
    table = schema.operators
    where: Any = (table.c.role == Role.ADMIN) & table.c.removed_us.is_(None)
    return int(desk.connection.execute(select(func.count()).where(where)).scalar_one())


def why_second_admin(desk: Desk) -> str | None:
    """Return why a second admin is needed; None while there is only one."""
    return "this changes who may do what, so another admin must agree" if admins(desk) > 1 else None


def demand_grantable(desk: Desk, role: Role) -> None:
    """Raise `ForbiddenError` where the role holds rights that the actor does not."""
    if not RIGHTS[role] <= RIGHTS[desk.actor.role]:
        raise ForbiddenError("nobody gives rights that they do not hold")
