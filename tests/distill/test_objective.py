"""What a training step minimises is the divergence on the very tokens that both models read.

The reference runs both models as they are, one example at a time, and takes the divergence in NumPy
from whole logits. The mutants are traps that other programs fell into (docs/divergences.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.distill.divergences import oracle
from tests.distill.divergences.test_fused import Largest

from stillhouse.distill import objective, states, teaching
from stillhouse.distill.distribution import DivergenceConfig
from stillhouse.distill.divergences import chunk_rows
from stillhouse.distill.examples import Example, Examples
from stillhouse.distill.objective import DistributionObjective
from stillhouse.distill.teaching import LiveTeacher
from stillhouse.exchanges import InputError
from stillhouse.students import Vocabulary, cut_vocabulary, open_tail
from stillhouse.teachers.local import LocalModel

Patch = pytest.MonkeyPatch
# "film" in four pieces, as a sampling teacher may write it: a tokenizer would make one of them.
WRITTEN = ("f", "i", "l", "m")


@pytest.fixture(scope="module")
def build(
    tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> Callable[..., tuple[DistributionObjective, Any, Any, list[Example]]]:
    def made(**config: Any) -> tuple[DistributionObjective, Any, Any, list[Example]]:
        tokenizer = tiny_tokenizer()
        piece = tokenizer.get_vocab()
        end = tokenizer.eos_token_id
        prompts = ["good film", "the film was very bad", "no"]
        replies = [[piece[one] for one in WRITTEN], [piece["y"], piece["e"]], [piece["n"]]]
        examples = []
        for number, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            before = tokenizer(prompt)["input_ids"]
            ids = (*before, *reply, end)
            examples.append(Example(id=str(number), ids=ids, start=len(before)))
        found = Examples(examples=tuple(examples), label_tokens=(), skipped={})
        student, teacher = tiny_model(), tiny_model(seed=1, layers=3)
        chosen = DivergenceConfig(**config)
        local = LocalModel(teacher, tokenizer, name="t", fingerprint="")
        live = LiveTeacher(local, chosen, len(tokenizer))
        sets: Any = {"train": found, "validation": found}
        made = DistributionObjective(student, sets, "float32", chosen, live)
        return made, student, teacher, examples

    return made


def expected(student: Any, teacher: Any, examples: Sequence[Example], vocabulary: int) -> float:
    total = 0.0
    for example in examples:
        ids = torch.tensor([example.ids])
        with torch.no_grad():
            z_s, z_t = (model(ids).logits[0].double().numpy() for model in (student, teacher))
        for place in range(len(example.ids) - 1):
            if place + 1 >= example.start:
                t, s = (oracle.softmax(z[place, :vocabulary]) for z in (z_t, z_s))
                total += float(oracle.kl(t, s))
    return total


def check(build: Callable[..., Any], **config: Any) -> None:
    made, student, teacher, examples = build(**config)
    loss = made("train", range(len(examples)))
    right = expected(student, teacher, examples, made.teacher.vocabulary)
    assert loss.item() == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize("packing", [True, False])
def test_the_loss_is_that_of_whole_logits(build: Callable[..., Any], packing: bool) -> None:
    check(build, packing=packing)


def changed(example: Example, **fields: Any) -> Example:
    return dataclasses.replace(example, **fields)


def teacher_reads(patch: Patch, change: Callable[[Example], Example]) -> None:
    original = LiveTeacher.word

    def word(self: Any, split: Any, places: Any, examples: Any) -> Any:
        return original(self, split, places, [change(one) for one in examples])

    patch.setattr(LiveTeacher, "word", word)


def the_teacher_reads_the_replys_text_anew(patch: Patch, tokenizer: Any) -> None:
    """The text is tokenised again, with a space before its end (KDFlow)."""

    def again(example: Example) -> Example:
        text = tokenizer.decode(example.ids[example.start : -1]) + " "
        reply = tokenizer(text)["input_ids"]
        return changed(example, ids=(*example.ids[: example.start], *reply, example.ids[-1]))

    teacher_reads(patch, again)


def the_teacher_reads_as_many_other_tokens(patch: Patch, _tokenizer: Any) -> None:
    """As before, where the counts happen to be the same."""
    teacher_reads(patch, lambda e: changed(e, ids=(*e.ids[: e.start], *e.ids[e.start :][::-1])))


def the_teachers_mask_is_one_off(patch: Patch, _tokenizer: Any) -> None:
    def later(example: Example) -> Example:
        return changed(example, ids=(*example.ids[1:], example.ids[-1]))

    teacher_reads(patch, later)


def both_masks_are_one_off(patch: Patch, _tokenizer: Any) -> None:
    """The places of the reply's tokens themselves: labels that were not shifted (DistillKit)."""
    original = states.reply_places
    patch.setattr(states, "reply_places", lambda n, b: original(n, b) + 1)


def packed_sequences_see_each_other(patch: Patch, _tokenizer: Any) -> None:
    original = states.packed_layers

    def as_one(model: Any, sequences: Any, **options: Any) -> Any:
        return original(model, [[one for ids in sequences for one in ids]], **options)

    patch.setattr(states, "packed_layers", as_one)


def the_vocabulary_holds_padding(patch: Patch, _tokenizer: Any) -> None:
    """All rows of the heads take part, also those that no id has."""
    original = objective.divergence_loss

    def whole(*given: Any, vocabulary: int, **options: Any) -> Any:
        return original(*given, vocabulary=None, **options)

    patch.setattr(objective, "divergence_loss", whole)


