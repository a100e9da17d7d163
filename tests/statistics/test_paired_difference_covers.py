"""The interval of a paired difference holds the truth as often as it promises."""

from __future__ import annotations

import numpy as np
import pytest
from tests.statistics import broken
from tests.statistics.coverage_check import coverage_shortfalls, simulate
from tests.statistics.scenarios import (
    World,
    binary,
    continuous,
    equal,
    paired_worlds,
    rare_failures,
    unequal,
)

from stillhouse.statistics import Interval, paired_difference

LEVEL = 0.90


def ours(world: World, rng: np.random.Generator, *, clustered: bool = True) -> Interval:
    a, b = world.draw(rng)
    clusters = world.codes.tolist() if clustered else None
    return paired_difference(a, b, clusters=clusters, level=LEVEL, rng=rng, resamples=400)


def shortfalls(world: World, *, clustered: bool = True, seed: int = 7) -> list[str]:
    def bounds(rng: np.random.Generator) -> tuple[float, float]:
        interval = ours(world, rng, clustered=clustered)
        return interval.low, interval.high

    low, high = simulate(bounds, np.random.default_rng(seed))
    return coverage_shortfalls(low, high, world.truth, LEVEL)


@pytest.mark.parametrize("clusters", [6, 10, 30])
@pytest.mark.parametrize("world", range(7))
def test_every_interval_covers_at_6_10_and_30_clusters_and_near_the_ceiling(
    clusters: int, world: int
) -> None:
    assert shortfalls(paired_worlds(clusters)[world]) == []


@pytest.mark.parametrize(
    "world",
    [
        binary("ordinary", equal(400, 1), 0.2, 0.4),
        binary("near the ceiling", equal(400, 1), 0.01, accuracy=0.99),
        binary("at the ceiling", equal(150, 1), 0.005, 0.0, accuracy=1.0),
        continuous("real scores", equal(80, 1), 0.0),
        continuous("few real scores", equal(12, 1), 0.0),
    ],
    ids=lambda world: world.name,
)
def test_independent_items_are_covered(world: World) -> None:
    assert shortfalls(world, clustered=False) == []


@pytest.mark.parametrize("clusters", [6, 30])
def test_document_scores_near_the_ceiling_are_covered(clusters: int) -> None:
    """Scores in [0, 1], most of them 1 on both sides: the mean of a few partial losses."""
    codes = np.repeat(np.arange(clusters), unequal(clusters))

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        loss = rng.beta(1, 3, (2, len(codes))) * (rng.random((2, len(codes))) < [[0.02], [0.01]])
        return 1 - loss[0], 1 - loss[1]

    truth = -(0.02 - 0.01) / 4
    assert shortfalls(World("documents", codes, truth, draw)) == []


RARE = [
    rare_failures("one in 200, independent", equal(300, 1), 0.005, 0.3),
    rare_failures("one in 100, independent", equal(100, 1), 0.01, 0.6),
    rare_failures("one in 200, in clusters", equal(30, 10), 0.005, 0.3),
]


@pytest.mark.parametrize("world", RARE, ids=lambda world: world.name)
def test_rare_total_failures_are_not_hidden_by_many_small_differences(world: World) -> None:
    assert shortfalls(world, clustered=world.clusters < len(world.codes)) == []


@pytest.mark.parametrize("world", RARE, ids=lambda world: world.name)
def test_the_check_rejects_an_interval_that_knows_no_range(world: World) -> None:
    def bounds(rng: np.random.Generator) -> tuple[float, float]:
        a, b = world.draw(rng)
        clusters = world.codes.tolist() if world.clusters < len(world.codes) else None
        # Moved out of [0, 1], the scores have no known range, so no loss of the whole is expected.
        found = paired_difference(a + 1, b + 1, clusters=clusters, rng=rng, resamples=400)
        return found.low, found.high

    assert rejected(world, bounds) != []


def rejected(world: World, interval: object, *, runs: int = 2000) -> list[str]:
    low, high = simulate(interval, np.random.default_rng(11), runs)  # type: ignore[arg-type]
    return coverage_shortfalls(low, high, world.truth, LEVEL)


def test_the_check_rejects_an_interval_that_ignores_clusters() -> None:
    world = continuous("clustered", equal(30, 8), 0.3)
    assert shortfalls(world, clustered=False) != []


def test_the_check_rejects_z_and_the_plain_sandwich_at_6_clusters() -> None:
    world = paired_worlds(6)[0]

    def bounds(rng: np.random.Generator) -> tuple[float, float]:
        a, b = world.draw(rng)
        return broken.normal_with_plain_sandwich(a - b, world.codes, LEVEL)

    assert rejected(world, bounds) != []


@pytest.mark.parametrize("clusters", [6, 10])
def test_the_check_rejects_t_of_g_minus_1_on_unequal_clusters(clusters: int) -> None:
    world = paired_worlds(clusters)[1]

    def bounds(rng: np.random.Generator) -> tuple[float, float]:
        a, b = world.draw(rng)
        return broken.t_ignoring_sizes(a - b, world.codes, LEVEL)

    assert rejected(world, bounds) != []


@pytest.mark.parametrize("clusters", [6, 10, 30])
def test_the_check_rejects_the_percentile_bootstrap(clusters: int) -> None:
    world = paired_worlds(clusters)[1]

    def bounds(rng: np.random.Generator) -> tuple[float, float]:
        a, b = world.draw(rng)
        return broken.percentile_bootstrap(a - b, world.codes, LEVEL, rng)

    assert rejected(world, bounds) != []


def test_the_check_rejects_a_bootstrap_that_collapses_at_the_ceiling() -> None:
    world = binary("at the ceiling", equal(6), 0.002, 0.1, accuracy=1.0)

    def bounds(rng: np.random.Generator) -> tuple[float, float]:
        a, b = world.draw(rng)
        return broken.percentile_bootstrap(a - b, world.codes, LEVEL, rng)

    assert rejected(world, bounds) != []
    assert shortfalls(world) == []


def test_the_check_rejects_wald_for_few_discordant_pairs() -> None:
    world = binary("at the ceiling", equal(150, 1), 0.005, 0.0, accuracy=1.0)

    def bounds(rng: np.random.Generator) -> tuple[float, float]:
        a, b = world.draw(rng)
        return broken.wald_ignoring_clusters(a - b, LEVEL)

    assert rejected(world, bounds) != []
