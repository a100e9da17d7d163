"""The one state machine: a back end, or a mutant of one, against the plain reference."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, Protocol

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.limits.reference import SECOND, Plain, overshoots

from stillhouse.limits import (
    Demand,
    Exceeded,
    Limit,
    Limiter,
    Reserved,
    Scope,
    Settled,
    Unknown,
)

START = 1_770_000_000 * SECOND  # 2026-02-02
LIMITS = (
    Limit.rolling("a", "tokens", 20, 10 * SECOND, burst=10),
    Limit.rolling("b", "tokens", 31, 7 * SECOND, burst=3),
    Limit.rolling("c", "requests", 7, 3 * SECOND, burst=4),
    Limit.rolling("d", "tokens", 10**14 + 7, 86_400 * SECOND + 1, burst=2 * 10**13 + 1),  # rounded
    Limit.rolling("shadowed", "tokens", 12, 5 * SECOND, burst=6, shadow=True),
    Limit.month("monthly", "money", 60),
    Limit.balance("prepaid", "money", 200),
    Limit.distinct("prompts", 4, 20 * SECOND),
    Limit.concurrency("open", 3, 15 * SECOND),
)
SCOPES = (Scope("account", "x"), Scope("campaign", "y"))
MONTH = 28 * 86_400 * SECOND
STEPS = st.one_of(
    st.integers(0, 3 * SECOND),
    st.integers(0, 3).map(lambda seconds: seconds * SECOND),
    st.sampled_from([5 * SECOND, 10 * SECOND, 21 * SECOND]),
)


class Subject(Protocol):
    """A back end under a clock that the machine sets."""

    limiter: Limiter
    debts: bool  # whether use above a reservation is tried

    def begin(self) -> None:
        """Start it, empty."""

    def call(self, work: Coroutine[Any, Any, Any], now: int) -> Any:
        """Run one call of the limiter when the true time is `now`."""

    def lose(self, now: int) -> str:
        """Crash, or lose the data, and come back: "closed" or "open" reservations, or "kept"."""

    def clock(self, now: int, lag: int) -> int:
        """What its clock shows when a caller's clock is `lag` behind."""

    def end(self) -> None:
        """Stop it."""


@st.composite
def demand_lists(draw: st.DrawFn) -> list[Demand]:
    chosen = draw(st.lists(st.sampled_from(LIMITS), min_size=1, max_size=5, unique=True))
    demands = []
    for limit in chosen:
        cost = draw(st.integers(0, min(limit.burst, 12)))
        if limit.name == "d":
            cost = draw(st.integers(0, limit.burst))
        if limit.kind in ("distinct", "concurrency"):
            cost = 1
        item = (
            draw(st.sampled_from(b"abcdef")).to_bytes(1, "big") if limit.kind == "distinct" else b""
        )
        demands.append(Demand(draw(st.sampled_from(SCOPES)), limit, cost, item))
    return demands


