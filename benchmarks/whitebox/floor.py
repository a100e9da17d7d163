"""The floor: only the matrix products that any exact live step must do, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.whitebox.data import Example


def seconds(teacher: Path, student: Path, batches: list[list[Example]]) -> list[float]:
    """Seconds of each batch's products, the heads' at reply tokens only; best of three each."""
    auto: Any = transformers.AutoModelForCausalLM
    kinds = []
    for path, passes in ((teacher, 1), (student, 3)):  # forward; forward and two backward
        model = auto.from_pretrained(path, dtype=torch.bfloat16)
        shapes: dict[tuple[int, ...], int] = {}
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                shape = tuple(module.weight.shape)
                shapes[shape] = shapes.get(shape, 0) + 1
        kinds.append((shapes, tuple(model.lm_head.weight.shape), passes))
    found = []
    for batch in batches:
        tokens = sum(len(ids) for ids, _ in batch)
        reply = sum(len(ids) - start for ids, start in batch)
        total = 0.0
        for shapes, head, passes in kinds:
            total += sum(count * _best(tokens, shape, passes) for shape, count in shapes.items())
            total += _best(reply, head, passes)
        found.append(total)
    return found


def _best(rows: int, shape: tuple[int, ...], passes: int) -> float:
    a = torch.randn(rows, shape[1]).bfloat16()
    w = torch.randn(shape).bfloat16()
    g = torch.randn(rows, shape[0]).bfloat16()
    products = [lambda: a @ w.T, lambda: g @ w, lambda: g.T @ a][:passes]
    return sum(min(_timed(product) for _ in range(3)) for product in products)


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
