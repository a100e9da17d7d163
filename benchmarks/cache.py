"""What a teacher cache is worth: gradient quality per byte of four ways to keep a distribution.

SmolLM2-135M-Instruct teaches two students on Python's manual: the 8 of its 30 layers of
`benchmarks.training` (untrained: as far from it as a student ever is) and 28 of its layers (near
it, where a student ends up). The goals' figure is the worse of both. For a batch
of sequences the gradient of full-vocabulary forward KL, averaged over its reply tokens, is taken in
the student's last hidden states times its head (the head's weight) and compared with the same
gradient from what a cache would have kept: the cosine between them. Kept were

sampled 12        12 ids with unbiased weights, out of a real cache file (the product's `sampled`);
                  its bytes a token are the file's, header and digests included
independent 12    12 independent draws of weight 1/12 (2503.16870 as published)
top 50, top 128   ids and log-probabilities in float16, renormalised over the kept ids, as others do
tail 50, tail 128 the same ids with one bucket for the rest (the product's `top_k`)
hidden            the teacher's last states in bfloat16 (the product's `hidden`)

Everything but the independent draws goes through the file format's bytes and back. A batch is 32
sequences of 130 to 250 tokens, 95 % reply: about 5,800 reply tokens. Intervals are Student's t over
batches.

    make benchmark-cache                         about 15 minutes on 2 cores
    python -m benchmarks.cache --batches 2 --sequences 4 --no-rows       to see that it works
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
import transformers

from benchmarks import rows, told
from benchmarks.whitebox import data as whitebox
from stillhouse.distill.divergences import (
    CacheKey,
    Divergence,
    Head,
    HiddenStates,
    Payload,
    Sampled,
    Signal,
    TopK,
    build_cache,
    divergence_loss,
    packed_states,
    reply_places,
)
from stillhouse.distill.divergences.sampling import drawn_independently
from stillhouse.students import cut_depth
from stillhouse.teachers.packages import cache_folder

VOCABULARY = 49_152
PACKAGES = ("torch", "transformers", "stillhouse")
PEER = "top 128, renormalised"
Keep = Callable[[torch.Tensor, Head, np.random.Generator], tuple[Signal, float]]


def as_kept(kind: Any, size: int, *, renormalised: bool = False) -> Keep:
    """A payload of the product, through its bytes; returns the signal and bytes a token."""
    payload = Payload(kind=kind, size=size, vocabulary=VOCABULARY)

    def keep(hidden_MD: torch.Tensor, head: Head, rng: np.random.Generator) -> tuple[Signal, float]:
        parts = [
            payload.encode(hidden_MD[row : row + 64], head, rng)[0]
            for row in range(0, len(hidden_MD), 64)
        ]
        signal = payload.decode(np.concatenate(parts), head)
        if renormalised:
            assert isinstance(signal, TopK)
            log_probs_MK = signal.log_probs_MK
            signal = TopK(
                ids_MK=signal.ids_MK,
                log_probs_MK=log_probs_MK - log_probs_MK.logsumexp(-1, keepdim=True),
            )
        return signal, float(payload.record_bytes)

    return keep


def independent(
    hidden_MD: torch.Tensor, head: Head, rng: np.random.Generator
) -> tuple[Signal, float]:
    """12 draws with replacement; 24 B of ids are all that has to be kept."""
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 60)))
    ids, weights = [], []
    for row in range(0, len(hidden_MD), 64):
        t_NV = torch.softmax(head.logits(hidden_MD[row : row + 64]).float(), -1)
        drawn = drawn_independently(t_NV, generator, 12)
        ids.append(drawn[0])
        weights.append(drawn[1])
    return Sampled(ids_MK=torch.cat(ids), weights_MK=torch.cat(weights).float()), 24.0


SAMPLED = "sampled 12"
STUDENTS = {"untrained": whitebox.LAYERS, "near": tuple(i for i in range(30) if i not in (12, 18))}
WAYS: dict[str, Keep] = {
    "independent 12": independent,
    "top 50, renormalised": as_kept("top_k", 50, renormalised=True),
    PEER: as_kept("top_k", 128, renormalised=True),
    "top 50 and tail": as_kept("top_k", 50),
    "top 128 and tail": as_kept("top_k", 128),
    "hidden states": as_kept("hidden", 576),
}


def states(model: Any, batch: list[whitebox.Example]) -> torch.Tensor:
    """Last hidden states at the places that predict reply tokens, eight sequences at a time."""
    found = []
    with torch.no_grad():
        for first in range(0, len(batch), 8):
            part = batch[first : first + 8]
            places = reply_places([len(ids) for ids, _ in part], [start for _, start in part])
            found.append(packed_states(model, [ids for ids, _ in part])[places].float())
    return torch.cat(found)


def gradient(hidden_MD: torch.Tensor, weight_VD: torch.Tensor, signal: Signal) -> torch.Tensor:
    """Averaged gradient of forward KL in the head's weight."""
    weight_VD = weight_VD.detach().clone().requires_grad_()
    divergence_loss(
        hidden_MD,
        Head(weight_VD=weight_VD),
        signal,
        Divergence(kind="forward_kl"),
        reply_tokens=len(hidden_MD),
        dtype=torch.float32,
        chunk_bytes=32 << 20,
    ).backward()  # type: ignore[no-untyped-call]
    assert weight_VD.grad is not None
    return weight_VD.grad


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of two gradients."""
    dots = [(x * y).sum(dtype=torch.float64) for x, y in ((a, b), (a, a), (b, b))]
    return float(dots[0] / (dots[1] * dots[2]).sqrt())


def study(
    folder: Path, batches: int, sequences: int
) -> tuple[dict[str, dict[str, list[float]]], dict[str, float]]:
    """Cosines by student and way, one a batch, and bytes a token by way."""
    teacher_folder, student_folder = whitebox.prepare(folder)
    auto: Any = transformers.AutoModelForCausalLM
    teacher = auto.from_pretrained(teacher_folder, dtype=torch.bfloat16).eval()
    students = {name: cut_depth(teacher, layers) for name, layers in STUDENTS.items()}
    tokenizer = transformers.AutoTokenizer.from_pretrained(student_folder)
    data = whitebox.examples(tokenizer, batches * sequences, 95)
    head = Head(weight_VD=teacher.lm_head.weight.detach().float())
    payload = Payload(kind="sampled", size=12, vocabulary=VOCABULARY)
    path = folder / f"study-{batches}-{sequences}.cache"
    path.unlink(missing_ok=True)
    cache = build_cache(
        path,
        CacheKey(teacher=whitebox.SHA256, template="none", data=path.stem, payload=payload),
        [len(ids) - start for ids, start in data],
        lambda numbers: states(teacher, data[numbers.start : numbers.stop]),
        head,
    )
    print(f"{cache.positions} tokens, {cache.bytes_per_token:.2f} B each, {cache.fidelity}")
    cosines: dict[str, dict[str, list[float]]] = {
        name: {way: [] for way in (SAMPLED, *WAYS)} for name in students
    }
    sizes: dict[str, float] = {SAMPLED: cache.bytes_per_token}
    for number in range(batches):
        batch = data[number * sequences : (number + 1) * sequences]
        theirs_MD = states(teacher, batch)
        exact = HiddenStates(hidden_MD=theirs_MD, head=head)
        signals: dict[str, Signal] = {
            SAMPLED: cache.signal(range(number * sequences, (number + 1) * sequences))
        }
        for way, keep in WAYS.items():
            signals[way], sizes[way] = keep(theirs_MD, head, np.random.default_rng([7, number]))
        for name, student in students.items():
            ours_MD, weight_VD = states(student, batch), student.lm_head.weight.detach().float()
            full = gradient(ours_MD, weight_VD, exact)
            for way, signal in signals.items():
                found = cosine(gradient(ours_MD, weight_VD, signal), full)
                cosines[name][way].append(found)
                print(
                    f"batch {number}, {len(ours_MD)} tokens, {name}: {way} {found:.6f}", flush=True
                )
    return cosines, sizes


def interval(values: list[float]) -> tuple[float, float | None, float | None]:
    """Mean with Student's interval over batches."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None, None
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values)
    half /= math.sqrt(len(values))
    return mean, mean - half, mean + half


