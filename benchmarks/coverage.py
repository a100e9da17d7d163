"""How often the intervals of paired differences hold the truth, beside the usual bootstrap.

4,000 draws of each world of `tests/statistics/scenarios.py`, at 6, 10 and 30 clusters. One row is
the share of 90 % intervals that hold the truth; its `low` and `high` are the exact 95 % interval of
that share, and the peer is the percentile bootstrap of clusters on the same draws. Rows named
`bound_` hold the smaller share of the two one-sided 95 % bounds, which is what a verdict rests on.
Rows named `rule_` compare the candidates for 30 clusters.

    python -m benchmarks.coverage            measure, append rows (about fifteen minutes)
    python -m benchmarks.coverage --table    print the table of docs/statistics.md from the rows
"""

from __future__ import annotations

import re
import sys
import time

import numpy as np
from numpy.typing import NDArray
from scipy import special
from tests.statistics.scenarios import World, continuous, equal, fragile_worlds, paired_worlds

from benchmarks import rows
from stillhouse.statistics import binomial_interval, paired_difference
from stillhouse.statistics.bootstrap import draw_counts, studentised_mean
from stillhouse.statistics.small_clusters import cr2_mean

RUNS, RESAMPLES, LEVEL, SEED = 4000, 1000, 0.90, 20
PACKAGES = ("numpy", "scipy")
PEER = "percentile cluster bootstrap"
Bounds = NDArray[np.float64]


def figure(world: World) -> str:
    """Name a world in the rows, such as `g6_accuracy_0.98_in_clusters`."""
    name = re.sub(r"[^a-z0-9.]+", "_", world.name.lower())
    return f"g{world.clusters}_{name}"


def candidates(world: World, a: Bounds, b: Bounds, rng: np.random.Generator) -> dict[str, Bounds]:
    """Bounds of every candidate on one draw: ours, and what one could have used instead."""
    codes, tail = world.codes, (1 - LEVEL) / 2
    sums, sizes = np.bincount(codes, weights=a - b), np.bincount(codes).astype(np.float64)
    ours = paired_difference(
        a, b, clusters=codes.tolist(), level=LEVEL, rng=rng, resamples=RESAMPLES
    )
    counts_RG = np.concatenate(list(draw_counts(rng, len(sums), RESAMPLES)))
    means = (counts_RG @ sums) / (counts_RG @ sizes)
    found = {
        "ours": np.array([ours.low, ours.high]),
        PEER: np.quantile(means, [tail, 1 - tail]),
    }
    if world.clusters < 30:
        return found
    mean, error, df = cr2_mean(sums, sizes)
    reach = special.stdtrit(df, 1 - tail) * error
    residual = sums - sizes * mean
    plain = np.sqrt((residual**2).sum()) / sizes.sum()
    t = np.clip(studentised_mean(sums, sizes, rng, RESAMPLES), -1e6, 1e6)
    last, first = np.quantile(t, [1 - tail, tail])
    bias = special.ndtri(np.clip((means < mean).mean(), 1e-3, 1 - 1e-3))
    cube = (residual**2).sum() ** 1.5
    skew = (residual**3).sum() / (6 * cube) if cube > 0 else 0.0
    z = bias + special.ndtri([tail, 1 - tail])
    found["CR2 and t"] = np.array([mean - reach, mean + reach])
    found["studentised alone"] = np.array([mean - last * plain, mean - first * plain])
    found["BCa"] = np.quantile(means, special.ndtr(bias + z / (1 - skew * z)))
    return found


def append(name: str, held: NDArray[np.bool_], peer: str, peer_held: NDArray[np.bool_]) -> None:
    """Append the share of draws that held, beside the peer's."""
    share = binomial_interval(int(held.sum()), len(held))
    rows.append(
        "coverage",
        name,
        100 * share.estimate,
        low=100 * share.low,
        high=100 * share.high,
        unit="%",
        peer=peer,
        peer_value=100 * float(peer_held.mean()),
        packages=PACKAGES,
    )


def measure(world: World) -> None:
    """Append the rows of one world."""
    rng = np.random.default_rng(SEED)
    draws = [candidates(world, *world.draw(rng), rng) for _ in range(RUNS)]
    held = {}
    for method in draws[0]:
        bounds = np.array([draw[method] for draw in draws])
        held[method] = np.stack([bounds[:, 0] <= world.truth, world.truth <= bounds[:, 1]])
    both = {method: sides.all(0) for method, sides in held.items()}
    worst = {method: sides[sides.mean(1).argmin()] for method, sides in held.items()}
    append(figure(world), both["ours"], PEER, both[PEER])
    append(f"bound_{figure(world)}", worst["ours"], PEER, worst[PEER])
    for method in ("CR2 and t", "studentised alone", "BCa"):
        if method in both:
            name = method.lower().replace(" ", "_")
            append(f"rule_{name}_{figure(world)}", both[method], "chosen rule", both["ours"])


def measure_time() -> None:
    """Append CPU time for one interval of 3,000 items: in 100 clusters, and independent."""
    for clusters in (100, 3000):
        world = continuous("time", equal(clusters, 3000 // clusters), 0.2 if clusters < 3000 else 0)
        rng = np.random.default_rng(SEED)
        a, b = world.draw(rng)
        labels = world.codes.tolist()
        spent = []
        for _ in range(15):
            start = time.process_time()
            paired_difference(a, b, clusters=labels, rng=rng, resamples=4000)
            spent.append(1000 * (time.process_time() - start))
        name = f"cpu_ms_3000_items_{clusters}_units"
        low, high = np.quantile(spent, [0.025, 0.975])
        rows.append(
            "coverage",
            name,
            float(np.median(spent)),
            low=float(low),
            high=float(high),
            unit="ms",
            packages=PACKAGES,
        )


def table() -> str:
    """Write the newest rows as the table of docs/statistics.md."""
    newest = rows.newest("coverage")
    lines = [
        "| world | G = 6 | G = 10 | G = 30 |",
        "|---|---|---|---|",
    ]
    for world in paired_worlds(6) + fragile_worlds(6):
        cells = []
        for clusters in (6, 10, 30):
            name = figure(world).replace("g6_", f"g{clusters}_")
            both, bound = newest[name], newest[f"bound_{name}"]
            cells.append(f"{both.value:.1f} / {bound.value:.1f} ({both.peer_value:.1f})")
        lines.append(f"| {world.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rule_table() -> str:
    """Write the comparison of candidates at 30 clusters."""
    newest = rows.newest("coverage")
    lines = [
        "| world, G = 30 | chosen rule | CR2 and t | studentised | BCa | percentile |",
        "|---|---|---|---|---|---|",
    ]
    for world in paired_worlds(30) + fragile_worlds(30):
        name = figure(world)
        values = [newest[name].value]
        for method in ("cr2_and_t", "studentised_alone", "bca"):
            values.append(newest[f"rule_{method}_{name}"].value)
        cells = [f"{value:.1f}" for value in [*values, newest[name].peer_value]]
        lines.append(f"| {world.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every world, or print the tables."""
    if "--table" in sys.argv:
        print(table(), rule_table(), sep="\n")
        return
    for clusters in (6, 10, 30):
        for world in paired_worlds(clusters) + fragile_worlds(clusters):
            measure(world)
    measure_time()


if __name__ == "__main__":
    main()
