"""A clean score looks unusual no more often than its p-value says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.statistics import broken
from tests.statistics.size_check import excesses

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics import conformal_pvalues

RUNS = 4000


def one_clean_test_each(calibration: int, *, ties: bool, randomised: bool) -> np.ndarray:
    rng = np.random.default_rng(1)
    draw = (lambda n: rng.poisson(1.0, n)) if ties else (lambda n: rng.standard_cauchy(n))
    pvalues = []
    for _ in range(RUNS):
        scores = draw(calibration + 1)
        p = conformal_pvalues(scores[:-1], scores[-1:], rng=rng if randomised else None)
        pvalues.append(p[0])
    return np.array(pvalues)


@pytest.mark.parametrize("calibration", [6, 10, 30, 99])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("randomised", [False, True])
def test_pvalues_of_clean_scores_are_superuniform(
    calibration: int, ties: bool, randomised: bool
) -> None:
    p = one_clean_test_each(calibration, ties=ties, randomised=randomised)
    assert excesses(p) == []
    assert p.min() > 0
    if randomised:
        assert stats.kstest(p, "uniform").pvalue > 0.001


def test_the_check_rejects_leaving_the_score_itself_out() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(RUNS, 20))
    p = [broken.conformal_without_itself(row[:-1], row[-1:])[0] for row in scores]
    assert excesses(p) != []


def test_the_check_rejects_broken_ties() -> None:
    """Counting only scores strictly above is fine without ties and wrong with them."""
    rng = np.random.default_rng(1)
    scores = rng.poisson(1.0, (RUNS, 20))
    p = (1 + (scores[:, :-1] > scores[:, -1:]).sum(1)) / 20
    assert excesses(p) != []


def test_the_floor_is_one_over_n_plus_one() -> None:
    assert conformal_pvalues(np.arange(99), [1000.0])[0] == pytest.approx(0.01)


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=20),
    st.lists(st.integers(-4, 4), min_size=1, max_size=5),
)
def test_sorting_equals_counting(calibration: list[int], test: list[int]) -> None:
    counted = [(1 + sum(c >= s for c in calibration)) / (1 + len(calibration)) for s in test]
    assert conformal_pvalues(calibration, test).tolist() == pytest.approx(counted)
    broken_ties = conformal_pvalues(calibration, test, rng=np.random.default_rng(0))
    assert (broken_ties <= np.array(counted) + 1e-12).all()


def test_scores_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="calibration is empty"):
        conformal_pvalues([], [1.0])
    with pytest.raises(InputError, match="nan"):
        conformal_pvalues([1.0], [float("nan")])
