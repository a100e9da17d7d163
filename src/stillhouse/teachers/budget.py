"""Caps on money, tokens and requests: reserved before a request is sent, settled after it.

What a request may cost is bounded before it is sent: its input by the UTF-8 bytes of what is sent
(a tokenizer with byte fallback never makes more tokens than bytes) plus an allowance for the chat
template, its output by `max_tokens`. The bound is taken from the budget at once, so that requests
in flight together can never pass a cap; the reply's usage replaces it afterwards. Where the usage
is not known (a time-out, a lost connection, a reply without usage) the bound is what was spent.

A server that reports more than the bound breaks the promise that the cap rests on: the excess is
counted, `Budget.breach` says so, and nothing is reserved any more.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Literal

from stillhouse.exchanges.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillhouse.teachers.chat import ChatRequest

# Default system prompts and role markers that templates add: about 20 tokens for ChatML models, 30
# for Llama 3.1, up to about 150 for harmony-format models.
TEMPLATE_ALLOWANCE_TOKENS = 256
PER_MESSAGE_TOKENS = 16

_MTOK = 1_000_000
_IGNORES_CAP = (
    "it ignores max_tokens; see that teacher.max_tokens_name is what it calls the cap, or raise"
    " teacher.max_tokens by the reasoning that it counts apart"
)
_ADDS_PROMPT = (
    "it adds a prompt of its own; raise teacher.template_allowance by what it adds, and run the"
    " same command again"
)


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-dollars per million tokens (integers also for prices below a nano-dollar a token)."""

    in_nano_per_mtok: int
    out_nano_per_mtok: int
    source: str = "recipe"

    @classmethod
    def per_token(cls, in_nano: int, out_nano: int, source: str = "recipe") -> Price:
        """Read prices in whole nano-dollars per token."""
        return cls(in_nano * _MTOK, out_nano * _MTOK, source)

    @classmethod
    def per_million(cls, in_dollars: str, out_dollars: str, source: str = "recipe") -> Price:
        """Read prices in dollars per million tokens, written as decimals ("0.14")."""
        return cls(_nano(in_dollars, "in"), _nano(out_dollars, "out"), source)

    def cost_nano(self, tokens_in: int, tokens_out: int) -> int:
        """Cost in nano-dollars, rounded up."""
        total = tokens_in * self.in_nano_per_mtok + tokens_out * self.out_nano_per_mtok
        return -(-total // _MTOK)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens in and out and nano-dollars; `nano` is None where the price is unknown."""

    tokens_in: int
    tokens_out: int
    nano: int | None

    @property
    def tokens(self) -> int:
        """Both directions together."""
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True, slots=True)
class Caps:
    """Upper limits; None is no limit. `requests` counts those a server may have worked on."""

    money_nano: int | None = None
    tokens: int | None = None
    requests: int | None = None

    def __post_init__(self) -> None:
        for name in ("money_nano", "tokens", "requests"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"the cap {name} is {value}", repair="give a cap of 0 or more")


@dataclass(frozen=True, slots=True)
class Spent:
    """What is spent and what is held for requests in flight; `nano` None: the price is unknown."""

    requests: int
    tokens: int
    nano: int | None
    held_requests: int
    held_tokens: int
    held_nano: int | None


@dataclass(frozen=True, slots=True)
class Exhausted:
    """There is no room for this request under a cap."""

    cap: Literal["money", "tokens", "requests", "breach"]
    message: str
    code: str = "budget_exhausted"


def bound_tokens(request: ChatRequest, allowance: int = TEMPLATE_ALLOWANCE_TOKENS) -> Usage:
    """Return the most tokens that a request can use; `nano` is left None."""
    size = sum(len(m.content.encode()) + PER_MESSAGE_TOKENS for m in request.messages)
    if request.sampling.response_schema is not None:
        size += len(request.sampling.response_schema.encode())
    return Usage(size + allowance, request.sampling.max_tokens, None)


def find_price(prices: Mapping[str, Price], model: str) -> Price | None:
    """Return the price of `model`, None when the table does not have it (never zero)."""
    return prices.get(model)


class Reservation:
    """Room taken from a budget for one request. It must be consumed exactly once.

    `settle` with the usage the server reported, `charge_in_full` when that is not known, `release`
    when the server surely did not work on it. A reservation that is dropped stays charged.
    """

    __slots__ = ("_budget", "_open", "bound")

    def __init__(self, budget: Budget, bound: Usage):
        self._budget = budget
        self._open = True
        self.bound = bound

    def settle(self, tokens_in: int, tokens_out: int) -> Usage:
        """Replace the bound by what was used; return the charge."""
        return self._consume(self._budget.price_usage(max(tokens_in, 0), max(tokens_out, 0)))

    def charge_in_full(self) -> Usage:
        """Spend the whole bound; return it."""
        return self._consume(self.bound)

    def release(self) -> Usage:
        """Give everything back, the request too; return an empty charge."""
        return self._consume(None)

    def drop(self) -> None:
        """Charge in full unless it was consumed already (for the way out of an error)."""
        if self._open:
            self.charge_in_full()

    def _consume(self, charge: Usage | None) -> Usage:
        if not self._open:
            raise RuntimeError("a reservation was consumed twice")
        self._open = False
        self._budget._close(self.bound, charge)
        return charge or Usage(0, 0, None if self.bound.nano is None else 0)

    def __del__(self) -> None:
        if self._open:
            self._open = False
            self._budget._close(self.bound, self.bound)
            warnings.warn("a budget reservation was dropped: charged in full", ResourceWarning, 1)


