"""Latency: both models, the same work, alternating."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stillhouse.exchanges import InputError
from stillhouse.teachers.chat import ChatRequest, Message, Sampling
from stillhouse.teachers.latency import Mode, measure_latency
from stillhouse.teachers.local import LocalModel

REQUESTS = [
    ChatRequest(messages=(Message("user", text),), sampling=Sampling(max_tokens=2))
    for text in ("good", "bad", "the film")
]


class Spy(LocalModel):
    """Notes every call; the clock below advances by what the call should cost."""

    calls: list[tuple[str, int]]

    def score_labels(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((self.name, len(requests)))
        return super().score_labels(requests, *args, **kwargs)


@pytest.fixture
def pair(
    tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> tuple[Spy, Spy, list[tuple[str, int]]]:
    calls: list[tuple[str, int]] = []
    models = [Spy(tiny_model(), tiny_tokenizer(), name=n, fingerprint="") for n in "ab"]
    for model in models:
        model.calls = calls
    return models[0], models[1], calls


def test_models_alternate_and_the_order_is_balanced(
    pair: tuple[Spy, Spy, list[tuple[str, int]]],
) -> None:
    a, b, calls = pair
    ticks = itertools.count(0, 7000)
    found = measure_latency(
        {"a": a, "b": b},
        REQUESTS,
        mode="labels",
        labels=("good", "bad"),
        batch_size=2,
        threads=1,
        repeats=2,
        clock_ns=lambda: next(ticks),
    )
    timed = calls[2:]  # after the warm-up of each
    assert [name for name, _ in timed] == list("abbabaab")
    assert [size for _, size in timed] == [2, 2, 1, 1, 2, 2, 1, 1]
    assert found["a"].batch_us.tolist() == [[7, 7], [7, 7]]
    np.testing.assert_allclose(found["a"].per_request_us, [[3.5, 7], [3.5, 7]])
    np.testing.assert_allclose(found["b"].requests_per_second, [3e6 / 14] * 2)


@pytest.mark.parametrize("mode", ["reply", "labels"])
def test_tokens_and_conditions_are_reported(
    pair: tuple[Spy, Spy, list[tuple[str, int]]], mode: Mode
) -> None:
    before = torch.get_num_threads()
    found = measure_latency(
        {"a": pair[0], "b": pair[1]},
        REQUESTS,
        mode=mode,
        labels=("good", "bad"),
        batch_size=3,
        threads=2,
        repeats=1,
    )
    assert torch.get_num_threads() == before
    assert found["a"].tokens_in == sum(pair[0].count_tokens(request) for request in REQUESTS)
    assert found["a"].tokens_out == (6 if mode == "reply" else 0)
    assert (found["a"].batch_us > 0).all()


def test_models_of_different_precision_are_not_compared(
    pair: tuple[Spy, Spy, list[tuple[str, int]]],
) -> None:
    pair[1].model.to(torch.bfloat16)
    with pytest.raises(InputError, match="differ in precision"):
        measure_latency(
            {"a": pair[0], "b": pair[1]},
            REQUESTS,
            mode="reply",
            batch_size=1,
            threads=1,
            repeats=1,
        )
