"""Many tests at once keep their promise together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.statistics import broken
from tests.statistics.size_check import rejects_too_often

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics import e_bh, holm

RUNS = 4000
shares = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def stepwise(p: list[float], alpha: float) -> list[bool]:
    """Holm as his paper tells it: go up while p_(i) <= alpha / (m - i + 1), then stop."""
    rejected = [False] * len(p)
    for done, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] * (len(p) - done) > alpha:
            break
        rejected[i] = True
    return rejected


@given(shares, st.floats(0.001, 0.999))
def test_holm_equals_the_stepwise_procedure(p: list[float], alpha: float) -> None:
    assert (holm(p) <= alpha).tolist() == stepwise(p, alpha)


def test_leaving_out_the_step_is_not_holm() -> None:
    p = np.array([0.03, 0.04, 0.05])
    assert (broken.holm_without_the_step(p) <= 0.05).tolist() != stepwise(p.tolist(), 0.05)


def dependent_pvalues(rng: np.random.Generator, true_nulls: int, false_nulls: int) -> np.ndarray:
    """Null p-values that a common shock makes alike, and some that are far too small."""
    common = rng.random((RUNS, 1)) < 0.5
    own = rng.random((RUNS, true_nulls))
    null = np.where(common, rng.random((RUNS, 1)), own)
    return np.concatenate([null, rng.random((RUNS, false_nulls)) * 1e-3], axis=1)


@pytest.mark.parametrize("false_nulls", [0, 6])
def test_holm_keeps_the_chance_of_any_false_rejection(false_nulls: int) -> None:
    p = dependent_pvalues(np.random.default_rng(1), 8, false_nulls)
    any_false = [(holm(row)[:8] <= 0.05).any() for row in p]
    assert not rejects_too_often(np.array(any_false), 0.05)


def test_the_check_rejects_holm_counting_from_the_wrong_end() -> None:
    p = dependent_pvalues(np.random.default_rng(1), 8, 0)
    wrong = [(broken.holm_counting_from_the_wrong_end(row) <= 0.05).any() for row in p]
    assert rejects_too_often(np.array(wrong), 0.05)


@given(st.lists(st.floats(0, 1e4), max_size=12), st.floats(0.01, 0.5))
def test_e_bh_equals_its_definition(e: list[float], alpha: float) -> None:
    ranked = sorted(e, reverse=True)
    k = max((k for k in range(1, len(e) + 1) if k * ranked[k - 1] >= len(e) / alpha), default=0)
    rejected = e_bh(e, alpha)
    assert int(rejected.sum()) == k
    if 0 < k < len(e):
        assert np.array(e)[rejected].min() >= np.array(e)[~rejected].max()


def false_share(rejected: np.ndarray, true_nulls: int) -> float:
    return float(rejected[:true_nulls].sum() / max(1, rejected.sum()))


def heavy_evalues(rng: np.random.Generator, total: int, true_nulls: int, alpha: float) -> tuple:
    """Null e-values with mean 1 on the two worst points, wholly dependent, beside real findings."""
    findings = total - true_nulls
    jump = total / (alpha * (findings + true_nulls))
    null = np.where(rng.random((RUNS, 1)) < 1 / jump, jump, 0.0).repeat(true_nulls, axis=1)
    return np.concatenate([null, np.full((RUNS, findings), 1e6)], axis=1)


@pytest.mark.parametrize("findings", [0, 1, 10])
def test_e_bh_keeps_the_share_of_false_rejections_under_full_dependence(findings: int) -> None:
    alpha, true_nulls = 0.1, 20
    e = heavy_evalues(np.random.default_rng(2), true_nulls + findings, true_nulls, alpha)
    share = np.array([false_share(e_bh(row, alpha), true_nulls) for row in e])
    spread = share.std() / np.sqrt(RUNS)
    assert share.mean() <= alpha + 3.1 * spread
    # The bound is nearly reached without findings: this world can tell a wrong threshold.
    if findings == 0:
        assert share.mean() >= 0.8 * alpha


def test_the_check_rejects_the_threshold_of_a_single_test() -> None:
    alpha = 0.1
    rng = np.random.default_rng(3)
    e = np.where(rng.random((RUNS, 20)) < alpha, 1 / alpha, 0.0)
    right = np.array([false_share(e_bh(row, alpha), 20) for row in e])
    wrong = np.array(
        [false_share(broken.e_bh_with_the_single_threshold(row, alpha), 20) for row in e]
    )
    assert right.mean() <= alpha
    assert wrong.mean() > alpha + 3.1 * wrong.std() / np.sqrt(RUNS)


def test_values_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="0 to 1"):
        holm([0.2, 1.2])
    with pytest.raises(InputError, match="evalues"):
        e_bh([1.0, float("nan")])
    with pytest.raises(InputError, match="evalues"):
        e_bh([-1.0])
    with pytest.raises(InputError, match="alpha"):
        e_bh([1.0], alpha=5)
    assert e_bh([]).tolist() == []
    assert e_bh([float("inf"), 0.0]).tolist() == [True, False]
