"""Which white-box objective, and which rate, `retention` should use: seen on training documents.

A hash divides 15 % of the training documents off; they are scored, the others train, with a seed
that `retention` does not use. Held-out documents are never read. One run is one cell:

    python -m benchmarks.retention_search --tokens 1 --rate 6e-4      plain training
    python -m benchmarks.retention_search --tokens 0.5 --kl 0.5       a mixed target
    python -m benchmarks.retention_search --tokens 1 --hidden 3       hidden-state terms
    python -m benchmarks.retention_search --tokens 1 --refit 32       blocks refitted first

`--kl` and `--tokens` weigh forward KL to the live teacher and cross-entropy at the texts' tokens,
in one pass over the vocabulary. `--hidden` weighs the mean over the student's blocks behind the
first gap of |h - g|^2 / |g|^2, h the block's output and g that of the same block in the teacher.
`--hidden-first` does these terms alone for a share of the time, and what the others say after it.

`--refit` solves, before training and on so many documents, each block's output projection and then
its down projection for the teacher's state there (behind attention; at the end of the gap that
follows the block), by ridge regression of what is missing on the projection's own input, each
position divided by its target's norm, one block after the other on the student's own states.

A cell ends after `--seconds` of processor time (refitting included), or after `--steps`: on a busy
machine a step's processor time grows, so give each objective the steps that it has time for on a
quiet one. The figure is bits per byte of the documents put aside (docs/log.md keeps them).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
import transformers

from benchmarks.retention import BATCH, SCHEDULE, Cell, Document, bits, choose, documents
from benchmarks.whitebox.data import prepare
from stillhouse.distill.divergences import (
    Divergence,
    Head,
    Sampled,
    divergence_loss,
    packed_layers,
    reply_places,
)
from stillhouse.distill.loop import learning_rate
from stillhouse.distill.precision import compute_in
from stillhouse.teachers.packages import cache_folder

ASIDE = 0.15  # of the training documents


@dataclass(frozen=True, slots=True)
class Weights:
    """What each part of the objective counts."""

    tokens: float
    kl: float
    hidden: float


def mixed(log_s_NV: Any, log_t_NV: Any, ids_N1: Any, tokens: float, kl: float) -> tuple[Any, Any]:
    """Loss (N) and the gradient in the student's logits (N, V) but for the tokens' own places."""
    log_s_NV, log_t_NV = (torch.log_softmax(z.float(), -1) for z in (log_s_NV, log_t_NV))
    t_NV = log_t_NV.exp()
    loss_N = (
        kl * (t_NV * (log_t_NV - log_s_NV)).sum(-1) - tokens * log_s_NV.gather(-1, ids_N1)[:, 0]
    )
    return loss_N, (tokens + kl) * log_s_NV.exp() - kl * t_NV


class Mixed(torch.autograd.Function):
    """Sum of `kl` KL(t || s) and `tokens` times the cross-entropy, a chunk at a time."""

    @staticmethod
    def forward(ctx: Any, ours_MD: Any, theirs_MD: Any, head: Any, ids_M1: Any, w: Weights) -> Any:
        """One pass over the vocabulary; both models have this head."""
        core = torch.compile(mixed)
        loss, gradient_MD = torch.zeros(()), torch.empty_like(ours_MD)
        for at in range(0, len(ours_MD), 341):
            here = slice(at, at + 341)
            ids_N1 = ids_M1[here]
            y_s_NV, y_t_NV = (x_MD[here].to(head.dtype) @ head.T for x_MD in (ours_MD, theirs_MD))
            loss_N, slope_NV = core(y_s_NV, y_t_NV, ids_N1, w.tokens, w.kl)
            slope_NV.scatter_add_(-1, ids_N1, torch.full(ids_N1.shape, -w.tokens))
            loss += loss_N.sum()
            gradient_MD[here] = slope_NV.to(head.dtype) @ head
        ctx.gradient_MD = gradient_MD
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        """The gradient made on the way there."""
        return ctx.gradient_MD * outer[0], None, None, None, None


class Search(Cell):
    """A student, its teacher, and an objective with weights."""

    def __init__(self, seed: int, folder: Path, data: Sequence[Document], *, taught: bool):
        super().__init__("plain", seed, folder, data)
        self.layers: list[int] = orjson.loads((folder / "layers.json").read_bytes())
        if taught:
            auto: Any = transformers.AutoModelForCausalLM
            self.guide = auto.from_pretrained(folder / "teacher", dtype=self.products).eval()
            self.guide.requires_grad_(requires_grad=False)

    def learn(self, batch: Sequence[Document], rate: float, weights: Weights) -> None:
        """One optimiser step."""
        sequences = [one.ids for one in batch]
        places_M = reply_places([len(ids) for ids in sequences], [1] * len(batch))
        ids_M1 = torch.tensor([[token] for ids in sequences for token in ids[1:]])
        every = weights.hidden > 0
        theirs: list[torch.Tensor] = []
        if every or weights.kl:
            with torch.no_grad():
                theirs = packed_layers(self.guide, sequences, every=every)
        with compute_in(self.dtype):  # type: ignore[arg-type]
            ours = packed_layers(self.student, sequences, every=every)
        weight_VD = self.student.lm_head.weight
        loss = torch.zeros(())
        if weights.kl:
            head = weight_VD.to(self.products)
            loss = Mixed.apply(  # type: ignore[no-untyped-call]
                ours[-1][places_M], theirs[-1][places_M], head, ids_M1, weights
            ) / len(places_M)
        elif weights.tokens:
            signal = Sampled(ids_MK=ids_M1, weights_MK=torch.full(ids_M1.shape, weights.tokens))
            loss = divergence_loss(
                ours[-1][places_M], Head(weight_VD=weight_VD), signal, Divergence(),
                reply_tokens=len(places_M), dtype=self.products,
            )  # fmt: skip
        if every:
            pairs = [(own + 1, whole + 1) for own, whole in enumerate(self.layers) if own != whole]
            for a, b in pairs:
                h_MD, g_MD = ours[a][places_M].float(), theirs[b][places_M].float()
                off_M = (h_MD - g_MD).square().sum(-1) / g_MD.square().sum(-1)
                loss = loss + weights.hidden * off_M.mean() / len(pairs)
        self.finish(loss, rate)

    @torch.no_grad()
    def refit(self, batch: Sequence[Document], ridge: float) -> None:
        """Solve output and down projections for the teacher's states (see the module)."""
        sequences = [one.ids for one in batch]
        # The first token's states are many times larger than all others', and alike in all texts.
        later_N = torch.cat([torch.arange(len(ids)) for ids in sequences]) > 0
        behind: dict[Any, torch.Tensor] = {}

        def note(module: Any, given: tuple[torch.Tensor]) -> None:
            behind[module] = given[0][0]

        guide = self.guide.model
        norms = [block.post_attention_layernorm for block in guide.layers]
        handles = [m.register_forward_pre_hook(note) for m in (*norms, guide.norm)]
        after = packed_layers(self.guide, sequences, every=True)
        after[-1] = behind[guide.norm]
        for handle in handles:
            handle.remove()

        def solve(module: Any, given: Any, before: Any, target_ND: torch.Tensor) -> None:
            with torch.autocast("cpu", enabled=False):
                input_ND, base_ND, target_ND = (
                    x[later_N].float() for x in (given[0][0], behind[before], target_ND)
                )
                scale_N1 = target_ND.square().sum(-1, keepdim=True).rsqrt()
                now_ND = torch.nn.functional.linear(input_ND, module.weight)
                left_ND = (target_ND - base_ND - now_ND) * scale_N1
                input_ND *= scale_N1
                gram_DD = input_ND.T @ input_ND
                gram_DD.diagonal().add_(ridge * gram_DD.diagonal().mean())
                factor = torch.linalg.cholesky(gram_DD)
                module.weight += torch.cholesky_solve(input_ND.T @ left_ND, factor).T

        ends = [*self.layers[1:], self.layers[-1] + 1]  # the teacher's blocks whose inputs to give
        handles = []
        for place, (own, end) in enumerate(zip(self.layers, ends, strict=True)):
            block = self.student.model.layers[place]
            first, second = block.input_layernorm, block.post_attention_layernorm
            handles += [m.register_forward_pre_hook(note) for m in (first, second)]
            if own != place:
                handles.append(
                    block.self_attn.o_proj.register_forward_pre_hook(
                        lambda m, x, n=first, t=behind[norms[own]]: solve(m, x, n, t)
                    )
                )
            if own != place or end != own + 1:
                handles.append(
                    block.mlp.down_proj.register_forward_pre_hook(
                        lambda m, x, n=second, t=after[end]: solve(m, x, n, t)
                    )
                )
        with compute_in(self.dtype):  # type: ignore[arg-type]
            packed_layers(self.student, sequences)
        for handle in handles:
            handle.remove()


