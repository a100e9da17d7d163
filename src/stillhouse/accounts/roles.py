"""Who may do what, and what one person may not do alone (pure).

A role is a set of rights. Three rules hold beside it: what needs a second person is approved by a
different one who holds the same right; nobody decides about their own rights except to give some
up; and whoever is paused or removed decides nothing, also not through what they proposed before.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stillhouse.exchanges import InputError


class Right(StrEnum):
    """What an act needs."""

    READ = "read"
    ENROL = "enrol"
    MODERATE = "moderate"
    CONFIGURE = "configure"
    GOVERN = "govern"


class Role(StrEnum):
    """What an operator is."""

    VIEWER = "viewer"
    SUPPORT = "support"
    MODERATOR = "moderator"
    ADMIN = "admin"


RIGHTS = {
    Role.VIEWER: frozenset({Right.READ}),
    Role.SUPPORT: frozenset({Right.READ, Right.ENROL}),
    Role.MODERATOR: frozenset({Right.READ, Right.ENROL, Right.MODERATE}),
    Role.ADMIN: frozenset(Right),
}


@dataclass(frozen=True, slots=True)
class Operator:
    """A person (or a service of the provider's) that acts on the store."""

    id: str
    name: str
    role: Role
    paused: bool = False
    removed: bool = False

    @property
    def rights(self) -> frozenset[Right]:
        """What this operator may do now."""
        return frozenset() if self.paused or self.removed else RIGHTS[self.role]


class ForbiddenError(InputError):
    """The operator may not do this; the text says which rule stands against it."""


def demand(operator: Operator, right: Right) -> None:
    """Raise `ForbiddenError` unless `operator` holds `right` now."""
    if right not in operator.rights:
        state = "is removed" if operator.removed else "is paused" if operator.paused else None
        raise ForbiddenError(
            f"{operator.name} {state}"
            if state
            else f"this needs the right to {right}, which a {operator.role} does not have",
            repair="ask an operator whose role has it: "
            + ", ".join(role for role in Role if right in RIGHTS[role]),
        )


def demand_second(author: Operator, approver: Operator, right: Right, target: str | None) -> None:
    """Raise `ForbiddenError` unless `approver` may approve what `author` proposed.

    `target` is the operator whose rights the act is about, if it is about any.
    """
    if author.id == approver.id:
        raise ForbiddenError(
            "nobody approves their own proposal", repair="a second, different person must do it"
        )
    if target == approver.id:
        raise ForbiddenError("nobody approves a change of their own rights")
    demand(approver, right)
    demand(author, right)


def demand_not_own(actor: Operator, target: Operator, role: Role) -> None:
    """Raise `ForbiddenError` where `actor` would give themself a right they do not hold."""
    if actor.id == target.id and not RIGHTS[role] <= RIGHTS[actor.role]:
        raise ForbiddenError("nobody raises their own rights")
    if not RIGHTS[role] <= actor.rights:
        raise ForbiddenError("nobody gives rights that they do not hold")
