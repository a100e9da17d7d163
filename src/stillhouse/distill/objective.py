"""What training minimises: a module, so that DDP and FSDP2 see a forward pass to hook into.

`forward` takes examples of one split by their places in it and returns the loss summed over their
reply tokens. With `measure` it returns (loss, nats of the reply's own tokens), which make bits per
byte; the second is not a number where soft label targets leave no such thing.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal

import torch

from stillhouse.distill.divergences import (
    Head,
    LayerMap,
    chunk_rows,
    divergence_loss,
    hidden_state_loss,
)
from stillhouse.distill.examples import micro_batches
from stillhouse.distill.loss import make_batch, reply_loss
from stillhouse.distill.precision import compute_in
from stillhouse.distill.states import bare, reply_states
from stillhouse.teachers.weights import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stillhouse.distill.distribution import DivergenceConfig
    from stillhouse.distill.examples import Examples
    from stillhouse.distill.teaching import SplitName, Teacher

    Precision = Literal["float32", "bfloat16"]


class RepliesObjective(torch.nn.Module):
    """Cross-entropy at the replies' tokens (`loss` defines it)."""

    def __init__(
        self, model: Any, sets: Mapping[SplitName, Examples], dtype: Precision, weight: float
    ):
        super().__init__()
        self.model, self.sets, self.dtype, self.weight = model, sets, dtype, weight

    def parts(self, batch: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
        """Divide a batch into forward passes of at most `tokens` tokens, padding included."""
        return micro_batches(batch, lengths, tokens)

    def forward(
        self, split: SplitName, places: Sequence[int], *, measure: bool = False
    ) -> torch.Tensor:
        """See the module."""
        found = self.sets[split]
        device = self.model.get_input_embeddings().weight.device
        batch = make_batch([found.examples[i] for i in places], found.label_tokens).to(device)
        with compute_in(self.dtype, device.type):
            loss = reply_loss(self.model, batch, self.weight)
        if not measure:
            return loss
        soft = bool(len(batch.soft_S))
        return torch.stack([loss, torch.full_like(loss, math.nan) if soft else loss])


class DistributionObjective(torch.nn.Module):
    """A divergence from the teacher's distributions at the replies' tokens."""

    def __init__(
        self,
        model: Any,
        sets: Mapping[SplitName, Examples],
        dtype: Precision,
        config: DivergenceConfig,
        teacher: Teacher,
        *,
        compiled: bool = False,
    ):
        super().__init__()
        self.model, self.sets, self.dtype, self.config = model, sets, dtype, config
        self.teacher, self.compiled = teacher, compiled
        self.divergence = config.divergence()
        self.head = Head.of(bare(model))

    def parts(self, batch: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
        """Divide a batch into forward passes of at most `tokens` tokens."""
        if not self.config.packing:
            return micro_batches(batch, lengths, tokens)
        parts: list[list[int]] = []
        held = 0
        for place in sorted(batch, key=lambda i: lengths[i]):
            if not parts or held + lengths[place] > tokens:
                parts.append([])
                held = 0
            parts[-1].append(place)
            held += lengths[place]
        return parts

    def forward(
        self, split: SplitName, places: Sequence[int], *, measure: bool = False
    ) -> torch.Tensor:
        """See the module."""
        examples = [self.sets[split].examples[i] for i in places]
        signal, theirs = self.teacher.word(split, places, examples)
        model = bare(self.model)
        with compute_in(self.dtype, self.head.weight_VD.device.type):
            ours = reply_states(model, examples, pack=self.config.packing, every=bool(theirs))
        output = model.get_output_embeddings()  # looked up anew: sharded weights come and go
        head = dataclasses.replace(self.head, weight_VD=output.weight, bias_V=output.bias)
        loss = divergence_loss(
            ours[-1],
            head,
            signal,
            self.divergence,
            reply_tokens=1.0,
            vocabulary=self.teacher.vocabulary,
            dtype=DTYPES[self.dtype],
            compiled=self.compiled,
        )
        if theirs and self.config.hidden_states is not None:
            layers = LayerMap.even(len(ours) - 1, len(theirs) - 1)
            term = hidden_state_loss(
                ours, theirs, layers, self.config.hidden_states, reply_tokens=1.0
            )
            loss = loss + self.config.hidden_weight * term
        if not measure:
            return loss
        targets_M = torch.tensor(
            [token for e in examples for token in e.ids[e.start :]], device=ours[-1].device
        )
        kept = self.teacher.kept
        own = self.teacher.vocabulary if kept is None else len(kept)
        nats = _nats(ours[-1], head, targets_M, own, DTYPES[self.dtype])
        return torch.stack([loss, nats])


def _nats(
    hidden_MD: torch.Tensor,
    head: Head,
    targets_M: torch.Tensor,
    vocabulary: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Minus the summed log-probability of the targets, some positions at a time."""
    cut = dataclasses.replace(
        head,
        weight_VD=head.weight_VD[:vocabulary].to(dtype),
        bias_V=None if head.bias_V is None else head.bias_V[:vocabulary].to(dtype),
    )
    total = hidden_MD.new_zeros((), dtype=torch.float32)
    rows = chunk_rows(vocabulary)
    for start in range(0, len(hidden_MD), rows):
        logits_NV = cut.logits(hidden_MD[start : start + rows].to(dtype)).float()
        total += torch.nn.functional.cross_entropy(
            logits_NV, targets_M[start : start + rows], reduction="sum"
        )
    return total