def main() -> None:
    """One cell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/retention"))
    parser.add_argument("--models", type=Path, default=cache_folder() / "benchmark-training")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=120.0, help="processor time")
    parser.add_argument("--steps", type=int, help="stop after these instead")
    parser.add_argument("--documents", type=int, default=60, help="to score")
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--tokens", type=float, default=0.0, help="weight of cross-entropy")
    parser.add_argument("--kl", type=float, default=0.0, help="weight of forward KL")
    parser.add_argument("--hidden", type=float, default=0.0, help="weight of hidden-state terms")
    parser.add_argument("--hidden-first", type=float, default=0.0, help="share with these alone")
    parser.add_argument("--refit", type=int, default=0, help="documents to refit blocks on")
    parser.add_argument("--ridge", type=float, default=0.1, help="of the mean diagonal")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    given.models.mkdir(parents=True, exist_ok=True)
    auto: Any = transformers.AutoTokenizer
    training, _ = documents(auto.from_pretrained(prepare(given.models)[0]))
    choose(given.folder, given.models, training)
    sides: tuple[list[Document], list[Document]] = ([], [])
    for one in training:
        place = int(hashlib.sha256(b"explore" + one.name.encode()).hexdigest()[:8], 16) / 2**32
        sides[place < ASIDE].append(one)
    data, aside = sides[0], sides[1][: given.documents]
    taught = bool(given.kl or given.hidden or given.hidden_first or given.refit)
    cell = Search(given.seed, given.folder, data, taught=taught)
    usual = Weights(given.tokens, given.kl, given.hidden)
    first = Weights(0.0, 0.0, 1.0)
    kinds = (usual, first) if given.hidden_first else (usual,)
    cell.warm_up(lambda: [cell.learn(data[:BATCH], 0.0, one) for one in kinds])
    spent, tokens, steps = 0.0, 0, 0
    if given.refit:
        clock = time.process_time()
        cell.refit([data[i] for i in cell.rng.sample(range(len(data)), given.refit)], given.ridge)
        spent += time.process_time() - clock
    config = dataclasses.replace(SCHEDULE, learning_rate=given.rate)
    while (steps < given.steps) if given.steps else (spent < given.seconds):
        share = steps / given.steps if given.steps else spent / given.seconds
        batch = cell.batch()
        clock = time.process_time()
        rate = learning_rate(min(999, round(1000 * share)), 1000, config)
        cell.learn(batch, rate, first if share < given.hidden_first else usual)
        spent += time.process_time() - clock
        tokens += sum(len(one.ids) - 1 for one in batch)
        steps += 1
    found = sum(bits(cell.student, aside, cell.dtype).values()) / sum(one.bytes for one in aside)
    print(f"{given}\n{found:.4f} bits/byte after {steps} steps, {tokens:,} tokens,"
          f" {spent:.0f} processor seconds", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
