"""Packed sequences have the states and gradients of each sequence alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stillhouse.distill.divergences import packed_states
from stillhouse.exchanges import InputError

SEQUENCES = [[5, 9, 11, 40], [7], [3, 3, 3, 200, 12, 8, 1], [60, 61]]


def test_sequences_do_not_see_each_other(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    with torch.no_grad():
        together = packed_states(model, SEQUENCES)
        alone = [model.model(torch.tensor([ids])).last_hidden_state[0] for ids in SEQUENCES]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"


def test_gradients_are_those_of_the_sequences_alone(tiny_model: Callable[..., Any]) -> None:
    packed, plain = tiny_model().train(), tiny_model().train()
    packed_states(packed, SEQUENCES).pow(2).sum().backward()
    for ids in SEQUENCES:
        plain.model(torch.tensor([ids])).last_hidden_state.pow(2).sum().backward()
    for ours, theirs in zip(packed.model.parameters(), plain.model.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


def test_a_sliding_window_is_refused() -> None:
    import transformers

    config = transformers.MistralConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
    )
    auto: Any = transformers.AutoModelForCausalLM
    with pytest.raises(InputError, match="a part of the sequence"):
        packed_states(auto.from_config(config), SEQUENCES)
