"""The prompts that an exported file is checked on: JSON Lines with chat turns or plain prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.exchanges import InputError
from stillhouse.teachers.chat import Message

if TYPE_CHECKING:
    from pathlib import Path

    from stillhouse.teachers.template import ChatTemplate


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the template renders it, and its token ids."""

    text: str
    ids: tuple[int, ...]


def read_prompts(path: Path, template: ChatTemplate) -> list[Prompt]:
    """Read one prompt a line: {"messages": [{"role": ..., "content": ...}]} or {"prompt": TEXT}.

    Other keys are ignored. Raises `InputError` naming the line.
    """
    prompts = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"the prompts cannot be read: {error}", place=str(path)) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            messages = _messages(line, f"{path}:{number}")
            text = template.prompt(messages, f"line {number}")
            prompts.append(Prompt(text, tuple(template.encode(text))))
    if not prompts:
        raise InputError("the file holds no prompts", place=str(path))
    return prompts


def _messages(line: bytes, place: str) -> list[Message]:
    try:
        found: Any = orjson.loads(line)
        if "messages" in found:
            return [Message(turn["role"], turn["content"]) for turn in found["messages"]]
        return [Message("user", str(found["prompt"]))]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"not a prompt: {error!r}",
            place=place,
            repair='write {"messages": [{"role": "user", "content": "..."}]} or {"prompt": "..."}',
        ) from error
