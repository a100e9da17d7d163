"""What every estimate of the product looks like, and the checks that every input passes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillhouse.exchanges.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, its confidence interval, and how the interval was made.

    `level` is two-sided: an interval at 0.90 carries two one-sided 95 % bounds. `method` is a
    stable code ("tango", "tango-clustered", "t", "cr2", "bootstrap", "cluster-bootstrap",
    "clopper-pearson", "betting"); `note` says in words why it was chosen and what it assumes.
    `n` counts items, `clusters` the sampled units (None when each item is one), `df` the degrees
    of freedom of a t quantile (None where there is none).
    """

    estimate: float
    low: float
    high: float
    level: float
    method: str
    n: int
    clusters: int | None
    df: float | None
    note: str


def check_level(level: float) -> float:
    """Return the level; raises InputError unless it lies strictly between 0 and 1."""
    if not 0 < level < 1:
        raise InputError(
            f"level is {level}, not a share between 0 and 1", repair="write 95 % as 0.95"
        )
    return float(level)


def check_values(values: ArrayLike, name: str, ndim: int = 1) -> Floats:
    """Return `values` as float64 with `ndim` axes; InputError when empty, not finite or no number.

    The message names the first place that is wrong.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{name} holds something that is not a number", repair="convert it to numbers first"
        ) from None
    if array.ndim != ndim:
        raise InputError(f"{name} has shape {array.shape}; {ndim} axes are needed")
    if array.size == 0:
        raise InputError(f"{name} is empty", repair="give at least two items")
    wrong = np.argwhere(~np.isfinite(array))
    if wrong.size:
        at = tuple(int(i) for i in wrong[0])
        raise InputError(
            f"{name}{list(at)} is {array[at]}; {len(wrong)} of {array.size} values are not finite",
            repair="score a failure as an error (0), or leave the item out of both sides",
        )
    return array


def check_same_length(**arrays: Sequence[Any] | NDArray[Any]) -> int:
    """Return the common length; InputError that gives every length when they differ."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InputError(f"lengths differ: {told}", repair="pair the values item by item")
    return next(iter(lengths.values()))


def check_probabilities(values: ArrayLike, name: str) -> Floats:
    """Return `values` as float64; InputError unless all lie between 0 and 1."""
    array = check_values(values, name)
    if array.min() < 0 or array.max() > 1:
        raise InputError(f"{name} spans {array.min()} to {array.max()}, not 0 to 1")
    return array


def cluster_codes(clusters: Sequence[Hashable] | NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Number the clusters by first appearance: codes (N,) and their count G.

    InputError when there is only one: nothing can then be said about another cluster.
    """
    numbers: dict[Hashable, int] = {}
    codes = np.fromiter(
        (numbers.setdefault(cluster, len(numbers)) for cluster in clusters), dtype=np.int64
    )
    if len(numbers) == 1:
        raise InputError(
            f"all {len(codes)} items are in one cluster ({next(iter(numbers))!r}): "
            "its spread over clusters cannot be measured",
            repair="give at least two clusters, or none if the items are independent",
        )
    return codes, len(numbers)
