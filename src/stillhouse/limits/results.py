"""What a reservation and a settlement answer, and what of it a client may see."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stillhouse.limits.limit import PUBLIC_SCOPES, Demand

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

HEADER_UNITS = ("requests", "tokens")
_SECOND_US = 10**6
_HEADERS = {
    unit: b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\n"
    b"x-ratelimit-reset-%b: %%ds\r\n" % ((unit.encode(),) * 3)
    for unit in HEADER_UNITS
}


class Reading(NamedTuple):
    """What is left of one limit after a reservation."""

    demand: Demand
    remaining: int  # what one more reservation could ask for now
    reset_us: int  # until nothing of what was admitted counts any more


class Reserved(NamedTuple):
    """Admitted and charged, in every scope. `settle` it exactly once.

    `readings` are those of key, account and organisation limits in requests or tokens.
    """

    at_us: int  # the limiter's time of the admission
    readings: tuple[Reading, ...]
    would_refuse: tuple[Demand, ...]  # shadow limits that would have refused; they were not charged


@dataclass(frozen=True, slots=True)
class Exceeded:
    """Refused; nothing was charged anywhere.

    `demand` and `retry_after_us` are for the log. A client is told `retry_after_s` alone: for a
    scope that is not `public` it is worked out from the limits the client may know of, so that
    nothing tells that its account is linked to others.
    """

    demand: Demand
    retry_after_us: int | None  # None: never by waiting
    retry_after_s: int | None
    public: bool


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Neither admitted nor refused by a limit: the limiter cannot know. Serve nothing."""

    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """Settled. `excess`: unit -> use above its reservation; it was charged too, as a debt."""

    already: bool = False  # it had been settled before; this call changed nothing
    excess: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unknown:
    """No such reservation: never made, refused, or settled long ago. Nothing was changed."""

    reservation_id: bytes


class Limiter(Protocol):
    """The interface of both back ends."""

    async def reserve(
        self, reservation_id: bytes, demands: Sequence[Demand], now_us: int
    ) -> Reserved | Exceeded | Unavailable:
        """Charge all of `demands`, or none.

        `reservation_id` is 16 random bytes, used once. Raises `ValueError` where two demands name
        one cell or a cost is negative.
        """

    async def settle(
        self, reservation_id: bytes, used: Mapping[str, int], now_us: int
    ) -> Settled | Unknown | Unavailable:
        """Correct what was reserved to what was used, unit by unit; release leases.

        A unit that `used` does not name stays charged at its reservation.
        """

    @property
    def ledger_path(self) -> Path | None:
        """The file that is written to now: whoever syncs it puts the limits on the disk."""

    async def close(self) -> None:
        """Let go of files and connections; what is open stays charged."""


def exceeded(demands: Iterable[Demand], refused: Sequence[tuple[Demand, int | None]]) -> Exceeded:
    """Say which of the refusing limits takes longest, hiding it where its scope is not public."""
    demand, wait_us = max(refused, key=lambda pair: (pair[1] is None, pair[1] or 0))
    public = demand.scope.kind in PUBLIC_SCOPES
    shown = (None if wait_us is None else _seconds(wait_us)) if public else _plausible_s(demands)
    return Exceeded(demand, wait_us, shown, public)


def ratelimit_headers(readings: Iterable[Reading]) -> dict[str, str]:
    """Return `x-ratelimit-*` headers for a reply that was served: the tightest limit of a unit.

    A refusal carries none of them, whatever refused: values beside it would tell a client whether
    one of its own limits did.
    """
    lines = ratelimit_lines(readings).decode().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def ratelimit_lines(readings: Iterable[Reading]) -> bytes:
    """Return `ratelimit_headers` as they stand in HTTP, each line ended by CR and LF."""
    tightest: dict[str, Reading] = {}
    for reading in readings:
        unit = reading[0][1].unit
        found = tightest.get(unit)
        if found is None or reading[1] < found[1]:
            tightest[unit] = reading
    lines = b""
    for unit, (demand, remaining, reset_us) in tightest.items():
        lines += _HEADERS[unit] % (demand[1].amount, remaining, _seconds(reset_us))
    return lines


def _seconds(wait_us: int) -> int:
    return max(1, -(-wait_us // _SECOND_US))


def _plausible_s(demands: Iterable[Demand]) -> int:
    """How long the demands' own cost takes to drain from the slowest limit a client may know."""
    waits = [
        -(-min(cost, limit.burst) * limit.grain // limit.drain)
        for scope, limit, cost, _ in demands
        if limit.kind == "rolling" and scope.kind in PUBLIC_SCOPES
    ]
    return _seconds(max(waits, default=1))
