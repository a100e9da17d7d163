"""What a cache keeps of one position, as bytes of a fixed width.

sampled   k ids, k - 1 weights, the entropy: 37 B at k = 12 and up to 65,536 ids
top_k     k ids and k log-probabilities in float16: 4 B an id; the tail is what is missing to 1
hidden    the last hidden state in bfloat16: 2 B a dimension

Ids take 2 bytes up to a vocabulary of 65,536 and 4 beyond. A sampled weight w <= 1/2 is kept as q
in w = (q / 255)**2 / 2, rounded up or down at random so that its expectation stays w; the largest
weight is not kept, because all add up to 1: what is read back is unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from stillhouse.distill.divergences.sampling import sample_ids
from stillhouse.distill.divergences.signals import HiddenStates, Sampled, TopK
from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillhouse.distill.divergences.head import Head
    from stillhouse.distill.divergences.signals import Signal

    Bytes = NDArray[np.uint8]

_LEVELS = 255
_LARGEST = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Which signal, of a vocabulary of `vocabulary` ids, at which temperature.

    `size` is k for `sampled` and `top_k`, the width for `hidden` (whose temperature is free).
    """

    kind: Literal["sampled", "top_k", "hidden"]
    size: int
    vocabulary: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        most = 1 << 20 if self.kind == "hidden" else self.vocabulary
        if self.kind not in ("sampled", "top_k", "hidden") or not 1 <= self.size <= most:
            raise InputError(
                f"a cache payload {self.kind!r} of size {self.size}",
                repair="use sampled (12 ids), top_k (50 to 128 ids) or hidden (the model's width)",
            )

    @property
    def record_bytes(self) -> int:
        """Bytes of one position."""
        if self.kind == "hidden":
            return 2 * self.size
        ids = self._id_type.itemsize * self.size
        return ids + (2 * self.size if self.kind == "top_k" else self.size - 1 + 2)

    @property
    def _id_type(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype("<u2" if self.vocabulary <= 1 << 16 else "<u4")

    def encode(
        self, hidden_ND: torch.Tensor, head: Head, rng: np.random.Generator
    ) -> tuple[Bytes, torch.Tensor | None]:
        """Return records (N, record_bytes) of a teacher's states, and the full log t (N, V).

        The latter is None for hidden states, which need no head to be kept. `rng` draws.
        """
        if self.kind == "hidden":
            kept = hidden_ND.to(torch.bfloat16).contiguous().view(torch.int16).cpu().numpy()
            return kept.view(np.uint8).reshape(len(hidden_ND), -1), None
        z_NV = head.logits(hidden_ND)[:, : self.vocabulary].float() / self.temperature
        log_t_NV = torch.log_softmax(z_NV, -1)
        if self.kind == "top_k":
            top = log_t_NV.topk(self.size, dim=-1)
            parts = [self._ids(top.indices), _as_bytes(top.values.cpu().numpy().astype("<f2"))]
            return np.concatenate(parts, -1), log_t_NV
        t_NV = log_t_NV.exp()
        uniform_N = torch.from_numpy(rng.random(len(t_NV)))
        ids_NK, weights_NK = sample_ids(t_NV, uniform_N.to(t_NV.device), self.size)
        entropy_N = -torch.where(t_NV > 0, t_NV * log_t_NV, 0).sum(-1)
        # By falling weight: the first is the one that the others imply.
        order_NK = weights_NK.argsort(dim=-1, descending=True, stable=True)
        weights_NK, ids_NK = weights_NK.gather(-1, order_NK), ids_NK.gather(-1, order_NK)
        parts = [
            self._ids(ids_NK),
            _round_at_random(weights_NK[:, 1:].cpu().numpy(), rng),
            _as_bytes(entropy_N.cpu().numpy().astype("<f2")[:, None]),
        ]
        return np.concatenate(parts, -1), log_t_NV

    def decode(self, records_NR: Bytes, head: Head | None = None) -> Signal:
        """Return the signal; hidden states need the teacher's head."""
        if self.kind == "hidden":
            if head is None:
                raise InputError("cached hidden states need the teacher's head to be read")
            words = torch.from_numpy(np.array(records_NR).view("<i2"))
            return HiddenStates(hidden_MD=words.view(torch.bfloat16), head=head)
        width = self._id_type.itemsize * self.size
        raw = np.ascontiguousarray(records_NR[:, :width]).view(self._id_type)
        ids_NK = torch.from_numpy(raw.astype(np.int64))
        rest = np.ascontiguousarray(records_NR[:, width:])
        if self.kind == "top_k":
            values = torch.from_numpy(rest.view("<f2").astype(np.float32))
            return TopK(ids_MK=ids_NK, log_probs_MK=values, temperature=self.temperature)
        others = (rest[:, :-2].astype(np.float32) / _LEVELS) ** 2 * _LARGEST
        weights = np.concatenate([1 - others.sum(-1, keepdims=True), others], -1)
        entropy = np.ascontiguousarray(rest[:, -2:]).view("<f2")[:, 0].astype(np.float32)
        return Sampled(
            ids_MK=ids_NK,
            weights_MK=torch.from_numpy(weights),
            entropy_M=torch.from_numpy(entropy),
            temperature=self.temperature,
        )

    def _ids(self, ids_NK: torch.Tensor) -> Bytes:
        return _as_bytes(ids_NK.cpu().numpy().astype(self._id_type))


def _as_bytes(values: NDArray[np.generic]) -> Bytes:
    raw: Bytes = np.ascontiguousarray(values).view(np.uint8)
    return raw


def _round_at_random(weights: NDArray[np.float64], rng: np.random.Generator) -> Bytes:
    place = np.sqrt(np.clip(weights / _LARGEST, 0, 1)) * _LEVELS
    below = np.minimum(np.floor(place), _LEVELS - 1)
    low, high = ((q / _LEVELS) ** 2 * _LARGEST for q in (below, below + 1))
    up = rng.random(weights.shape) < (weights - low) / (high - low)
    rounded: Bytes = (below + up).astype(np.uint8)
    return rounded
