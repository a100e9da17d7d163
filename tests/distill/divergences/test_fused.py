"""The chunked path: memory, precision, frozen and tied heads, and the edges of arithmetic."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.distill.divergences import oracle
from tests.distill.divergences.promises import KINDS, drawn, parameter
from torch.utils._python_dispatch import TorchDispatchMode

from stillhouse.distill.divergences import (
    Curve,
    Divergence,
    Head,
    HiddenStates,
    Sampled,
    TopK,
    chunk_rows,
    divergence_loss,
)
from stillhouse.exchanges import InputError


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = call(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self.numbers = max(self.numbers, one.untyped_storage().nbytes() // 4)
        return made


def signals(rng: np.random.Generator, positions: int, vocabulary: int, width: int) -> list[Any]:
    states, weight = drawn(rng, positions, width).float(), drawn(rng, vocabulary, width).float()
    ids = torch.argsort(torch.rand(positions, vocabulary), -1)[:, :4].clone()
    probabilities = torch.full((positions, 4), 0.2)
    return [
        HiddenStates(hidden_MD=states, head=Head(weight_VD=weight)),
        TopK(ids_MK=ids, log_probs_MK=probabilities.log()),
        Sampled(ids_MK=ids, weights_MK=probabilities + 0.05),
    ]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["hidden states", "top-k", "sampled"])
def test_no_buffer_is_larger_than_a_chunk_however_many_positions_there_are(which: int) -> None:
    rng = np.random.default_rng(1)
    positions, vocabulary, width, rows = 300, 500, 8, 7
    signal = signals(rng, positions, vocabulary, width)[which]
    hidden_MD = drawn(rng, positions, width).float().requires_grad_()
    weight_VD = drawn(rng, vocabulary, width).float().requires_grad_()
    with Largest() as seen:
        divergence_loss(
            hidden_MD,
            Head(weight_VD=weight_VD),
            signal,
            Divergence(),
            reply_tokens=positions,
            chunk_bytes=4 * rows * vocabulary,
        ).backward()
    assert chunk_rows(vocabulary, 4 * rows * vocabulary) == rows
    assert seen.numbers == max(rows * vocabulary, vocabulary * width)
    assert seen.numbers < positions * vocabulary / 30


def test_the_meter_of_memory_sees_whole_logits() -> None:
    with Largest() as seen:
        torch.zeros(300, 8) @ torch.zeros(8, 500)
    assert seen.numbers == 300 * 500


def test_a_frozen_head_costs_no_weight_gradient_and_evaluation_costs_none() -> None:
    rng = np.random.default_rng(2)
    signal = signals(rng, 5, 40, 3)[0]
    hidden_MD = drawn(rng, 5, 3).float().requires_grad_()
    weight_VD = drawn(rng, 40, 3).float()
    shapes: list[tuple[int, ...]] = []
    zeros_like = torch.zeros_like

    def note(like: torch.Tensor, **options: Any) -> torch.Tensor:
        shapes.append(tuple(like.shape))
        return zeros_like(like, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros_like", note)
        loss = divergence_loss(
            hidden_MD, Head(weight_VD=weight_VD), signal, Divergence(), reply_tokens=5
        )
        loss.backward()
        weight_VD.requires_grad_()
        with torch.no_grad():
            same = divergence_loss(
                hidden_MD, Head(weight_VD=weight_VD), signal, Divergence(), reply_tokens=5
            )
    assert (40, 3) not in shapes
    assert weight_VD.grad is None
    assert hidden_MD.grad is not None
    assert same == loss


def test_a_tied_head_and_its_embedding_add_up() -> None:
    rng = np.random.default_rng(3)
    table_VD, other_VD = drawn(rng, 9, 4), drawn(rng, 9, 4)
    ids_M = torch.tensor([1, 1, 8])
    signal = HiddenStates(hidden_MD=drawn(rng, 3, 4), head=Head(weight_VD=other_VD))

    def total(table: Any) -> float:
        s = oracle.softmax(oracle.logits(table[ids_M.numpy()], table))
        t = oracle.softmax(oracle.logits(signal.hidden_MD.numpy(), other_VD.numpy()))
        return float(oracle.kl(s, t).sum() / 3)

    expected = oracle.finite_difference(total, table_VD.numpy())
    table_VD.requires_grad_()
    hidden_MD = torch.nn.functional.embedding(ids_M, table_VD)
    divergence_loss(
        hidden_MD, Head(weight_VD=table_VD), signal, Divergence(kind="reverse_kl"), reply_tokens=3
    ).backward()
    np.testing.assert_allclose(table_VD.grad, expected, rtol=1e-6, atol=1e-8)


def one_row(
    student: list[float], teacher: list[float], options: dict[str, Any], dtype: torch.dtype
) -> tuple[float, torch.Tensor]:
    """Loss and gradient in the logits of one position: identity heads."""
    student_1V = torch.tensor([student], dtype=dtype, requires_grad=True)
    eye = torch.eye(len(student), dtype=dtype)
    loss = divergence_loss(
        student_1V,
        Head(weight_VD=eye),
        HiddenStates(hidden_MD=torch.tensor([teacher], dtype=dtype), head=Head(weight_VD=eye)),
        Divergence(**options),
        reply_tokens=1,
    )
    loss.backward()
    assert student_1V.grad is not None
    return loss.item(), student_1V.grad[0]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-60, 60), st.floats(-60, 60)), min_size=1, max_size=6),
    st.sampled_from(KINDS),
)
def test_float32_stays_near_the_oracle_on_extreme_logits(
    pairs: list[tuple[float, float]], options: dict[str, Any]
) -> None:
    student, teacher = ([float(np.float32(x)) for x in side] for side in zip(*pairs, strict=True))
    loss, gradient = one_row(student, teacher, options, torch.float32)
    t, s = (oracle.softmax(np.array([side])) for side in (teacher, student))
    expected = oracle.divergence(options["kind"], t, s, parameter(options))[0]
    assert math.isfinite(loss)
    assert bool(torch.isfinite(gradient).all())
    # A tie of the teacher in float64 may be none in float32: adaptive KL then has another head.
    if options["kind"] != "adaptive_kl":
        assert loss == pytest.approx(expected, rel=2e-4, abs=2e-4)
    assert abs(float(gradient.sum())) < 1e-3 * max(1.0, expected)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_equal_distributions_have_no_divergence_and_no_gradient(options: dict[str, Any]) -> None:
    loss, gradient = one_row([1.0, 1.0, -3.0, 30.0], [1.0, 1.0, -3.0, 30.0], options, torch.float64)
    assert loss == pytest.approx(0.0, abs=1e-12)
    assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("near", "end"),
    [
        ({"kind": "jensen_shannon", "beta": 1e-9}, {"kind": "forward_kl"}),
        ({"kind": "jensen_shannon", "beta": 1 - 1e-9}, {"kind": "reverse_kl"}),
        ({"kind": "skew_forward_kl", "alpha": 1e-9}, {"kind": "forward_kl"}),
        ({"kind": "skew_reverse_kl", "alpha": 1e-9}, {"kind": "reverse_kl"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_there_is_no_jump_at_the_ends(
    near: dict[str, Any], end: dict[str, Any], dtype: torch.dtype
) -> None:
    student, teacher = [0.3, -1.0, 2.0], [1.5, 0.2, -4.0]
    close_by, at_end = (one_row(student, teacher, o, dtype) for o in (near, end))
    assert close_by[0] == pytest.approx(at_end[0], rel=1e-5)
    torch.testing.assert_close(close_by[1], at_end[1], rtol=1e-5, atol=1e-6)


def holds_reverse_kl(options: dict[str, Any]) -> bool:
    plain_end = options.get("beta") == 1.0 or options.get("alpha") == 0.0
    return options["kind"] in {"reverse_kl", "adaptive_kl"} or (
        plain_end and options["kind"] in {"jensen_shannon", "skew_reverse_kl"}
    )


def test_skews_vanish_as_alpha_goes_to_one() -> None:
    for kind in ("skew_forward_kl", "skew_reverse_kl"):
        options = {"kind": kind, "alpha": 1 - 1e-7}
        assert 0 <= one_row([0.0, 3.0], [2.0, 0.0], options, torch.float64)[0] < 1e-6


@pytest.mark.parametrize("options", [o for o in KINDS if not holds_reverse_kl(o)], ids=str)
def test_tokens_the_teacher_never_gives_are_allowed(options: dict[str, Any]) -> None:
    """Masked logits: -inf on both sides, and on the teacher's alone where D stays finite."""
    log_s = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    log_t = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).log()
    loss, slope = Divergence(**options).terms(log_s, log_t)
    t, s = np.array([[1.0, 0.0, 0.0]]), np.array([[0.5, 0.5, 0.0]])
    expected = oracle.divergence(options["kind"], t, s, parameter(options))
    assert loss.item() == pytest.approx(expected[0], rel=1e-12)
    assert bool(torch.isfinite(slope).all())


