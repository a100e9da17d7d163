"""The forecast: memory follows the model's shape, speed is what the clock says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from stillhouse.distill.forecast import measure_speed, predict_memory
from stillhouse.teachers.heads import logits_at

Build = Callable[..., Any]


def kept_bytes(config: Any, rows: int, length: int, dtype: str) -> int:
    """Count what autograd keeps in one forward pass, parameters left out."""
    model = transformers.LlamaForCausalLM(config).train()
    model.model.embed_tokens.weight.requires_grad_(False)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    places = torch.zeros(1, dtype=torch.long)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"),
    ):
        logits_at(model, places, places, input_ids=torch.ones(rows, length, dtype=torch.long))
    return sum(kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_predicted_activations_are_what_autograd_keeps(dtype: Any) -> None:
    torch.set_num_threads(1)
    shallow, deep = (
        transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=192,
            intermediate_size=320,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            use_cache=False,
        )
        for layers in (1, 3)
    )
    casts = 0
    if dtype == "bfloat16":  # kept too, but once per step, not per token
        casts = 2 * 2 * (192 * 192 * 2 + 192 * 96 * 2 + 3 * 192 * 320)
    measured = kept_bytes(deep, 8, 128, dtype) - kept_bytes(shallow, 8, 128, dtype) - casts
    predicted = 2 * (
        predict_memory(shallow, 2 * 1024, dtype, reply_tokens=0)
        - predict_memory(shallow, 1024, dtype, reply_tokens=0)
    )
    assert measured == pytest.approx(predicted, rel=0.1)


def test_memory_counts_every_trained_parameter_and_every_reply_position(tiny_model: Build) -> None:
    model = tiny_model()
    total = sum(p.numel() for p in model.parameters())
    embedding = 330 * 32

    def predict(**options: Any) -> int:
        return predict_memory(
            model.config, 0, "float32", **{"reply_tokens": 0, "freeze_embeddings": False} | options
        )

    base = predict(trainable_parameters=0)
    assert predict() - base == 16 * total
    assert predict(freeze_embeddings=True) - base == 16 * (total - embedding)
    assert predict(reply_tokens=10) - predict() == 20 * 330 * 10


@pytest.mark.parametrize("work", ["score", "train"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_speed_is_tokens_over_the_median_pass_and_the_model_is_left_alone(
    tiny_model: Build, work: Any, dtype: Any
) -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    ticks = iter([0.0, 1.0, 10.0, 14.0, 20.0, 22.0])  # passes of 1, 4 and 2 seconds
    speed = measure_speed(
        model, work, dtype, rows=4, length=16, seconds=6.5, clock=lambda: next(ticks)
    )
    assert speed == 4 * 16 / 2.0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
