"""The verdict errs no more often than promised, and the planned n has the planned power."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.statistics.scenarios import binary, continuous, equal
from tests.statistics.size_check import rejects_too_often

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics import (
    Interval,
    noninferiority,
    paired_difference,
    required_n,
    required_n_continuous,
    smallest_margin,
    tango_interval,
)
from stillhouse.statistics.tango import tango_bounds

Z = float(stats.norm.ppf(0.95))


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 0.90, "t", 10, None, 9.0, "")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.04, 0.02, "non-inferior"),
        (-0.05, 0.02, "not shown"),
        (-0.09, -0.06, "inferior"),
        (-0.09, -0.05, "not shown"),
        (0.01, 0.03, "non-inferior"),
        (-0.2, 0.2, "not shown"),
    ],
)
def test_the_verdict_follows_the_bounds(low: float, high: float, verdict: str) -> None:
    assert noninferiority(interval(low, high), 0.05).verdict == verdict


def test_the_smallest_margins_mean_what_they_say() -> None:
    judged = noninferiority(interval(-0.04, 0.02), 0.01)
    assert judged.verdict == "not shown"
    assert judged.smallest_margin_shown == pytest.approx(0.04)
    assert judged.smallest_margin_if_equal == pytest.approx(0.03)
    assert judged.confidence == pytest.approx(0.95)
    shown = judged.smallest_margin_shown
    assert noninferiority(interval(-0.04, 0.02), shown + 1e-9).verdict == "non-inferior"
    assert noninferiority(interval(-0.04, 0.02), shown - 1e-9).verdict == "not shown"
    assert noninferiority(interval(0.01, 0.02), 0.01).smallest_margin_shown == 0


@pytest.mark.parametrize("margin", [0.0, -0.05, float("nan"), float("inf")])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(InputError, match="margin"):
        noninferiority(interval(-0.1, 0.1), margin)


@pytest.mark.parametrize("clusters", [6, 10, 30])
@pytest.mark.parametrize("kind", ["scores", "ceiling"])
def test_a_student_worse_by_exactly_the_margin_passes_at_most_one_time_in_twenty(
    clusters: int, kind: str
) -> None:
    margin = 0.02
    world = continuous("scores", equal(clusters, 20), 0.2)
    if kind == "ceiling":
        world = binary("ceiling", equal(clusters), 0.03, 1 / 6, accuracy=0.99)
        assert world.truth == pytest.approx(-margin)
    rng = np.random.default_rng(1)
    passed, without_interval, two_sided_80 = [], [], []
    for _ in range(2000):
        a, b = world.draw(rng)
        a = a - (margin if kind == "scores" else 0)
        names = world.codes.tolist()
        found = paired_difference(a, b, clusters=names, rng=rng, resamples=300)
        passed.append(noninferiority(found, margin).verdict == "non-inferior")
        without_interval.append(found.estimate > -margin)
        half = found.estimate - 0.6 * (found.estimate - found.low)
        two_sided_80.append(half > -margin)
    assert not rejects_too_often(np.array(passed), 0.05)
    # Judging by the estimate, or by a bound drawn in by two fifths, must not pass this check.
    assert rejects_too_often(np.array(without_interval), 0.05)
    if kind == "scores":
        assert rejects_too_often(np.array(two_sided_80), 0.05)


def test_many_discordant_pairs_need_what_the_usual_formula_says() -> None:
    assert required_n(0.01, 0.4) == pytest.approx(0.4 * 6.1826 / 0.01**2, rel=0.001)
    assert required_n(0.01, 0.05) == pytest.approx(3092, rel=0.03)


def power(n: int, discordance: float, margin: float, lean: float = 0.5) -> float:
    cells = [discordance * lean, discordance * (1 - lean), 1 - discordance]
    counts = np.random.default_rng(2).multinomial(n, cells, size=20_000)
    low, _ = tango_bounds(counts[:, 0], counts[:, 1], n, Z)
    return float((low > -margin).mean())


@pytest.mark.parametrize("discordance", [0.0, 0.002, 0.02, 0.05, 0.2, 0.4])
@pytest.mark.parametrize("margin", [0.01, 0.03, 0.05])
def test_the_planned_number_of_pairs_has_the_planned_power(
    discordance: float, margin: float
) -> None:
    n = required_n(margin, discordance)
    assert power(n, discordance, margin) >= 0.79
    assert n == 1 or power(n // 2, discordance, margin) < 0.79


def test_the_check_rejects_the_formula_that_forgets_the_score_variance() -> None:
    assert power(int(0.02 * 6.1826 / 0.03**2), 0.02, 0.03) < 0.60


def test_a_student_that_is_truly_worse_needs_more() -> None:
    n = required_n(0.05, 0.1, true_difference=-0.02)
    assert n > required_n(0.05, 0.1)
    assert power(n, 0.1, 0.05, lean=0.4) >= 0.79


def test_real_scores_have_the_planned_power() -> None:
    n = required_n_continuous(0.5, 1.0)
    draws = np.random.default_rng(3).normal(size=(20_000, n))
    low = draws.mean(1) - stats.t.ppf(0.95, n - 1) * draws.std(1, ddof=1) / np.sqrt(n)
    assert (low > -0.5).mean() >= 0.79


def test_clusters_cost_their_design_effect() -> None:
    n = required_n(0.01, 0.05)
    assert required_n(0.01, 0.05, design_effect=2.0) == 2 * n
    assert smallest_margin(2 * n, 0.05, design_effect=2.0) == pytest.approx(0.01, rel=1e-3)


def test_the_smallest_margin_undoes_the_required_n() -> None:
    for margin, discordance in ((0.01, 0.1), (0.05, 0.6), (0.02, 0.0)):
        n = required_n(margin, discordance)
        assert smallest_margin(n, discordance) == pytest.approx(margin, rel=0.01)
    # And at the ceiling it is what the score interval itself reaches.
    assert smallest_margin(600, 0.0) == pytest.approx(-tango_interval(0, 0, 600).low, rel=1e-9)


def test_plans_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="write 5 points"):
        required_n(5, 0.1)
    with pytest.raises(InputError, match="beyond the margin"):
        required_n(0.05, 0.2, true_difference=-0.06)
    with pytest.raises(InputError, match="discordant"):
        required_n(0.05, 1.2)
    with pytest.raises(InputError, match="power"):
        required_n(0.05, 0.2, power=80)
    with pytest.raises(InputError, match="design effect"):
        required_n(0.05, 0.2, design_effect=0.5)
    with pytest.raises(InputError, match="sd"):
        required_n_continuous(0.05, 0.0)
    with pytest.raises(InputError, match="no margin below 1"):
        smallest_margin(0, 0.1)
