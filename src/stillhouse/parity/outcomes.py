"""What an answer says, or why it says nothing: the parse rules that every score shares.

Label, rule `exact` (the default): the whole reply, after NFKC, trimming and case folding, is one of
the labels. Rule `first_word`: the reply *begins* with a label that ends at a word boundary, after
as little leading punctuation as leaves one there; the longest such label counts, and the sign of a
number is no punctuation. A reply that carries `label_scores` answers with
the label of the highest score (the first one of a tie).

JSON: the whole reply is one object, at most wrapped in a single code fence. Keys may not repeat,
NaN and Infinity are not JSON.

Text: the reply as it is, trimmed.

A refusal is a reply that the server stopped with `content_filter`, or one that opens with an
apology or an inability *and* does not parse (label, JSON) or is not what the reference does (text).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.answers import Answers
from stillhouse.parity.items import Item, Task
from stillhouse.teachers.chat import Failure, Reply

LabelRule = Literal["exact", "first_word"]
Status = Literal["answered", "unparsed", "refused", "failed", "missing"]
Channel = Literal["free text", "constrained", "label scores", "none"]

_FENCE = re.compile(r"\A```[^\n`]*\n(.*?)\n?```\Z", re.DOTALL)
_PUNCTUATION = re.compile(r"\A(?:(?![-+]\d)[\W_])*")
_REFUSAL = re.compile(
    r"\A\W*(?:i['’]?\s?a?m (?:really |very |so )?sorry|sorry[,.! ]|i apologi[sz]e|unfortunately,? i"
    r"|i (?:can ?not|can['’]?t|am unable|won['’]?t|will not|am not able)"
    r"|i['’]m (?:unable|not able)|as an ai\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One answer, parsed. `value` is a label, a document or a text; None unless `answered`.

    `channel` says how the answer was obtained: `constrained` under a response schema,
    `label scores` by comparing the likelihoods of the labels. `shown` is what a reader sees.
    """

    status: Status
    channel: Channel
    shown: str
    value: Any = None
    cut: bool = False
    label_scores: tuple[float, ...] | None = None
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How the answers of a sheet came out. `cut` replies also appear under another heading."""

    items: int
    answered: int
    unparsed: int
    refused: int
    failed: int
    missing: int
    cut: int

    @property
    def parseable(self) -> float:
        """Share of items with an answer that parses."""
        return self.answered / self.items if self.items else 0.0


def read_outcomes(
    task: Task,
    items: Sequence[Item],
    answers: Answers,
    *,
    name: str,
    label_rule: LabelRule = "exact",
    constrained: bool = False,
) -> tuple[Outcome, ...]:
    """Parse the answer of each item, in the order of `items`; an absent one is `missing`.

    `constrained` declares the whole sheet as obtained under a response schema; a single reply says
    so with `extra={"constrained": True}`. Raises InputError when the sheet answers none of the
    items, or label scores do not match the task's labels.
    """
    if items and not any(item.id in answers for item in items):
        raise InputError(
            f"the answers of {name} share no item id with the test items",
            place=f"for example {next(iter(answers), 'nothing')!r} against {items[0].id!r}",
            repair="answer the same items, under the same ids",
        )
    return tuple(_read(task, item, answers.get(item.id), label_rule, constrained) for item in items)


def count(outcomes: Sequence[Outcome]) -> Counts:
    """Count how the answers of a sheet came out."""
    by_status = Counter(outcome.status for outcome in outcomes)
    return Counts(
        items=len(outcomes),
        answered=by_status["answered"],
        unparsed=by_status["unparsed"],
        refused=by_status["refused"],
        failed=by_status["failed"],
        missing=by_status["missing"],
        cut=sum(outcome.cut for outcome in outcomes),
    )


def read_reference(task: Task, item: Item) -> Any:
    """The gold answer of an item, parsed strictly. Raises InputError naming the item."""
    if item.gold is None:
        raise InputError(f"item {item.id!r} has no gold answer")
    if task.kind == "label":
        label = parse_label(item.gold, task.labels)
        if label is None:
            raise InputError(
                f"the gold answer {item.gold!r} of item {item.id!r} is not a label of the task",
                repair=f"the labels are {', '.join(task.labels)}",
            )
        return label
    if task.kind == "json":
        document = parse_document(item.gold)
        if document is None:
            raise InputError(f"the gold answer of item {item.id!r} is not a JSON object")
        return document
    return item.gold.strip()


def parse_label(text: str, labels: Sequence[str], rule: LabelRule = "exact") -> str | None:
    """The label a reply names under `rule`, or None."""
    folded = _fold(text)
    by_form = {_fold(label): label for label in labels}
    if rule == "exact":
        return by_form.get(folded)
    bare = _PUNCTUATION.sub("", folded)
    for start in range(len(folded) - len(bare) + 1):
        hits = [form for form in by_form if re.match(re.escape(form) + r"(?!\w)", folded[start:])]
        if hits:
            return by_form[max(hits, key=len)]
    return None


def check_labels(labels: Sequence[str]) -> None:
    """Raise InputError for two labels that no reply can tell apart."""
    seen: dict[str, str] = {}
    for label in labels:
        first = seen.get(_fold(label))
        if first is not None:
            raise InputError(
                f"the labels {first!r} and {label!r} read alike: replies are compared without "
                "case and surrounding space",
                repair="keep one of the two in task.labels; data.gold_map can translate the gold",
            )
        seen[_fold(label)] = label


def parse_document(text: str) -> dict[str, Any] | None:
    """The JSON object a reply is, or None."""
    body = text.strip()
    fenced = _FENCE.match(body)
    try:
        document = json.loads(
            fenced.group(1) if fenced else body,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_unique_keys,
        )
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def looks_like_refusal(text: str) -> bool:
    """Whether a reply opens with an apology or an inability (English only)."""
    return _REFUSAL.match(text) is not None


def _read(
    task: Task, item: Item, answer: Reply | Failure | None, rule: LabelRule, constrained: bool
) -> Outcome:
    if answer is None:
        return Outcome(status="missing", channel="none", shown="")
    if isinstance(answer, Failure):
        return Outcome(status="failed", channel="none", shown=f"{answer.code}: {answer.message}")
    scores = _checked_scores(task, item, answer)
    channel: Channel = "free text"
    if scores is not None:
        channel = "label scores"
    elif constrained or answer.extra.get("constrained") is True:
        channel = "constrained"
    value = _value(task, answer, scores, rule)
    status: Status = "answered"
    if answer.finish_reason == "content_filter" or _refuses(task, item, answer.text, value):
        status = "refused"
    elif value is None:
        status = "unparsed"
    return Outcome(
        status=status,
        channel=channel,
        shown=_shown(task, answer, scores),
        value=value if status == "answered" else None,
        cut=answer.finish_reason == "length",
        label_scores=scores,
        extra=answer.extra,
    )


def _value(
    task: Task, reply: Reply, scores: tuple[float, ...] | None, rule: LabelRule
) -> str | dict[str, Any] | None:
    if scores is not None:
        best = max(scores)
        return None if best == -math.inf else task.labels[scores.index(best)]
    if task.kind == "label":
        return parse_label(reply.text, task.labels, rule)
    if task.kind == "json":
        return parse_document(reply.text)
    return reply.text.strip() or None


def _refuses(task: Task, item: Item, text: str, value: Any) -> bool:
    if task.kind == "text":
        agreed = item.gold is not None and looks_like_refusal(item.gold)
        return looks_like_refusal(text) and not agreed
    return value is None and looks_like_refusal(text)


def _checked_scores(task: Task, item: Item, reply: Reply) -> tuple[float, ...] | None:
    scores = reply.label_scores
    if scores is None or task.kind != "label":
        return None
    if len(scores) != len(task.labels) or any(math.isnan(s) or s == math.inf for s in scores):
        raise InputError(
            f"item {item.id!r} has label scores {scores!r} for {len(task.labels)} labels",
            repair="give one finite natural-log probability a label, in the task's order",
        )
    return scores


def _shown(task: Task, reply: Reply, scores: tuple[float, ...] | None) -> str:
    """The text, or the chosen label with each label's log-probability."""
    if scores is None:
        return reply.text
    pairs = zip(task.labels, scores, strict=True)
    best = task.labels[scores.index(max(scores))]
    return f"{best}\n" + ", ".join(f"{label} {score:.2f}" for label, score in pairs)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().casefold()


def _finite(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(f"{literal} overflows")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is repeated")
    return document