class Machine(RuleBasedStateMachine):
    """Every decision equals the reference's, and no interval ever holds more than its limit."""

    subject_factory: ClassVar[Any]
    safety_alone = False  # only that no more is admitted than may be: what mutants must break

    def __init__(self) -> None:
        super().__init__()
        self.subject: Subject = self.subject_factory()
        self.subject.begin()
        self.plain = Plain()
        self.now = self.limiter_now = START
        self.count = 0
        self.seen: list[bytes] = []
        self.indebted = False

    def teardown(self) -> None:
        self.subject.end()

    @initialize(lists=demand_lists())
    def first(self, lists: list[Demand]) -> None:
        self.reserve(lists, 0)

    @rule(passed=STEPS)
    def wait(self, passed: int) -> None:
        self.now += passed

    @rule(demands=demand_lists(), lag=st.sampled_from([0, 0, 0, SECOND, 30 * SECOND]))
    def reserve(self, demands: list[Demand], lag: int) -> None:
        name = self.name()
        told = self.subject.call(
            self.subject.limiter.reserve(name, demands, self.now - lag), self.now
        )
        self.compare(name, demands, told, lag)

    @rule(cost=st.integers(1, 10))
    def reserve_one(self, cost: int) -> None:
        self.reserve([Demand(SCOPES[0], LIMITS[0], cost)], 0)

    @rule(demands=demand_lists())
    def reserve_two_at_once(self, demands: list[Demand]) -> None:
        names = [self.name(), self.name()]

        async def both() -> list[Any]:
            reserve = self.subject.limiter.reserve
            return list(await asyncio.gather(*(reserve(n, demands, self.now) for n in names)))

        told = self.subject.call(both(), self.now)
        # Either may have been first.
        if isinstance(told[1], Reserved) and not isinstance(told[0], Reserved):
            names.reverse()
            told.reverse()
        for name, answer in zip(names, told, strict=True):
            self.compare(name, demands, answer)

    @rule(
        pick=st.integers(0, 2**16),
        part=st.sampled_from([0, 1, 3, 4]),
        over=st.sampled_from([0, 0, 0, 2]),
        missing=st.sampled_from([None, None, "tokens", "money"]),
        lag=st.sampled_from([0, 0, SECOND]),
    )
    def settle(self, pick: int, part: int, over: int, missing: str | None, lag: int) -> None:
        if not self.seen:
            return
        name = self.seen[pick % len(self.seen)]
        entry = self.plain.open.get(name, [])
        reserved = {d.limit.unit: d.cost for d, _ in entry}
        if not self.subject.debts:  # nor by another demand's cost of that unit
            reserved = {u: min(d.cost for d, _ in entry if d.limit.unit == u) for u in reserved}
        used = {unit: cost * part // 4 for unit, cost in reserved.items() if unit != missing}
        if over and part == 4 and self.subject.debts:
            used = {unit: cost + over for unit, cost in used.items()}
        self.settle_as(name, used, lag)

    @rule(pick=st.integers(0, 2**16), times=st.integers(1, 3))
    def settle_for_nothing(self, pick: int, times: int) -> None:
        if self.seen:
            name = self.seen[pick % len(self.seen)]
            for _ in range(times):
                self.settle_as(name, {"tokens": 0, "requests": 0, "money": 0}, 0)

    @rule(pick=st.integers(0, 2**16))
    def settle_newest(self, pick: int) -> None:
        if self.seen:
            self.settle_as(self.seen[-1 - pick % min(3, len(self.seen))], {}, 0)

    def settle_as(self, name: bytes, used: dict[str, int], lag: int) -> None:
        told = self.subject.call(self.subject.limiter.settle(name, used, self.now - lag), self.now)
        entry = self.plain.open.get(name, [])
        self.tick(lag)
        expected = self.plain.settle(name, used, self.limiter_now)
        if self.safety_alone:
            pass
        elif expected == "unknown":
            assert told == Unknown(name)
        else:
            assert isinstance(told, Settled)
            assert told.already == (expected == "already")
        if isinstance(told, Settled) and expected == "settled":
            excess = {
                d.limit.unit: used[d.limit.unit] - d.cost
                for d, _ in entry
                if used.get(d.limit.unit, 0) > d.cost
                and d.limit.unit not in ("concurrent", "prompts")
            }
            self.indebted = self.indebted or bool(excess)
            if self.safety_alone:
                return
            assert set(told.excess) == set(excess)

    @rule(chance=st.integers(0, 9))
    def lose(self, chance: int) -> None:
        if chance:
            return
        became = self.subject.lose(self.now)
        if became == "kept":
            return
        self.tick(0)
        self.settle_as(bytes(16), {}, 0)
        for charges in self.plain.charges.values():
            for charge in charges:
                # What was settled since an earlier loss is in the ledger as it was admitted.
                charge.at = charge.at if charge.admitted is None else charge.admitted
        for name, entry in list(self.plain.open.items()):
            for _, charge in entry:
                if became == "open":
                    charge.admitted = charge.at
                    charge.at = self.limiter_now
                if charge.ends is not None:
                    lease_us = LIMITS[-1].window_us
                    charge.ends = charge.at + lease_us if became == "open" else charge.at
            if became == "closed":
                del self.plain.open[name]
            else:  # shadow limits begin anew
                self.plain.open[name] = [pair for pair in entry if not pair[0].limit.shadow]
        self.plain.settled = set()
        if became == "closed":
            self.seen = []
        else:
            for scope, cell in list(self.plain.charges):
                if cell == "shadowed":
                    del self.plain.charges[scope, cell]

    @invariant()
    def no_interval_holds_more(self) -> None:
        if self.indebted:
            return
        for (_, cell), charges in self.plain.charges.items():
            for limit in LIMITS:
                if limit.name == cell and limit.kind == "rolling":
                    dated = [(c.at if c.admitted is None else c.admitted, c.cost) for c in charges]
                    assert not overshoots(limit, dated)

    def compare(self, name: bytes, demands: list[Demand], told: Any, lag: int = 0) -> None:
        assert isinstance(told, Reserved | Exceeded), told
        self.tick(lag)
        if self.safety_alone and isinstance(told, Exceeded):
            return
        short = self.plain.reserve(name, demands, self.limiter_now)
        assert (short is not None) == isinstance(told, Reserved), (told, short)
        if isinstance(told, Reserved):
            assert self.safety_alone or told.at_us == self.limiter_now
            assert list(told.would_refuse) == short
            self.seen.append(name)
        else:
            assert told.demand in demands

    def tick(self, lag: int) -> None:
        """The limiter's time: that of the clock it goes by, steps back held."""
        self.limiter_now = max(self.limiter_now, self.subject.clock(self.now, lag))

    def name(self) -> bytes:
        self.count += 1
        return self.count.to_bytes(16, "big")


SETTINGS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=False,
)
