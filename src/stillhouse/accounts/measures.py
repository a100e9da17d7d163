"""Suspensions, bans and address blocks: how long, how wide, and when one person is not enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["suspend", "ban", "block"]
Scope = Literal["key", "account", "organisation", "campaign", "address"]

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
ALONE_HOURS = 24
_BAN_DAYS = (7, 30, 90, 365)
_BLOCK_DAYS = (1, 3, 7, 30, 90)


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator of the gateway may tune.

    cap_accounts: more accounts than this behind a measure and one person is not enough.
    block_days: a block for longer needs a second person.
    memory_days: a new measure this soon after an earlier one on the same people is an extension.
    """

    cap_accounts: int = 5
    block_days: int = 30
    memory_days: int = 7
    proposal_days: int = 7
    seen_days: int = 30


@dataclass(frozen=True, slots=True)
class Measure:
    """A suspension, ban or block as it stands; `expires_us` None means until it is undone."""

    id: str
    kind: Kind
    scope: Scope
    subject: str
    start_us: int
    expires_us: int | None
    undone_us: int | None = None

    def holds(self, now_us: int) -> bool:
        """Tell whether it is in force.

        `start_us` is not asked: none lies in the future, except where another clock is ahead.
        """
        return self.undone_us is None and (self.expires_us is None or now_us < self.expires_us)

    def ended_us(self) -> int | None:
        """Return when it ended or will end; None where it does not end by itself."""
        ends = [at for at in (self.expires_us, self.undone_us) if at is not None]
        return min(ends) if ends else None


def escalated_us(kind: Kind, earlier: int) -> int | None:
    """Return how long the next measure lasts after `earlier` ones that were not undone.

    Bans: 7, 30, 90, 365 days, then without end. Blocks: 1, 3, 7, 30, 90 days and never more, as
    addresses change hands. Suspensions: 24 hours.
    """
    if kind == "suspend":
        return ALONE_HOURS * HOUR_US
    if kind == "block":
        return _BLOCK_DAYS[min(earlier, len(_BLOCK_DAYS) - 1)] * DAY_US
    return _BAN_DAYS[earlier] * DAY_US if earlier < len(_BAN_DAYS) else None


def why_second(
    kind: Kind,
    duration_us: int | None,
    affected: int | None,
    earlier: Sequence[Measure],
    now_us: int,
    policy: Policy,
) -> str | None:
    """Return why this needs a second person, or None.

    affected: accounts behind the subject, None when that cannot be known.
    earlier: measures of any kind on the same people or on addresses that overlap.
    """
    if kind == "ban":
        return "a ban needs a second person"
    if affected is None:
        return "it cannot be said who is behind this network"
    if affected > policy.cap_accounts:
        return f"{affected} accounts are behind it, and one person decides on {policy.cap_accounts}"
    limit_us = ALONE_HOURS * HOUR_US if kind == "suspend" else policy.block_days * DAY_US
    if duration_us is None or duration_us > limit_us:
        return f"it lasts longer than one person may decide ({limit_us // HOUR_US} hours)"
    since_us = now_us - policy.memory_days * DAY_US
    for measure in earlier:
        ended_us = measure.ended_us()
        counts = measure.kind == kind or (kind == "suspend" and measure.kind == "ban")
        if counts and (ended_us is None or ended_us > since_us):
            return f"it extends {measure.id}, and an extension needs a second person"
    return None
