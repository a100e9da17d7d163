"""What a teacher says about M reply positions: hidden states, top-k with a tail, or sampled ids.

Row i of a signal belongs to row i of the student's hidden states. All log-probabilities are
natural and of the temperature that the signal names; another one in the loss is refused.
"""

# ruff: noqa: N815 - shape suffixes on the fields
from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from stillhouse.distill.divergences.head import Head


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenStates:
    """The teacher's last hidden states (M, D_teacher) and its head: exact, at any temperature.

    They come from a live teacher or from a cache; nothing is lost but what their precision drops.

    For a student of a trimmed vocabulary, `kept_K` are the teacher's ids that its rows stand for,
    in the student's order. The student's head then has one row more, the tail, and the teacher's
    mass on all other ids together is that bucket: nothing is renormalised.
    """

    hidden_MD: torch.Tensor
    head: Head
    kept_K: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden_MD)

    def part(self, start: int, end: int) -> HiddenStates:
        """Rows start..end."""
        return HiddenStates(hidden_MD=self.hidden_MD[start:end], head=self.head, kept_K=self.kept_K)

    def to(self, device: torch.device) -> HiddenStates:
        """The same on another device; the head stays where it is."""
        kept_K = None if self.kept_K is None else self.kept_K.to(device)
        return replace(self, hidden_MD=self.hidden_MD.to(device), kept_K=kept_K)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The k most probable ids and their log-probabilities; the rest of the mass is one bucket.

    Nothing is renormalised: the tail's mass is 1 - sum(exp(log_probs)), and the student's is what
    it gives to all ids that are not listed. A divergence between such buckets is blind to what
    happens inside the tail (a KL is then at most the full one). Ids are distinct within a row.
    """

    ids_MK: torch.Tensor
    log_probs_MK: torch.Tensor
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.ids_MK)

    def part(self, start: int, end: int) -> TopK:
        """Rows start..end."""
        return TopK(
            ids_MK=self.ids_MK[start:end],
            log_probs_MK=self.log_probs_MK[start:end],
            temperature=self.temperature,
        )

    def to(self, device: torch.device) -> TopK:
        """The same on another device."""
        return replace(
            self, ids_MK=self.ids_MK.to(device), log_probs_MK=self.log_probs_MK.to(device)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Ids with weights whose expectation is the teacher's distribution (arXiv 2503.16870).

    For forward KL alone, whose gradient is then unbiased. Its value needs the teacher's entropy in
    nats; without `entropy_M` the loss is the cross-entropy, which differs by a constant. An id may
    occur twice in a row; padding has weight 0.
    """

    ids_MK: torch.Tensor
    weights_MK: torch.Tensor
    entropy_M: torch.Tensor | None = None
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.ids_MK)

    def part(self, start: int, end: int) -> Sampled:
        """Rows start..end."""
        return Sampled(
            ids_MK=self.ids_MK[start:end],
            weights_MK=self.weights_MK[start:end],
            entropy_M=None if self.entropy_M is None else self.entropy_M[start:end],
            temperature=self.temperature,
        )

    def to(self, device: torch.device) -> Sampled:
        """The same on another device."""
        return replace(
            self,
            ids_MK=self.ids_MK.to(device),
            weights_MK=self.weights_MK.to(device),
            entropy_M=None if self.entropy_M is None else self.entropy_M.to(device),
        )


Signal = HiddenStates | TopK | Sampled
