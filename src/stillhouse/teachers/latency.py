"""Latency and throughput of two models, measured side by side under the same conditions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from stillhouse.teachers.chat import ChatRequest
    from stillhouse.teachers.local import LocalModel

Mode = Literal["reply", "labels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """What one model took.

    `batch_us` (R, B) is the wall time in microseconds of each batch in each repeat, `requests` (B,)
    the number of requests in each batch. Entry (r, b) of two models measured together is the same
    work done back to back, so ratios are taken entry by entry.
    """

    batch_us: NDArray[np.int64]
    requests: NDArray[np.int64]
    tokens_in: int
    tokens_out: int
    dtype: str
    threads: int
    batch_size: int

    @property
    def per_request_us(self) -> NDArray[np.float64]:
        """Microseconds per request (R, B): the batch's time shared among its requests."""
        return self.batch_us / self.requests

    @property
    def requests_per_second(self) -> NDArray[np.float64]:
        """Throughput over all requests, one figure per repeat (R,)."""
        return np.asarray(self.requests.sum() * 1e6 / self.batch_us.sum(axis=1))


def measure_latency(
    models: Mapping[str, LocalModel],
    requests: Sequence[ChatRequest],
    *,
    mode: Mode,
    labels: Sequence[str] = (),
    batch_size: int,
    threads: int,
    repeats: int,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Latency]:
    """Time every model on the same batches, alternating within each batch, `repeats` times.

    Which model goes first changes from batch to batch and from repeat to repeat; one untimed round
    warms up. Batches are consecutive requests in the order given. Raises `InputError` when the
    models' precisions differ: their speeds would not be comparable.
    """
    precisions = {name: model.dtype for name, model in models.items()}
    if len(set(precisions.values())) > 1:
        raise InputError(
            f"the models to compare differ in precision: {precisions}",
            repair="load them with the same dtype",
        )
    if not requests or repeats < 1 or batch_size < 1:
        raise InputError("latency needs requests, a batch size and repeats of at least 1")
    batches = [requests[i : i + batch_size] for i in range(0, len(requests), batch_size)]
    names = list(models)
    times_us = {name: np.zeros((repeats, len(batches)), np.int64) for name in names}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        written = {
            name: _answer(models[name], requests, mode, labels, batch_size) for name in names
        }
        for repeat in range(repeats):
            for place, batch in enumerate(batches):
                shift = (repeat + place) % len(names)
                for name in names[shift:] + names[:shift]:
                    start = clock_ns()
                    _answer(models[name], batch, mode, labels, batch_size)
                    times_us[name][repeat, place] = (clock_ns() - start) // 1000
    finally:
        torch.set_num_threads(before)
    sizes = np.array([len(batch) for batch in batches])
    return {
        name: Latency(
            batch_us=times_us[name],
            requests=sizes,
            tokens_in=sum(models[name].count_tokens(request) for request in requests),
            tokens_out=written[name],
            dtype=precisions[name],
            threads=threads,
            batch_size=batch_size,
        )
        for name in names
    }


def _answer(
    model: LocalModel,
    requests: Sequence[ChatRequest],
    mode: Mode,
    labels: Sequence[str],
    batch_size: int,
) -> int:
    """Answer the requests; return the number of tokens written."""
    if mode == "labels":
        model.score_labels(requests, labels, batch_size)
        return 0
    return sum(reply.tokens_out or 0 for reply in model.reply_batch(requests, batch_size))
