"""Worlds with a known truth, from which the intervals and tests are drawn a few thousand times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats]


@dataclass(frozen=True, slots=True)
class World:
    """Items in clusters; `draw` gives the scores of both sides (N,), `truth` is mean(a - b)."""

    name: str
    codes: NDArray[np.int64]
    truth: float
    draw: Callable[[np.random.Generator], Pair]

    @property
    def clusters(self) -> int:
        return int(self.codes.max()) + 1


def equal(clusters: int, each: int = 50) -> NDArray[np.int64]:
    return np.full(clusters, each)


def unequal(clusters: int) -> NDArray[np.int64]:
    """Sizes from 15 to 150."""
    return np.round(np.geomspace(15, 150, clusters)).astype(np.int64)


def continuous(name: str, sizes: NDArray[np.int64], share: float, *, skewed: bool = False) -> World:
    """Real-valued differences around 0; `share` of their variance lies between clusters."""
    codes = np.repeat(np.arange(len(sizes)), sizes)

    def draw(rng: np.random.Generator) -> Pair:
        centred = rng.exponential(size=len(sizes)) - 1 if skewed else rng.normal(size=len(sizes))
        own = rng.normal(size=len(codes)) * np.sqrt(1 - share)
        base = rng.normal(size=len(codes)) + 3
        return base + centred[codes] * np.sqrt(share) + own, base

    return World(name, codes, 0.0, draw)


def binary(
    name: str,
    sizes: NDArray[np.int64],
    discordance: float,
    lean: float = 0.5,
    shape: float = np.inf,
    accuracy: float = 0.9,
) -> World:
    """Right or wrong. A pair differs with chance `discordance`; then a is right with chance `lean`.

    With a finite `shape`, discordance and lean vary over clusters (Beta with these means; the
    smaller the shape, the more a few clusters hold all pairs that differ).
    """
    codes = np.repeat(np.arange(len(sizes)), sizes)

    def draw(rng: np.random.Generator) -> Pair:
        differs, a_wins = np.full(len(sizes), discordance), np.full(len(sizes), lean)
        if np.isfinite(shape):
            differs = rng.beta(shape, shape * (1 / discordance - 1), len(sizes))
            a_wins = rng.beta(4 * lean, 4 * (1 - lean), len(sizes))
        u, v = rng.random(len(codes)), rng.random(len(codes))
        apart = u < differs[codes]
        both = v < accuracy
        a_right = np.where(apart, v < a_wins[codes], both)
        b_right = np.where(apart, v >= a_wins[codes], both)
        return a_right.astype(np.float64), b_right.astype(np.float64)

    return World(name, codes, discordance * (2 * lean - 1), draw)


def rare_failures(name: str, sizes: NDArray[np.int64], failing: float, differing: float) -> World:
    """Scores in [0, 1]: a share differs by two points, and a few of side a are total failures."""
    codes = np.repeat(np.arange(len(sizes)), sizes)

    def draw(rng: np.random.Generator) -> Pair:
        b = rng.uniform(0.9, 0.97, len(codes))
        small = rng.choice([-0.02, 0.02], len(codes)) * (rng.random(len(codes)) < differing)
        return np.where(rng.random(len(codes)) < failing, 0.0, b + small), b

    return World(name, codes, -failing * 0.935, draw)


def paired_worlds(clusters: int) -> list[World]:
    """The worlds at G clusters in which `paired_difference` has to cover."""
    even, uneven = equal(clusters), unequal(clusters)
    return [
        continuous("scores, equal clusters", even, 0.2),
        continuous("scores, sizes 15 to 150", uneven, 0.2),
        binary("right or wrong, equal clusters", even, 0.2, shape=4),
        binary("right or wrong, sizes 15 to 150", uneven, 0.2, 0.45, shape=4),
        binary("accuracy 0.98, independent", uneven, 0.02, accuracy=0.99),
        binary("accuracy 0.98, in clusters", even, 0.02, 0.45, shape=2, accuracy=0.99),
        binary("accuracy 0.999", even, 0.002, 0.3, accuracy=1.0),
    ]


def fragile_worlds(clusters: int) -> list[World]:
    """Worlds in which no method here reaches its level with few clusters; the docs say so."""
    return [
        continuous("long-tailed cluster effects", equal(clusters), 0.3, skewed=True),
        binary("one-sided losses in few clusters", equal(clusters), 0.02, 0.1, 0.5, 0.99),
    ]
