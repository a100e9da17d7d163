"""The chat template: nothing is dropped, and the boundary of the reply is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stillhouse.exchanges import InputError
from stillhouse.teachers.chat import Message
from stillhouse.teachers.template import ChatTemplate

TURNS = (
    "{% for m in messages %}BODY{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
NO_SYSTEM = TURNS.replace("BODY", "{% if m['role'] != 'system' %}" + TURN + "{% endif %}")
RAISES = TURNS.replace(
    "BODY", "{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TURN
)
NO_TOOL = TURNS.replace("BODY", "{% if m['role'] != 'tool' %}" + TURN + "{% endif %}")
PLAIN = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
JOINED = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'fi' }}{% endif %}"
)
Build = Callable[..., Any]


@pytest.mark.parametrize("text", [NO_SYSTEM, RAISES])
def test_a_template_that_drops_the_system_prompt_is_found_and_refused(
    tiny_tokenizer: Build, text: str
) -> None:
    template = ChatTemplate(tiny_tokenizer(text), [2], "model")
    assert not template.keeps_system
    assert "good" in template.prompt([Message("user", "good")], "a")
    with pytest.raises(InputError, match=r"drops the system prompt of item-3[\s\S]*repair"):
        template.prompt([Message("system", "be brief"), Message("user", "good")], "item-3")


def test_any_other_message_that_is_dropped_is_refused(tiny_tokenizer: Build) -> None:
    template = ChatTemplate(tiny_tokenizer(NO_TOOL), [2], "model")
    assert template.keeps_system
    with pytest.raises(InputError, match="drops the tool message of item-3"):
        template.prompt([Message("user", "good"), Message("tool", "bad")], "item-3")


def test_a_template_that_prints_the_date_renders_the_same_every_day(tiny_tokenizer: Build) -> None:
    dated = TURNS.replace("BODY", "{{ strftime_now('%d %b %Y') }}" + TURN)
    template = ChatTemplate(tiny_tokenizer(dated), [2], "model")
    assert "26 Jul 2024<|im_start|>user\n" in template.prompt([Message("user", "x")], "a")


def test_a_finished_reply_is_closed_and_a_cut_one_is_not(tiny_tokenizer: Build) -> None:
    template = ChatTemplate(tiny_tokenizer(), [2], "model")
    prompt = template.prompt([Message("user", "the film")], "a")
    assert prompt.endswith("<|im_start|>assistant\n")
    ids = template.encode(prompt)
    text = template.encode("very good")
    assert template.reply_ids(prompt, ids, "very good", complete=False, name="a") == text
    assert template.reply_ids(prompt, ids, "very good", complete=True, name="a") == [*text, 2]


def test_a_template_without_end_token_is_closed_with_the_end_of_text(
    tiny_tokenizer: Build,
) -> None:
    template = ChatTemplate(tiny_tokenizer(PLAIN), [2, 0], "model")
    assert template.end_of_turn_ids == (2,)


def test_a_turn_closed_by_a_token_that_does_not_end_generation_is_refused(
    tiny_tokenizer: Build,
) -> None:
    with pytest.raises(InputError, match=r"'<\|im_end\|>' \(id 2\).*\[0\]"):
        ChatTemplate(tiny_tokenizer(), [0], "model")


def test_a_reply_that_merges_with_its_prompt_is_refused(tiny_tokenizer: Build) -> None:
    template = ChatTemplate(tiny_tokenizer(JOINED), [2], "model")
    prompt = template.prompt([Message("user", "x ")], "a")
    ids = template.encode(prompt)
    with pytest.raises(InputError, match="merges with the end of its prompt"):
        template.reply_ids(prompt, ids, "lm", complete=True, name="item-3")


def test_a_reply_that_holds_an_end_token_is_refused(tiny_tokenizer: Build) -> None:
    template = ChatTemplate(tiny_tokenizer(), [2], "model")
    prompt = template.prompt([Message("user", "x")], "a")
    with pytest.raises(InputError, match="holds an end-of-text token"):
        template.reply_ids(prompt, template.encode(prompt), "a<|im_end|>b", complete=True, name="a")


def test_a_tokenizer_without_template_or_end_is_refused(tiny_tokenizer: Build) -> None:
    with pytest.raises(InputError, match="no chat template"):
        ChatTemplate(tiny_tokenizer(None), [2], "model")
    with pytest.raises(InputError, match="no end-of-text id"):
        ChatTemplate(tiny_tokenizer(), [], "model")
    with pytest.raises(InputError, match="item-3 has no messages"):
        ChatTemplate(tiny_tokenizer(), [2], "model").prompt([], "item-3")
