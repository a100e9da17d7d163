"""Intervals of shares and of differences of paired shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.statistics.coverage_check import coverage_shortfalls

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics import binomial_interval, tango_interval
from stillhouse.statistics.tango import tango_bounds


def test_without_discordant_pairs_the_bounds_have_a_closed_form() -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    nothing = tango_interval(0, 0, 44, 0.95)
    assert (nothing.low, nothing.high) == pytest.approx((-z2 / (44 + z2), z2 / (44 + z2)))


@given(st.integers(1, 200), st.data(), st.sampled_from([0.8, 0.9, 0.95]))
def test_the_bounds_solve_the_score_equation(n: int, data: st.DataObject, level: float) -> None:
    """Oracle: the restricted likelihood is maximised numerically, not by the formula."""
    b = data.draw(st.integers(0, n))
    c = data.draw(st.integers(0, n - b))
    interval = tango_interval(b, c, n, level)
    z = stats.norm.ppf((1 + level) / 2)
    assert -1 <= interval.low <= interval.estimate <= interval.high <= 1
    for delta, sign in ((interval.low, 1), (interval.high, -1)):
        if abs(delta) > 1 - 1e-9:
            continue
        # The c cell lies between max(0, -delta) and (1 - delta) / 2.
        cells = np.linspace(max(0.0, -delta), (1 - delta) / 2, 200_001)
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = (
                (b * np.log(cells + delta) if b else 0)
                + (c * np.log(cells) if c else 0)
                + ((n - b - c) * np.log(1 - 2 * cells - delta) if n > b + c else 0)
            )
        share = cells[np.nanargmax(likelihood)]
        spread = np.sqrt(n * (2 * share + delta * (1 - delta)))
        assert (b - c - n * delta) == pytest.approx(sign * z * spread, abs=2e-3 * n + 1e-6)


@pytest.mark.parametrize("n", [50, 150, 600])
@pytest.mark.parametrize(("p_b", "p_c"), [(0.01, 0.01), (0.002, 0.01), (0.1, 0.15), (0.0, 0.001)])
def test_tango_covers(n: int, p_b: float, p_c: float) -> None:
    counts = np.random.default_rng(3).multinomial(n, [p_b, p_c, 1 - p_b - p_c], size=20_000)
    low, high = tango_bounds(counts[:, 0], counts[:, 1], n, float(stats.norm.ppf(0.95)))
    # A score interval is not exact: 0.901 to 0.904 were seen for a bound on the leaning side.
    tolerance = 0.05 if p_b < p_c / 2 else 0.01
    assert coverage_shortfalls(low, high, p_b - p_c, 0.90, tolerance=tolerance) == []


def test_the_bound_that_noninferiority_uses_is_as_near_to_its_level_as_the_page_says() -> None:
    """By exact summation, for a student that is never right alone."""

    def held(n: int, *lost: float) -> list[float]:
        count = np.arange(n + 1)
        low, _ = tango_bounds(0, count, n, float(stats.norm.ppf(0.95)))
        return [float(stats.binom.pmf(count, n, share)[low <= -share].sum()) for share in lost]

    shares = np.arange(1, 300) / 1000
    for n in (50, 100, 200, 300, 600):
        assert min(held(n, *shares)) > 0.93
    assert min(held(20, *shares)) == pytest.approx(0.922, abs=5e-4)
    assert held(200, 0.03) == pytest.approx([0.941], abs=5e-4)
    assert held(300, 0.02, 0.009) == pytest.approx([0.940, 0.934], abs=5e-4)


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.5, 0.999))
def test_clopper_pearson_inverts_the_binomial_tails(k: int, more: int, level: float) -> None:
    n = k + more
    if n == 0:
        return
    interval = binomial_interval(k, n, level)
    tail = (1 - level) / 2
    if k > 0:
        assert stats.binom.sf(k - 1, n, interval.low) == pytest.approx(tail, rel=1e-6)
    if k < n:
        assert stats.binom.cdf(k, n, interval.high) == pytest.approx(tail, rel=1e-6)
    assert interval.low <= k / n <= interval.high


@pytest.mark.parametrize("share", [0.0, 0.003, 0.03, 0.3, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("n", [6, 30, 400])
def test_clopper_pearson_covers(n: int, share: float) -> None:
    k = np.random.default_rng(5).binomial(n, share, 4000)
    table = [binomial_interval(i, n, 0.95) for i in range(n + 1)]
    low, high = (np.array([getattr(row, end) for row in table])[k] for end in ("low", "high"))
    assert coverage_shortfalls(low, high, share, 0.95) == []
    lower = np.array([binomial_interval(i, n, 0.975, side="lower").low for i in range(n + 1)])
    assert lower[k] == pytest.approx(low)


def test_the_check_rejects_wald_for_a_share_near_one() -> None:
    k = np.random.default_rng(5).binomial(30, 0.98, 4000)
    reach = 1.96 * np.sqrt(k / 30 * (1 - k / 30) / 30)
    assert coverage_shortfalls(k / 30 - reach, k / 30 + reach, 0.98, 0.95) != []


def test_zero_of_n_follows_the_rule_of_three() -> None:
    assert binomial_interval(0, 600, 0.95, side="upper").high == pytest.approx(3 / 600, rel=0.01)
    assert binomial_interval(0, 600, 0.95, side="upper").low == 0


def test_counts_that_do_not_fit_are_refused() -> None:
    for k, n in ((5, 3), (-1, 3), (0, 0)):
        with pytest.raises(InputError, match="not a share"):
            binomial_interval(k, n)
    with pytest.raises(InputError, match="do not fit"):
        tango_interval(3, 3, 5)
