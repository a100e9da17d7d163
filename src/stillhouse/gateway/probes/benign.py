"""Honest answers that quote what hardening looks for: each must come through as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from stillhouse.gateway.probes.replies import PROBE_FORMATS, chat_events, chat_reply, stream_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class BenignReply:
    """A chat reply whose answer is `text` and whose tool call's arguments are `arguments`."""

    name: str
    model: str
    text: str
    arguments: str
    whole: bytes
    stream: bytes


_TEXTS = {
    "sentence": "Models of this kind write <think> first and </think> after it.",
    "code": "```python\ntext.split('</think>')[-1]  # drop <think>...</think>\n```\n",
    "inline code": "`<think>` opens and `</think>` closes; `[THINK]` is another spelling.",
    "xml": '<?xml version="1.0"?>\n<notes><think>This is data.</think></notes>',
    "brackets": "In Mistral's format it is [THINK] and [/THINK].",
    "channel": "It is <|channel|>analysis<|message|> and then <|start|>assistant<|channel|>final.",
    "near miss": "<thinking>This tag is not the declared one.</thinking> 42.",
    "almost": "<think",
    "lone close": "The closing tag is </think>, and it is quoted here.",
    "quoted twice": "a <think>b</think> c <think>d</think> e",
    "json": '{"reasoning_content": "this is the answer\'s own field", "logprobs": null}',
    "event stream": 'data: {"choices": []}\n\ndata: [DONE]\n\nis how a stream ends.',
    "signs": "naïve café ✓ 🤔 \u200b\u2028 \x7f \\ \" ' & </script> \t end",
    "white space": "  \n\n\tindented, and it ends with spaces  \n",
}
_ARGUMENTS = '{"code": "<think>not reasoning</think>", "reasoning_content": [1, "\\u00e9"]}'


def _replies() -> Iterator[BenignReply]:
    for model, form in PROBE_FORMATS.items():
        for name, text in _TEXTS.items():
            before = ""
            if form.tags:
                # The answer comes after the reasoning: from there on tags are only text. White
                # space between the two belongs to the delimiter.
                opening, closing = form.tags[0]
                before = ("" if form.starts_open else opening) + "Hm." + closing
                text = text.lstrip()
            yield _reply(f"{model}/{name}", model, before, text)
            if form.tags and not form.starts_open and not _begins(text, form.tags[0][0]):
                yield _reply(f"{model}/{name}, unreasoned", model, "", text)


def _begins(text: str, opening: str) -> bool:
    return text.lstrip().startswith(opening)


def _reply(name: str, model: str, before: str, text: str) -> BenignReply:
    call = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "run", "arguments": _ARGUMENTS},
    }
    said = before + text
    whole = chat_reply({"content": said, "tool_calls": [call]})
    half = len(_ARGUMENTS) // 2
    events = chat_events(
        [
            *({"content": said[at : at + 3]} for at in range(0, len(said), 3)),
            {"tool_calls": [{**call, "function": {"name": "run", "arguments": _ARGUMENTS[:half]}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": _ARGUMENTS[half:]}}]},
        ]
    )
    return BenignReply(name, model, text, _ARGUMENTS, orjson.dumps(whole), stream_of(events))


BENIGN_REPLIES: tuple[BenignReply, ...] = tuple(_replies())
