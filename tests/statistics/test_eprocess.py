"""Evidence by betting may be looked at whenever one likes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.statistics import broken
from tests.statistics.coverage_check import coverage_shortfalls
from tests.statistics.size_check import excesses, rejects_too_often

from stillhouse.exchanges.errors import InputError
from stillhouse.statistics import BettingEProcess, betting_interval, betting_log_evalues

RUNS, LENGTH = 4000, 400
NULLS = {
    "coin 1/4": (0.25, lambda r, shape: (r.random(shape) < 0.25).astype(float)),
    "near the ceiling": (0.985, lambda r, shape: (r.random(shape) < 0.985).astype(float)),
    "rare": (0.02, lambda r, shape: (r.random(shape) < 0.02).astype(float)),
    "skewed": (0.1, lambda r, shape: r.beta(0.2, 1.8, shape)),
}


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("kind", list(NULLS))
def test_looking_after_every_value_keeps_the_level(kind: str, alternative: str) -> None:
    null_mean, draw = NULLS[kind]
    x_RT = draw(np.random.default_rng(1), (RUNS, LENGTH))
    log_e = betting_log_evalues(x_RT, null_mean, alternative)  # type: ignore[arg-type]
    best = log_e.max(1)
    assert excesses(np.exp(-np.maximum(best, 0))) == []
    # Stopping when it looks good, at the latest at the end: the e-value still has mean <= 1.
    reached = log_e >= math.log(5)
    stop = np.where(reached.any(1), reached.argmax(1), LENGTH - 1)
    stopped = np.exp(log_e[np.arange(RUNS), stop])
    assert stopped.mean() <= 1 + 3.1 * stopped.std() / np.sqrt(RUNS)


def test_values_that_depend_on_the_past_are_allowed() -> None:
    """Only the conditional mean is fixed: here each value's spread follows the one before."""
    rng = np.random.default_rng(2)
    x_RT = np.empty((RUNS, 200))
    wide = np.ones(RUNS)
    for t in range(200):
        x_RT[:, t] = 0.5 + rng.choice([-0.5, 0.5], RUNS) * wide
        wide = np.where(x_RT[:, t] > 0.5, 0.2, 1.0)
    best = betting_log_evalues(x_RT, 0.5).max(1)
    assert not rejects_too_often(best >= math.log(20), 0.05)


def test_the_check_rejects_a_bet_that_looks_ahead() -> None:
    x_RT = NULLS["coin 1/4"][1](np.random.default_rng(1), (RUNS, LENGTH))
    best = broken.log_evalues_looking_ahead(x_RT, 0.25).max(1)
    assert excesses(np.exp(-np.maximum(best, 0))) != []


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=40),
    st.floats(0.02, 0.98),
    st.sampled_from(["greater", "less", "two-sided"]),
)
def test_one_value_at_a_time_equals_all_at_once(x: list[float], null: float, side: str) -> None:
    state, peak = BettingEProcess.start(null, side), 0.0  # type: ignore[arg-type]
    for value, expected in zip(x, betting_log_evalues(x, null, side), strict=True):  # type: ignore[arg-type]
        state = state.update(value)
        peak = max(peak, float(expected))
        assert state.log_evalue == pytest.approx(float(expected), abs=1e-9)
        assert state.pvalue == pytest.approx(math.exp(-peak), rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.floats(0.05, 0.95))
def test_a_bet_never_uses_the_value_it_is_placed_on(x: list[float], null: float) -> None:
    """The last factor is linear in the last value: known from two of its values."""
    logs = [betting_log_evalues([*x[:-1], last], null)[-1] for last in (0.0, 1.0, 0.5)]
    at_0, at_1, middle = np.exp(logs)
    assert middle == pytest.approx((at_0 + at_1) / 2, rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.05, 0.95))
def test_less_mirrors_greater(x: list[float], null: float) -> None:
    mirrored = betting_log_evalues(1 - np.array(x), 1 - null, "less")
    assert mirrored == pytest.approx(betting_log_evalues(x, null), abs=1e-9)


def test_evidence_grows_when_the_null_is_false() -> None:
    x = np.random.default_rng(3).random((200, 3000)) < 0.30
    log_e = betting_log_evalues(x, 0.25)
    first = np.where((log_e >= math.log(20)).any(1), (log_e >= math.log(20)).argmax(1), 3000)
    assert np.median(first) < 1000


def test_the_interval_covers_at_a_time_chosen_by_looking() -> None:
    """Stop at the first time in a list at which 0.3 looks excluded: the worst one can do."""
    rng = np.random.default_rng(4)
    low, high, naive_low, naive_high = [], [], [], []
    for _ in range(2000):
        x = (rng.random(300) < 0.3).astype(float)
        ends = [betting_interval(x[:t], 0.95) for t in (20, 50, 100, 300)]
        worst = min(ends, key=lambda i: min(i.high - 0.3, 0.3 - i.low))
        low.append(worst.low)
        high.append(worst.high)
        cuts = [x[:t] for t in (20, 50, 100, 300)]
        plain = [(c.mean(), 1.96 * c.std() / np.sqrt(len(c))) for c in cuts]
        centre, reach = max(plain, key=lambda m: abs(m[0] - 0.3) - m[1])
        naive_low.append(centre - reach)
        naive_high.append(centre + reach)
    assert coverage_shortfalls(np.array(low), np.array(high), 0.3, 0.95) == []
    assert coverage_shortfalls(np.array(naive_low), np.array(naive_high), 0.3, 0.95) != []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.sampled_from([0.8, 0.95, 0.999]))
def test_the_interval_lies_in_the_range_and_around_the_mean(x: list[float], level: float) -> None:
    interval = betting_interval(x, level)
    assert 0 <= interval.low <= interval.estimate + 1e-9
    assert interval.estimate - 1e-9 <= interval.high <= 1


def test_values_outside_the_range_are_refused() -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        BettingEProcess.start(0.5).update(1.5)
    with pytest.raises(InputError, match="0 to 1"):
        betting_log_evalues([0.5, 2.0], 0.5)
    with pytest.raises(InputError, match="null mean"):
        BettingEProcess.start(1.0)
    with pytest.raises(InputError, match="alternative"):
        BettingEProcess.start(0.5, "bigger")  # type: ignore[arg-type]
