"""Tiers: what a level of verification may use. New accounts start at the lowest level."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from stillhouse.accounts.measures import DAY_US, HOUR_US
from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

CapScope = Literal["key", "account", "organisation"]
CapMeasure = Literal[
    "requests", "input_tokens", "output_tokens", "money_nano", "distinct_prompts", "concurrency"
]


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `amount` of `measure` in every interval of `window_us`, `burst` of it at once.

    burst: below the amount; 0 leaves it to whoever makes the limit (half of the amount).
    For distinct prompts the window is the length of the epoch and there is no burst; for
    concurrency `amount` is how many at a time, and window and burst are 0. A `shadow` cap refuses
    nothing and counts what it would refuse.
    """

    scope: CapScope
    measure: CapMeasure
    amount: int
    window_us: int = 0
    burst: int = 0
    shadow: bool = False

    def __post_init__(self) -> None:
        place = f"{self.measure} for each {self.scope}"
        if self.amount < 0:
            raise InputError("a cap cannot be negative", place=place)
        if self.measure == "concurrency":
            if self.window_us or self.burst:
                raise InputError("concurrency has no window and no burst", place=place)
        elif self.window_us <= 0 or not 0 <= self.burst < max(self.amount, 1):
            raise InputError(
                f"window {self.window_us} us and burst {self.burst} do not make a limit",
                place=place,
                repair="give a window above 0 and a burst below the amount",
            )


@dataclass(frozen=True, slots=True)
class Tier:
    """Caps and sold features of a level; `models` empty means every model.

    top_logprobs: how many alternatives a token are sold; 0 means no log-probabilities at all.
    """

    name: str
    level: int
    caps: tuple[Cap, ...]
    max_output_tokens: int
    top_logprobs: int = 0
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counted = [(cap.scope, cap.measure, cap.window_us, cap.shadow) for cap in self.caps]
        twice = next((one for one in counted if counted.count(one) > 1), None)
        if twice is not None:
            raise InputError(
                "two caps count the same, so one of them would not hold",
                place=f"{twice[1]} for each {twice[0]} in {twice[2]} us",
                repair="leave one of them out, or give it another window",
            )

    def as_row(self) -> dict[str, Any]:
        """Return the row that keeps it."""
        row = asdict(self)
        return row | {"caps": list(row["caps"]), "models": list(self.models)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Tier:
        """Read a kept row."""
        return cls(
            row["name"],
            row["level"],
            tuple(Cap(**cap) for cap in row["caps"]),
            row["max_output_tokens"],
            row["top_logprobs"],
            tuple(row["models"]),
        )


def _tier(name: str, level: int, scale: int, max_output_tokens: int) -> Tier:
    minute_us = 60_000_000
    return Tier(
        name,
        level,
        (
            Cap("account", "concurrency", 2 * scale),
            Cap("account", "requests", 20 * scale, minute_us, 10 * scale),
            Cap("account", "requests", 200 * scale, DAY_US, 50 * scale),
            Cap("account", "input_tokens", 400_000 * scale, DAY_US, 100_000 * scale),
            Cap("account", "output_tokens", 100_000 * scale, DAY_US, 25_000 * scale),
            Cap("account", "distinct_prompts", 150 * scale, DAY_US, 0),
            Cap("organisation", "output_tokens", 300_000 * scale, DAY_US, 75_000 * scale),
            Cap("key", "requests", 100 * scale, HOUR_US, 30 * scale),
        ),
        max_output_tokens,
    )


DEFAULT_TIERS = (
    _tier("new", 0, 1, 2_048),
    _tier("verified", 1, 10, 8_192),
    _tier("trusted", 2, 100, 32_768),
)
"""What a new store starts with. The operator defines their own."""
