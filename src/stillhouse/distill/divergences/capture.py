"""Build a teacher cache: run the teacher once, keep what the payload says, measure the loss."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from stillhouse.distill.divergences import kernels
from stillhouse.distill.divergences.cache import (
    CacheKey,
    Fidelity,
    Layout,
    TeacherCache,
    counts_bytes,
    header_bytes,
    read_part,
    write_at,
)
from stillhouse.distill.divergences.divergence import Divergence
from stillhouse.distill.divergences.head import Curve
from stillhouse.distill.divergences.signals import HiddenStates, TopK
from stillhouse.distill.divergences.simplex import times
from stillhouse.exchanges import InputError, storage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stillhouse.distill.divergences.head import Head
    from stillhouse.distill.divergences.payloads import Payload
    from stillhouse.distill.divergences.signals import Signal

ROWS_AT_A_TIME = 64  # positions whose whole distribution exists at a time
_MEASURED = 2048  # positions that fidelity is measured on


@torch.no_grad()
def build_cache(
    path: Path,
    key: CacheKey,
    counts: Sequence[int],
    states_of: Callable[[range], torch.Tensor],
    head: Head,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> TeacherCache:
    """Return the cache at `path`, built or finished where it was left; an existing one is opened.

    `counts` are the examples' reply tokens and `states_of(examples)` the teacher's last hidden
    states (positions, D) at those of a range of examples, end to end; it must give the same for
    the same range at every call. `progress` gets (positions done, positions). The folder is locked
    meanwhile. Raises `InputError` for a file of another key, and for states of the wrong shape.
    """
    if path.exists():
        return TeacherCache.open(path, key)
    sizes = np.array(counts, dtype=np.uint32)
    if not len(sizes) or not sizes.all():
        raise InputError("a teacher cache needs examples, each with at least one reply token")
    layout = Layout(sizes, key.payload.record_bytes)
    part = path.with_name(path.name + ".part")
    with storage.RunLock(path.parent):
        if path.exists():
            return TeacherCache.open(path, key)
        done = read_part(part, key, sizes)
        if done is None:
            part.unlink(missing_ok=True)
            begun = header_bytes(key, len(sizes), None) + counts_bytes(sizes)
            write_at(part, 0, begun, "cache-header")
            done = 0
        for block in range(done, len(layout.block_end)):
            records = _encoded(key, block, _states(layout, block, states_of), head)
            write_at(part, layout.bytes_of(block)[0], records, "cache-block")
            if progress is not None:
                progress(int(layout.first_N[layout.block_end[block]]), int(layout.first_N[-1]))
        fidelity = _measure(key.payload, part, layout, states_of, head)
        write_at(part, 0, header_bytes(key, len(sizes), fidelity), "cache-fidelity")
        storage.on_step(f"rename:{path.name}")
        part.rename(path)
        storage.on_step(f"rename:{path.name}:done")
        storage.sync_folder(path.parent, path.name)
    return TeacherCache.open(path, key)


def _states(layout: Layout, block: int, states_of: Callable[[range], torch.Tensor]) -> torch.Tensor:
    examples = layout.examples_of(block)
    hidden_ND = states_of(examples)
    expected = int(layout.first_N[examples.stop] - layout.first_N[examples.start])
    if len(hidden_ND) != expected:
        raise InputError(
            f"the teacher gave {len(hidden_ND)} states for the {expected} reply tokens of examples "
            f"{examples.start} to {examples.stop - 1}"
        )
    return hidden_ND


def _encoded(key: CacheKey, block: int, hidden_ND: torch.Tensor, head: Head) -> bytes:
    # One generator a block: a resumed file has the draws of an undisturbed one.
    rng = np.random.default_rng([key.seed, block])
    parts = [
        key.payload.encode(hidden_ND[row : row + ROWS_AT_A_TIME], head, rng)[0]
        for row in range(0, len(hidden_ND), ROWS_AT_A_TIME)
    ]
    data = np.concatenate(parts).tobytes()
    return data + hashlib.sha256(data).digest()


def _measure(
    payload: Payload,
    part: Path,
    layout: Layout,
    states_of: Callable[[range], torch.Tensor],
    head: Head,
) -> Fidelity:
    """Compare what stands in the file with the teacher's own distributions."""
    hidden_MD = _states(layout, 0, states_of)[:_MEASURED]
    start, _ = layout.bytes_of(0)
    with part.open("rb") as file:
        file.seek(start)
        data = file.read(len(hidden_MD) * payload.record_bytes)
    records_MR = np.frombuffer(data, dtype=np.uint8).reshape(len(hidden_MD), -1)
    return measure_fidelity(payload.decode(records_MR, head), hidden_MD, head, payload)


@torch.no_grad()
def measure_fidelity(
    signal: Signal, hidden_MD: torch.Tensor, head: Head, payload: Payload
) -> Fidelity:
    """Return what is lost between a teacher's states and a signal made from them."""
    divergence = Divergence(temperature=payload.temperature)
    curve = Curve()
    vocabulary = payload.vocabulary
    gradients = torch.zeros((2, vocabulary, hidden_MD.shape[1]), device=hidden_MD.device)
    kl = 0.0
    for row in range(0, len(hidden_MD), ROWS_AT_A_TIME):
        states_ND = hidden_MD[row : row + ROWS_AT_A_TIME]
        kept = signal.part(row, row + len(states_ND)).to(states_ND.device)
        z_NV = head.logits(states_ND)[:, :vocabulary].float()
        student_NV = z_NV / 2
        if isinstance(kept, HiddenStates):
            kept_z_NV = kept.head.logits(kept.hidden_MD.to(states_ND.dtype))[:, :vocabulary].float()
            q_NV = torch.softmax(kept_z_NV / payload.temperature, -1)
            _, ours_NV = kernels.full(student_NV, kept_z_NV, divergence, curve, curve)
        elif isinstance(kept, TopK):
            listed_NK = kept.log_probs_MK.exp()
            tail_N1 = (1 - listed_NK.sum(-1, keepdim=True)).clamp(min=0)
            even_N1 = tail_N1 / max(1, vocabulary - listed_NK.shape[1])
            q_NV = even_N1.repeat(1, vocabulary).scatter_(-1, kept.ids_MK, listed_NK)
            _, ours_NV = kernels.buckets(
                student_NV, kept.ids_MK, kept.log_probs_MK, divergence, curve
            )
        else:
            q_NV = torch.zeros_like(z_NV).scatter_add_(-1, kept.ids_MK, kept.weights_MK.float())
            _, ours_NV = kernels.sampled(
                student_NV, kept.ids_MK, kept.weights_MK, None, divergence, curve
            )
        _, full_NV = kernels.full(student_NV, z_NV, divergence, curve, curve)
        log_t_NV = torch.log_softmax(z_NV / payload.temperature, -1)
        kl += float(times(q_NV, q_NV.log() - log_t_NV).sum())
        for place, gradient_NV in enumerate((full_NV, ours_NV)):
            gradients[place] += gradient_NV.T @ states_ND.float()
    # Tens of millions of products: float32 sums would be wrong in the third place.
    full, ours = gradients
    dots = [(a * b).sum(dtype=torch.float64) for a, b in ((full, ours), (full, full), (ours, ours))]
    cosine = float(dots[0] / (dots[1] * dots[2]).sqrt().clamp(min=1e-30))
    return Fidelity(
        positions=len(hidden_MD), kl_nats=kl / len(hidden_MD), gradient_cosine=min(cosine, 1.0)
    )
