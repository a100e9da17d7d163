"""From items and targets to tokens: an exact boundary, no truncation, nothing skipped unsaid."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.distill.examples import (
    Examples,
    Target,
    build_examples,
    epoch_batches,
    micro_batches,
)
from stillhouse.exchanges import InputError
from stillhouse.parity.items import Item
from stillhouse.teachers.chat import Message, Reply
from stillhouse.teachers.template import ChatTemplate

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=80)


def item(name: str, text: str = "the film") -> Item:
    return Item(id=name, messages=(Message("user", text),), variable=text, group=name)


@pytest.fixture
def template(tiny_tokenizer: Callable[..., Any]) -> ChatTemplate:
    return ChatTemplate(tiny_tokenizer(), [2], "tiny")


def build(template: ChatTemplate, targets: dict[str, Target], **options: Any) -> Examples:
    return build_examples(
        [item(name) for name in targets], targets, template, **{"window": 500, **options}
    )


def test_prompt_and_reply_meet_at_the_generation_prompt(template: ChatTemplate) -> None:
    built = build(template, {"a": Target(reply="very good")}).examples[0]
    prompt = template.encode("<|im_start|>user\nthe film<|im_end|>\n<|im_start|>assistant\n")
    reply = template.encode("very good")
    assert built.ids == (*prompt, *reply, 2)
    assert built.start == len(prompt)
    assert built.reply_tokens == len(reply) + 1


PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'Q: ' + m['content'] + '\nA:' }}"
    "{% else %}{{ ' ' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)


def trained_on_what_is_rendered(tokenizer: Any) -> None:
    """The ids are those of the whole conversation, tokenised at once, up to the reply's end."""
    template = ChatTemplate(tokenizer, [2], "tiny")
    for reply in ("good", "very good film", "bad\n\n1. was", "na\u00efve"):
        example = build(template, {"a": Target(reply=reply)}).examples[0]
        turns = [{"role": "user", "content": "the film"}, {"role": "assistant", "content": reply}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        whole = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert list(example.ids) == whole[: len(example.ids)]
        assert example.ids[-1] == 2
        assert 2 not in example.ids[example.start : -1]


def retokenised_with_a_space(
    self: ChatTemplate, prompt: str, prompt_ids: Any, reply: str, *, complete: bool, name: str
) -> list[int]:
    del name
    whole = self.encode(f"{prompt}{self.reply_prefix}{reply} ")
    return whole[len(prompt_ids) :] + list(self.end_of_turn_ids) * complete


def retokenised_apart(
    self: ChatTemplate, prompt: str, prompt_ids: Any, reply: str, *, complete: bool, name: str
) -> list[int]:
    del prompt, prompt_ids, name
    return self.encode(reply) + list(self.end_of_turn_ids) * complete


@pytest.mark.parametrize("mutant", [None, retokenised_with_a_space, retokenised_apart])
def test_a_reply_is_tokenised_with_its_prompt_and_ends_where_it_ended(
    tiny_tokenizer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, mutant: Any
) -> None:
    for tokenizer in (tiny_tokenizer(), tiny_tokenizer(PLAIN)):
        trained_on_what_is_rendered(tokenizer)
    if mutant is not None:
        monkeypatch.setattr(ChatTemplate, "reply_ids", mutant)
        with pytest.raises(AssertionError):
            trained_on_what_is_rendered(tiny_tokenizer(PLAIN))


def test_end_of_turn_is_added_to_finished_replies_only(template: ChatTemplate) -> None:
    targets = {"whole": Target(reply="good"), "cut": Target(reply="good", complete=False)}
    whole, cut = build(template, targets).examples
    assert whole.ids == (*cut.ids, 2)


@pytest.mark.parametrize(
    ("reason", "complete"),
    [("stop", True), ("tool_calls", True), ("length", False), ("unknown", False)],
)
def test_only_a_reply_that_ended_by_itself_counts_as_complete(reason: Any, complete: bool) -> None:
    reply = Reply(text="good", finish_reason=reason, model="m", label_scores=(-1.0, -2.0))
    assert Target.from_reply(reply) == Target(
        reply="good", complete=complete, label_scores=(-1.0, -2.0)
    )


def test_every_skipped_item_is_counted_by_its_reason(template: ChatTemplate) -> None:
    items = [item(name) for name in ("a", "b", "c")] + [item("d", "x" * 200)]
    targets = {
        "a": Target(reply="good"),
        "b": Target(reply="good <|im_end|> film"),
        "d": Target(reply="bad"),
    }
    built = build_examples(items, targets, template, window=60, overlong="skip")
    assert [example.id for example in built.examples] == ["a"]
    assert built.skipped == {"end token inside": 1, "no target": 1, "overlong": 1}
    with pytest.raises(InputError, match=r"item d with its reply has 2\d\d tokens, more than 60"):
        build_examples(items, targets, template, window=60)
    with pytest.raises(InputError, match=r"no example is left.*'empty reply': 1"):
        build(template, {"a": Target(reply="")})


def test_label_scores_become_probabilities_of_the_first_reply_token(
    template: ChatTemplate,
) -> None:
    labels = ("positive", "negative")
    targets = {
        "soft": Target(reply="negative", label_scores=(-7.0, -7.0 + math.log(3))),
        "hard": Target(reply="positive"),
    }
    built = build(template, targets, labels=labels)
    soft, hard = built.examples
    assert soft.label_probabilities == pytest.approx((0.25, 0.75))
    assert hard.label_probabilities is None
    assert built.label_tokens == tuple(template.encode(label)[0] for label in labels)
    assert soft.ids[soft.start] == built.label_tokens[1]
    plain = build(template, targets, labels=labels, label_targets="hard")
    assert plain.label_tokens == ()
    assert plain.examples[0].label_probabilities is None
    assert plain.digest() != built.digest()


@pytest.mark.parametrize(
    ("labels", "target", "message"),
    [
        (("good", "good film"), Target(reply="good", label_scores=(0.0, 0.0)), "first token"),
        (("good", "bad"), Target(reply="good", label_scores=(0.0,)), "1 label scores"),
        (("good", "bad"), Target(reply="film", label_scores=(0.0, 0.0)), "the reply 'film'"),
        (("good", "bad"), Target(reply="bad", label_scores=(0.0, math.inf)), "not finite"),
    ],
)
def test_label_scores_that_do_not_fit_the_task_are_refused(
    template: ChatTemplate, labels: tuple[str, ...], target: Target, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(template, {"a": target}, labels=labels)


@given(lengths, st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_holds_every_example_once_in_an_order_of_its_own(
    lengths: list[int], size: int, epoch: int
) -> None:
    batches = epoch_batches(lengths, size, seed=5, epoch=epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths) / size)
    assert Counter(map(len, batches)) - Counter({size: len(batches)}) <= Counter(
        {len(lengths) % size: 1}
    )
    assert batches == epoch_batches(lengths, size, seed=5, epoch=epoch)


def test_epochs_and_seeds_differ_and_batches_hold_similar_lengths() -> None:
    lengths = [10 + (i * 37) % 90 for i in range(256)]
    first = epoch_batches(lengths, 16, seed=1, epoch=0)
    assert first != epoch_batches(lengths, 16, seed=1, epoch=1)
    assert first != epoch_batches(lengths, 16, seed=2, epoch=0)
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in first)
    assert padded < 1.1 * sum(lengths)


@given(lengths, st.integers(1, 200))
def test_micro_batches_divide_a_batch_within_the_memory_bound(
    lengths: list[int], tokens: int
) -> None:
    parts = micro_batches(range(len(lengths)), lengths, tokens)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[i] for i in part) <= tokens
