"""The product keeps its promises, and every known way to break one is noticed.

The mutants are the traps that other programs fell into: see docs/divergences.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.distill.divergences.promises import PROMISES

from stillhouse.distill import divergences
from stillhouse.distill.divergences import divergence as kinds
from stillhouse.distill.divergences import fused, kernels
from stillhouse.distill.divergences.head import Curve
from stillhouse.distill.divergences.signals import TopK

Terms = Any
Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("promise", PROMISES, ids=lambda p: p.__name__.removeprefix("promise_"))
def test_promise(promise: Callable[[], None]) -> None:
    torch.set_num_threads(1)
    promise()


def changed_terms(patch: Patch, kind: Any, change: Callable[[Terms], Terms]) -> None:
    patch.setitem(kinds._TERMS, kind, change(kinds._TERMS[kind]))


def changed_kernels(patch: Patch, change: Callable[[Any], Any]) -> None:
    for name in ("full", "buckets", "sampled"):
        patch.setattr(kernels, name, change(getattr(kernels, name)))


def scaled(factor: Callable[[float], float]) -> Callable[[Terms], Terms]:
    def change(terms: Terms) -> Terms:
        def scaled_terms(log_s: Any, log_t: Any, p: float) -> Any:
            loss, slope = terms(log_s, log_t, p)
            return loss * factor(p), slope * factor(p)

        return scaled_terms

    return change


def jensen_shannon_with_a_jump(patch: Patch) -> None:
    """beta KL + (1 - beta) KL inside, the plain KLs at the ends (TRL, Liger, ms-swift)."""
    changed_terms(patch, "jensen_shannon", scaled(lambda b: b * (1 - b) if 0 < b < 1 else 1.0))


def jensen_shannon_mirrored(patch: Patch) -> None:
    """beta weights the student (KDFlow)."""
    changed_terms(
        patch, "jensen_shannon", lambda terms: lambda log_s, log_t, b: terms(log_s, log_t, 1 - b)
    )


def forward_is_reverse(patch: Patch) -> None:
    patch.setitem(kinds._TERMS, "forward_kl", kinds._TERMS["reverse_kl"])


def skews_are_swapped(patch: Patch) -> None:
    patch.setitem(kinds._TERMS, "skew_forward_kl", kinds._TERMS["skew_reverse_kl"])


def skew_is_mirrored(patch: Patch) -> None:
    changed_terms(
        patch, "skew_forward_kl", lambda terms: lambda log_s, log_t, a: terms(log_s, log_t, 0.9 - a)
    )


def total_variation_without_its_half(patch: Patch) -> None:
    changed_terms(patch, "total_variation", scaled(lambda _p: 2.0))


def adaptive_weights_swapped(patch: Patch) -> None:
    changed_terms(
        patch, "adaptive_kl", lambda terms: lambda log_s, log_t, mu: terms(log_s, log_t, 1 - mu)
    )


def times_temperature_squared(patch: Patch) -> None:
    def change(kernel: Any) -> Any:
        def hot(*given: Any) -> Any:
            loss, gradient = kernel(*given)
            heat = next(g.temperature for g in given if isinstance(g, divergences.Divergence))
            return loss * heat**2, gradient * heat**2

        return hot

    changed_kernels(patch, change)


def gradient_without_temperature(patch: Patch) -> None:
    def change(kernel: Any) -> Any:
        def warm(*given: Any) -> Any:
            loss, gradient = kernel(*given)
            heat = next(g.temperature for g in given if isinstance(g, divergences.Divergence))
            return loss, gradient * heat

        return warm

    changed_kernels(patch, change)


def mean_over_the_call(patch: Patch) -> None:
    """Each micro-batch by its own count (num_items_in_batch=None)."""
    original = divergences.divergence_loss

    def mean(hidden: Any, *given: Any, reply_tokens: float, **options: Any) -> Any:
        return original(hidden, *given, reply_tokens=len(hidden), **options)

    patch.setattr(divergences, "divergence_loss", mean)


def mean_over_the_vocabulary(patch: Patch) -> None:
    original = divergences.divergence_loss

    def mean(hidden: Any, head: Any, *given: Any, reply_tokens: float, **options: Any) -> Any:
        divisor = reply_tokens * head.vocabulary
        return original(hidden, head, *given, reply_tokens=divisor, **options)

    patch.setattr(divergences, "divergence_loss", mean)


def unshifted_mask(patch: Patch) -> None:
    """The places of the reply tokens themselves (labels >= 0 without a shift)."""
    original = divergences.reply_places
    patch.setattr(divergences, "reply_places", lambda n, b: original(n, b) + 1)


def mask_includes_the_prompt(patch: Patch) -> None:
    original = divergences.reply_places
    patch.setattr(divergences, "reply_places", lambda n, b: original(n, [1] * len(b)))


def tail_renormalised(patch: Patch) -> None:
    original = kernels.buckets

    def renormalised(y: Any, ids: Any, log_t: Any, *given: Any) -> Any:
        return original(y, ids, log_t - log_t.logsumexp(-1, keepdim=True), *given)

    patch.setattr(kernels, "buckets", renormalised)


def tail_dropped(patch: Patch) -> None:
    """Only the listed ids are summed over."""
    original = divergences.Divergence.terms

    def without_last(self: Any, log_s: Any, log_t: Any) -> Any:
        loss, slope = original(self, log_s[:, :-1], log_t[:, :-1])
        return loss, torch.nn.functional.pad(slope, (0, 1))

    def buckets(*given: Any, kernel: Any = kernels.buckets) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(divergences.Divergence, "terms", without_last)
            return kernel(*given)

    patch.setattr(kernels, "buckets", buckets)


def only_the_likeliest_and_a_tail(patch: Patch) -> None:
    """Of all ids that the teacher gave, the first one and one bucket (TRL's served teacher)."""
    original = kernels.buckets

    def first(y: Any, ids: Any, log_t: Any, *given: Any) -> Any:
        return original(y, ids[:, :1], log_t[:, :1], *given)

    patch.setattr(kernels, "buckets", first)


def tail_gradient_spread_evenly(patch: Patch) -> None:
    original = kernels.buckets

    def even(y: Any, ids: Any, *given: Any) -> Any:
        loss, gradient = original(y, ids, *given)
        kept = torch.zeros_like(gradient, dtype=torch.bool).scatter_(-1, ids, True)
        tail = torch.where(kept, 0, gradient)
        count = (~kept).sum(-1, keepdim=True).clamp(min=1)
        return loss, torch.where(kept, gradient, tail.sum(-1, keepdim=True) / count)

    patch.setattr(kernels, "buckets", even)


def padding_logits_are_zero(patch: Patch) -> None:
    """A smaller vocabulary is padded with logits of 0, which take mass (Liger)."""
    original = kernels.full

    def padded(y_s: Any, y_t: Any, *given: Any) -> Any:
        more = (0, 2)
        loss, gradient = original(
            torch.nn.functional.pad(y_s, more), torch.nn.functional.pad(y_t, more), *given
        )
        return loss, gradient[:, :-2]

    patch.setattr(kernels, "full", padded)


def soft_cap_is_ignored(patch: Patch) -> None:
    patch.setattr(Curve, "bend", lambda self, y: y * self.scale)


def scale_is_ignored(patch: Patch) -> None:
    original = Curve.bend
    patch.setattr(Curve, "bend", lambda self, y: original(Curve(softcap=self.softcap), y))


def soft_cap_is_missing_in_the_gradient(patch: Patch) -> None:
    patch.setattr(Curve, "unbend", lambda self, gradient, _z: gradient * self.scale)


def temperature_before_the_soft_cap(patch: Patch) -> None:
    original = Curve.bend
    patch.setattr(Curve, "bend", lambda self, y: original(self, y / 2))


def signal_at_another_temperature(patch: Patch) -> None:
    """Log-probabilities of temperature 1 are taken for those of the loss's (vLLM's)."""
    original = fused._check

    def careless(hidden: Any, head: Any, signal: Any, divergence: Any, *given: Any) -> Any:
        if isinstance(signal, TopK):
            signal = TopK(
                ids_MK=signal.ids_MK,
                log_probs_MK=signal.log_probs_MK,
                temperature=divergence.temperature,
            )
        return original(hidden, head, signal, divergence, *given)

    patch.setattr(fused, "_check", careless)


def another_vocabulary_is_sliced(patch: Patch) -> None:
    """Heads of unequal sizes are cut to the smaller one without a word."""
    original = fused._check

    def careless(hidden: Any, head: Any, signal: Any, d: Any, n: Any, vocabulary: Any) -> Any:
        theirs = getattr(signal, "head", head)
        smaller = min(head.vocabulary, theirs.vocabulary)
        return original(hidden, head, signal, d, n, vocabulary or smaller)

    patch.setattr(fused, "_check", careless)


def sampled_ids_for_anything(patch: Patch) -> None:
    patch.setattr(divergences.Divergence, "linear", property(lambda _self: True))


def only_the_first_chunk_has_a_weight_gradient(patch: Patch) -> None:
    patch.setattr(fused, "_WEIGHT_ROWS", 1)
    original = kernels.full
    calls: list[int] = []

    def forgetful(y_s: Any, *given: Any) -> Any:
        calls.append(len(y_s))
        loss, gradient = original(y_s, *given)
        return loss, gradient if len(calls) % 2 else gradient * 0

    patch.setattr(kernels, "full", forgetful)


MUTANTS = [
    jensen_shannon_with_a_jump,
    jensen_shannon_mirrored,
    forward_is_reverse,
    skews_are_swapped,
    skew_is_mirrored,
    total_variation_without_its_half,
    adaptive_weights_swapped,
    times_temperature_squared,
    gradient_without_temperature,
    mean_over_the_call,
    mean_over_the_vocabulary,
    unshifted_mask,
    mask_includes_the_prompt,
    tail_renormalised,
    tail_dropped,
    only_the_likeliest_and_a_tail,
    tail_gradient_spread_evenly,
    padding_logits_are_zero,
    soft_cap_is_ignored,
    scale_is_ignored,
    soft_cap_is_missing_in_the_gradient,
    temperature_before_the_soft_cap,
    signal_at_another_temperature,
    another_vocabulary_is_sliced,
    sampled_ids_for_anything,
    only_the_first_chunk_has_a_weight_gradient,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_mistake_breaks_a_promise(
    mutant: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    mutant(monkeypatch)
    broken = 0
    for promise in PROMISES:
        try:
            promise()
        except (AssertionError, pytest.fail.Exception, IndexError, RuntimeError):
            broken += 1
            break
    assert broken, f"{mutant.__name__} breaks no promise"
