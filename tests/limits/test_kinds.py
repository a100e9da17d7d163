"""What each kind of limit means, the same on both back ends."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
from tests.limits.machine import START
from tests.limits.reference import SECOND, month_end
from tests.limits.servers import RedisServer
from tests.limits.test_machine_memory import Durable
from tests.limits.test_machine_shared import SET_TIME, TIME, Monotonic, OnRedis

from stillhouse.limits import Demand, Exceeded, Limit, Reserved, Scope, Settled, shared

ACCOUNT, OTHER, CAMPAIGN = Scope("account", "x"), Scope("account", "y"), Scope("campaign", "c")
HOUR = 3600 * SECOND


class Books:
    """A back end with a clock of the test's own."""

    def __init__(self, subject: Any):
        self.subject = subject
        self.now = START
        self.count = 0

    def reserve(self, *demands: Demand) -> Any:
        self.count += 1
        self.last = self.count.to_bytes(16, "big")
        work = self.subject.limiter.reserve(self.last, demands, self.now)
        return self.subject.call(work, self.now)

    def settle(self, name: bytes, **used: int) -> Any:
        return self.subject.call(self.subject.limiter.settle(name, used, self.now), self.now)

    def admits(self, *demands: Demand) -> bool:
        return isinstance(self.reserve(*demands), Reserved)

    def crash(self) -> None:
        self.subject.lose(self.now)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path_factory.mktemp("redis"))
    yield started
    started.kill()


