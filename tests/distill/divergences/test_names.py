"""What other programs call by these names is what docs/divergences.md says it is here.

Their formulas are written out from their code (TRL 1.16.0, Liger ead96b6, KDFlow 3a7a21a,
DistillKit a61c2e7, DistiLLM 17c0f98, LLM_KD_AKL), in NumPy and float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.distill.divergences.oracle import F, kl

from stillhouse.distill.divergences import Divergence, Head, HiddenStates, divergence_loss

B, L, HEAT = 0.3, 0.1, 2.0


def trl_jsd(t: F, s: F, beta: float) -> F:
    """TRL, Liger and ms-swift inside (0, 1)."""
    m = (1 - beta) * s + beta * t
    return beta * kl(t, m) + (1 - beta) * kl(s, m)


def kdflow_jsd(t: F, s: F, jsd_beta: float) -> F:
    m = jsd_beta * s + (1 - jsd_beta) * t
    return jsd_beta * kl(s, m) + (1 - jsd_beta) * kl(t, m)


def distillkit_jsd(t: F, s: F) -> F:
    m = 0.5 * (t + s)
    return 0.5 * (kl(t, m) + kl(s, m)) * HEAT**2


def sorted_weight(t: F, s: F, *, descending: bool, share: float) -> F:
    """LLM_KD_AKL sorts down and keeps the first token; KDFlow sorts up and lets the tail be <=."""
    found = []
    for t_V, s_V in zip(t, s, strict=True):
        order = np.argsort(-t_V if descending else t_V, kind="stable")
        mass, error = np.cumsum(t_V[order]), np.abs(t_V - s_V)[order]
        tail = mass > share if descending else mass <= share
        if descending:
            tail[0] = False
        found.append(error[~tail].sum() / error.sum())
    return np.array(found)


def adaptive(t: F, s: F, w: F) -> F:
    return w * kl(t, s) + (1 - w) * kl(s, t)


SAME: list[tuple[str, Callable[[F, F], F], dict[str, Any], float]] = [
    ("TRL beta=0", lambda t, s: kl(t, s), {"kind": "forward_kl"}, 1),
    ("TRL beta=1", lambda t, s: kl(s, t), {"kind": "reverse_kl"}, 1),
    (
        "TRL, Liger, ms-swift beta",
        lambda t, s: trl_jsd(t, s, B),
        {"kind": "jensen_shannon", "beta": B},
        B * (1 - B),
    ),
    (
        "KDFlow jsd_beta",
        lambda t, s: kdflow_jsd(t, s, B),
        {"kind": "jensen_shannon", "beta": 1 - B},
        B * (1 - B),
    ),
    (
        "KDFlow skl, DistiLLM",
        lambda t, s: kl(t, L * t + (1 - L) * s),
        {"kind": "skew_forward_kl", "alpha": L},
        1,
    ),
    (
        "DistiLLM skewed_reverse_kl",
        lambda t, s: kl(s, (1 - L) * t + L * s),
        {"kind": "skew_reverse_kl", "alpha": L},
        1,
    ),
    (
        "KDFlow srkl",
        lambda t, s: kl(s, L * t + (1 - L) * s),
        {"kind": "skew_reverse_kl", "alpha": 1 - L},
        1,
    ),
    (
        "KDFlow tvd, Liger tvd",
        lambda t, s: 0.5 * np.abs(s - t).sum(-1),
        {"kind": "total_variation"},
        1,
    ),
    (
        "LLM_KD_AKL",
        lambda t, s: adaptive(t, s, sorted_weight(t, s, descending=True, share=0.5)),
        {"kind": "adaptive_kl", "mu": 0.5},
        1,
    ),
    ("DistillKit kl", lambda t, s: kl(t, s) * HEAT**2, {"kind": "forward_kl"}, HEAT**2),
    ("DistillKit jsd", distillkit_jsd, {"kind": "jensen_shannon", "beta": 0.5}, HEAT**2 / 4),
    (
        "DistillKit tvd",
        lambda t, s: 0.5 * np.abs(t - s).sum(-1) * HEAT**2,
        {"kind": "total_variation"},
        HEAT**2,
    ),
]


def both(seed: int) -> tuple[torch.Tensor, torch.Tensor, F, F]:
    rng = np.random.default_rng(seed)
    y_s, y_t = rng.normal(size=(4, 9)) * 2, rng.normal(size=(4, 9)) * 2
    softs = [np.exp(y / HEAT) for y in (y_t, y_s)]
    t, s = (e / e.sum(-1, keepdims=True) for e in softs)
    return torch.from_numpy(y_s), torch.from_numpy(y_t), t, s


def ours(y_s: torch.Tensor, y_t: torch.Tensor, options: dict[str, Any]) -> float:
    eye = Head(weight_VD=torch.eye(9, dtype=torch.float64))
    return divergence_loss(
        y_s,
        eye,
        HiddenStates(hidden_MD=y_t, head=eye),
        Divergence(**options, temperature=HEAT),
        reply_tokens=1.0,
    ).item()


@pytest.mark.parametrize(("theirs", "options", "factor"), [one[1:] for one in SAME],
                         ids=[one[0] for one in SAME])  # fmt: skip
def test_a_name_of_another_program_is_translated(
    theirs: Callable[[F, F], F], options: dict[str, Any], factor: float
) -> None:
    for seed in range(5):
        y_s, y_t, t, s = both(seed)
        assert factor * ours(y_s, y_t, options) == pytest.approx(
            float(theirs(t, s).sum()), rel=1e-9
        )


def test_kdflows_adaptive_kl_has_no_name_here() -> None:
    """The token that crosses the boundary is in the head there, in the tail here."""
    y_s, y_t, t, s = both(1)
    theirs = adaptive(t, s, sorted_weight(t, s, descending=False, share=0.5))
    mine = ours(y_s, y_t, {"kind": "adaptive_kl", "mu": 0.5})
    assert abs(mine / float(theirs.sum()) - 1) > 0.01
