"""A student of fewer tokens: the teacher's mass on all others is one bucket, never renormalised."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.distill.divergences import oracle
from tests.distill.divergences.promises import KINDS, Case, close, drawn, parameter
from tests.distill.divergences.test_fused import Largest

from stillhouse.distill.divergences import Divergence, Head, HiddenStates, divergence_loss, kernels
from stillhouse.exchanges import InputError


def trimmed(seed: int) -> tuple[Case, torch.Tensor, Head]:
    """A case whose student has rows for some of the teacher's ids, in any order, and the tail."""
    case = Case(seed, padded=False)
    kept = torch.from_numpy(case.rng.permutation(case.V)[: case.rng.integers(1, case.V)])
    width = case.weights[0].shape[1]
    weight = drawn(case.rng, len(kept) + 1, width).requires_grad_()
    return case, kept, Head(weight_VD=weight, curve=case.curves[0])


def loss_of(case: Case, kept: torch.Tensor, head: Head, options: dict[str, Any]) -> torch.Tensor:
    return divergence_loss(
        case.states[0],
        head,
        HiddenStates(hidden_MD=case.states[1], head=case.head(1), kept_K=kept),
        Divergence(**options, temperature=case.temperature),
        reply_tokens=3.0,
        chunk_bytes=case.chunk_bytes,
    )


def expected(case: Case, kept: torch.Tensor, head: Head, options: dict[str, Any]) -> float:
    heat = case.temperature

    def probabilities(side: int, weight: Any, bias: Any) -> Any:
        curve = case.curves[side]
        z = oracle.logits(
            case.states[side].numpy(),
            weight.detach().numpy(),
            None if bias is None else bias.numpy(),
            curve.scale,
            curve.softcap,
        )
        return oracle.softmax(z / heat)

    whole = probabilities(1, case.weights[1], case.biases[1])
    ids = np.broadcast_to(kept.numpy(), (case.M, len(kept)))
    t = oracle.buckets(whole, ids)
    s = probabilities(0, head.weight_VD, None)
    return float(oracle.divergence(options["kind"], t, s, parameter(options)).sum() / 3.0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_it_is_the_oracles_divergence_between_buckets(options: dict[str, Any], seed: int) -> None:
    case, kept, head = trimmed(seed)
    loss = loss_of(case, kept, head, options)
    close(loss, expected(case, kept, head, options), 1e-9)


@pytest.mark.parametrize("options", [k for k in KINDS if k["kind"] != "adaptive_kl"], ids=str)
def test_gradients_are_those_of_finite_differences(options: dict[str, Any]) -> None:
    case, kept, head = trimmed(4)
    loss_of(case, kept, head, options).backward()

    def at(weight: Any) -> float:
        return expected(
            case, kept, dataclasses.replace(head, weight_VD=torch.from_numpy(weight)), options
        )

    numeric = oracle.finite_difference(at, head.weight_VD.detach().numpy().copy())
    close(head.weight_VD.grad, numeric, 1e-5)


def test_the_student_can_be_right_only_with_the_tail_right_too() -> None:
    """Half the teacher's mass is dropped: a student that ignores it is not at zero."""
    teacher = Head(weight_VD=torch.zeros(4, 1, dtype=torch.float64))
    ones = torch.ones(1, 1, dtype=torch.float64)
    signal = HiddenStates(hidden_MD=ones, head=teacher, kept_K=torch.tensor([0, 1]))
    for tail, value in ((np.log(2.0), 0.0), (-50.0, None)):
        rows = torch.tensor([[0.0], [0.0], [tail]], dtype=torch.float64)
        loss = divergence_loss(
            ones, Head(weight_VD=rows), signal, Divergence(kind="forward_kl"), reply_tokens=1.0
        )
        if value is None:
            assert float(loss) > 20
        else:
            close(loss, value, 1e-12)


def renormalised(z_NV: torch.Tensor, kept_K: torch.Tensor, _heat: float) -> torch.Tensor:
    none = torch.full_like(z_NV[:, :1], -torch.inf)
    return torch.cat([z_NV[:, kept_K], none], -1)


def cold(z_NV: torch.Tensor, kept_K: torch.Tensor, _heat: float) -> torch.Tensor:
    return _GROUPED(z_NV, kept_K, 1.0)


_GROUPED = kernels.grouped
MUTANTS: dict[str, Callable[..., torch.Tensor]] = {
    "the kept ids are renormalised": renormalised,
    "the tail is taken at temperature 1": cold,
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_suite_notices(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "grouped", MUTANTS[mutant])
    wrong = 0
    for seed in range(12):
        case, kept, head = trimmed(seed)
        options = {"kind": "total_variation"}
        found, right = loss_of(case, kept, head, options), expected(case, kept, head, options)
        wrong += abs(float(found.detach()) - right) > 1e-6
    assert wrong > 3


def test_heads_without_a_tail_are_refused_with_the_repair() -> None:
    case, kept, head = trimmed(1)
    closed = Head(weight_VD=head.weight_VD[:-1], curve=head.curve)
    with pytest.raises(InputError, match=r"(?s)rows for .* and the tail.*open_tail"):
        loss_of(case, kept, closed, {"kind": "forward_kl"})
    with pytest.raises(InputError, match="kept ids up to"):
        loss_of(case, torch.full_like(kept, case.V), head, {"kind": "forward_kl"})


def test_the_teachers_logits_exist_for_a_chunk_alone() -> None:
    """They are the larger ones: a chunk is measured by them."""
    positions, kept, vocabulary = 60, 4, 500
    rng = np.random.default_rng(3)
    hidden_MD, weight_VD, states_MD, theirs_VD = (
        drawn(rng, *shape).float()
        for shape in ((positions, 3), (kept + 1, 3), (positions, 5), (vocabulary, 5))
    )
    teacher = HiddenStates(
        hidden_MD=states_MD, head=Head(weight_VD=theirs_VD), kept_K=torch.arange(kept)
    )
    with Largest() as seen:
        divergence_loss(
            hidden_MD.requires_grad_(),
            Head(weight_VD=weight_VD.requires_grad_()),
            teacher,
            Divergence(),
            reply_tokens=1.0,
            chunk_bytes=4 * vocabulary * 6,
        ).backward()
    assert seen.numbers == vocabulary * 6
