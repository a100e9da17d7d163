"""The loss alone, from hidden states to gradients, at the vocabularies of large models.

    python -m benchmarks.loss [--peers FOLDER]      on a GPU where there is one
    python -m benchmarks.loss --smoke               small, on the processor, no rows

Forward KL of random states: a student 2,048 wide and a teacher 4,096 wide, 8,192 reply tokens,
bfloat16, vocabularies of 128,256 and 151,936; the head is trained. Beside ours stand Liger's fused
linear JSD (beta 0; liger_kernel 0.8 and later, GPU only), TRL's chunked divergence and plain torch,
those that are installed and fit, and the floor: the same matrix products alone (the teacher's head
once; the student's forward, and twice backward). Medians of 20 calls after 3, synchronised; peak is
what torch held above the inputs. On a processor the sizes are cut to what it does in seconds.

`training.gpu_loss_share_of_matmul_floor` is the floor's time over ours at the worse vocabulary, and
is written on a GPU only.
"""

# ruff: noqa: N815 - shape suffixes on the fields
from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import rows
from benchmarks.whitebox.loops import compiles
from stillhouse.distill.divergences import Divergence, Head, HiddenStates, divergence_loss

VOCABULARIES = (128_256, 151_936)
PACKAGES = ("torch", "stillhouse")
Call = Callable[[], torch.Tensor | None]


@dataclass(frozen=True)
class Case:
    """Inputs of one vocabulary: states (M, D) and heads (V, D) of both models."""

    hidden_MD: torch.Tensor
    weight_VD: torch.Tensor
    theirs_MD: torch.Tensor
    theirs_VD: torch.Tensor

    @classmethod
    def drawn(cls, device: str, tokens: int, widths: tuple[int, int], vocabulary: int) -> Case:
        """Random states and heads with logits of about unit size."""
        made = []
        for width in widths:
            for rows_count, scale in ((tokens, 1.0), (vocabulary, width**-0.5)):
                one = torch.randn(rows_count, width, device=device, dtype=torch.bfloat16) * scale
                made.append(one)
        return cls(made[0].requires_grad_(), made[1].requires_grad_(), made[2], made[3])

    def ours(self) -> torch.Tensor:
        """This product."""
        return divergence_loss(
            self.hidden_MD,
            Head(weight_VD=self.weight_VD),
            HiddenStates(hidden_MD=self.theirs_MD, head=Head(weight_VD=self.theirs_VD)),
            Divergence(),
            reply_tokens=len(self.hidden_MD),
            compiled=self.hidden_MD.is_cuda or compiles(),
        )

    def naive(self) -> torch.Tensor:
        """Whole logits."""
        log_s = torch.log_softmax((self.hidden_MD @ self.weight_VD.T).float(), -1)
        log_t = torch.log_softmax((self.theirs_MD @ self.theirs_VD.T).float(), -1)
        kl = torch.nn.functional.kl_div(log_s, log_t, reduction="sum", log_target=True)
        return kl / len(self.hidden_MD)

    def trl(self) -> torch.Tensor:
        """TRL's kernel."""
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

        divergence_M, _ = ChunkedDivergenceFunction.apply(
            self.hidden_MD, self.weight_VD, None, self.theirs_MD, self.theirs_VD, None, 0.0
        )
        kl: torch.Tensor = divergence_M.sum() / len(self.hidden_MD)
        return kl

    def liger(self) -> torch.Tensor:
        """Liger's fused loss, without its cross-entropy."""
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0)
        labels_M = torch.zeros(len(self.hidden_MD), dtype=torch.long, device=self.hidden_MD.device)
        found: torch.Tensor = loss(
            self.hidden_MD, self.weight_VD, self.theirs_MD, self.theirs_VD, labels_M, None, None
        )
        return found

    @torch.no_grad()
    def floor(self) -> None:
        """The products alone, in the chunks that ours has."""
        gradient_VD = torch.zeros_like(self.weight_VD)
        for first in range(0, len(self.hidden_MD), 1024):
            h_ND = self.hidden_MD[first : first + 1024]
            y_NV = h_ND @ self.weight_VD.T
            _ = self.theirs_MD[first : first + 1024] @ self.theirs_VD.T
            _ = y_NV @ self.weight_VD
            gradient_VD.addmm_(y_NV.T, h_ND)


def timed(case: Case, call: Call, *, calls: int, warm_up: int) -> tuple[float, float]:
    """Median seconds of a call with its backward pass; GiB that torch held beside the inputs."""
    cuda = case.hidden_MD.is_cuda
    seconds = []
    before = 0
    for number in range(warm_up + calls):
        if cuda and number == warm_up:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        loss = call()
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
        if cuda:
            torch.cuda.synchronize()
        if number >= warm_up:
            seconds.append(time.perf_counter() - began)
        case.hidden_MD.grad = case.weight_VD.grad = None
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30 if cuda else float("nan")
    return statistics.median(seconds), peak


def contenders(case: Case) -> Iterator[tuple[str, Call]]:
    """The floor, ours, and the peers that can run here."""
    yield from (("floor", case.floor), ("ours", case.ours), ("naive", case.naive))
    for name, call, module in (("trl", case.trl, "trl"), ("liger", case.liger, "liger_kernel")):
        try:
            __import__(module)
        except ImportError:
            print(f"{name}: not installed", flush=True)
        else:
            yield name, call


def main() -> None:
    """Time everyone at both vocabularies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", type=Path, help="folder with trl, and liger_kernel on a GPU")
    parser.add_argument("--smoke", action="store_true", help="small, on the processor, no rows")
    given = parser.parse_args()
    if given.peers is not None:
        sys.path.append(str(given.peers))
    cuda = torch.cuda.is_available() and not given.smoke
    device = "cuda" if cuda else "cpu"
    tokens, widths = (8192, (2048, 4096)) if cuda else (128, (64, 96))
    shares = []
    for whole in VOCABULARIES:
        vocabulary = whole // 16 if given.smoke else whole
        case = Case.drawn(device, tokens, widths, vocabulary)
        found: dict[str, float] = {}
        for name, call in contenders(case):
            try:
                calls, warm_up = (20, 3) if cuda else (3, 1)
                found[name], peak = timed(case, call, calls=calls, warm_up=warm_up)
            except torch.OutOfMemoryError:
                print(f"{vocabulary} ids: {name} does not fit", flush=True)
                continue
            of_floor = found["floor"] / found[name]
            print(f"{vocabulary} ids, {tokens} tokens: {name} {1e3 * found[name]:.1f} ms, "
                  f"{peak:.2f} GiB, {of_floor:.1%} of the floor's rate", flush=True)  # fmt: skip
        shares.append((found["floor"] / found["ours"], found))
    share, found = min(shares, key=lambda one: one[0])
    peers = {name: s for name, s in found.items() if name not in ("floor", "ours")}
    best = min(peers, key=lambda name: peers[name])
    if cuda:
        rows.append("training", "gpu_loss_share_of_matmul_floor", share, unit="share", peer=best,
                    peer_value=found["floor"] / found[best], packages=PACKAGES)  # fmt: skip
    else:
        print(f"share of the floor {share:.3g}, best peer {best}; no row without a GPU")


if __name__ == "__main__":
    main()
