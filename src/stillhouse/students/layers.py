"""Which blocks to keep: a few candidate choices, each scored on data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillhouse.exchanges import InputError
from stillhouse.students.depth import cut_depth, find_blocks
from stillhouse.teachers.heads import logits_at
from stillhouse.teachers.padding import pad_right

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


LAYER_RULES = ("even", "head", "first", "influence")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChoice:
    """The blocks to keep, the rule that named them, and what every rule scored (lower is better).

    `divergence` holds, per rule, the mean KL(teacher || cut student) in nats at the first token of
    the reply. `influence` (one number per block of the teacher) is what the rule of that name
    ranked.
    """

    layers: tuple[int, ...]
    rule: str
    divergence: dict[str, float]
    candidates: dict[str, tuple[int, ...]]
    influence: tuple[float, ...]


def choose_layers(
    model: Any, n_layers: int, prompts: Sequence[Sequence[int]], *, batch_size: int = 16
) -> LayerChoice:
    """Choose `n_layers` blocks of `model` by how little the next-token distribution suffers.

    Candidates: `even` (evenly spaced, ends included), `head` (the first ones and the last), `first`
    and `influence` (those that change their input most, plus the ends). `prompts` are token ids of
    training prompts, a few dozen are enough; never those of validation or test items.

    The score is taken before any training, and training can change the order: it is a cheap guide
    (a few short forward passes), not a measurement of the finished student.
    """
    depth = find_blocks(model)[1]
    if not 1 <= n_layers < depth:
        raise InputError(
            f"cannot keep {n_layers} of {depth} layers", repair=f"choose 1 to {depth - 1}"
        )
    if not prompts:
        raise InputError("choosing layers needs some training prompts")
    influence = block_influence(model, prompts, batch_size=batch_size)
    teacher_NV = _next_logprobs(model, prompts, batch_size)
    candidates = _candidates(n_layers, depth, influence)
    divergence = {
        rule: _mean_kl(teacher_NV, _next_logprobs(cut_depth(model, layers), prompts, batch_size))
        for rule, layers in candidates.items()
    }
    best = min(candidates, key=lambda rule: divergence[rule])
    return LayerChoice(
        layers=candidates[best],
        rule=best,
        divergence=divergence,
        candidates=candidates,
        influence=tuple(float(value) for value in influence),
    )


def next_token_divergence(
    teacher: Any, student: Any, prompts: Sequence[Sequence[int]], *, batch_size: int = 16
) -> float:
    """Return the mean KL(teacher || student) in nats at the first token of the reply.

    `prompts` are token ids of training prompts. Both models have the same vocabulary.
    """
    return _mean_kl(
        _next_logprobs(teacher, prompts, batch_size), _next_logprobs(student, prompts, batch_size)
    )


@torch.no_grad()
def block_influence(
    model: Any, prompts: Sequence[Sequence[int]], *, batch_size: int = 16
) -> NDArray[np.float64]:
    """Return, per block, 1 - mean cosine between its input and its output over all tokens.

    A block near 0 passes its input on (Men et al., arXiv 2403.03853).
    """
    prefix, depth = find_blocks(model)
    total_D, tokens = np.zeros(depth), 0
    keep: list[torch.Tensor] = []

    def note(_module: Any, given: tuple[Any, ...], result: Any) -> None:
        after_BLD = result[0] if isinstance(result, tuple) else result
        keep.append(torch.cosine_similarity(given[0].float(), after_BLD.float(), dim=-1))

    handles = [block.register_forward_hook(note) for block in model.get_submodule(prefix)]
    try:
        for start in range(0, len(prompts), batch_size):
            ids_BL, last_B = pad_right(prompts[start : start + batch_size])
            real_BL = torch.arange(ids_BL.shape[1]) <= last_B[:, None]
            keep.clear()
            model(input_ids=ids_BL, use_cache=False, logits_to_keep=1)
            total_D += np.array([float((1 - cosine_BL)[real_BL].sum()) for cosine_BL in keep])
            tokens += int(real_BL.sum())
    finally:
        for handle in handles:
            handle.remove()
    return total_D / tokens


def _candidates(
    n_layers: int, depth: int, influence: NDArray[np.float64]
) -> dict[str, tuple[int, ...]]:
    even = np.round(np.linspace(0, depth - 1, n_layers)).astype(int) if n_layers > 1 else [0]
    # The ends embed and un-embed: they are kept whatever their influence.
    ranked = influence.copy()
    ranked[[0, depth - 1]] = np.inf
    strongest = np.sort(np.argsort(-ranked, kind="stable")[:n_layers])
    choices = (even, (*range(n_layers - 1), depth - 1), range(n_layers), strongest)
    return {
        rule: tuple(int(layer) for layer in layers)
        for rule, layers in zip(LAYER_RULES, choices, strict=True)
    }


def _mean_kl(teacher_NV: torch.Tensor, student_NV: torch.Tensor) -> float:
    return float((teacher_NV.exp() * (teacher_NV - student_NV)).sum(-1).mean())


@torch.no_grad()
def _next_logprobs(model: Any, prompts: Sequence[Sequence[int]], batch_size: int) -> torch.Tensor:
    parts = []
    for start in range(0, len(prompts), batch_size):
        ids_BL, last_B = pad_right(prompts[start : start + batch_size])
        logits_BV, _ = logits_at(
            model, torch.arange(len(last_B)), last_B, input_ids=ids_BL, use_cache=False
        )
        parts.append(torch.log_softmax(logits_BV.double(), -1))
    return torch.cat(parts)
