"""Which divergence, and what all of them have in common.

For one reply position let z be a model's logits after its own scale and soft cap, cut to the
vocabulary that both models share, T the temperature and

    t = softmax(z_teacher / T)    s = softmax(z_student / T)    natural logarithms throughout

A loss is the sum of D(t, s) over the positions that predict reply tokens (for a sequence x with the
reply from place b on: positions b - 1 .. end - 1), divided by the number of reply tokens of the
whole optimiser step: all micro-batches of the accumulation, all ranks. Prompt and padding positions
are never given to a divergence. There is no factor T**2: multiply the weight of the loss yourself
if your learning rate was tuned with it. Rows of a head beyond the shared vocabulary are left out of
both softmaxes (as if their logits were -inf) and get no gradient.

Each divergence is one file, whose docstring is its definition and whose `terms` returns D and
dD/d(log s), with log s taken as free; adding c s to that changes nothing.
The gradient in the student's logits is

    dD/dz = (u - s sum(u)) / T        u = dD/d(log s)

Coarse signals (top-k with one tail bucket) use the same formulas on the buckets' masses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from stillhouse.distill.divergences import (
    adaptive_kl,
    forward_kl,
    jensen_shannon,
    reverse_kl,
    skew_kl,
    total_variation,
)
from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Terms = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]

Kind = Literal[
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skew_forward_kl",
    "skew_reverse_kl",
    "total_variation",
    "adaptive_kl",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TERMS: dict[Kind, Terms] = {
    "forward_kl": forward_kl.terms,
    "reverse_kl": reverse_kl.terms,
    "jensen_shannon": jensen_shannon.terms,
    "skew_forward_kl": skew_kl.forward_terms,
    "skew_reverse_kl": skew_kl.reverse_terms,
    "total_variation": total_variation.terms,
    "adaptive_kl": adaptive_kl.terms,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """A divergence with its parameters.

    `beta` is the teacher's share of Jensen-Shannon's mixture (0 is forward KL, 1 reverse KL),
    `alpha` the skew of the skew KLs (0 is plain), `mu` the teacher's mass in the head of adaptive
    KL. `temperature` divides both models' logits in the loss and nowhere else. Raises `InputError`
    for a parameter that is out of range or that this kind does not have.
    """

    kind: Kind = "forward_kl"
    temperature: float = 1.0
    beta: float | None = None
    alpha: float | None = None
    mu: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown divergence {self.kind!r}", repair=f"use one of {KINDS}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(
                f"temperature {self.temperature} is not positive", repair="1.0 is usual"
            )
        own = _PARAMETERS.get(self.kind)
        for name in ("beta", "alpha", "mu"):
            value = getattr(self, name)
            if value is not None and (own is None or name != own[0]):
                raise InputError(
                    f"{self.kind} has no {name}",
                    repair=f"leave {name} out" if own is None else f"set {own[0]} instead",
                )
        if own is not None:
            name, default, holds, described = own
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, default)
            elif not holds(value):
                raise InputError(
                    f"{self.kind} with {name} {value}", repair=f"{name} is {described}"
                )

    @property
    def parameter(self) -> float:
        """The value of the one parameter of this kind, 0 where it has none."""
        own = _PARAMETERS.get(self.kind)
        return 0.0 if own is None else float(getattr(self, own[0]))

    @property
    def linear(self) -> bool:
        """Whether the gradient is linear in the teacher, so that an unbiased sample suffices."""
        return self.kind == "forward_kl" or (
            self.kind in ("jensen_shannon", "skew_forward_kl") and self.parameter == 0
        )

    def terms(self, log_s_NV: Tensor, log_t_NV: Tensor) -> tuple[Tensor, Tensor]:
        """Return D (N) and dD/d(log s) (N, V) of log-probabilities at this temperature."""
        return _TERMS[self.kind](log_s_NV, log_t_NV, self.parameter)


_PARAMETERS: dict[Kind, tuple[str, float, Callable[[float], bool], str]] = {
    "jensen_shannon": ("beta", 0.5, lambda b: 0 <= b <= 1, "between 0 and 1"),
    "skew_forward_kl": ("alpha", 0.1, lambda a: 0 <= a < 1, "at least 0 and below 1"),
    "skew_reverse_kl": ("alpha", 0.1, lambda a: 0 <= a < 1, "at least 0 and below 1"),
    "adaptive_kl": ("mu", 0.5, lambda m: 0 < m < 1, "between 0 and 1, both excluded"),
}
