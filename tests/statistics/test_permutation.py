"""p-values from re-drawing are never 0 and never too small."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.statistics import broken
from tests.statistics.size_check import excesses

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics import permutation_pvalue, sign_flip_pvalue, sign_flip_test

RUNS = 4000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("side", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("redrawn", [19, 199])
def test_permutation_pvalues_are_superuniform(side: str, redrawn: int) -> None:
    drawn = rng(1).normal(size=(RUNS, redrawn + 1))
    p = [permutation_pvalue(row[0], row[1:], side) for row in drawn]  # type: ignore[arg-type]
    assert excesses(p) == []
    assert min(p) >= 1 / (redrawn + 1)
    ties = rng(2).integers(0, 4, (RUNS, redrawn + 1))
    p = [permutation_pvalue(row[0], row[1:], side) for row in ties]  # type: ignore[arg-type]
    assert excesses(p) == []


def test_the_check_rejects_a_permutation_pvalue_without_the_observed_one() -> None:
    drawn = rng(1).normal(size=(RUNS, 20))
    p = [broken.permutation_without_the_observed(row[0], row[1:]) for row in drawn]
    assert excesses(p) != []


def test_redrawings_that_differ_by_rounding_count_as_ties() -> None:
    assert permutation_pvalue(0.3, [0.1 + 0.2 - 1e-15] * 3) == 1.0


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=11),
    st.sampled_from(["greater", "less", "two-sided"]),
    st.sampled_from([1.0, 0.1, 1 / 3]),
)
def test_the_sign_flip_tail_equals_brute_force(values: list[int], side: str, scale: float) -> None:
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(values))
    ]
    total = sum(values)
    reached = {
        "greater": [s >= total for s in sums],
        "less": [s <= total for s in sums],
        "two-sided": [abs(s) >= abs(total) for s in sums],
    }[side]
    found = sign_flip_pvalue(np.array(values) * scale, side)  # type: ignore[arg-type]
    assert found == pytest.approx(np.mean(reached), rel=1e-9)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_enumeration_and_convolution_of_rounded_values_agree(values: list[float]) -> None:
    whole = np.rint(np.array(values) * 100)
    exact = sign_flip_test(whole)
    irregular = np.append(whole[whole != 0], [np.pi * 1e-7, 1e-7])
    by_sums = sign_flip_test(irregular)
    if (whole != 0).any():
        assert (exact.method, by_sums.method) == ("convolution", "enumeration")
        assert by_sums.pvalue <= exact.pvalue + 1e-12


def test_a_tail_far_below_rounding_error_keeps_its_digits() -> None:
    assert sign_flip_pvalue(np.ones(300)) == pytest.approx(0.5**300, rel=1e-9)
    assert sign_flip_pvalue(np.ones(200), "less") == 1.0


def test_values_that_are_nearly_steps_have_a_p_value_above_zero() -> None:
    assert sign_flip_pvalue([1e6, 1_000_001.00009]) == 0.25
    assert sign_flip_pvalue([1e6, -1_000_001.00009], "less") == 0.5


def test_few_real_values_are_enumerated_and_many_need_randomness() -> None:
    values = rng().normal(size=60)
    assert sign_flip_test(values[:40]).method == "enumeration"
    with pytest.raises(InputError, match="give rng"):
        sign_flip_test(values)
    drawn = sign_flip_test(values, rng=rng(), flips=999)
    assert (drawn.method, drawn.flips) == ("monte-carlo", 999)


def test_monte_carlo_is_close_to_the_exact_tail() -> None:
    values = rng(4).normal(size=36)
    exact = sign_flip_test(values)
    wide = np.concatenate([values, np.zeros(30), [1e-12] * 5])
    drawn = sign_flip_test(wide, rng=rng(5), flips=20_000)
    assert (exact.method, drawn.method) == ("enumeration", "monte-carlo")
    assert drawn.pvalue == pytest.approx(exact.pvalue, abs=0.015)


@pytest.mark.parametrize("kind", ["enumeration", "convolution", "monte-carlo", "near the ceiling"])
@pytest.mark.parametrize("side", ["greater", "two-sided"])
def test_sign_flip_pvalues_are_superuniform(kind: str, side: str) -> None:
    r = rng(6)
    p = []
    for _ in range(RUNS):
        if kind == "enumeration":
            values = r.standard_t(2, size=10)
        elif kind == "monte-carlo":
            values = r.standard_t(2, size=45)
        else:
            share = 0.3 if kind == "convolution" else 0.01
            values = (r.random(100) < share) * r.choice([-1.0, 1.0], 100)
        p.append(sign_flip_pvalue(values, side, rng=r, flips=99))  # type: ignore[arg-type]
    assert excesses(p) == []
    if kind == "enumeration" and side == "greater":
        # Exact: 2^10 equally likely arrangements, each level reached to the run's own error.
        assert np.mean(np.array(p) <= 0.25) == pytest.approx(0.25, abs=0.025)


@pytest.mark.parametrize("clusters", [6, 10])
def test_clusters_are_flipped_whole_and_flipping_items_is_rejected(clusters: int) -> None:
    r = rng(7)
    by_cluster, by_item = [], []
    for _ in range(2000):
        values_GM = r.normal(size=(clusters, 1)) + r.normal(size=(clusters, 12))
        by_cluster.append(sign_flip_pvalue(values_GM.sum(1)))
        by_item.append(broken.sign_flip_of_items(values_GM.ravel(), r))
    assert excesses(by_cluster) == []
    assert excesses(by_item) != []


def test_thirty_clusters_of_counts_are_flipped_exactly() -> None:
    r = rng(8)
    p = []
    for _ in range(2000):
        lean = r.choice([0.3, 0.7], 30)
        p.append(sign_flip_pvalue(2.0 * r.binomial(12, lean) - 12))
    assert excesses(p) == []


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(InputError, match="redrawn is empty"):
        permutation_pvalue(1.0, [])
    with pytest.raises(InputError, match="nan"):
        permutation_pvalue(float("nan"), [1.0])
    assert sign_flip_pvalue([0.0, 0.0]) == 1.0
