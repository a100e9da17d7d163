"""Simulated schedules of requests against `limits.Memory`, checked against every interval.

Two kinds of schedule. A *hostile* one is some ten requests whose times, costs and durations sit at
the edges of its limits (gaps of nothing, of a whole window, of just what a cost needs to drain;
costs of 1, of the burst; bursts of 1 and of the amount less 1). A fifth of them also hold a month,
a balance, distinct prompts or leases. An *operated* one is a hundred requests of a usual service:
windows of a minute to 30 days, requests that take 5 s on average and use 10 to 100 % of what they
reserve, bursts set as docs/limits.md says, offered 0.5 to 3 times what the limit serves for good.

In both some requests report no usage, some are never settled, the callers' clock steps back and
forth, and in some the process dies (the limiter is durable there, opened again from its folder).

The oracle, for the ratio, is a cell of the same limit (same burst, same rate) in every scope that
is told at each admission what that request *will* be settled at, and charges that. It gets the same
requests at the same times, refuses what does not fit, and those are not offered again. So the ratio
is what is lost by having to hold reservations while requests run; no limiter that must be exact
without seeing the future reaches 1.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from stillhouse.exchanges import InputError
from stillhouse.limits import Demand, Limit, Memory, Reserved, Scope, Settled

FAST = next((p for p in (Path("/dev/shm"),) if p.is_dir()), None)  # noqa: S108 (no disk to wait for)
SECOND = 10**6
MINUTE, DAY = 60 * SECOND, 86_400 * SECOND
START = 1_770_000_000 * SECOND  # 2026-02-02
SCOPES = (Scope("account", "x"), Scope("account", "y"), Scope("campaign", "z"), Scope("global", ""))
FREE = {"tokens": 0, "requests": 0, "money": 0}


@dataclass(slots=True)
class Request:
    """One request of a schedule; all that happens to it is drawn beforehand."""

    at_us: int
    ends_us: int | None  # None: never settled
    demands: list[Demand]
    used: dict[str, int]  # as reported; a unit that is absent is paid at its reservation
    dies: bool = False  # the process dies while it is open
    clock_us: int = 0  # what the caller's clock shows at `at_us`
    admitted_us: int | None = None  # by the limiter's time, as are releases
    released_us: int | None = None

    def settled(self, demand: Demand) -> int:
        """What it ends up costing."""
        if self.dies or self.ends_us is None:
            return demand.cost
        return self.used.get(demand.limit.unit, demand.cost)


@dataclass(slots=True)
class Schedule:
    """Requests in the order of their times, steps of the clock, deaths of the process."""

    requests: list[Request]
    steps: list[tuple[int, int]] = field(default_factory=list)  # (true time, clock ahead from then)
    deaths: list[int] = field(default_factory=list)
    rated: bool = False  # compared with the oracle


@dataclass(slots=True)
class Sums:
    """Of a batch: counts, and what the interval of the ratio is made from."""

    schedules: int = 0
    requests: int = 0
    admitted: int = 0
    deaths: int = 0
    overshoots: int = 0
    rated: int = 0
    ours: float = 0.0  # sums over schedules of the share of the offered cost that was admitted
    oracle: float = 0.0
    ours_squared: float = 0.0
    oracle_squared: float = 0.0
    both: float = 0.0

    def add(self, ours: float, oracle: float) -> None:
        """Count one rated schedule."""
        self.rated += 1
        self.ours += ours
        self.oracle += oracle
        self.ours_squared += ours * ours
        self.oracle_squared += oracle * oracle
        self.both += ours * oracle


def batch(seed: int, schedules: int, kind: str, make: Callable[..., Memory] = Memory) -> Sums:
    """Draw, run and check `schedules` schedules of one kind; all follows from `seed`."""
    rng = random.Random(f"{kind} {seed}")
    draw = hostile(rng) if kind == "hostile" else operated(rng)
    sums = Sums()
    folder = Path(tempfile.mkdtemp(dir=FAST))
    try:
        for number in range(schedules):
            schedule = draw()
            sums.overshoots += run(schedule, folder / str(number), make)
            sums.schedules += 1
            sums.deaths += len(schedule.deaths)
            sums.requests += len(schedule.requests)
            sums.admitted += sum(one.admitted_us is not None for one in schedule.requests)
            if schedule.rated:
                offered = sum(one.settled(one.demands[0]) for one in schedule.requests) or 1
                ours = sum(
                    one.settled(one.demands[0])
                    for one in schedule.requests
                    if one.admitted_us is not None
                )
                sums.add(ours / offered, oracle(schedule.requests) / offered)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return sums


def run(schedule: Schedule, folder: Path, make: Callable[..., Memory] = Memory) -> int:
    """Put one schedule through a limiter; return how many intervals hold more than their limit."""
    # (time, what, which): settlements come first, but never before their own request.
    events: list[tuple[int, int, int]] = []
    for index, one in enumerate(schedule.requests):
        events.append((one.at_us, 2, index))
        if one.ends_us is not None:
            events.append((one.ends_us, 1 if one.ends_us > one.at_us else 3, index))
    events += [(at, 0, -1) for at in schedule.deaths]
    events.sort()
    steps = [*schedule.steps, (events[-1][0] + 1, 0)]
    ahead, step = 0, 0
    durable = bool(schedule.deaths)
    limiter = make(folder=folder) if durable else make()
    held = written = 0  # the limiter's time; what of it the ledger knows
    for at, what, index in events:
        while steps[step][0] <= at:
            ahead = steps[step][1]
            step += 1
        now = at + ahead
        if what == 0:
            limiter.close_now()
            limiter = make(folder=folder)
            if limiter.now_us < written:
                raise AssertionError(f"back at {limiter.now_us}, before {written}")
            held = limiter.now_us  # what it refused, later, is not written anywhere
            for one in schedule.requests:
                if one.dies and one.admitted_us is not None and one.released_us is None:
                    one.released_us = held
            continue
        one = schedule.requests[index]
        name = index.to_bytes(16, "big")
        held = max(held, now)
        if what == 2:
            one.clock_us = now
            told = limiter.reserve_now(name, one.demands, now)
            if type(told) is Reserved:
                if told.at_us != held:
                    raise AssertionError(f"dated {told.at_us}, not {held}")
                one.admitted_us = written = held
        else:
            found = limiter.settle_now(name, one.used, now)
            known = one.admitted_us is not None and not one.dies
            if known:
                one.released_us = written = held
            if (type(found) is Settled) != known:
                raise AssertionError(f"{found} for a request that was {known=}")
    limiter.close_now()
    if durable:
        shutil.rmtree(folder)
    return overshoots(
        (demand, one.admitted_us, one.settled(demand), one.released_us)
        for one in schedule.requests
        if one.admitted_us is not None
        for demand in one.demands
    )


def overshoots(charges: Iterable[tuple[Demand, int, int, int | None]]) -> int:
    """Count the intervals that hold more than their limit allows.

    `charges`: each demand admitted, when (rising), what it was settled at, and when a lease ended.
    Rolling limits: every closed interval of the window that ends at an admission. Else each
    calendar month, all of a balance, each epoch of distinct items, each begin of a lease.
    """
    cells: defaultdict[tuple[Scope, str], list[tuple[Demand, int, int, int | None]]]
    cells = defaultdict(list)
    for charge in charges:
        demand = charge[0]
        cells[demand.scope, demand.limit.cell].append(charge)
    found = 0
    for held in cells.values():
        limit = held[0][0].limit
        if limit.kind == "rolling":
            total = first = 0
            for _, at, cost, _ in held:
                total += cost
                while at - held[first][1] > limit.window_us:
                    total -= held[first][2]
                    first += 1
                found += total > limit.amount
        elif limit.kind == "concurrency":
            for index, (_, at, _, _) in enumerate(held):
                found += sum(_leased(one, at) for one in held[: index + 1]) > limit.amount
        else:
            found += _over_period(limit, held)
    return found


def _leased(charge: tuple[Demand, int, int, int | None], at_us: int) -> bool:
    demand, begun_us, _, ended_us = charge
    until_us = begun_us + demand.limit.window_us
    return (until_us if ended_us is None else min(ended_us, until_us)) > at_us


def _over_period(limit: Limit, held: list[tuple[Demand, int, int, int | None]]) -> int:
    totals: defaultdict[int, int] = defaultdict(int)
    items: set[tuple[int, bytes]] = set()
    for demand, at, cost, _ in held:
        if limit.kind == "distinct":
            epoch = at // limit.window_us
            totals[epoch] += (epoch, demand.item) not in items
            items.add((epoch, demand.item))
        else:
            totals[0 if limit.kind == "balance" else _month(at)] += cost
    return sum(total > limit.amount for total in totals.values())


def _month(at_us: int) -> int:
    """Which month (UTC): found by the standard library, not by what is under test."""
    import datetime

    date = datetime.datetime.fromtimestamp(at_us // SECOND, datetime.UTC)
    return date.year * 12 + date.month


def oracle(requests: list[Request]) -> int:
    """What a cell would admit that knew each settled cost at admission (see above)."""
    levels: dict[tuple[Scope, str], tuple[int, int]] = {}
    admitted = now = 0
    for one in requests:
        now = max(now, one.clock_us)
        after = []
        for demand in one.demands:
            scope, limit, _, _ = demand
            level, at = levels.get((scope, limit.cell), (0, now))
            level = max(0, level - (now - at) * limit.drain) + one.settled(demand) * limit.grain
            if level > limit.capacity:
                break
            after.append(((scope, limit.cell), (level, now)))
        else:
            levels.update(after)
            admitted += one.settled(one.demands[0])
    return admitted


def hostile(rng: random.Random) -> Callable[[], Schedule]:
    """A drawer of hostile schedules, from limits drawn once."""
    pools = [[_edgy_limit(rng, decade, n) for n in range(24)] for decade in range(3, 13)]

    def draw() -> Schedule:
        limits = rng.sample(rng.choice(pools), rng.choice((1, 1, 2, 3)))
        pairs = [(rng.choice(SCOPES), limit) for limit in limits]
        other = rng.random() < 0.2
        window = limits[0].window_us
        if other:
            pairs.append((SCOPES[0], _other_limit(rng, window)))
        tight = min(limits, key=lambda limit: limit.burst)
        now, requests = START + rng.randrange(window), []
        for _ in range(rng.randint(4, 16)):
            cost = rng.choice((1, tight.burst, tight.burst, max(1, tight.burst // 2),
                               rng.randint(1, tight.burst)))  # fmt: skip
            drained = -(-cost * tight.grain // tight.drain)
            now += rng.choice((0, 0, 1, drained - 1, drained, drained, rng.randrange(window),
                               rng.randrange(window) // 8, window, window + 1))  # fmt: skip
            takes = rng.choice(
                (0, 1, drained, drained + 1, rng.randrange(window), rng.randrange(2 * window))
            )
            requests.append(_request(rng, now, takes, cost, pairs))
        schedule = Schedule(requests, rated=not other)
        _disturb(rng, schedule, window, deaths=0.05)
        return schedule

    return draw


def operated(rng: random.Random) -> Callable[[], Schedule]:
    """A drawer of operated schedules."""

    def draw() -> Schedule:
        window = int(MINUTE * (30 * DAY / MINUTE) ** rng.random())
        part = rng.uniform(0.1, 1.0)  # used of what is reserved, on average
        lasts = 5 * SECOND
        # As docs/limits.md says: half of the amount, or three times what is reserved but not used
        # by the requests in flight where that is more; and at least five reservations.
        held = 3 * lasts / window * (1 / part - 1)
        amount = rng.randint(10**5, 10**8)
        burst = int(amount * max(0.5, held / (1 + held)))
        cost = int(burst / rng.uniform(5, 40))
        rate = (amount - burst) / window
        limit = Limit.rolling("account", "tokens", amount, window, burst=burst)
        wide = Limit.rolling("all", "tokens", 10 * amount, window)
        pairs = [(SCOPES[0], limit), (SCOPES[3], wide)]
        gap = part * cost / rate / rng.uniform(0.5, 3.0)
        now, requests = START + rng.randrange(window), []
        for _ in range(100):
            now += int(rng.expovariate(1 / gap))
            takes = min(int(rng.expovariate(1 / lasts)), MINUTE)
            requests.append(_request(rng, now, takes, cost, pairs, part))
        schedule = Schedule(requests, rated=True)
        _disturb(rng, schedule, window // 50, deaths=0.02)
        return schedule

    return draw


def _edgy_limit(rng: random.Random, decade: int, number: int) -> Limit:
    while True:
        amount = rng.choice((rng.randint(2, 12), rng.randint(2, 500), rng.randint(2, 10**12)))
        burst = rng.choice((1, amount // 2, amount - 1, rng.randint(1, amount - 1)))
        window = rng.randrange(10**decade, 10 ** (decade + 1))
        unit = rng.choice(("tokens", "tokens", "tokens", "requests", "money"))
        try:
            return Limit.rolling(f"{decade}-{number}", unit, amount, window, burst=max(1, burst))
        except InputError:
            continue


def _other_limit(rng: random.Random, window: int) -> Limit:
    return rng.choice((
        Limit.month("month", "money", rng.randint(2, 40)),
        Limit.balance("balance", "money", rng.randint(2, 40)),
        Limit.distinct("prompts", rng.randint(1, 4), window),
        Limit.concurrency("open", rng.randint(1, 4), window),
    ))  # fmt: skip


def _request(
    rng: random.Random,
    now: int,
    takes: int,
    cost: int,
    pairs: list[tuple[Scope, Limit]],
    part: float | None = None,
) -> Request:
    demands, used = [], {}
    share = rng.choice((0.0, 0.25, 1.0, rng.random())) if part is None else _near(rng, part)
    for scope, limit in pairs:
        own = 1 if limit.unit == "requests" else min(cost, limit.burst)
        item = bytes([rng.randrange(6)]) if limit.kind == "distinct" else b""
        demands.append(Demand(scope, limit, own, item))
        used[limit.unit] = min(used.get(limit.unit, own), int(own * share))
    fate = rng.random()
    if fate < 0.02:
        used = dict(FREE)  # the upstream never started
    elif fate < 0.05:
        used = {}  # no usage came
    return Request(now, None if fate > 0.99 else now + takes, demands, used)


def _near(rng: random.Random, part: float) -> float:
    return min(1.0, max(0.0, rng.gauss(part, part / 4)))


def _disturb(rng: random.Random, schedule: Schedule, window: int, *, deaths: float) -> None:
    """Add steps of the clock and deaths of the process; say which requests die with it."""
    requests = schedule.requests
    if rng.random() < 0.25:
        for at in sorted(rng.choice(requests).at_us for _ in range(rng.randint(1, 3))):
            ahead = rng.choice((0, -1, -window, window // 3, rng.randint(-window, window)))
            schedule.steps.append((at, ahead))
    if rng.random() < deaths:
        first, last = requests[0].at_us, requests[-1].at_us
        for _ in range(rng.randint(1, 2)):
            schedule.deaths.append(rng.randint(first, last + 1))
        schedule.deaths.sort()
        for one in requests:
            ends = one.ends_us
            one.dies = any(
                one.at_us < at and (ends is None or at <= ends) for at in schedule.deaths
            )
