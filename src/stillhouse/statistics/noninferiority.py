"""Is the student as good as its teacher, up to a margin that was fixed before the run?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics.interval import Interval

Verdict = Literal["non-inferior", "inferior", "not shown"]


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """A verdict on `difference > -margin`, higher being better.

    `bound` is the one-sided lower bound that was compared with -margin, at `confidence`.
    `smallest_margin_shown`: these data show non-inferiority for every margin above it
    (max(0, -bound)). `smallest_margin_if_equal`: the same if the observed difference had been 0 at
    the dispersion that was observed: the margin below which this test could not have shown
    anything for two equal models except by luck. For planning with power use `smallest_margin`.
    """

    verdict: Verdict
    margin: float
    bound: float
    confidence: float
    smallest_margin_shown: float
    smallest_margin_if_equal: float


def noninferiority(interval: Interval, margin: float) -> NonInferiority:
    """Judge an interval of (student - teacher), of a score where higher is better.

    "non-inferior": the lower bound lies above -margin. "inferior": the upper bound lies below
    -margin. "not shown": neither. An interval at level 0.90 makes each a one-sided test at 5 %.
    InputError unless the margin is a positive finite number, in the units of the score.
    """
    if not 0 < margin < float("inf"):
        raise InputError(
            f"the margin is {margin}; it must be positive",
            repair="give the largest loss you accept, such as 0.05 for five points of a share",
        )
    verdict: Verdict = "not shown"
    if interval.low > -margin:
        verdict = "non-inferior"
    elif interval.high < -margin:
        verdict = "inferior"
    return NonInferiority(
        verdict=verdict,
        margin=margin,
        bound=interval.low,
        confidence=(1 + interval.level) / 2,
        smallest_margin_shown=max(0.0, -interval.low),
        smallest_margin_if_equal=interval.estimate - interval.low,
    )