@pytest.fixture(params=["memory", "redis"])
def books(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    subject: Durable | OnRedis = Durable()
    if request.param == "redis":
        monkeypatch.setattr(shared, "SCRIPT", shared.SCRIPT.replace(TIME, SET_TIME))
        monkeypatch.setattr(shared, "time", Monotonic)
        subject = OnRedis(request.getfixturevalue("server"), loses=True)
    subject.begin()
    yield Books(subject)
    subject.end()


def test_a_shadow_limit_refuses_nothing_and_says_what_it_would_refuse(books: Books) -> None:
    shadow = Demand(ACCOUNT, Limit.rolling("s", "requests", 4, HOUR, burst=2, shadow=True))
    real = Demand(ACCOUNT, Limit.rolling("r", "requests", 100, HOUR))
    told = [books.reserve(shadow, real) for _ in range(4)]
    assert all(isinstance(one, Reserved) for one in told)
    assert [one.would_refuse for one in told] == [(), (), (shadow,), (shadow,)]


def test_who_asks_under_a_lower_limit_and_is_refused_slows_nobody(books: Books) -> None:
    """An organisation whose accounts have tiers of their own, which all ask all the time."""
    low = Demand(ACCOUNT, Limit.rolling("r", "requests", 20, HOUR, burst=5))
    high = Demand(ACCOUNT, Limit.rolling("r", "requests", 200, HOUR, burst=50))
    admitted = {low: 0, high: 0}
    for turn in range(1440):
        books.now += 5 * SECOND
        demand = (low, high)[turn % 2]
        admitted[demand] += books.admits(demand)
    assert admitted[low] <= 5
    assert 345 <= sum(admitted.values()) <= 350  # 50 at once and 150 an hour


def test_what_drains_between_two_that_take_turns_is_not_rounded_away(books: Books) -> None:
    limits = [Limit.rolling("r", "requests", 2 * rate, HOUR, burst=rate) for rate in (10, 12)]
    for turn in range(30):  # 15 an hour for two hours: eight more than drain
        assert books.admits(Demand(ACCOUNT, limits[turn % 2]))
        books.now += 240 * SECOND


def test_a_cell_goes_from_one_limit_to_another_and_loses_nothing(books: Books) -> None:
    """It drains at the rate of whoever was admitted last, against fractions."""
    generator = random.Random(5)
    limits = [
        Limit.rolling("r", "tokens", 20_011, 10 * SECOND, burst=9_973),
        Limit.rolling("r", "tokens", 50_000, 7 * SECOND + 1, burst=30_011),
        Limit.rolling("r", "tokens", 10**14 + 7, 86_400 * SECOND + 1, burst=2 * 10**13 + 1),
    ]
    level, rate, then, admitted = Fraction(0), Fraction(0), books.now, 0
    for _ in range(600):
        books.now += generator.randrange(2 * SECOND)
        limit = generator.choices(limits, [10, 10, 1])[0]
        cost = generator.randrange(1, min(limit.burst, 10_000))
        level, then = max(Fraction(0), level - rate * (books.now - then)), books.now
        fits = level + cost <= limit.burst
        assert books.admits(Demand(ACCOUNT, limit, cost)) == fits
        if fits:
            used = generator.randrange(cost // 2, cost + 1)
            books.settle(books.last, tokens=used)
            level, rate = level + used, Fraction(limit.drain, limit.grain)
            admitted += 1
    assert 150 < admitted < 550


def test_a_calendar_month_begins_anew_and_takes_no_refund_of_the_last_one(books: Books) -> None:
    money = Demand(ACCOUNT, Limit.month("m", "money", 10), 10)
    assert books.admits(money)
    first = books.last
    assert not books.admits(money._replace(cost=1))
    books.now = month_end(books.now) - 1
    refused = books.reserve(money)
    assert refused.retry_after_us == 1
    books.now += 1
    assert books.admits(money)
    books.settle(first, money=0)
    assert not books.admits(money._replace(cost=1))


def test_a_refund_within_the_month_can_be_spent(books: Books) -> None:
    money = Demand(ACCOUNT, Limit.month("m", "money", 10), 10)
    assert books.admits(money)
    books.settle(books.last, money=3)
    assert not books.admits(money._replace(cost=8))
    assert books.admits(money._replace(cost=7))


def test_a_prepaid_balance_is_never_refilled_but_by_paying(books: Books) -> None:
    money = Demand(ACCOUNT, Limit.balance("b", "money", 10), 6)
    assert books.admits(money)
    refused = books.reserve(money)
    assert isinstance(refused, Exceeded)
    assert refused.retry_after_us is None
    books.now += 400 * 24 * HOUR
    assert not books.admits(money)
    assert books.admits(money._replace(limit=Limit.balance("b", "money", 12)))


def test_distinct_prompts_count_once_an_epoch(books: Books) -> None:
    limit = Limit.distinct("d", 2, HOUR)
    books.now -= books.now % HOUR

    def asks(item: bytes) -> bool:
        return books.admits(Demand(ACCOUNT, limit, 1, item))

    assert [asks(item) for item in (b"a", b"a", b"b", b"a", b"c")] == [True] * 4 + [False]
    books.settle(books.last, prompts=0)
    assert not asks(b"c")
    books.now += HOUR
    assert [asks(item) for item in (b"c", b"d", b"a")] == [True, True, False]


def test_leases_end_by_settling_or_by_themselves(books: Books) -> None:
    lease = Demand(ACCOUNT, Limit.concurrency("c", 2, HOUR))
    assert books.admits(lease)
    first = books.last
    assert books.admits(lease)
    assert not books.admits(lease)
    books.settle(first)
    assert books.admits(lease)
    books.now += HOUR - 1
    assert not books.admits(lease)
    books.now += 1
    assert books.admits(lease)


def test_leases_come_back_after_a_crash_and_budgets_do_not(books: Books) -> None:
    lease = Demand(ACCOUNT, Limit.concurrency("c", 1, HOUR))
    budget = Demand(ACCOUNT, Limit.balance("b", "money", 10), 10)
    day = Demand(ACCOUNT, Limit.rolling("r", "tokens", 20, 24 * HOUR, burst=10), 10)
    assert books.admits(lease, budget, day)
    books.crash()
    # A store cannot know whether the process that holds the lease lives: it ends by itself.
    books.now += HOUR
    assert books.admits(lease)
    assert not books.admits(budget._replace(cost=1))
    assert not books.admits(day)


def test_all_scopes_or_none(books: Books) -> None:
    wide = Limit.rolling("w", "requests", 4, HOUR, burst=2)
    narrow = Limit.rolling("n", "requests", 3, HOUR, burst=1)
    assert books.admits(Demand(ACCOUNT, wide), Demand(CAMPAIGN, narrow))
    assert not books.admits(Demand(ACCOUNT, wide), Demand(CAMPAIGN, narrow))
    assert books.admits(Demand(ACCOUNT, wide)), "the refusal had charged the account"
    assert not books.admits(Demand(ACCOUNT, wide))


def test_two_scopes_do_not_share_a_cell(books: Books) -> None:
    limit = Limit.rolling("l", "requests", 2, HOUR, burst=1)
    assert [books.admits(Demand(scope, limit)) for scope in (ACCOUNT, OTHER, ACCOUNT)] == [
        True,
        True,
        False,
    ]


def test_a_refusal_by_a_hidden_scope_tells_nothing_of_it(books: Books) -> None:
    """Whatever refuses, and for however long, a client is told the same seconds."""
    own = Demand(ACCOUNT, Limit.rolling("own", "tokens", 100, 60 * SECOND, burst=50), 10)
    shown = set()
    for name, window in (("a", 60 * SECOND), ("b", HOUR), ("c", 24 * HOUR)):
        hidden = Demand(CAMPAIGN, Limit.rolling(name, "tokens", 20, window, burst=10), 10)
        assert books.admits(hidden)
        refused = books.reserve(own, hidden)
        assert isinstance(refused, Exceeded)
        assert not refused.public
        shown.add(refused.retry_after_s)
    assert shown == {12}  # what its own ten need at 50 a minute


def test_headers_are_worked_out_from_public_scopes_alone(books: Books) -> None:
    own = Demand(ACCOUNT, Limit.rolling("own", "requests", 100, HOUR, burst=50))
    hidden = [
        Demand(Scope(kind, "z"), Limit.rolling(f"h-{kind}", "requests", 10, HOUR, burst=5))
        for kind in ("address", "campaign", "end_user", "model", "global")
    ]
    told = books.reserve(own, *hidden)
    assert [reading.demand for reading in told.readings] == [own]
    assert told.readings[0].remaining == 49


def test_a_step_back_of_the_clock_gives_nothing_back(books: Books) -> None:
    limit = Demand(ACCOUNT, Limit.rolling("l", "requests", 2, HOUR, burst=1))
    assert books.admits(limit)
    began = books.now
    books.now -= 30 * 24 * HOUR
    told = books.reserve(limit._replace(scope=OTHER))
    assert told.at_us == began
    assert not books.admits(limit)
    books.now = began + HOUR - 1
    assert not books.admits(limit)
    books.now += 1
    assert books.admits(limit)


def test_a_settlement_that_comes_twice_counts_once(books: Books) -> None:
    money = Demand(ACCOUNT, Limit.balance("b", "money", 10), 5)
    assert books.admits(money)
    name = books.last
    assert books.settle(name, money=2) == Settled(already=False)
    assert books.settle(name, money=0) == Settled(already=True)
    assert books.admits(money._replace(cost=8))
    assert not books.admits(money._replace(cost=1))


def test_missing_usage_is_paid_whole(books: Books) -> None:
    money = Demand(ACCOUNT, Limit.balance("b", "money", 10), 10)
    assert books.admits(money)
    books.settle(books.last, tokens=0)
    assert not books.admits(money._replace(cost=1))


def test_use_above_a_reservation_is_told_and_owed(books: Books) -> None:
    money = Demand(ACCOUNT, Limit.balance("b", "money", 10), 4)
    assert books.admits(money)
    assert books.settle(books.last, money=9).excess == {"money": 5}
    assert not books.admits(money._replace(cost=2))
    assert books.admits(money._replace(cost=1))


def test_an_identifier_in_use_is_not_taken_again(books: Books) -> None:
    money = Demand(ACCOUNT, Limit.balance("b", "money", 10), 4)
    assert books.admits(money)
    books.count -= 1
    assert not isinstance(books.reserve(money), Reserved)
    assert books.admits(money)
    assert not books.admits(money)
