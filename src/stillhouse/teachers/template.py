"""A model's chat template: messages to token ids, with an exact boundary where the reply begins.

One place decides what the prompt's ids are, which ids end a turn, and what a finished reply looks
like, so that what is generated, scored and trained on cannot differ by a token.
"""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, Any, ClassVar

import jinja2

from stillhouse.exchanges import InputError
from stillhouse.teachers.chat import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROBE = "stillhouse-probe-7351"
_REPLY_PROBE = "stillhouse-reply-2904"
_TODAY = datetime.date(2024, 7, 26)  # what Llama 3's template itself falls back to
_PRINTS_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_MERGE = "put the instruction into the first user message"


class ReplyTokensError(InputError):
    """One reply cannot be tokenised after its prompt; others can. `reason` counts such replies."""

    reason: ClassVar[str]


class BoundaryError(ReplyTokensError):
    """A token straddles the end of the prompt and the start of the reply."""

    reason = "boundary"


class EndInsideError(ReplyTokensError):
    """The reply's text holds a token that ends generation."""

    reason = "end token inside"


class ChatTemplate:
    """The template of `tokenizer`, probed once.

    `end_ids` are the ids that end generation. `end_of_turn_ids` is what follows a finished reply,
    up to and including the first of them. `generation_prompt` is the text that opens the
    assistant's turn, `reply_prefix` what the template writes between that and the reply (a space,
    in completion-style templates; it is part of what is generated). `probe_prompt` is a whole
    rendered prompt, for what must be tokenised as a reply before there is any. `keeps_system` says
    whether a system message reaches the model.

    Raises `InputError` when there is no template, or when it closes the assistant's turn with a
    special token that is not an end id: a model trained on it would never stop.
    """

    def __init__(self, tokenizer: Any, end_ids: Sequence[int], place: str):
        self._tokenizer = tokenizer
        self._place = place
        self.end_ids = frozenset(end_ids)
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                "the tokenizer has no chat template",
                place=place,
                repair="add the model's chat_template.jinja to the folder",
            )
        if not self.end_ids:
            raise InputError(
                "no end-of-text id is known, so no reply could ever finish",
                place=place,
                repair="set eos_token_id in generation_config.json",
            )
        self._undated = _undated(tokenizer.chat_template)
        user = Message("user", _PROBE)
        opened = self.probe_prompt = self._render([user], reply=True)
        closed = self._render([user], reply=False)
        self.generation_prompt = opened[len(closed) :] if opened.startswith(closed) else ""
        answered = self._render([user, Message("assistant", _REPLY_PROBE)], reply=False)
        before = answered.partition(_REPLY_PROBE)[0]
        self.reply_prefix = before[len(opened) :] if before.startswith(opened) else ""
        self.keeps_system = self._keeps_system()
        self.end_of_turn_ids = self._end_of_turn_ids()

    def prompt(self, messages: Sequence[Message], name: str) -> str:
        """Return the text whose continuation is the reply.

        Raises `InputError` (naming `name`) when the template refuses the messages or leaves one
        out: a dropped system prompt would change the task without a word.
        """
        if not messages:
            raise InputError(f"{name} has no messages", place=self._place)
        if not self.keeps_system and any(m.role == "system" for m in messages):
            raise InputError(
                f"the chat template drops the system prompt of {name}",
                place=self._place,
                repair=_MERGE,
            )
        try:
            text = self._render(messages, reply=True)
        except jinja2.TemplateError as error:
            raise InputError(
                f"the chat template refuses {name}: {error}", place=self._place, repair=_MERGE
            ) from error
        for message in messages:
            if message.content.strip() not in text:
                raise InputError(
                    f"the chat template drops the {message.role} message of {name}",
                    place=self._place,
                    repair=_MERGE,
                )
        return text

    def encode(self, text: str) -> list[int]:
        """Return the ids of rendered text (special tokens are in the text already)."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def reply_ids(
        self, prompt: str, prompt_ids: Sequence[int], reply: str, *, complete: bool, name: str
    ) -> list[int]:
        """Return the ids of `reply` as the continuation of `prompt`; closed only when `complete`.

        Raises `BoundaryError` when the prompt's ids are not a prefix of the whole's (a token would
        straddle the boundary), and `EndInsideError` when the reply holds an end id of its own.
        """
        whole = self.encode(prompt + self.reply_prefix + reply)
        if whole[: len(prompt_ids)] != list(prompt_ids):
            raise BoundaryError(
                f"the reply of {name} merges with the end of its prompt into one token",
                place=self._place,
                repair="strip the reply, or use a template that ends its prompt with a line break "
                "or a special token",
            )
        ids = whole[len(prompt_ids) :]
        if not self.end_ids.isdisjoint(ids):
            raise EndInsideError(
                f"the reply of {name} holds an end-of-text token inside its text",
                place=self._place,
                repair="remove the special token from the reply",
            )
        return ids + list(self.end_of_turn_ids) if complete else ids

    def _render(self, messages: Sequence[Message], *, reply: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            tokenize=False,
            add_generation_prompt=reply,
            chat_template=self._undated,
        )
        return text

    def _keeps_system(self) -> bool:
        try:
            return _PROBE in self._render(
                [Message("system", _PROBE), Message("user", "x")], reply=True
            )
        except jinja2.TemplateError:
            return False

    def _end_of_turn_ids(self) -> tuple[int, ...]:
        turn = [Message("user", _PROBE), Message("assistant", "ok " + _PROBE)]
        suffix = self.encode(self._render(turn, reply=False).rpartition(_PROBE)[2])
        for position, token in enumerate(suffix):
            if token in self.end_ids:
                return tuple(suffix[: position + 1])
        added = self._tokenizer.added_tokens_decoder
        special = [t for t in suffix if t in added and added[t].special]
        if special:
            names = self._tokenizer.convert_ids_to_tokens(special)
            raise InputError(
                f"the chat template ends a turn with {names[0]!r} (id {special[0]}), which is not "
                f"among the end-of-text ids {sorted(self.end_ids)}",
                place=self._place,
                repair="add its id to eos_token_id in generation_config.json",
            )
        own = self._tokenizer.eos_token_id
        return (own if own in self.end_ids else min(self.end_ids),)


def _undated(template: Any) -> str | None:
    """The template with one date for every day: else prompts and all digests change overnight.

    None for a set of named templates: the tokenizer chooses.
    """
    if not isinstance(template, str):
        return None
    return _PRINTS_TODAY.sub(lambda found: repr(_TODAY.strftime(found[2])), template)