def test_reverse_kl_is_infinite_where_the_teacher_gives_nothing() -> None:
    log_s = torch.tensor([[0.5, 0.5]]).log()
    log_t = torch.tensor([[1.0, 0.0]]).log()
    assert Divergence(kind="reverse_kl").terms(log_s, log_t)[0].item() == math.inf


def test_adaptive_kl_does_not_depend_on_the_order_of_tied_tokens() -> None:
    options = {"kind": "adaptive_kl", "mu": 0.5}
    teacher = [2.0, 1.0, 1.0, 1.0, 0.0]
    student = [0.0, 3.0, -1.0, 0.5, 0.2]
    order = [4, 3, 1, 2, 0]
    loss, gradient = one_row(student, teacher, options, torch.float64)
    shuffled = one_row(
        [student[i] for i in order], [teacher[i] for i in order], options, torch.float64
    )
    assert shuffled[0] == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(shuffled[1], gradient[order])


def test_adaptive_kl_finds_a_head_of_more_tokens_than_it_looks_at_first() -> None:
    rng = np.random.default_rng(4)
    student, teacher = rng.normal(size=700).tolist(), (rng.normal(size=700) * 0.1).tolist()
    t, s = (oracle.softmax(np.array([side])) for side in (teacher, student))
    loss, _ = one_row(student, teacher, {"kind": "adaptive_kl"}, torch.float64)
    assert loss == pytest.approx(oracle.divergence("adaptive_kl", t, s, 0.5)[0], rel=1e-9)


