"""Which interval a paired difference gets. One rule for means, ratios of sums and AUC.

Every such estimate is, to first order, a sum of one error share per sampled unit. The rule looks
at how many pairs differ and how many units there are (`docs/statistics.md` holds the coverage that
chose it):

1. independent pairs of right/wrong: Tango's score interval, at any count;
2. few pairs differ while most agree, or those that do sit in few clusters: Tango on an effective
   number of pairs;
3. fewer than 30 units: t with CR2 and Satterthwaite's degrees of freedom, t(G - 1) for equal ones;
4. otherwise the studentised bootstrap, each bound no tighter than that of rule 3.

Partial scores of a known range may hide rare total failures behind many small differences: 300
items often hold none of a failure in 200, and the spread of the others says nothing of it. So by
rules 3 and 4 they get no bound tighter than that of rule 2.

Rule 2 divides counts and n by the measured design effect (never less than 1) and by the squared
ratio of the t to the normal quantile, as Korn and Graubard (1998) do for shares. Values that are
not -1, 0, 1 enter as the counts of the step s = sum d^2 / sum |d| that has their mean and
variance; one pseudo-pair of the full range keeps s from being trusted when it rests on few pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics.interval import Floats, Interval
from stillhouse.statistics.small_clusters import satterthwaite_df
from stillhouse.statistics.tango import tango_bounds

FEW_UNITS = 30
FEW_PAIRS = 40
_FEW_ACTIVE_CLUSTERS = 10


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference, ready for the choice of its interval.

    `shares` (G,): what each unit adds to the error of `estimate`; `sizes` (G,): items per unit;
    `codes` (N,): the unit of each item, None when items are the units; `values` (N,): per-item
    values with mean `estimate` (pseudo-values where the estimate is no mean); `active` (N,): where
    the sides differ.
    `span`: the largest value one item can take; None when the score has no known range.
    """

    estimate: float
    shares: Floats
    sizes: Floats
    codes: NDArray[np.int64] | None
    values: Floats
    active: NDArray[np.bool_]
    span: float | None
    binary: bool
    draw_t: Callable[[], Floats]


def choose_interval(difference: Difference, level: float) -> Interval:
    """Apply the rule of this module; InputError when nothing at all can be estimated."""
    units, pairs = len(difference.sizes), len(difference.values)
    if difference.span is not None and not 0 < difference.span < np.inf:
        raise InputError(f"value_range is {difference.span}; it must be positive")
    active = int(difference.active.sum())
    clusters = None if difference.codes is None else units
    if difference.binary and clusters is None:
        return _score(difference, level, "tango", f"{active} of {pairs} pairs are discordant")
    error = float(np.sqrt(_variance(difference)))
    # With real scores on few items nearly all pairs differ, and t knows their spread better.
    if active < FEW_PAIRS and (difference.binary or active < pairs / 2):
        why = f"only {active} of {pairs} pairs differ"
        return _score(difference, level, "tango-clustered", why)
    if clusters is not None:
        hit = len(np.unique(difference.codes[difference.active]))  # type: ignore[index]
        if hit < min(_FEW_ACTIVE_CLUSTERS, units / 2):
            why = f"the {active} pairs that differ lie in {hit} of {clusters} clusters"
            return _score(difference, level, "tango-clustered", why)
    if error <= 1e-12 * max(1.0, float(np.abs(difference.values).max())):
        return _score(difference, level, "tango-clustered", "all units differ by the same amount")
    df = float(satterthwaite_df(difference.sizes))
    reach = float(special.stdtrit(df, (1 + level) / 2)) * error
    low, high = difference.estimate - reach, difference.estimate + reach
    if units < FEW_UNITS:
        method = "t" if clusters is None else "cr2"
        kind = "items" if clusters is None else "clusters"
        even = np.ptp(difference.sizes) == 0
        note = f"G = {units} {kind}, fewer than {FEW_UNITS}: " + (
            f"t({units - 1})" if even else "CR2, Satterthwaite degrees of freedom"
        )
    else:
        method = "bootstrap" if clusters is None else "cluster-bootstrap"
        draws = np.clip(difference.draw_t(), -1e6, 1e6)
        plain = float(np.sqrt((difference.shares**2).sum()))
        first, last = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        low = min(low, difference.estimate - float(last) * plain)
        high = max(high, difference.estimate - float(first) * plain)
        note = (
            f"studentised bootstrap of {units} {'items' if clusters is None else 'clusters'}, "
            f"{len(draws)} resamples; no bound tighter than CR2"
        )
    if difference.span is not None and not difference.binary:
        least = _score(difference, level, "tango-clustered", "")
        if least.low < low or least.high > high:
            low, high = min(low, least.low), max(high, least.high)
            note += "; widened to the score interval: a rare loss of the whole range may be unseen"
    return _finish(difference, level, method, note, low, high, df)


def _variance(difference: Difference) -> float:
    weight_G = 1 - difference.sizes / difference.sizes.sum()
    return float((difference.shares**2 / weight_G).sum())


def _score(difference: Difference, level: float, method: str, why: str) -> Interval:
    values_N, pairs = difference.values, len(difference.values)
    total, squares = float(np.abs(values_N).sum()), float((values_N**2).sum())
    if difference.span is None and total == 0:
        raise InputError(
            f"the two sides agree on all {pairs} items and the score has no known range: "
            "no interval can be made",
            repair="give value_range, the largest difference that one item can show",
        )
    if difference.binary:
        step = 1.0
    else:
        span = difference.span or float(np.abs(values_N).max())
        step = (squares + span**2) / (total + span)
    z = float(special.ndtri((1 + level) / 2))
    gains = float(values_N[values_N > 0].sum()) / step
    losses = float(-values_N[values_N < 0].sum()) / step
    shrink, df, effect = 1.0, None, 1.0
    if method == "tango-clustered":
        df = float(satterthwaite_df(difference.sizes))
        independent = (gains + losses - (gains - losses) ** 2 / pairs) * (step / pairs) ** 2
        if independent > 0:
            effect = max(1.0, _variance(difference) / independent)
        shrink = effect * (float(special.stdtrit(df, (1 + level) / 2)) / z) ** 2
    low, high = tango_bounds(gains / shrink, losses / shrink, pairs / shrink, z)
    note = f"Tango score interval: {why}"
    if method == "tango-clustered":
        note += f"; counted as {pairs / shrink:.0f} independent pairs"
        if difference.codes is None:
            method = "tango"
        else:
            note += f" (G = {len(difference.sizes)}, design effect {effect:.2f})"
            if not difference.active.any():
                worst = 1 - ((1 - level) / 2) ** (1 / len(difference.sizes))
                note += (
                    "; assumes that losses would not come by whole clusters: if they do, "
                    f"{worst:.0%} of clusters could still be lost"
                )
    return _finish(difference, level, method, note, float(low) * step, float(high) * step, df)


def _finish(
    difference: Difference,
    level: float,
    method: str,
    note: str,
    low: float,
    high: float,
    df: float | None,
) -> Interval:
    if difference.binary:
        low, high = max(low, -1.0), min(high, 1.0)
    clusters = None if difference.codes is None else len(difference.sizes)
    pairs = len(difference.values)
    return Interval(difference.estimate, low, high, level, method, pairs, clusters, df, note)
