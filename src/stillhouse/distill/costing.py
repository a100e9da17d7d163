"""What models cost to run: those on this machine are timed on the same work, in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.parity import NOT_MEASURED, ModelCost, Price, machine_price, speed_of
from stillhouse.teachers.chat import ChatRequest

if TYPE_CHECKING:
    from stillhouse.teachers.latency import Latency
    from stillhouse.teachers.local import LocalModel

TIMING_REPEATS = 3
RUNTIME = "stillhouse LocalModel (torch, transformers)"


def time_models(
    models: Mapping[str, LocalModel],
    weights: Mapping[str, Path],
    requests: Sequence[ChatRequest],
    *,
    labels: Sequence[str],
    batch_size: int,
    hourly_nano: int | None,
) -> tuple[dict[str, ModelCost], dict[str, Latency]]:
    """Size, speed, peak memory and price of each model, and the timings that they rest on.

    With `labels` models score them, without they write replies. `weights` are files or folders.
    Raises InputError where two models differ in precision: their speeds would not be comparable.
    """
    import torch

    from stillhouse.teachers.latency import measure_latency

    asked = [unconstrained(request) for request in requests]
    timed = measure_latency(
        models,
        asked,
        mode="labels" if labels else "reply",
        labels=labels,
        batch_size=min(batch_size, max(1, len(asked) // 3)),
        threads=torch.get_num_threads(),
        repeats=TIMING_REPEATS,
    )
    costs = {}
    for name, model in models.items():
        speed = speed_of(
            timed[name],
            runtime=RUNTIME,
            peak_memory_bytes=_peak(model, asked, labels, batch_size),
        )
        costs[name] = ModelCost(
            name=name,
            parameters=model.parameters,
            flops_per_token=model.flops_per_token,
            disk_bytes=_disk_bytes(weights[name]),
            speed=speed,
            speed_note="",
            price=machine_price(speed, hourly_nano),
        )
    return costs, timed


def not_measured(name: str, what: str, price: Price) -> ModelCost:
    """The cost of a model that does not run here: its price, and where that is from."""
    return ModelCost(
        name=name,
        parameters=None,
        flops_per_token=None,
        disk_bytes=None,
        speed=None,
        speed_note=f"{NOT_MEASURED}: {what}",
        price=price,
    )


def unconstrained(request: ChatRequest) -> ChatRequest:
    """The request as a local model gets it: its decoding is never constrained."""
    sampling = dataclasses.replace(request.sampling, response_schema=None)
    return dataclasses.replace(request, sampling=sampling)


def _peak(
    model: LocalModel, requests: Sequence[ChatRequest], labels: Sequence[str], batch_size: int
) -> int | None:
    """Peak memory on the batch with the longest prompts, as it was timed."""
    from stillhouse.teachers.memory import peak_memory

    size = min(batch_size, len(requests))
    batch = sorted(requests, key=lambda request: -model.count_tokens(request))[:size]
    work: Callable[[], object]
    if labels:
        work = partial(model.score_labels, batch, labels, size)
    else:
        work = partial(model.reply_batch, batch, size)
    return peak_memory(model, work)


def _disk_bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*.safetensors"))
