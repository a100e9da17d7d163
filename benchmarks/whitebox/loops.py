"""The plain loops: whole logits, TRL's kernel, and this product (live, cached, padded)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.whitebox.data import Example, cache_key, padded
from stillhouse.distill.divergences import (
    Divergence,
    Head,
    HiddenStates,
    TeacherCache,
    divergence_loss,
    normaliser,
    packed_states,
    reply_places,
)
from stillhouse.distill.precision import choose_dtype, compute_in

RATE = 1e-4

Step = Callable[[list[Example], Sequence[int]], None]


class Loop:
    """What all plain loops share: the models, the optimiser and its step."""

    def __init__(self, teacher: Path, student: Path, *, with_teacher: bool = True):
        dtype = choose_dtype("auto")
        self.dtype = dtype
        self.torch_dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        auto: Any = transformers.AutoModelForCausalLM
        self.teacher = None
        if with_teacher:
            self.teacher = auto.from_pretrained(teacher, dtype=self.torch_dtype).eval()
            self.teacher.requires_grad_(False)
        self.student = auto.from_pretrained(student, dtype=torch.float32).train()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=RATE, fused=True)

    def finish(self, loss: torch.Tensor) -> None:
        """Backward pass, clipping, and the optimiser's step."""
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def naive(teacher: Path, student: Path, _cache: Path) -> Step:
    """Whole logits of both models."""
    loop = Loop(teacher, student)

    def step(batch: list[Example], _numbers: Sequence[int]) -> None:
        ids_BL, mask_BL, rows_M, columns_M = padded(batch)
        given = {"input_ids": ids_BL, "attention_mask": mask_BL, "use_cache": False}
        with torch.no_grad():
            theirs_BLV = loop.teacher(**given).logits
        with compute_in(loop.dtype):
            ours_BLV = loop.student(**given).logits
        log_t = torch.log_softmax(theirs_BLV[rows_M, columns_M].float(), -1)
        log_s = torch.log_softmax(ours_BLV[rows_M, columns_M].float(), -1)
        kl = torch.nn.functional.kl_div(log_s, log_t, reduction="sum", log_target=True)
        loop.finish(kl / len(rows_M))

    return step


def chunked(teacher: Path, student: Path, _cache: Path) -> Step:
    """TRL's tiled kernel on states, reply tokens only."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    loop = Loop(teacher, student)

    def step(batch: list[Example], _numbers: Sequence[int]) -> None:
        ids_BL, mask_BL, rows_M, columns_M = padded(batch)
        given = {"input_ids": ids_BL, "attention_mask": mask_BL, "use_cache": False}
        with torch.no_grad():
            theirs_MD = loop.teacher.model(**given).last_hidden_state[rows_M, columns_M]
        with compute_in(loop.dtype):
            ours_MD = loop.student.model(**given).last_hidden_state[rows_M, columns_M]
            divergence_M, _ = ChunkedDivergenceFunction.apply(
                ours_MD,
                loop.student.lm_head.weight,
                None,
                theirs_MD,
                loop.teacher.lm_head.weight,
                None,
                0.0,
            )
        loop.finish(divergence_M.sum() / len(rows_M))

    return step


def ours(
    teacher: Path, student: Path, cache: Path, *, live: bool = True, pack: bool = True
) -> Step:
    """This product, with a live teacher or with the cache."""
    loop = Loop(teacher, student, with_teacher=live)
    divergence = Divergence(kind="forward_kl")
    kept = None if live else TeacherCache.open(cache, cache_key(cache.stem))
    compiled = live and compiles()

    def states(model: Any, batch: list[Example]) -> torch.Tensor:
        lengths, starts = [len(ids) for ids, _ in batch], [start for _, start in batch]
        if pack:
            places_M = reply_places(lengths, starts)
            return packed_states(model, [ids for ids, _ in batch])[places_M]
        ids_BL, _, rows_M, columns_M = padded(batch)
        return model.model(input_ids=ids_BL, use_cache=False).last_hidden_state[rows_M, columns_M]

    def step(batch: list[Example], numbers: Sequence[int]) -> None:
        if kept is None:
            with torch.no_grad():
                theirs_MD = states(loop.teacher, batch)
            head = Head(weight_VD=loop.teacher.lm_head.weight)
            signal: Any = HiddenStates(hidden_MD=theirs_MD, head=head)
        else:
            signal = kept.signal(numbers)
        with compute_in(loop.dtype):
            ours_MD = states(loop.student, batch)
        loss = divergence_loss(
            ours_MD,
            Head(weight_VD=loop.student.lm_head.weight),
            signal,
            divergence,
            reply_tokens=normaliser(len(ours_MD)),
            dtype=loop.torch_dtype,
            compiled=compiled,
        )
        loop.finish(loss)

    return step


def compiles() -> bool:
    """Whether there is a C++ compiler for torch.compile."""
    return shutil.which("g++") is not None or shutil.which("clang++") is not None


MAKERS: dict[str, Callable[[Path, Path, Path], Step]] = {
    "naive": naive,
    "chunked": chunked,
    "ours": ours,
    "cached": lambda teacher, student, cache: ours(teacher, student, cache, live=False),
    "padded": lambda teacher, student, cache: ours(teacher, student, cache, pack=False),
}
