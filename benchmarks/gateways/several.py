"""Four gateways on one Redis and one PostgreSQL against four that keep everything themselves.

All eight processes are pinned to one core; four are loaded at a time, each by its own wrk, in turns
for several rounds. nginx as the model, the load, Redis and PostgreSQL have the other core, as they
would have other machines. `redis_postgres_rps_over_embedded` is the mean over rounds of the ratio
of requests a second within a round, its interval Student's.

    python -m benchmarks.gateways.several [--smoke]
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import statistics
from pathlib import Path

import scipy.stats

from benchmarks.gateways import rig
from benchmarks.gateways.part import Part, fill, part, processes, servers, write

PROCESSES, CONNECTIONS = 4, 8
ROUNDS, SECONDS, ACCOUNTS = 8, 6, 1000


def loaded(folder: Path, ports: list[int], keys: list[Path], seconds: float) -> float:
    """Load every process at once; return requests a second, all together."""
    with concurrent.futures.ThreadPoolExecutor(len(ports)) as pool:
        seen = list(
            pool.map(
                lambda at: rig.wrk(folder, ports[at], keys[at], 300, CONNECTIONS, seconds),
                range(len(ports)),
            )
        )
    errors = sum(one.errors for one in seen)
    if errors:
        raise SystemExit(f"{errors} of {sum(one.requests for one in seen)} requests failed")
    return sum(one.rate for one in seen)


def measure(run: Part) -> None:
    """Load both in turns."""
    os.sched_setaffinity(0, {rig.LOADING})
    rounds, seconds, accounts = (2, 1, 20) if run.smoke else (ROUNDS, SECONDS, ACCOUNTS)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(rig.nginx(run.folder))
        shared, pids = stack.enter_context(servers(run.folder / "redis"))
        names = ["shared"] * PROCESSES + [f"embedded-{n}" for n in range(PROCESSES)]
        paths, keys = [], []
        for name in dict.fromkeys(names):
            place = run.folder / name
            place.mkdir()
            settings = shared if name == "shared" else {}
            path = write(place / "gateway.yaml", "127.0.0.1:0", url, **settings)
            made = fill(path, accounts)
            (place / "keys.txt").write_text("\n".join(made.keys) + "\n")
        for name in names:
            paths.append(run.folder / name / "gateway.yaml")
            keys.append(run.folder / name / "keys.txt")
        running = stack.enter_context(processes(paths, core=rig.MEASURED))
        ports = [port for port, _ in running]
        rates: dict[str, list[float]] = {"shared": [], "embedded": []}
        costs = []  # microseconds of Redis and of PostgreSQL a request
        for number in range(rounds + 1):
            for kind, first in (("shared", 0), ("embedded", PROCESSES)):
                these = slice(first, first + PROCESSES)
                before = [rig.cpu_s([pid]) for pid in pids]
                rate = loaded(run.folder, ports[these], keys[these], seconds)
                spent = [rig.cpu_s([pid]) - at for pid, at in zip(pids, before, strict=True)]
                if number:  # the first one warms up
                    rates[kind].append(rate)
                    if kind == "shared":
                        costs.append([1e6 * one / (rate * seconds) for one in spent])
    ratios = [a / b for a, b in zip(rates["shared"], rates["embedded"], strict=True)]
    mean = statistics.fmean(ratios)
    half = float(scipy.stats.t.ppf(0.975, len(ratios) - 1)) * statistics.stdev(ratios)
    half /= len(ratios) ** 0.5
    for kind, seen in rates.items():
        print(f"{kind}: {statistics.median(seen):.0f} requests/s")
    redis_us, postgres_us = (statistics.median(each) for each in zip(*costs, strict=True))
    print(f"a shared request takes {redis_us:.0f} us of Redis, {postgres_us:.0f} us of PostgreSQL")
    run.tell(
        "redis_postgres_rps_over_embedded",
        mean,
        "x",
        low=mean - half,
        high=mean + half,
        peer="four embedded processes",
        peer_value=statistics.median(rates["embedded"]),
        packages=("uvicorn", "uvloop", "redis", "sqlalchemy", "psycopg"),
    )


if __name__ == "__main__":
    with part(__doc__) as found:
        measure(found)