def main() -> None:
    """Run the study and append the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=cache_folder() / "benchmark-training")
    parser.add_argument("--no-rows", action="store_true", help="print only")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    cosines, sizes = study(given.folder, given.batches, given.sequences)
    found: list[tuple[str, float, float | None, float | None, str, str, float | None]] = [
        ("bytes_per_token", sizes[SAMPLED], None, None, "B", PEER, sizes[PEER]),
    ]
    ratios = {
        name: [a / b for a, b in zip(ways[SAMPLED], ways[PEER], strict=True)]
        for name, ways in cosines.items()
    }
    worse = min(ratios, key=lambda name: statistics.fmean(ratios[name]))
    peer_cosine = statistics.fmean(cosines[worse][PEER])
    found.append(("gradient_cosine_over_top128", *interval(ratios[worse]), "x", PEER, peer_cosine))
    for name, ways in cosines.items():
        for way, values in ways.items():
            figure = f"gradient_cosine_{name}_" + way.replace(",", "").replace(" ", "_")
            found.append((figure, *interval(values), "cosine", f"{way}: B a token", sizes[way]))
    for figure, value, low, high, unit, peer, peer_value in found:
        if given.no_rows:
            print(f"{figure}: {value:.6g} [{low}, {high}] {unit}; {peer} {peer_value}")
            continue
        rows.append(
            "cache",
            figure,
            value,
            low=low,
            high=high,
            unit=unit,
            peer=peer,
            peer_value=peer_value,
            packages=PACKAGES,
        )
    if not given.no_rows:
        told.write()


if __name__ == "__main__":
    main()
