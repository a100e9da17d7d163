"""Hidden-state terms are those of their formulas, and layer maps are what they say."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from tests.distill.divergences import oracle
from tests.distill.divergences.promises import drawn

from stillhouse.distill.divergences import LayerMap, hidden_state_loss
from stillhouse.exchanges import InputError


def term(kind: str, h: Any, g: Any) -> float:
    if kind == "mse":
        return float(((h - g) ** 2).sum() / g.shape[1])
    lengths = np.linalg.norm(h, axis=1) * np.linalg.norm(g, axis=1)
    some = lengths > 0
    return float((1 - (h * g).sum(1)[some] / lengths[some]).sum())


@pytest.mark.parametrize("kind", ["mse", "cosine"])
@pytest.mark.parametrize("projected", [False, True])
def test_value_and_gradients(kind: Literal["mse", "cosine"], projected: bool) -> None:
    rng = np.random.default_rng(1)
    wide, narrow = 4, 3 if projected else 4
    student = [drawn(rng, 5, narrow) for _ in range(3)]
    teacher = [drawn(rng, 5, wide) for _ in range(5)]
    teacher[4][2] = 0  # a state without a direction
    maps = {i: drawn(rng, wide, narrow).requires_grad_() for i in (1, 2)} if projected else None
    layers = LayerMap.even(2, 4)
    assert layers.pairs == ((1, 2), (2, 4))

    def value(h2: Any) -> float:
        total = 0.0
        for a, b in layers.pairs:
            h = h2 if a == 2 else student[a].detach().numpy()
            h = h if maps is None else h @ maps[a].detach().numpy().T
            total += term(kind, h, teacher[b].detach().numpy())
        return total / 7.5

    start = student[2].numpy().copy()
    student[2].requires_grad_()
    teacher[4].requires_grad_()
    loss = hidden_state_loss(student, teacher, layers, kind, reply_tokens=7.5, projections=maps)
    loss.backward()
    assert loss.item() == pytest.approx(value(start), rel=1e-9)
    expected = oracle.finite_difference(value, start)
    np.testing.assert_allclose(student[2].grad, expected, rtol=1e-5, atol=1e-7)
    assert teacher[4].grad is None
    assert maps is None or maps[2].grad is not None


def test_an_even_map_ends_at_both_last_layers() -> None:
    for ours, theirs in ((1, 30), (8, 30), (7, 7), (3, 10)):
        pairs = LayerMap.even(ours, theirs).pairs
        assert [a for a, _ in pairs] == list(range(1, ours + 1))
        assert pairs[-1] == (ours, theirs)


@pytest.mark.parametrize("pairs", [(), ((1, 2), (2, 2)), ((2, 1), (1, 2)), ((-1, 0),)])
def test_maps_that_are_not_increasing_are_refused(pairs: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(InputError, match="layer map"):
        LayerMap(pairs)


def test_unequal_widths_need_a_projection() -> None:
    states = [torch.zeros(2, 3)] * 2
    with pytest.raises(InputError, match="shape"):
        hidden_state_loss(
            states, [torch.zeros(2, 4)] * 2, LayerMap(((1, 1),)), "mse", reply_tokens=1
        )
    with pytest.raises(InputError, match="does not exist"):
        hidden_state_loss(states, states, LayerMap(((1, 2),)), "mse", reply_tokens=1)
