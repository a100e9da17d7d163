"""How many items a margin needs, and which margin a number of items can show."""

from __future__ import annotations

import math

from scipy import stats

from stillhouse.exchanges.errors import InputError


def required_n(
    margin: float,
    discordance: float,
    power: float = 0.8,
    alpha: float = 0.05,
    *,
    true_difference: float = 0.0,
    design_effect: float = 1.0,
) -> int:
    """Pairs needed to show non-inferiority of a binary score, one-sided at `alpha`.

    `discordance` is the expected share of items that exactly one side has right, `design_effect`
    the variance inflation of clusters (1 = independent items). n = (d - delta^2) (z_alpha +
    z_power)^2 / (margin + delta)^2, and never fewer than what the score interval needs to clear
    the margin without a single discordant pair. InputError on shares outside their range.
    """
    if not 0 <= discordance <= 1 or abs(true_difference) > discordance:
        raise InputError(
            f"a share of {discordance} discordant pairs cannot hold a difference of "
            f"{true_difference}"
        )
    if margin >= 1:
        raise InputError(
            f"the margin is {margin}: no two shares differ by more", repair="write 5 points as 0.05"
        )
    variance = discordance - true_difference**2
    pairs = _normal_n(margin, variance, power, alpha, true_difference)
    at_ceiling = float(stats.norm.isf(alpha)) ** 2 * (1 / margin - 1)
    return math.ceil(max(pairs, at_ceiling) * _check_effect(design_effect))


def required_n_continuous(
    margin: float,
    sd: float,
    power: float = 0.8,
    alpha: float = 0.05,
    *,
    true_difference: float = 0.0,
    design_effect: float = 1.0,
) -> int:
    """Pairs needed when per-item differences have standard deviation `sd` (units of the score)."""
    if not 0 < sd < math.inf:
        raise InputError(f"sd is {sd}; it must be positive")
    pairs = _normal_n(margin, sd**2, power, alpha, true_difference)
    # Half the squared normal quantile is what t instead of z costs (Guenther 1981).
    pairs += float(stats.norm.isf(alpha)) ** 2 / 2
    return math.ceil(pairs * _check_effect(design_effect))


def smallest_margin(
    n: int,
    discordance: float,
    power: float = 0.8,
    alpha: float = 0.05,
    *,
    design_effect: float = 1.0,
) -> float:
    """The smallest margin that n pairs show with this power when both sides are equally good."""
    if n < 1 or not 0 <= discordance <= 1:
        raise InputError(f"{n} pairs with a discordant share of {discordance} cannot be")
    effective = n / _check_effect(design_effect)
    z_alpha, z_power = _quantiles(power, alpha)
    at_ceiling = z_alpha**2 / (effective + z_alpha**2)
    return max(at_ceiling, (z_alpha + z_power) * math.sqrt(discordance / effective))


def _normal_n(
    margin: float, variance: float, power: float, alpha: float, true_difference: float
) -> float:
    if not 0 < margin < math.inf:
        raise InputError(f"the margin is {margin}; it must be positive")
    if margin + true_difference <= 0:
        raise InputError(
            f"a true difference of {true_difference} lies beyond the margin of {margin}: "
            "no number of items shows non-inferiority"
        )
    return variance * sum(_quantiles(power, alpha)) ** 2 / (margin + true_difference) ** 2


def _quantiles(power: float, alpha: float) -> tuple[float, float]:
    if not 0 < alpha < 0.5 <= power < 1:
        raise InputError(f"alpha {alpha} and power {power} are not in (0, 0.5) and [0.5, 1)")
    return float(stats.norm.isf(alpha)), float(stats.norm.ppf(power))


def _check_effect(design_effect: float) -> float:
    if not 1 <= design_effect < math.inf:
        raise InputError(f"the design effect is {design_effect}; it must be at least 1")
    return design_effect
