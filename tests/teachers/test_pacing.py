import datetime
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.teachers.pacing import AdaptiveLimit, Backoff, parse_retry_after

NOW = datetime.datetime(2026, 11, 23, 12, 0, 0, tzinfo=datetime.UTC)


def simulate(
    capacity_per_s: float,
    latency_s: float,
    seconds: float,
    *,
    refused: float = 0.0,
    shed: bool = False,
    noise: float = 0.0,
    seed: int = 1,
) -> list[tuple[int, float]]:
    """(limit, goodput per second) by tenths of a second of a server with a service rate.

    Above its capacity it either queues (latency grows) or, with `shed`, refuses the rest.
    """
    limit = AdaptiveLimit(start=2, highest=512)
    rng = random.Random(seed)
    now_s, history = 0.0, []
    while now_s < seconds:
        speed = rng.lognormvariate(0, noise) if noise else 1.0
        offered = limit.limit / latency_s * 0.1 * speed
        served = min(offered, capacity_per_s * 0.1 * speed)
        answers = int(offered if shed else served)
        good = 0
        for i in range(answers):
            turned_away = i >= served or rng.random() < refused
            good += not turned_away
            at_us = int((now_s + 0.1 * (i + 1) / answers) * 1e6)
            limit.note(refused=turned_away, now_us=at_us)
        now_s += 0.1
        history.append((limit.limit, good * 10))
    return history


def test_the_limit_grows_until_the_server_gives_no_more():
    history = simulate(2_000, 0.05, 20)
    assert history[-1][1] >= 0.9 * 2_000
    assert history[-1][0] <= 300


@pytest.mark.parametrize("seed", range(5))
def test_a_noisy_machine_does_not_keep_the_limit_low(seed):
    history = simulate(2_000, 0.02, 20, refused=0.05, noise=0.3, seed=seed)
    late = history[50:]
    assert sum(limit >= 40 for limit, _ in late) >= 0.8 * len(late)


def test_refusals_at_random_do_not_throttle_the_run():
    history = simulate(2_000, 0.05, 20, refused=0.05)
    assert sum(good for _, good in history[50:]) / len(history[50:]) >= 0.85 * 2_000


def test_a_server_that_sheds_load_is_asked_for_about_what_it_takes():
    history = simulate(200, 0.1, 60, shed=True)
    late = history[300:]
    assert sum(good for _, good in late) / len(late) >= 0.75 * 200
    assert max(limit for limit, _ in late) <= 60


def test_the_limit_stays_between_one_and_the_highest():
    limit = AdaptiveLimit(start=8, highest=16)
    for now_us in range(2_000):
        limit.note(refused=now_us % 3 != 0, now_us=now_us * 5_000)
        assert 1 <= limit.limit <= 16
    assert limit.limit <= 2


@given(st.integers(1, 100), st.none() | st.integers(0, 10**9), st.integers(0, 99))
def test_a_wait_is_never_shorter_than_asked_for_nor_longer_than_the_ceiling(attempt, asked, seed):
    backoff = Backoff(base_us=1_000, highest_us=50_000)
    wait_us = backoff.wait_us(attempt, asked, random.Random(seed))
    assert (asked or 0) <= wait_us <= (asked or 0) + 50_000


def test_waits_are_jittered_over_the_whole_range():
    rng = random.Random(0)
    waits = [Backoff().wait_us(1, None, rng) for _ in range(400)]
    assert min(waits) < 5_000
    assert max(waits) > 95_000


@pytest.mark.parametrize(
    ("header", "expected_us"),
    [
        (None, None),
        ("7", 7_000_000),
        ("0.5", 500_000),
        ("0", 0),
        ("-3", 0),
        ("nan", 0),
        ("1e99", 3_600_000_000),
        ("Mon, 23 Nov 2026 12:00:09 GMT", 9_000_000),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header, expected_us):
    assert parse_retry_after(header, NOW) == expected_us


@given(st.text(max_size=40))
def test_any_retry_after_is_survived(header):
    wait_us = parse_retry_after(header, NOW)
    assert wait_us is None or 0 <= wait_us <= 3_600_000_000
