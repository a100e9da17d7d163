"""The schedules of the benchmark: clean on what is shipped, and they catch what is not exact."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.gateways import killed, schedules, simulated
from benchmarks.gateways.simulated import SCOPES, SECOND, START, Request, Schedule
from tests.limits.servers import RedisServer
from tests.limits.test_machine_memory import (
    BurstOfTheLimit,
    FixedWindow,
    LocalClock,
    MissingUsageRefunds,
    NaiveRefund,
)

from stillhouse.limits import Demand, Limit, cells, rebuilding

MUTANT_CELLS = [BurstOfTheLimit, FixedWindow]


@pytest.mark.parametrize(("kind", "count"), [("hostile", 600), ("operated", 40)])
def test_no_interval_of_any_schedule_holds_more_than_its_limit(kind: str, count: int) -> None:
    sums = simulated.batch(1, count, kind)
    assert sums.schedules == count
    assert sums.admitted > sums.requests // 3
    assert kind == "operated" or sums.deaths > 0
    assert sums.overshoots == 0


@pytest.mark.parametrize("mutant", MUTANT_CELLS, ids=lambda mutant: mutant.__name__)
def test_schedules_catch_a_cell_that_is_not_exact(
    mutant: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cells.CELLS, "rolling", mutant)
    assert simulated.batch(1, 3000, "hostile").overshoots > 0


def test_schedules_catch_a_limiter_that_refunds_where_usage_is_missing() -> None:
    assert simulated.batch(1, 2000, "hostile", MissingUsageRefunds).overshoots > 0


def test_a_schedule_catches_a_refund_of_what_has_drained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rare among drawn ones: long open, drained meanwhile, unused; what came since is erased."""
    limit = Limit.rolling("l", "tokens", 20, 10 * SECOND, burst=19)
    drained = 190 * SECOND

    def schedule() -> Schedule:
        def request(at: int, ends: int, used: int) -> Request:
            demands = [Demand(SCOPES[0], limit, 19)]
            return Request(START + at, START + ends, demands, {"tokens": used})

        return Schedule(
            [
                request(0, drained + 1, 0),
                request(drained, drained + 9, 19),
                request(drained + 2, drained + 9, 19),
            ]
        )

    assert simulated.run(schedule(), tmp_path) == 0
    monkeypatch.setitem(cells.CELLS, "rolling", NaiveRefund)
    assert simulated.run(schedule(), tmp_path) > 0


def test_schedules_catch_a_limiter_that_follows_the_callers_clock() -> None:
    with pytest.raises(AssertionError, match="dated"):
        simulated.batch(1, 200, "hostile", LocalClock)


def test_the_oracle_admits_at_least_what_is_admitted_and_hardly_more() -> None:
    sums = simulated.batch(2, 60, "operated")
    assert sums.rated == 60
    assert 0.95 < sums.ours / sums.oracle <= 1.0


def test_the_ratio_is_one_of_means_with_its_interval() -> None:
    kept = {
        ("operated", n): {
            "rated": 2, "ours": 1.8, "oracle": 2.0,
            "ours_squared": 1.0 + 0.64, "oracle_squared": 2.0, "both": 1.8,
        }
        for n in range(50)
    }  # fmt: skip
    value, half = schedules.ratio(kept, "operated")
    assert value == pytest.approx(0.9)
    # Residuals of 0.1 either way, a hundred of them, against a mean of one.
    assert half == pytest.approx(1.96 * 0.1 / 10, rel=0.01)


def test_real_processes_that_are_killed_never_exceed_a_limit(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    RedisServer(tmp_path_factory.mktemp("probe")).kill()  # skips where there is none
    sums = killed.batch(7, 2)
    assert sums.schedules == 2
    assert sums.kills >= 2
    assert sums.admitted > 0
    assert sums.overshoots == 0


def test_a_store_rebuilt_from_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same schedules where a loss of Redis is answered by empty cells."""
    monkeypatch.setattr(rebuilding, "read_ledgers", lambda root: iter(()))
    monkeypatch.setattr(
        killed, "disturbances", lambda *a, **k: [("flush", at, 0) for at in (0.4, 0.6, 0.8)]
    )
    monkeypatch.setattr(killed, "LASTS_S", 1.2)
    assert killed.batch(7, 2).overshoots > 0
