"""Hidden-state terms: pull a student's inner states towards chosen layers of the teacher.

For pairs (a, b) of a student's and a teacher's layer (0 is the embedding, i the output of block i),
h_a and g_b the states at one reply position, P_a an optional linear map to the teacher's width:

    mse     sum_pairs 1/D |P_a h_a - g_b|**2         D the teacher's width
    cosine  sum_pairs 1 - cos(P_a h_a, g_b)          0 where either is the zero vector

summed over reply positions and divided by `reply_tokens`, the same divisor as the divergence's.
Gradients go to the student's states and to P, never to the teacher. Unequal widths without P are
refused. Sources: FitNets (arXiv 1412.6550), DistilBERT's cosine term (arXiv 1910.01108).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class LayerMap:
    """Pairs (student layer, teacher layer), both strictly increasing."""

    pairs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for side in zip(*self.pairs, strict=True):
            if side[0] < 0 or any(b <= a for a, b in pairwise(side)):
                raise InputError(
                    f"the layer map {self.pairs} does not increase on both sides",
                    repair="give pairs of layers in order, each layer once",
                )
        if not self.pairs:
            raise InputError("a layer map without layers", repair="leave hidden-state terms out")

    @classmethod
    def even(cls, student_layers: int, teacher_layers: int) -> LayerMap:
        """Every student block to the teacher's at the same share of the depth, last to last."""
        if not 1 <= student_layers <= teacher_layers:
            raise InputError(f"{student_layers} layers cannot be spread over {teacher_layers}")
        ratio = teacher_layers / student_layers
        return cls(tuple((i, round(i * ratio)) for i in range(1, student_layers + 1)))


def hidden_state_loss(
    student_states: Sequence[torch.Tensor],
    teacher_states: Sequence[torch.Tensor],
    layers: LayerMap,
    kind: Literal["mse", "cosine"],
    *,
    reply_tokens: float,
    projections: Mapping[int, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the term; states are (M, D) per layer, projections (D_teacher, D_student) by layer."""
    total = torch.zeros(())
    for ours, theirs in layers.pairs:
        if ours >= len(student_states) or theirs >= len(teacher_states):
            raise InputError(
                f"layer {ours} of {len(student_states) - 1} or {theirs} of "
                f"{len(teacher_states) - 1} does not exist"
            )
        h_MD, g_MD = student_states[ours], teacher_states[theirs].detach()
        if projections is not None and ours in projections:
            h_MD = torch.nn.functional.linear(h_MD, projections[ours])
        if h_MD.shape != g_MD.shape:
            raise InputError(
                f"states of shape {tuple(h_MD.shape)} at student layer {ours} against "
                f"{tuple(g_MD.shape)} at teacher layer {theirs}",
                repair="give a projection to the teacher's width",
            )
        wide = torch.promote_types(torch.promote_types(h_MD.dtype, g_MD.dtype), torch.float32)
        h_MD, g_MD = h_MD.to(wide), g_MD.to(wide)
        if kind == "mse":
            term = (h_MD - g_MD).pow(2).mean(-1).sum()
        else:
            some_M = (h_MD != 0).any(-1) & (g_MD != 0).any(-1)
            cosine_S = torch.cosine_similarity(h_MD[some_M], g_MD[some_M], dim=-1, eps=1e-30)
            term = (1 - cosine_S).sum()
        total = total.to(term) + term
    return total / reply_tokens