class Budget:
    """Reserve-and-settle under `caps`. Safe to use from several threads.

    Raises `InputError` when money is capped and the price is unknown: such a cap cannot be kept.
    """

    def __init__(self, caps: Caps, price: Price | None, *, model: str = "the teacher"):
        if caps.money_nano is not None and price is None:
            raise InputError(
                f"money is capped but the price of {model} is unknown",
                repair="set teacher.price_in_nano and teacher.price_out_nano (nano-dollars per"
                " token: $0.15 per million tokens is 150; 0 if it is free), or cap budget.tokens",
            )
        self.caps = caps
        self.price = price
        self.breach: str | None = None
        self._lock = threading.Lock()
        self._spent = Usage(0, 0, None if price is None else 0)
        self._held = self._spent
        self._requests = 0
        self._held_requests = 0

    @property
    def spent(self) -> Spent:
        """What has been spent and is held now."""
        with self._lock:
            return Spent(
                self._requests,
                self._spent.tokens,
                self._spent.nano,
                self._held_requests,
                self._held.tokens,
                self._held.nano,
            )

    def price_usage(self, tokens_in: int, tokens_out: int) -> Usage:
        """Return tokens with their price (None where the price is unknown)."""
        nano = None if self.price is None else self.price.cost_nano(tokens_in, tokens_out)
        return Usage(tokens_in, tokens_out, nano)

    def reserve(self, bound: Usage) -> Reservation | Exhausted:
        """Take room for one request whose tokens are at most `bound`."""
        bound = self.price_usage(bound.tokens_in, bound.tokens_out)
        with self._lock:
            full = self._full(bound)
            if full is not None:
                return full
            self._held = _add(self._held, bound)
            self._held_requests += 1
        return Reservation(self, bound)

    def restore(self, charge: Usage) -> None:
        """Count one earlier request, read from a journal, as spent (also above a lowered cap)."""
        if charge.nano is None and self.price is not None:
            charge = self.price_usage(charge.tokens_in, charge.tokens_out)
        elif self.price is None:
            charge = replace(charge, nano=None)
        with self._lock:
            self._spent = _add(self._spent, charge)
            self._requests += 1

    def _full(self, bound: Usage) -> Exhausted | None:
        if self.breach is not None:
            return Exhausted("breach", self.breach, "usage_above_reserve")
        caps = self.caps
        if caps.requests is not None and self._requests + self._held_requests + 1 > caps.requests:
            return Exhausted("requests", f"all {caps.requests} requests of the budget are used")
        tokens = self._spent.tokens + self._held.tokens
        if caps.tokens is not None and tokens + bound.tokens > caps.tokens:
            return Exhausted(
                "tokens",
                f"{tokens} of {caps.tokens} tokens are used or held, and the next request may"
                f" need {bound.tokens}",
            )
        if caps.money_nano is not None:
            nano = (self._spent.nano or 0) + (self._held.nano or 0)
            if nano + (bound.nano or 0) > caps.money_nano:
                return Exhausted(
                    "money",
                    f"{dollars(nano)} of {dollars(caps.money_nano)} are spent or held, and the"
                    f" next request may cost {dollars(bound.nano or 0)}",
                )
        return None

    def _close(self, bound: Usage, charge: Usage | None) -> None:
        with self._lock:
            self._held = _add(self._held, bound, sign=-1)
            self._held_requests -= 1
            if charge is None:
                return
            self._spent = _add(self._spent, charge)
            self._requests += 1
            over_in = charge.tokens_in - bound.tokens_in
            over_out = charge.tokens_out - bound.tokens_out
            if over_in > 0 or over_out > 0:
                # One side may be far below its bound; only a sum above it could pass a cap, but a
                # server that ignores max_tokens is to be looked at in either case.
                self.breach = (
                    f"the server reported {charge.tokens_in} tokens in and {charge.tokens_out} out"
                    f" for a request bounded at {bound.tokens_in} and {bound.tokens_out}: "
                    + (_IGNORES_CAP if over_out > 0 else _ADDS_PROMPT)
                )


def dollars(nano: int) -> str:
    """Write nano-dollars for people."""
    return f"${Decimal(nano) / 1_000_000_000:.6f}".rstrip("0").rstrip(".")


def _add(a: Usage, b: Usage, sign: int = 1) -> Usage:
    nano = None if a.nano is None or b.nano is None else a.nano + sign * b.nano
    return Usage(a.tokens_in + sign * b.tokens_in, a.tokens_out + sign * b.tokens_out, nano)


def _nano(text: str, name: str) -> int:
    repair = 'write dollars per million tokens, such as "0.14", with at most 9 decimals'
    try:
        value = Decimal(str(text)) * 1_000_000_000
    except InvalidOperation:
        raise InputError(f"the price {name!r} is {text!r}", repair=repair) from None
    if not value.is_finite() or value < 0 or value != int(value):
        raise InputError(f"the price {name!r} is {text!r}", repair=repair)
    return int(value)
