"""Testing by betting: evidence about a bounded mean that may be looked at after every value.

For x_t in [0, 1] and the null "the mean of x_t given the past is at most m", the wealth

    E_t = prod_{s <= t} (1 + lambda_s (x_s - m)),    0 <= lambda_s <= c / m,

with lambda_s chosen from x_1 .. x_{s-1} alone, is a non-negative supermartingale from 1. So
E[E_t] <= 1 at every stopping time and P(sup E_t >= 1 / alpha) <= alpha (Ville): stop when you like.
The bet is aGRAPA: lambda = (mu - m) / (var + (mu - m)^2), with running mean and variance that start
from half a pseudo-value; c = 1/2 keeps a single value from costing more than half the wealth.
"less" mirrors x; "two-sided" starts half the wealth on either side.

Source: Waudby-Smith and Ramdas, arXiv 2010.09686 (section B.3 for aGRAPA; theorem 3 for intervals).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics.interval import Floats, Interval, check_level, check_probabilities

Alternative = Literal["greater", "less", "two-sided"]

_CAP = 0.5


@dataclass(frozen=True, slots=True)
class BettingEProcess:
    """The wealth after some values; `update` returns the next state. Start with `start`.

    `log_evalue` is the natural logarithm of the current e-value; `pvalue` is 1 / (largest e-value
    so far), valid at any time.
    """

    null_mean: float
    alternative: Alternative
    count: int
    total: float
    squares: float
    log_up: float
    log_down: float
    log_peak: float

    @classmethod
    def start(cls, null_mean: float, alternative: Alternative = "greater") -> BettingEProcess:
        """Begin at e-value 1; InputError unless 0 < null_mean < 1 and the alternative is known."""
        _check_null(null_mean, alternative)
        return cls(null_mean, alternative, 0, 0.0, 0.0, 0.0, 0.0, 0.0)

    def update(self, x: float) -> BettingEProcess:
        """Bet on what is known, then look at x in [0, 1]; InputError when x is outside."""
        if not 0 <= x <= 1:
            raise InputError(f"x is {x}; a bet needs a value between 0 and 1", repair="rescale it")
        m, mean = self.null_mean, (0.5 + self.total) / (self.count + 1)
        edge = mean - m
        bet = edge / ((0.25 + self.squares) / (self.count + 1) + edge**2)
        total = self.total + x
        moved = replace(
            self,
            count=self.count + 1,
            total=total,
            squares=self.squares + (x - (0.5 + total) / (self.count + 2)) ** 2,
            log_up=self.log_up + math.log1p(min(max(bet, 0.0), _CAP / m) * (x - m)),
            log_down=self.log_down + math.log1p(max(min(bet, 0.0), -_CAP / (1 - m)) * (x - m)),
        )
        return replace(moved, log_peak=max(self.log_peak, moved.log_evalue))

    @property
    def log_evalue(self) -> float:
        """Natural logarithm of the e-value."""
        return float(_side(np.float64(self.log_up), np.float64(self.log_down), self.alternative))

    @property
    def pvalue(self) -> float:
        """Anytime-valid p-value."""
        return math.exp(-self.log_peak)


def betting_log_evalues(
    x: ArrayLike, null_mean: float, alternative: Alternative = "greater"
) -> Floats:
    """Log e-value after each value, (..., T) for x (..., T): many streams of BettingEProcess."""
    _check_null(null_mean, alternative)
    x_T = np.asarray(x, dtype=np.float64)
    check_probabilities(x_T.reshape(-1), "x")
    mean_T, variance_T = _predictable_moments(x_T)
    edge_T = mean_T - null_mean
    bet_T = edge_T / (variance_T + edge_T**2)
    up_T = np.clip(bet_T, 0.0, _CAP / null_mean)
    down_T = np.clip(bet_T, -_CAP / (1 - null_mean), 0.0)
    gain_T = x_T - null_mean
    log_up_T = np.cumsum(np.log1p(up_T * gain_T), axis=-1)
    log_down_T = np.cumsum(np.log1p(down_T * gain_T), axis=-1)
    return _side(log_up_T, log_down_T, alternative)


def betting_interval(x: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of the mean of x (T,) in [0, 1], valid at whatever T one chose to stop.

    All m whose hedged wealth stays below 2 / (1 - level) on both sides, with predictable plug-in
    bets that do not depend on m (so the set is an interval). One look at the last T; the stream
    need only have a constant conditional mean. Wider than a fixed-n interval, by design.
    """
    alpha = 1 - check_level(level)
    x_T = check_probabilities(x, "x")
    _, variance_T = _predictable_moments(x_T)
    t_T = np.arange(1, len(x_T) + 1)
    bet_T = np.sqrt(2 * math.log(2 / alpha) / (variance_T * t_T * np.log1p(t_T)))
    low = _first_mean_kept(x_T, bet_T, math.log(2 / alpha))
    high = 1 - _first_mean_kept(1 - x_T, bet_T, math.log(2 / alpha))
    note = "betting confidence sequence at its last time; valid under optional stopping"
    return Interval(float(x_T.mean()), low, high, level, "betting", len(x_T), None, None, note)


def _first_mean_kept(x_T: Floats, bet_T: Floats, threshold: float) -> float:
    """The smallest m that the upward wealth, which falls in m, does not reject."""
    rejected, kept = 0.0, 1.0
    for _ in range(45):
        middle = (rejected + kept) / 2
        wealth = np.log1p(np.minimum(bet_T, _CAP / middle) * (x_T - middle)).sum()
        if wealth >= threshold:
            rejected = middle
        else:
            kept = middle
    return rejected


def _predictable_moments(x_T: Floats) -> tuple[Floats, Floats]:
    """Mean and variance estimates before each value, from the values before it."""
    t_T = np.arange(1, x_T.shape[-1] + 1)
    mean_after_T = (0.5 + np.cumsum(x_T, axis=-1)) / (t_T + 1)
    variance_after_T = (0.25 + np.cumsum((x_T - mean_after_T) ** 2, axis=-1)) / (t_T + 1)
    first = np.ones((*x_T.shape[:-1], 1))
    mean_T = np.concatenate([0.5 * first, mean_after_T[..., :-1]], axis=-1)
    return mean_T, np.concatenate([0.25 * first, variance_after_T[..., :-1]], axis=-1)


def _side(log_up: Floats | np.float64, log_down: Floats | np.float64, side: str) -> Floats:
    if side == "two-sided":
        return np.asarray(np.logaddexp(log_up, log_down) - math.log(2))
    return np.asarray(log_up if side == "greater" else log_down)


def _check_null(null_mean: float, alternative: str) -> None:
    if not 0 < null_mean < 1:
        raise InputError(f"the null mean is {null_mean}; it must lie strictly between 0 and 1")
    if alternative not in ("greater", "less", "two-sided"):
        raise InputError(
            f"alternative is {alternative!r}", repair="use 'greater', 'less' or 'two-sided'"
        )