def test_a_call_without_positions_is_zero_with_zero_gradients() -> None:
    hidden_MD = torch.zeros((0, 3), requires_grad=True)
    weight_VD = torch.ones((4, 3), requires_grad=True)
    signal = Sampled(ids_MK=torch.zeros((0, 2), dtype=torch.long), weights_MK=torch.zeros((0, 2)))
    loss = divergence_loss(
        hidden_MD, Head(weight_VD=weight_VD), signal, Divergence(), reply_tokens=3
    )
    loss.backward()
    assert loss.item() == 0
    assert weight_VD.grad is not None
    assert float(weight_VD.grad.abs().sum()) == 0


def test_bfloat16_products_stay_near_float32() -> None:
    rng = np.random.default_rng(6)
    signal = signals(rng, 20, 64, 16)[0]
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        hidden_MD = torch.from_numpy(np.random.default_rng(7).normal(size=(20, 16))).float()
        weight_VD = (signal.head.weight_VD * 0.9).clone()
        hidden_MD.requires_grad_(), weight_VD.requires_grad_()
        loss = divergence_loss(
            hidden_MD, Head(weight_VD=weight_VD), signal, Divergence(), reply_tokens=20, dtype=dtype
        )
        loss.backward()
        assert weight_VD.grad is not None
        assert weight_VD.grad.dtype == torch.float32
        found[dtype] = (loss.item(), weight_VD.grad)
    (exact, exact_grad), (near, near_grad) = found.values()
    assert near == pytest.approx(exact, rel=0.02)
    cosine = torch.cosine_similarity(exact_grad.flatten(), near_grad.flatten(), dim=0)
    assert float(cosine) > 0.999


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_compiled_is_the_same_loss() -> None:
    rng = np.random.default_rng(8)
    states, weight = drawn(rng, 6, 4).float(), drawn(rng, 30, 4).float()
    signal = HiddenStates(
        hidden_MD=drawn(rng, 6, 4).float(),
        head=Head(weight_VD=drawn(rng, 30, 4).float(), curve=Curve(softcap=3.0)),
    )
    found = []
    for compiled in (False, True):
        hidden_MD = states.clone().requires_grad_()
        loss = divergence_loss(
            hidden_MD,
            Head(weight_VD=weight, curve=Curve(scale=0.7)),
            signal,
            Divergence(kind="jensen_shannon", beta=0.3, temperature=1.5),
            reply_tokens=6,
            chunk_bytes=4 * 30 * 4,
            compiled=compiled,
        )
        loss.backward()
        found.append((loss, hidden_MD.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_the_head_of_a_model_is_checked_on_the_model(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    head = Head.of(model)
    assert head.weight_VD is model.get_input_embeddings().weight
    odd = copy.deepcopy(model)
    odd.lm_head.register_forward_hook(lambda _m, _given, out: out * 2)
    with pytest.raises(InputError, match="are not its output layer's"):
        Head.of(odd)


@pytest.mark.parametrize("scale_or_cap", ["gemma", "cohere", "granite"])
def test_soft_caps_and_scales_are_read_from_the_config(scale_or_cap: str) -> None:
    import transformers

    common: dict[str, Any] = {
        "vocab_size": 20,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 1.0,
    }
    config: Any
    if scale_or_cap == "gemma":
        config = transformers.Gemma2Config(**common, final_logit_softcapping=2.0)
        expected = Curve(softcap=2.0)
    elif scale_or_cap == "cohere":
        config, expected = transformers.CohereConfig(**common, logit_scale=0.25), Curve(scale=0.25)
    else:
        config = transformers.GraniteConfig(**common, logits_scaling=4.0)
        expected = Curve(scale=0.25)
    auto: Any = transformers.AutoModelForCausalLM
    assert Head.of(auto.from_config(config).eval()).curve == expected
