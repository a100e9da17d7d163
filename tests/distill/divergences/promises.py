"""What every divergence promises, as functions that fail where it does not hold.

`test_promises` runs them on the product, and on the product with one mistake put in: each mistake
must break at least one. They take no arguments so that both can use them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.distill.divergences import oracle

from stillhouse.distill import divergences
from stillhouse.distill.divergences import Curve, Divergence, Head, HiddenStates, Sampled, TopK
from stillhouse.exchanges import InputError

KINDS: list[dict[str, Any]] = [
    {"kind": "forward_kl"},
    {"kind": "reverse_kl"},
    {"kind": "jensen_shannon", "beta": 0.0},
    {"kind": "jensen_shannon", "beta": 0.1},
    {"kind": "jensen_shannon", "beta": 0.5},
    {"kind": "jensen_shannon", "beta": 0.9},
    {"kind": "jensen_shannon", "beta": 1.0},
    {"kind": "skew_forward_kl", "alpha": 0.0},
    {"kind": "skew_forward_kl", "alpha": 0.1},
    {"kind": "skew_forward_kl", "alpha": 0.7},
    {"kind": "skew_reverse_kl", "alpha": 0.0},
    {"kind": "skew_reverse_kl", "alpha": 0.1},
    {"kind": "skew_reverse_kl", "alpha": 0.7},
    {"kind": "total_variation"},
    {"kind": "adaptive_kl", "mu": 0.3},
    {"kind": "adaptive_kl", "mu": 0.5},
]
CURVES = [Curve(), Curve(scale=0.4), Curve(softcap=1.5), Curve(scale=1.7, softcap=2.0)]


def parameter(options: dict[str, Any]) -> float:
    return float(next((options[n] for n in ("beta", "alpha", "mu") if n in options), 0.0))


def drawn(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=shape))


def close(ours: Any, theirs: Any, tolerance: float) -> None:
    np.testing.assert_allclose(
        np.asarray(torch.as_tensor(ours).detach()), theirs, rtol=tolerance, atol=tolerance
    )


class Case:
    """Heads of two models with unequal widths, padding and curves, and states at M positions."""

    def __init__(self, seed: int, *, padded: bool = True):
        rng = np.random.default_rng(seed)
        self.M, self.V = int(rng.integers(1, 6)), int(rng.integers(3, 9))
        self.temperature = float(rng.choice([1.0, 0.5, 2.0]))
        widths = rng.integers(1, 5, size=2)
        extra = rng.integers(1, 4, size=2) if padded else (0, 0)
        self.states = [drawn(rng, self.M, width) for width in widths]
        self.weights = [
            drawn(rng, self.V + more, width) for width, more in zip(widths, extra, strict=True)
        ]
        self.biases = [drawn(rng, len(w)) if rng.random() < 0.5 else None for w in self.weights]
        self.curves = [CURVES[i] for i in rng.integers(0, len(CURVES), size=2)]
        self.chunk_bytes = int(rng.choice([1, 4 * self.V, 9 * self.V, 1 << 20]))
        self.rng = rng

    def head(self, side: int) -> Head:
        return Head(weight_VD=self.weights[side], bias_V=self.biases[side], curve=self.curves[side])

    def probabilities(
        self, side: int, state: Any = None, weight: Any = None, bias: Any = None
    ) -> Any:
        def plain(given: Any, own: Any) -> Any:
            return given if given is not None else None if own is None else own.detach().numpy()

        curve = self.curves[side]
        z = oracle.logits(
            plain(state, self.states[side]),
            plain(weight, self.weights[side]),
            plain(bias, self.biases[side]),
            curve.scale,
            curve.softcap,
        )
        return oracle.softmax(z[:, : self.V] / self.temperature)

    def run(self, signal: Any, divergence: Divergence, reply_tokens: float) -> Any:
        """Loss and gradients in states, weight and bias of the student."""
        leaves = [self.states[0], self.weights[0], self.biases[0]]
        for leaf in leaves:
            if leaf is not None:
                leaf.requires_grad_()
                leaf.grad = None
        loss = divergences.divergence_loss(
            leaves[0],
            self.head(0),
            signal,
            divergence,
            reply_tokens=reply_tokens,
            vocabulary=self.V,
            chunk_bytes=self.chunk_bytes,
        )
        loss.backward()
        return loss, [None if leaf is None else leaf.grad for leaf in leaves]

    def check(self, signal: Any, divergence: Divergence, expected: Callable[[Any], Any]) -> None:
        """Compare loss and gradients with `expected(student's probabilities)`, per position."""
        tokens = self.M + 2.5

        def total(state: Any = None, weight: Any = None, bias: Any = None) -> float:
            return float(expected(self.probabilities(0, state, weight, bias)).sum()) / tokens

        loss, (d_state, d_weight, d_bias) = self.run(signal, divergence, tokens)
        close(loss, total(), 1e-9)
        for gradient, leaf, name in (
            (d_state, self.states[0], "state"),
            (d_weight, self.weights[0], "weight"),
            (d_bias, self.biases[0], "bias"),
        ):
            if leaf is not None:
                start = leaf.detach().numpy()
                differences = oracle.finite_difference(lambda x, n=name: total(**{n: x}), start)
                close(gradient, differences, 2e-6)


def promise_losses_and_gradients_are_those_of_the_formulas() -> None:
    for seed, options in enumerate(KINDS * 2):
        case = Case(seed)
        divergence = Divergence(**options, temperature=case.temperature)
        t, p = case.probabilities(1), parameter(options)
        # Adaptive KL's two weights are constants of the gradient.
        w = oracle.adaptive_weight(t, case.probabilities(0), p)

        def expected(
            s: Any, t: Any = t, kind: str = options["kind"], p: float = p, w: Any = w
        ) -> Any:
            return oracle.divergence(kind, t, s, p, weight=w)

        case.check(HiddenStates(hidden_MD=case.states[1], head=case.head(1)), divergence, expected)


def top_k(case: Case, k: int) -> tuple[TopK, Any]:
    t = case.probabilities(1)
    ids = np.argsort(-t, axis=-1, kind="stable")[:, :k].copy()
    kept = np.take_along_axis(t, ids, -1)
    signal = TopK(
        ids_MK=torch.from_numpy(ids),
        log_probs_MK=torch.from_numpy(np.log(kept)),
        temperature=case.temperature,
    )
    return signal, oracle.buckets(t, ids)


def promise_top_k_has_one_tail_bucket_and_renormalises_nothing() -> None:
    for seed, options in enumerate(KINDS):
        case = Case(100 + seed)
        k = int(case.rng.integers(1, case.V))
        signal, t = top_k(case, k)
        divergence = Divergence(**options, temperature=case.temperature)
        p, ids = parameter(options), signal.ids_MK.numpy()
        w = oracle.adaptive_weight(t, oracle.buckets(case.probabilities(0), ids), p)

        def expected(
            s: Any, t: Any = t, i: Any = ids, kind: str = options["kind"], p: float = p, w: Any = w
        ) -> Any:
            return oracle.divergence(kind, t, oracle.buckets(s, i), p, weight=w)

        case.check(signal, divergence, expected)


def promise_all_ids_as_top_k_are_the_full_divergence() -> None:
    for seed, options in enumerate(KINDS):
        case = Case(200 + seed)
        divergence = Divergence(**options, temperature=case.temperature)
        signal, _ = top_k(case, case.V)
        coarse, full = (
            case.run(one, divergence, 3.0)
            for one in (signal, HiddenStates(hidden_MD=case.states[1], head=case.head(1)))
        )
        close(coarse[0], full[0].detach(), 1e-7)
        close(coarse[1][0], full[1][0], 1e-7)


def promise_sampled_ids_are_forward_kl_of_their_weights() -> None:
    for seed in range(6):
        case = Case(300 + seed)
        ids = case.rng.integers(0, case.V, size=(case.M, 4))
        weights = case.rng.dirichlet(np.ones(4), size=case.M)
        entropy = case.rng.random(case.M)
        signal = Sampled(
            ids_MK=torch.from_numpy(ids),
            weights_MK=torch.from_numpy(weights),
            entropy_M=torch.from_numpy(entropy),
            temperature=case.temperature,
        )

        def expected(s: Any, ids: Any = ids, w: Any = weights, h: Any = entropy) -> Any:
            return -(w * np.log(np.take_along_axis(s, ids, -1))).sum(-1) - h

        case.check(signal, Divergence(temperature=case.temperature), expected)


def promise_a_step_is_one_sum_over_its_reply_tokens_however_it_is_divided() -> None:
    """Two sequences, prompts and replies of unequal lengths, one micro-batch each."""
    rng = np.random.default_rng(5)
    lengths, starts, width, vocabulary = [7, 4], [2, 3], 3, 6
    weight = drawn(rng, vocabulary, width).requires_grad_()
    teacher_weight = drawn(rng, vocabulary, width)
    student = [drawn(rng, n, width) for n in lengths]
    teacher = [drawn(rng, n, width) for n in lengths]
    counts = [n - b for n, b in zip(lengths, starts, strict=True)]

    def total(w: Any) -> float:
        parts = []
        for n, b, h, g in zip(lengths, starts, student, teacher, strict=True):
            for place in range(n):
                if place + 1 >= b and place + 1 < n:  # it predicts a reply token of its sequence
                    s = oracle.softmax(oracle.logits(h[place].numpy(), w))
                    t = oracle.softmax(oracle.logits(g[place].numpy(), teacher_weight.numpy()))
                    parts.append(oracle.kl(t, s))
        assert len(parts) == sum(counts)
        return float(np.sum(parts) / len(parts))

    def one(which: list[int], divisor: float) -> torch.Tensor:
        places = divergences.reply_places([lengths[i] for i in which], [starts[i] for i in which])
        return divergences.divergence_loss(
            torch.cat([student[i] for i in which])[places],
            Head(weight_VD=weight),
            HiddenStates(
                hidden_MD=torch.cat([teacher[i] for i in which])[places],
                head=Head(weight_VD=teacher_weight),
            ),
            Divergence(),
            reply_tokens=divisor,
        )

    expected = oracle.finite_difference(total, weight.detach().numpy())
    for division in ([[0, 1]], [[0], [1]]):
        weight.grad = None
        divisor = divergences.normaliser(sum(counts))
        losses = [one(which, divisor) for which in division]
        for loss in losses:
            loss.backward()
        close(sum(losses), total(weight.detach().numpy()), 1e-9)
        close(weight.grad, expected, 1e-6)


def promise_what_would_silently_be_another_loss_is_refused() -> None:
    case = Case(7)
    signal, _ = top_k(case, 2)
    hot = Divergence(temperature=case.temperature + 1)
    with pytest.raises(InputError, match="temperature"):
        case.run(signal, hot, 1.0)
    sampled = Sampled(ids_MK=signal.ids_MK, weights_MK=signal.log_probs_MK.exp())
    with pytest.raises(InputError, match="biased"):
        case.run(sampled, Divergence(kind="reverse_kl"), 1.0)
    wide = Case(8, padded=False)
    other = HiddenStates(
        hidden_MD=wide.states[1], head=Head(weight_VD=torch.cat([wide.weights[1]] * 2))
    )
    with pytest.raises(InputError, match="vocabulary"):
        divergences.divergence_loss(
            wide.states[0], wide.head(0), other, Divergence(), reply_tokens=1.0
        )
    with pytest.raises(InputError, match="has no beta"):
        Divergence(kind="forward_kl", beta=0.1)
    with pytest.raises(InputError, match="reply tokens"):
        case.run(signal, Divergence(temperature=case.temperature), 0)


PROMISES = [
    promise_losses_and_gradients_are_those_of_the_formulas,
    promise_top_k_has_one_tail_bucket_and_renormalises_nothing,
    promise_all_ids_as_top_k_are_the_full_divergence,
    promise_sampled_ids_are_forward_kl_of_their_weights,
    promise_a_step_is_one_sum_over_its_reply_tokens_however_it_is_divided,
    promise_what_would_silently_be_another_loss_is_refused,
]
