"""The training loss on replies: cross-entropy at reply tokens, and nothing anywhere else.

For an example with ids x and reply start s, the positions s-1 .. end-1 predict the reply:

    loss = - sum_{t >= s} log p(x_t | x_<t)

With label probabilities q over the labels' first tokens v_l and m = sum_l p(v_l | x_<s), the
probability of answering with a label at all, the loss is

    - sum_l q_l log (p(v_l | x_<s) / m)  -  w ( log m + sum_{t > s} log p(x_t | x_<t) )

where p is the softmax over the whole vocabulary (natural logarithm) and w the writing weight. With
w = 1 the first term and the second add up to the cross-entropy over the vocabulary. A small w lets
a short training spend itself on which label it is: a cut model starts with m near e^-36, and
repairing that at w = 1 cost the quickstart's student four points (docs/log.md).

The loss is a sum: the caller divides by the number of reply tokens of the whole optimiser step,
however many micro-batches that takes. Prompt and padding carry no loss; padding is on the right,
where a causal model's real tokens do not see it.
"""

# ruff: noqa: N815 - shape suffixes on the fields of a batch
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from stillhouse.teachers.heads import logits_at
from stillhouse.teachers.padding import pad_right

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillhouse.distill.examples import Example


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples as tensors: M positions (row, column) predict `targets_M`.

    `soft_S` indexes the positions among M whose target is `probabilities_SL` over `tokens_L`;
    `hard_H` indexes the others, and `writing_H` says which of them follow a label's first token.
    """

    ids_BL: torch.Tensor
    rows_M: torch.Tensor
    columns_M: torch.Tensor
    targets_M: torch.Tensor
    hard_H: torch.Tensor
    writing_H: torch.Tensor
    soft_S: torch.Tensor
    probabilities_SL: torch.Tensor
    tokens_L: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


def make_batch(examples: Sequence[Example], label_tokens: Sequence[int]) -> Batch:
    """Pad examples on the right and list the positions that carry loss."""
    ids_BL, _ = pad_right([example.ids for example in examples])
    rows: list[int] = []
    columns: list[int] = []
    soft, probabilities = [], []
    writing: list[bool] = []
    for row, example in enumerate(examples):
        if example.label_probabilities is not None:
            soft.append(len(rows))
            probabilities.append(example.label_probabilities)
        writing += [example.label_probabilities is not None] * example.reply_tokens
        rows += [row] * example.reply_tokens
        columns += range(example.start - 1, len(example.ids) - 1)
    rows_M, columns_M = torch.tensor(rows), torch.tensor(columns)
    is_hard_M = torch.ones(len(rows), dtype=torch.bool)
    is_hard_M[soft] = False
    return Batch(
        ids_BL=ids_BL,
        rows_M=rows_M,
        columns_M=columns_M,
        targets_M=ids_BL[rows_M, columns_M + 1],
        hard_H=is_hard_M.nonzero()[:, 0],
        writing_H=torch.tensor(writing)[is_hard_M],
        soft_S=torch.tensor(soft, dtype=torch.long),
        probabilities_SL=torch.tensor(probabilities, dtype=torch.float32),
        tokens_L=torch.tensor(label_tokens, dtype=torch.long),
    )


def reply_loss(model: Any, batch: Batch, writing_weight: float = 1.0) -> torch.Tensor:
    """Return the summed loss in nats (a float32 scalar)."""
    logits_MV, _ = logits_at(
        model, batch.rows_M, batch.columns_M, input_ids=batch.ids_BL, use_cache=False
    )
    loss_H = torch.nn.functional.cross_entropy(
        logits_MV[batch.hard_H], batch.targets_M[batch.hard_H], reduction="none"
    )
    loss = torch.where(batch.writing_H, writing_weight * loss_H, loss_H).sum()
    if len(batch.soft_S):
        logprobs_SL = torch.log_softmax(logits_MV[batch.soft_S], -1)[:, batch.tokens_L]
        mass_S = torch.logsumexp(logprobs_SL, -1)
        among_SL = batch.probabilities_SL * (logprobs_SL - mass_S[:, None])
        loss = loss - among_SL.sum() - writing_weight * mass_S.sum()
    return loss
