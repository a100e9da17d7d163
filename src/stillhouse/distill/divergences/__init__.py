"""Divergences between a teacher's and a student's next-token distributions, and what feeds them.

Start from `Divergence` (which one; the conventions that all share are in `divergence.py`) and
`divergence_loss` (hidden states in, loss and gradients out, by chunks). A teacher speaks through a
`Signal`: `HiddenStates` (live or cached), `TopK` with one tail bucket, or `Sampled` ids.
`build_cache` keeps a teacher's word in a file that `TeacherCache` reads back as signals.
`normaliser` gives the one divisor of a step, `reply_places` the positions that carry loss,
`hidden_state_loss` the optional terms on inner layers.

Refused: other temperatures than a signal was taken at, vocabularies that do not fit, sampled ids
for a divergence they would bias, and heads that do not make a model's own logits.
"""

from stillhouse.distill.divergences.cache import CacheKey, Fidelity, TeacherCache
from stillhouse.distill.divergences.capture import build_cache, measure_fidelity
from stillhouse.distill.divergences.divergence import KINDS, Divergence
from stillhouse.distill.divergences.fused import chunk_rows, divergence_loss
from stillhouse.distill.divergences.head import Curve, Head
from stillhouse.distill.divergences.hidden_states import LayerMap, hidden_state_loss
from stillhouse.distill.divergences.normaliser import normaliser, reply_places
from stillhouse.distill.divergences.packed import check_packable, packed_layers, packed_states
from stillhouse.distill.divergences.payloads import Payload
from stillhouse.distill.divergences.sampling import sample_ids
from stillhouse.distill.divergences.signals import HiddenStates, Sampled, Signal, TopK

__all__ = [
    "KINDS",
    "CacheKey",
    "Curve",
    "Divergence",
    "Fidelity",
    "Head",
    "HiddenStates",
    "LayerMap",
    "Payload",
    "Sampled",
    "Signal",
    "TeacherCache",
    "TopK",
    "build_cache",
    "check_packable",
    "chunk_rows",
    "divergence_loss",
    "hidden_state_loss",
    "measure_fidelity",
    "normaliser",
    "packed_layers",
    "packed_states",
    "reply_places",
    "sample_ids",
]
