"""Plausible mistakes, one for each method. The suite asserts that its checks reject every one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Bounds = tuple[float, float]


def wald_ignoring_clusters(values_N: Floats, level: float) -> Bounds:
    reach = stats.norm.ppf((1 + level) / 2) * values_N.std() / np.sqrt(len(values_N))
    return values_N.mean() - reach, values_N.mean() + reach


def normal_with_plain_sandwich(values_N: Floats, codes: NDArray[np.int64], level: float) -> Bounds:
    """CR0 and z: right with very many clusters, wrong with few."""
    residual_G = np.bincount(codes, weights=values_N - values_N.mean())
    reach = stats.norm.ppf((1 + level) / 2) * np.sqrt((residual_G**2).sum()) / len(values_N)
    return values_N.mean() - reach, values_N.mean() + reach


def t_ignoring_sizes(values_N: Floats, codes: NDArray[np.int64], level: float) -> Bounds:
    """CR0 and t(G - 1), although clusters differ in size."""
    residual_G = np.bincount(codes, weights=values_N - values_N.mean())
    quantile = stats.t.ppf((1 + level) / 2, len(residual_G) - 1)
    reach = quantile * np.sqrt((residual_G**2).sum()) / len(values_N)
    return values_N.mean() - reach, values_N.mean() + reach


def percentile_bootstrap(
    values_N: Floats, codes: NDArray[np.int64], level: float, rng: np.random.Generator
) -> Bounds:
    """Of clusters; collapses when no pair differs."""
    sum_G, size_G = np.bincount(codes, weights=values_N), np.bincount(codes)
    drawn = rng.integers(0, len(sum_G), (400, len(sum_G)))
    means = sum_G[drawn].sum(1) / size_G[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def permutation_without_the_observed(observed: float, redrawn_M: Floats) -> float:
    return float((redrawn_M >= observed).mean())


def sign_flip_of_items(values_N: Floats, rng: np.random.Generator) -> float:
    """Flips items although whole clusters share their sign."""
    signs = rng.choice([-1.0, 1.0], (199, len(values_N)))
    return float((1 + (signs @ values_N >= values_N.sum()).sum()) / 200)


def holm_counting_from_the_wrong_end(p_M: Floats) -> Floats:
    order = np.argsort(p_M)
    adjusted = np.empty_like(p_M)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_M[order] * np.arange(1, len(p_M) + 1)))
    return adjusted


def holm_without_the_step(p_M: Floats) -> Floats:
    """Each p-value times its multiplier, without waiting for the smaller ones."""
    order = np.argsort(p_M)
    adjusted = np.empty_like(p_M)
    adjusted[order] = np.minimum(1, p_M[order] * np.arange(len(p_M), 0, -1))
    return adjusted


def e_bh_with_the_single_threshold(e_M: Floats, alpha: float) -> NDArray[np.bool_]:
    return e_M >= 1 / alpha


def log_evalues_looking_ahead(x_RT: Floats, null_mean: float) -> Floats:
    """The bet on a value is chosen from a mean that holds this value."""
    t_T = np.arange(1, x_RT.shape[-1] + 1)
    mean_RT = (0.5 + np.cumsum(x_RT, -1)) / (t_T + 1)
    variance_RT = (0.25 + np.cumsum((x_RT - mean_RT) ** 2, -1)) / (t_T + 1)
    edge_RT = mean_RT - null_mean
    bet_RT = np.clip(edge_RT / (variance_RT + edge_RT**2), 0, 0.5 / null_mean)
    return np.cumsum(np.log1p(bet_RT * (x_RT - null_mean)), -1)


def conformal_without_itself(calibration_N: Floats, test_M: Floats) -> Floats:
    return (calibration_N[None, :] >= test_M[:, None]).mean(1)
