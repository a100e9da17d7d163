"""From an item and its target to token ids, with the exact boundary where the reply begins."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from stillhouse.exchanges import InputError, content_digest
from stillhouse.teachers.template import ReplyTokensError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stillhouse.parity.items import Item
    from stillhouse.teachers.chat import Reply
    from stillhouse.teachers.template import ChatTemplate

FINISHED = frozenset({"stop", "tool_calls"})


class NothingLeftError(InputError):
    """Every item of a split was skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a student should answer.

    `complete` says that the reply ended by itself: only then is the end of the turn trained.
    `label_scores` are natural-log probabilities of the task's labels (any constant may be added).
    """

    reply: str
    complete: bool = True
    label_scores: tuple[float, ...] | None = None

    @classmethod
    def from_reply(cls, reply: Reply) -> Self:
        """Take a teacher's reply as it is; hidden reasoning has been dealt with before."""
        return cls(
            reply=reply.text,
            complete=reply.finish_reason in FINISHED,
            label_scores=reply.label_scores,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training example: `ids[start:]` is the reply (with its end, when complete).

    `label_probabilities` replaces the first reply token's target, over `Examples.label_tokens`.
    """

    id: str
    ids: tuple[int, ...]
    start: int
    label_probabilities: tuple[float, ...] | None = None

    @property
    def reply_tokens(self) -> int:
        """How many tokens carry loss."""
        return len(self.ids) - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Examples of one split, and how many items gave none, by reason."""

    examples: tuple[Example, ...]
    label_tokens: tuple[int, ...]
    skipped: Mapping[str, int]

    def digest(self) -> str:
        """Return the SHA-256 of everything that training sees of them."""
        return content_digest(
            [
                list(self.label_tokens),
                [
                    [list(one.ids), one.start, list(one.label_probabilities or ())]
                    for one in self.examples
                ],
            ]
        )


def build_examples(
    items: Sequence[Item],
    targets: Mapping[str, Target],
    template: ChatTemplate,
    *,
    window: int,
    labels: Sequence[str] = (),
    label_targets: Literal["soft", "hard"] = "soft",
    overlong: Literal["error", "skip"] = "error",
) -> Examples:
    """Tokenise each item that has a target, in the items' order.

    Skipped and counted, never silently: items without a target ("no target"), empty replies
    ("empty reply"), replies that begin inside their prompt's last token ("boundary") or hold an end
    of text ("end token inside") and, with `overlong="skip"`, examples longer than `window` tokens
    ("overlong"). Nothing is truncated.

    Soft label targets apply to targets that have `label_scores`, when `labels` are given: the
    first reply token is trained on exp(scores) normalised over the labels' first tokens, the rest
    of the reply is trained as it stands. Raises `InputError` when those first tokens are not
    distinct, for an overlong example, and `NothingLeftError` when nothing is left.
    """
    soft = label_targets == "soft" and any(t.label_scores is not None for t in targets.values())
    label_tokens = first_tokens(labels, template) if soft and labels else ()
    skipped: Counter[str] = Counter()
    examples = []
    for item in items:
        target = targets.get(item.id)
        if target is None:
            skipped["no target"] += 1
        elif not target.reply:
            skipped["empty reply"] += 1
        else:
            try:
                example = _example(item, target, template, labels, label_tokens)
            except ReplyTokensError as error:
                skipped[error.reason] += 1
                continue
            if len(example.ids) <= window:
                examples.append(example)
            elif overlong == "skip":
                skipped["overlong"] += 1
            else:
                raise InputError(
                    f"item {item.id} with its reply has {len(example.ids)} tokens, more than "
                    f"{window}",
                    repair="raise train.max_tokens (up to the model's window), shorten the "
                    "prompt, or set train.overlong to skip",
                )
    if not examples:
        raise NothingLeftError(f"no example is left to train on; skipped: {dict(skipped)}")
    return Examples(examples=tuple(examples), label_tokens=label_tokens, skipped=dict(skipped))


def epoch_batches(
    lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """Return one epoch's batches (indices into `lengths`), the same for the same arguments.

    Examples are shuffled, sorted by length within stretches of 16 batches so that a batch holds
    similar lengths, and the batches are shuffled. Every index occurs once; only one batch may be
    short.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths)).tolist()
    batches = []
    for start in range(0, len(order), 16 * batch_size):
        stretch = sorted(order[start : start + 16 * batch_size], key=lambda i: lengths[i])
        batches += [stretch[i : i + batch_size] for i in range(0, len(stretch), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def micro_batches(batch: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Divide a batch so that no part holds more than `tokens` ids with its padding.

    An example that is longer by itself forms a part of its own.
    """
    parts: list[list[int]] = []
    for index in sorted(batch, key=lambda i: lengths[i]):
        # Sorted, so the newest one is the longest and sets the padded width.
        if parts and (len(parts[-1]) + 1) * lengths[index] <= tokens:
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def _example(
    item: Item,
    target: Target,
    template: ChatTemplate,
    labels: Sequence[str],
    label_tokens: tuple[int, ...],
) -> Example:
    name = f"item {item.id}"
    prompt = template.prompt(item.messages, name)
    prompt_ids = template.encode(prompt)
    reply_ids = template.reply_ids(
        prompt, prompt_ids, target.reply, complete=target.complete, name=name
    )
    probabilities = None
    if label_tokens and target.label_scores is not None:
        if len(target.label_scores) != len(labels) or target.reply not in labels:
            raise InputError(
                f"{name} has {len(target.label_scores)} label scores and the reply "
                f"{target.reply!r}; the task's labels are {list(labels)}",
                repair="score the labels of this task, in its order",
            )
        if reply_ids[0] != label_tokens[list(labels).index(target.reply)]:
            raise InputError(f"the label {target.reply!r} begins with another token in {name}")
        probabilities = _normalised(target.label_scores, name)
    return Example(
        id=item.id,
        ids=(*prompt_ids, *reply_ids),
        start=len(prompt_ids),
        label_probabilities=probabilities,
    )


def first_tokens(labels: Sequence[str], template: ChatTemplate) -> tuple[int, ...]:
    """The token that each label begins with; raises `InputError` where two begin alike."""
    opening = template.probe_prompt
    before = template.encode(opening)
    first = tuple(
        template.reply_ids(opening, before, label, complete=False, name=f"label {label!r}")[0]
        for label in labels
    )
    if len(set(first)) < len(first):
        raise InputError(
            f"soft label targets need labels that differ in their first token; {list(labels)} "
            f"begin with the ids {list(first)}",
            repair="set train.label_targets to hard, or rename the labels",
        )
    return first


def _normalised(scores: Sequence[float], name: str) -> tuple[float, ...]:
    top = max(scores)
    if not all(map(math.isfinite, scores)):
        raise InputError(f"the label scores of {name} are not finite: {list(scores)}")
    weights = [math.exp(score - top) for score in scores]
    return tuple(weight / sum(weights) for weight in weights)
