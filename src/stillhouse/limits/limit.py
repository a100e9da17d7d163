"""A limit, the scope it holds for, and what one request demands of it.

Rolling limits. A limit of `amount` L in every interval of `window_us` W with burst B < L is a cell
that holds at most B and drains at the rate (L - B) / W. What is added to it in any closed interval
of length W is at most what it can hold plus what drains meanwhile: B + W (L - B) / W = L.

No rounding admits more. A cell's level is kept in units of 1/q cost, where p/q is the largest
fraction with q <= 2**50 / B that is not above (L - B) / W: then B q fits 50 bits and each
microsecond drains the whole number p. Levels, costs times q and times are integers below 2**53, so
Python and the doubles of a store's scripts compute the same, without any rounding. p/q is exact for
ordinary figures; else it is lower, which admits less: B + W p/q <= L. The three spare bits hold
debts of seven bursts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from stillhouse.exchanges import InputError

SCOPES: Final = (
    "address",
    "key",
    "account",
    "organisation",
    "campaign",
    "end_user",
    "model",
    "global",
)
PUBLIC_SCOPES: Final = frozenset({"key", "account", "organisation"})
AMOUNT_MAX: Final = 2**50  # about 1.1 million dollars in nano-dollars
LEVEL_MAX: Final = 2**53 - 1
_REDUCED_MIN: Final = 0.99

Kind = Literal["rolling", "month", "balance", "distinct", "concurrency"]


class Scope(NamedTuple):
    """Whom a limit counts: one of `SCOPES` and an id (for addresses rather a keyed digest)."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit; make it with the class methods, once, and pass the same object every time.

    `name` is unique among an operator's limits: (scope, kind, name) is one cell, which keeps its
    level when a limit of that name comes back with another amount. `unit` says what is counted;
    requests are settled by unit. A `shadow` limit refuses nothing and says what it would refuse.
    """

    name: str
    kind: Kind
    unit: str
    amount: int
    window_us: int  # rolling: W; distinct: the epoch; concurrency: the lease; else 0
    burst: int  # the largest cost that one reservation can have
    shadow: bool
    drain: int  # rolling: p, level that drains in a microsecond
    grain: int  # rolling: q, level of one unit of cost; else 1
    capacity: int  # burst * grain
    cell: str  # kind and name

    @classmethod
    def rolling(
        cls,
        name: str,
        unit: str,
        amount: int,
        window_us: int,
        *,
        burst: int | None = None,
        shadow: bool = False,
    ) -> Limit:
        """At most `amount` in every interval of `window_us`; one reservation is at most `burst`.

        Without `burst` it is half the amount. In the long run (amount - burst) / window is served.
        Raises `InputError` for figures that cannot hold, naming the one to change.
        """
        if burst is None:
            burst = max(1, amount // 2)
        place = f"limit {name!r}"
        _check_amount(name, amount, least=2)
        _check_window(name, window_us)
        if not 1 <= burst < amount:
            raise InputError(
                f"a burst of {burst} with an amount of {amount}",
                place=place,
                repair=f"give a burst from 1 to {amount - 1}; all of the amount at once would let "
                "twice the amount pass in one window",
            )
        drain, grain = _rate_below(amount - burst, window_us, AMOUNT_MAX // burst)
        if drain * window_us < _REDUCED_MIN * (amount - burst) * grain:
            raise InputError(
                f"a burst of {burst} in a window of {window_us} us cannot be counted exactly "
                f"beside a rate of {amount - burst} a window",
                place=place,
                repair="lower the burst or count in a coarser unit",
            )
        capacity = burst * grain
        return cls._of(
            name, "rolling", unit, amount, window_us, burst, shadow, drain, grain, capacity
        )

    @classmethod
    def month(cls, name: str, unit: str, amount: int, *, shadow: bool = False) -> Limit:
        """At most `amount` admitted in each calendar month (UTC)."""
        _check_amount(name, amount)
        return cls._of(name, "month", unit, amount, 0, amount, shadow)

    @classmethod
    def balance(cls, name: str, unit: str, amount: int, *, shadow: bool = False) -> Limit:
        """At most `amount` ever: all that was paid in so far. A top-up is a larger amount."""
        _check_amount(name, amount, least=0)
        return cls._of(name, "balance", unit, amount, 0, amount, shadow)

    @classmethod
    def distinct(cls, name: str, amount: int, epoch_us: int, *, shadow: bool = False) -> Limit:
        """At most `amount` different items in each epoch (epochs are fixed, from 1970 on).

        Demands carry the item's keyed digest. An item that was counted stays counted.
        """
        _check_amount(name, amount)
        _check_window(name, epoch_us)
        return cls._of(name, "distinct", "prompts", amount, epoch_us, amount, shadow)

    @classmethod
    def concurrency(cls, name: str, amount: int, lease_us: int, *, shadow: bool = False) -> Limit:
        """At most `amount` reservations open at once; each is given up after `lease_us`.

        The lease must be longer than the longest request, or more of them can run at once.
        """
        _check_amount(name, amount)
        _check_window(name, lease_us)
        return cls._of(name, "concurrency", "concurrent", amount, lease_us, 1, shadow)

    @classmethod
    def _of(
        cls,
        name: str,
        kind: Kind,
        unit: str,
        amount: int,
        window_us: int,
        burst: int,
        shadow: bool,
        drain: int = 0,
        grain: int = 1,
        capacity: int = 0,
    ) -> Limit:
        if not name or any(c in name for c in "|\n"):
            raise InputError(f"{name!r} as the name of a limit", repair="give one without '|'")
        cell = f"{kind}:{name}"
        return cls(
            name,
            kind,
            unit,
            amount,
            window_us,
            burst,
            shadow,
            drain,
            grain,
            capacity or burst,
            cell,
        )


class Demand(NamedTuple):
    """What one request asks of one limit: the most it can cost, in the limit's unit.

    `item` is a short keyed digest of a prompt, say, kept until its epoch ends: for distinct limits
    only, where `cost` has no meaning; nor has it for concurrency: a reservation is one lease.
    """

    scope: Scope
    limit: Limit
    cost: int = 1
    item: bytes = b""


def _check_amount(name: str, amount: int, *, least: int = 1) -> None:
    if not least <= amount <= AMOUNT_MAX:
        raise InputError(
            f"an amount of {amount}",
            place=f"limit {name!r}",
            repair=f"give one from {least} to {AMOUNT_MAX}",
        )


def _check_window(name: str, window_us: int) -> None:
    longest = 400 * 86_400 * 10**6
    if not 1 <= window_us <= longest:
        raise InputError(
            f"a window of {window_us} us",
            place=f"limit {name!r}",
            repair=f"give one from 1 to {longest} (400 days)",
        )


def _rate_below(numerator: int, denominator: int, grain_max: int) -> tuple[int, int]:
    """The largest fraction <= numerator/denominator whose denominator is at most `grain_max`.

    Continued fractions: the last convergent that fits and the last semi-convergent stand on either
    side of the value and are neighbours in the Farey sequence, so the lower is the best one.
    """
    n, d = numerator, denominator
    p0, q0, p1, q1 = 0, 1, 1, 0
    while d:
        whole = n // d
        if q0 + whole * q1 > grain_max:
            steps = (grain_max - q0) // q1
            p0, q0 = p0 + steps * p1, q0 + steps * q1
            return (p0, q0) if p0 * denominator <= numerator * q0 else (p1, q1)
        p0, q0, p1, q1 = p1, q1, p0 + whole * p1, q0 + whole * q1
        n, d = d, n - whole * d
    return p1, q1