def the_mean_of_each_pass(patch: Patch, _tokenizer: Any) -> None:
    """Each forward pass is divided by its own tokens."""
    original = objective.divergence_loss

    def mean(hidden_MD: Any, *given: Any, reply_tokens: float, **options: Any) -> Any:
        return original(hidden_MD, *given, reply_tokens=len(hidden_MD), **options)

    patch.setattr(objective, "divergence_loss", mean)


MUTANTS = [
    the_teacher_reads_the_replys_text_anew,
    the_teacher_reads_as_many_other_tokens,
    the_teachers_mask_is_one_off,
    both_masks_are_one_off,
    packed_sequences_see_each_other,
    the_vocabulary_holds_padding,
    the_mean_of_each_pass,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_mistake_changes_the_loss(
    mutant: Callable[[Patch, Any], None],
    build: Callable[..., Any],
    tiny_tokenizer: Callable[..., Any],
    monkeypatch: Patch,
) -> None:
    mutant(monkeypatch, tiny_tokenizer())
    with pytest.raises((AssertionError, InputError, IndexError)):
        check(build)


def trimmed(build: Callable[..., Any], tokenizer: Any) -> tuple[Any, Any, Any, Any, Any]:
    """A student of a part of the tokens, its ids renumbered, with one row for all others."""
    made, student, teacher, examples = build()
    used = sorted({token for one in examples for token in one.ids} | {0, 1, 2, 7, 9})
    vocabulary = Vocabulary(kept=tuple(used), parent_size=330)
    new = vocabulary.new_ids()
    own = [changed(e, ids=tuple(int(new[i]) for i in e.ids)) for e in examples]
    found = Examples(examples=tuple(own), label_tokens=(), skipped={})
    student = open_tail(cut_vocabulary(student, vocabulary))
    config = DivergenceConfig()
    local = LocalModel(teacher, tokenizer, name="t", fingerprint="")
    live = LiveTeacher(local, config, made.teacher.vocabulary, vocabulary.kept)
    sets: Any = {"train": found, "validation": found}
    made = DistributionObjective(student, sets, "float32", config, live)
    return made, student, teacher, own, np.array(used)


def check_trimmed(build: Callable[..., Any], tokenizer: Any) -> None:
    made, student, teacher, own, kept = trimmed(build, tokenizer)
    loss, nats = made("validation", range(len(own)), measure=True).tolist()
    total = words = 0.0
    for example in own:
        with torch.no_grad():
            z_s = student(torch.tensor([example.ids])).logits[0].double().numpy()
            theirs = torch.tensor(kept[list(example.ids)])[None]
            z_t = teacher(theirs).logits[0, :, : made.teacher.vocabulary].double().numpy()
        for place in range(example.start - 1, len(example.ids) - 1):
            t = oracle.buckets(oracle.softmax(z_t[place : place + 1]), kept[None])
            total += float(oracle.kl(t, oracle.softmax(z_s[place : place + 1])).sum())
            words -= np.log(oracle.softmax(z_s[place, : len(kept)])[example.ids[place + 1]])
    assert loss == pytest.approx(total, rel=1e-4)
    assert nats == pytest.approx(words, rel=1e-4), "its own words are without the tail"


def test_a_trimmed_student_learns_the_others_as_one_bucket(
    build: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> None:
    check_trimmed(build, tiny_tokenizer())


def test_a_teacher_that_reads_the_students_numbers_is_noticed(
    build: Callable[..., Any], tiny_tokenizer: Callable[..., Any], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(teaching, "in_its_ids", lambda examples, _kept: examples)
    with pytest.raises(AssertionError):
        check_trimmed(build, tiny_tokenizer())


CHANGED: dict[str, dict[str, Any]] = {
    "kind": {"kind": "reverse_kl"},
    "temperature": {"temperature": 2.0},
    "beta": {"kind": "jensen_shannon", "beta": 0.1},
    "alpha": {"kind": "skew_forward_kl", "alpha": 0.3},
    "mu": {"kind": "adaptive_kl", "mu": 0.2},
    "hidden_states": {"hidden_states": "mse"},
    "hidden_weight": {"hidden_states": "mse", "hidden_weight": 3.0},
}


@pytest.mark.parametrize("key", CHANGED)
def test_no_key_of_the_loss_is_dropped_in_silence(build: Callable[..., Any], key: str) -> None:
    """As verl drops an entry of its configuration beside others."""
    given = CHANGED[key]
    without = {name: value for name, value in given.items() if name != key}
    losses = []
    for config in (given, without):
        made, _, _, examples = build(**config)
        losses.append(made("train", range(len(examples))).item())
    assert abs(losses[0] - losses[1]) > 1e-3 * abs(losses[1])


def test_a_step_makes_no_buffer_of_batch_by_length_by_vocabulary(
    build: Callable[..., Any], monkeypatch: Patch
) -> None:
    rows = 2
    for module in (objective, teaching):
        assert not hasattr(module, "logits_to_keep")
    original = objective.divergence_loss

    def small(*given: Any, **options: Any) -> Any:
        return original(*given, chunk_bytes=4 * rows * 330, **options)

    monkeypatch.setattr(objective, "divergence_loss", small)
    made, student, _, examples = build()
    many = list(range(len(examples))) * 40
    positions = sum(examples[i].reply_tokens for i in many)
    with Largest() as seen:
        made("train", many).backward()
    assert chunk_rows(330, 4 * rows * 330) == rows
    length = max(len(one.ids) for one in examples)
    assert seen.numbers < positions * 330
    assert seen.numbers < len(many) * length * 330 / 3
    assert student.get_input_embeddings().weight.grad is not None
    assert np.isfinite(float(student.get_input_embeddings().weight.grad.abs().sum()))
