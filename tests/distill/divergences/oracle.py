"""The definitions of docs/divergences.md in NumPy float64, written from the formulas alone.

Nothing here is imported from the product. Vectors lie along the last axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F = NDArray[np.float64]


def softmax(z: F) -> F:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p: F, q: F) -> F:
    """Sum of p log(p / q) over the last axis; 0 log 0 is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0).sum(-1)


def divergence(kind: str, t: F, s: F, parameter: float = 0.0, *, weight: F | None = None) -> F:
    """D(t, s) of probability vectors; `weight` stands in for adaptive KL's own."""
    if kind == "forward_kl":
        return kl(t, s)
    if kind == "reverse_kl":
        return kl(s, t)
    if kind == "jensen_shannon":
        if parameter == 0:
            return kl(t, s)
        if parameter == 1:
            return kl(s, t)
        m = (1 - parameter) * s + parameter * t
        return kl(t, m) / (1 - parameter) + kl(s, m) / parameter
    if kind == "skew_forward_kl":
        return kl(t, parameter * t + (1 - parameter) * s)
    if kind == "skew_reverse_kl":
        return kl(s, parameter * s + (1 - parameter) * t)
    if kind == "total_variation":
        return 0.5 * np.abs(t - s).sum(-1)
    assert kind == "adaptive_kl"
    w = adaptive_weight(t, s, parameter) if weight is None else weight
    return w * kl(t, s) + (1 - w) * kl(s, t)


def adaptive_weight(t: F, s: F, mu: float) -> F:
    """Share of the error that lies in the head, row by row."""
    found = []
    for t_V, s_V in zip(t, s, strict=True):
        head = np.array([t_V[t_V >= p].sum() <= mu or p == t_V.max() for p in t_V])
        error = np.abs(t_V - s_V)
        found.append(error[head].sum() / error.sum() if error.sum() > 0 else 0.5)
    return np.array(found)


def logits(
    hidden: F, weight: F, bias: F | None = None, scale: float = 1.0, softcap: float | None = None
) -> F:
    y = (hidden @ weight.T + (0.0 if bias is None else bias)) * scale
    return y if softcap is None else softcap * np.tanh(y / softcap)


def buckets(p: F, ids: NDArray[np.int64]) -> F:
    """Masses of the listed ids of each row and of all its others together."""
    others = np.ones(p.shape, dtype=bool)
    np.put_along_axis(others, ids, False, -1)
    kept = np.take_along_axis(p, ids, -1)
    return np.concatenate([kept, (p * others).sum(-1, keepdims=True)], -1)


def finite_difference(f, x: F, step: float = 1e-6) -> F:  # type: ignore[no-untyped-def]
    """Gradient of a scalar function by central differences."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (f(up) - f(down)) / (2 * step)
    return gradient
