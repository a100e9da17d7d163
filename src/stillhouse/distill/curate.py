"""From items and replies to what may be trained on, with a count and examples of all that may not.

The rules are applied in the order of `curation.RULES`; an item is dropped by the first that it
breaks. What is left keeps the items' order. Nothing is dropped without being counted.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stillhouse.distill.curation import (
    EXAMPLES,
    SHOWN,
    Conflict,
    CurateReport,
    Dropped,
    count_dropped,
)
from stillhouse.distill.duplicates import Duplicate, find_duplicates
from stillhouse.distill.examples import Target
from stillhouse.distill.verifiers import (
    Verifier,
    function_verifier,
    pattern_verifier,
    schema_verifier,
)
from stillhouse.exchanges import InputError
from stillhouse.parity.contamination import ContaminationReport, check_contamination
from stillhouse.parity.items import Item, Task, TestSplit, TrainSplit, ValidationSplit
from stillhouse.parity.outcomes import LabelRule, looks_like_refusal, parse_document, parse_label
from stillhouse.teachers.admissible import Admitted, ReplyPolicy, admit
from stillhouse.teachers.chat import Failure, FinishReason, Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateConfig:
    """What may be trained on."""

    allow: tuple[FinishReason, ...] = field(
        default=(),
        metadata={
            "help": "finish reasons besides stop and tool_calls whose replies train, without an end"
            " of turn"
        },
    )
    refusals: Literal["drop", "keep"] = field(
        default="drop",
        metadata={"help": "replies that open like a refusal in English; label tasks keep them"},
    )
    label_rule: LabelRule = field(
        default="exact", metadata={"help": "how a label is read: exact, or the reply's first_word"}
    )
    min_reply_chars: int = field(default=1, metadata={"help": "shortest reply that trains"})
    max_reply_chars: int | None = field(
        default=None, metadata={"help": "longest reply that trains; any when absent"}
    )
    max_prompt_chars: int | None = field(
        default=None, metadata={"help": "longest prompt (all turns) that trains; any when absent"}
    )
    check_schema: bool = field(
        default=True, metadata={"help": "json tasks: drop documents that do not fit task.schema"}
    )
    pattern: str | None = field(
        default=None, metadata={"help": "regular expression that the whole reply must match"}
    )
    function: str | None = field(
        default=None,
        metadata={"help": "module:function(reply, item) -> bool beside the recipe; runs your code"},
    )
    duplicates: Literal["drop", "keep"] = field(
        default="drop", metadata={"help": "prompts that repeat an earlier one"}
    )
    near_duplicates: float | None = field(
        default=0.9,
        metadata={"help": "likeness from which prompts are nearly the same; null: equal words"},
    )
    contamination: Literal["fail", "drop"] = field(
        default="fail",
        metadata={"help": "training items that hold test items: fail the run, or drop them"},
    )

    def __post_init__(self) -> None:
        if self.near_duplicates is not None and not 0.5 <= self.near_duplicates <= 1:
            raise InputError(
                f"curate.near_duplicates is {self.near_duplicates}, not between 0.5 and 1",
                repair="0.9 finds copies that lack a word in ten; null turns it off",
            )


@dataclass(frozen=True, slots=True)
class Curated:
    """What may be trained on: items, a target for each, and the report of the rest.

    `answers` are the targets without reasoning that is trained on, `reasoning` is what the policy
    keeps beside the targets, by item.
    """

    train: TrainSplit
    targets: Mapping[str, Target]
    report: CurateReport
    answers: Mapping[str, str]
    reasoning: Mapping[str, str] = field(default_factory=dict)


def curate(
    train: TrainSplit,
    replies: Mapping[str, Reply | Failure],
    *,
    task: Task,
    config: CurateConfig,
    validation: ValidationSplit | None = None,
    policy: ReplyPolicy | None = None,
    folder: Path | None = None,
) -> Curated:
    """Keep the items whose prompt is new and whose reply may train.

    `policy` says what becomes of hidden reasoning; `config.allow` adds to its finish reasons.
    `folder` is where a user's verifier lies. Of equal prompts the first usable one is kept.
    Deterministic. Raises InputError when nothing is left, with the counts of each rule.
    """
    policy = policy or ReplyPolicy()
    policy = dataclasses.replace(
        policy, finish_reasons=policy.finish_reasons | frozenset(config.allow)
    )
    verifiers = make_verifiers(task, config, folder or Path())
    targets: dict[str, Target] = {}
    answers: dict[str, str] = {}
    broken: dict[str, tuple[str, Dropped]] = {}
    for item in train.items:
        reply = replies.get(item.id)
        result = _judge(item, reply, task, config, policy, verifiers)
        if isinstance(result, _Usable):
            targets[item.id], answers[item.id] = result.target, result.answer
        else:
            text = reply.text if isinstance(reply, Reply) else item.variable
            broken[item.id] = result[0], Dropped(item.id, result[1], text[:SHOWN])
    usable = [item for item in train.items if item.id in targets]
    held_out = validation.items if validation is not None else ()
    conflicts = []
    for item, rule, first, detail in _repeats(usable, held_out, config):
        kept = answers.get(first.id)
        if kept is not None and _differ(kept, answers[item.id], task):
            conflicts.append(Conflict(first.id, item.id, kept, answers[item.id]))
        broken[item.id] = rule, Dropped(item.id, detail, item.variable[:SHOWN])
    left = [item for item in usable if item.id not in broken]
    own = [r for i in train.items if isinstance(r := replies.get(i.id), Reply)]
    counts = [reply.tokens_reasoning for reply in own]
    report = CurateReport(
        items=len(train.items),
        kept=len(left),
        dropped=count_dropped(broken[item.id] for item in train.items if item.id in broken),
        conflicts=len(conflicts),
        conflict_examples=tuple(
            dataclasses.replace(
                c, kept_reply=c.kept_reply[:SHOWN], dropped_reply=c.dropped_reply[:SHOWN]
            )
            for c in conflicts[:EXAMPLES]
        ),
        answers=_answers(left, answers, task),
        reasoning=policy.reasoning,
        reasoning_tokens=sum(count or 0 for count in counts),
        without_reasoning_count=sum(count is None for count in counts),
    )
    thoughts = {i.id: _kept_reasoning(replies[i.id], policy) for i in left}
    beside = {name: thought for name, thought in thoughts.items() if thought is not None}
    own_targets = {item.id: targets[item.id] for item in left}
    own_answers = {item.id: answers[item.id] for item in left}
    return _checked(Curated(TrainSplit(tuple(left)), own_targets, report, own_answers, beside))


def decontaminate(
    curated: Curated,
    test: TestSplit,
    replies: Mapping[str, Reply | Failure],
    *,
    config: CurateConfig,
    seed: int = 0,
) -> tuple[Curated, ContaminationReport]:
    """Check the curated items and their replies for test items.

    With `config.contamination` "fail" the data is returned as it is, and the caller ends the run
    with `report.require_clean()`, after the report is written; with "drop" the training items that
    hold a test item are dropped and counted. The test items stay: they are what is judged on.
    """
    items = curated.train.items
    texts = {i.id: r.text for i in items if isinstance(r := replies.get(i.id), Reply)}
    found = check_contamination(items, test.items, replies=texts, seed=seed)
    if found.clean or config.contamination == "fail":
        return curated, found
    first = {hit.train_id: hit for hit in reversed(found.hits)}
    gone = set(found.train_ids)
    dropped = [
        (
            "in_test",
            Dropped(
                item.id,
                f"{first[item.id].kind} copy of {first[item.id].test_id}"
                if item.id in first
                else "",
                item.variable[:SHOWN],
            ),
        )
        for item in items
        if item.id in gone
    ]
    left = tuple(item for item in items if item.id not in gone)
    before = curated.report
    report = dataclasses.replace(
        before,
        kept=len(left),
        dropped={**before.dropped, **count_dropped(dropped)},
        answers=dict(Counter(curated.answers[i.id] for i in left)) if before.answers else {},
    )
    targets = {item.id: curated.targets[item.id] for item in left}
    answers = {item.id: curated.answers[item.id] for item in left}
    reasoning = {name: text for name, text in curated.reasoning.items() if name in targets}
    return _checked(Curated(TrainSplit(left), targets, report, answers, reasoning)), found


def _kept_reasoning(reply: Reply | Failure, policy: ReplyPolicy) -> str | None:
    """What is kept beside the target; trained-on reasoning stands in the target itself."""
    admitted = admit(reply, policy) if policy.reasoning == "keep" else None
    return admitted.reasoning if isinstance(admitted, Admitted) else None


@dataclass(frozen=True, slots=True)
class _Usable:
    """A target, and its answer alone: reasoning that is trained on stands before it."""

    target: Target
    answer: str


def _judge(
    item: Item,
    reply: Reply | Failure | None,
    task: Task,
    config: CurateConfig,
    policy: ReplyPolicy,
    verifiers: Sequence[Verifier],
) -> _Usable | tuple[str, str]:
    """The target that a reply gives, or (rule, detail) of the first rule that it breaks."""
    if reply is None:
        return "no_reply", "not asked"
    admitted = admit(reply, policy)
    if not isinstance(admitted, Admitted):
        code = "finish_reason" if admitted.code.startswith("finish_") else admitted.code
        return code, admitted.message
    assert isinstance(reply, Reply)  # noqa: S101 - a failure is never admitted
    text, thought = admitted.text.removeprefix(admitted.thought), admitted.thought
    if task.kind == "label":
        label = _label(reply, text, task, config.label_rule)
        if label is None:
            return "not_a_label", f"the labels are {', '.join(task.labels)}"
        text = label
    elif config.refusals == "drop" and looks_like_refusal(text):
        return "refusal", "opens like a refusal"
    prompt_chars = sum(len(message.content) for message in item.messages)
    checks: tuple[tuple[str, bool, int], ...] = (
        ("not_json", task.kind == "json" and parse_document(text) is None, len(text)),
        ("short_reply", len(text) < config.min_reply_chars, len(text)),
        ("long_reply", _above(len(text), config.max_reply_chars), len(text)),
        ("long_prompt", _above(prompt_chars, config.max_prompt_chars), prompt_chars),
    )
    for rule, broken, chars in checks:
        if broken:
            return rule, f"{chars} characters"
    for verify in verifiers:
        wrong = verify(text, item)
        if wrong is not None:
            return wrong
    # Scores are of a reply that begins with the label.
    scores = None if thought else reply.label_scores
    return _Usable(
        Target(reply=thought + text, complete=admitted.complete, label_scores=scores), text
    )


def _above(value: int, most: int | None) -> bool:
    return most is not None and value > most


def _label(reply: Reply, text: str, task: Task, rule: LabelRule) -> str | None:
    """The label that a reply gives: the one that scored best, or the one that is written."""
    scores = reply.label_scores
    if scores is not None and len(scores) == len(task.labels):
        return task.labels[max(range(len(scores)), key=scores.__getitem__)]
    return parse_label(text, task.labels, rule)


def make_verifiers(task: Task, config: CurateConfig, folder: Path) -> list[Verifier]:
    """The user's checks of replies; raises InputError for one that cannot be used."""
    found = []
    if task.kind == "json" and task.schema is not None and config.check_schema:
        found.append(schema_verifier(task.schema))
    if config.pattern is not None:
        found.append(pattern_verifier(config.pattern))
    if config.function is not None:
        found.append(function_verifier(config.function, folder))
    return found


def _repeats(
    usable: Sequence[Item], held_out: Sequence[Item], config: CurateConfig
) -> list[tuple[Item, str, Item, str]]:
    """(item, rule, the one that stays, detail), in order; validation items always stay.

    Copies of validation items go even where duplicates are kept: they would spoil the choice
    between models.
    """
    everything = [*held_out, *usable]
    texts = [_prompt(item) for item in everything]
    found = []
    for one in find_duplicates(texts, config.near_duplicates, kept=len(held_out)):
        item, first = everything[one.index], everything[one.first]
        detail = f"{one.sameness} copy of {first.id}" + _score(one)
        if one.first < len(held_out):
            found.append((item, "in_validation", first, detail))
        elif config.duplicates == "drop":
            rule = "near_duplicate" if one.sameness == "near" else "duplicate"
            found.append((item, rule, first, detail))
    return found


def _prompt(item: Item) -> str:
    return "\n".join(turn.content for turn in item.messages if turn.role != "system")


def _score(one: Duplicate) -> str:
    return f" (likeness {one.likeness:.2f})" if one.sameness == "near" else ""


def _differ(one: str, other: str, task: Task) -> bool:
    """Whether two answers contradict each other; free texts may always differ."""
    if task.kind == "label":
        return one != other
    return task.kind == "json" and parse_document(one) != parse_document(other)


def _answers(items: Iterable[Item], answers: Mapping[str, str], task: Task) -> dict[str, int]:
    if task.kind != "label":
        return {}
    counts = Counter(answers[item.id] for item in items)
    return {label: counts[label] for label in task.labels}


def _checked(curated: Curated) -> Curated:
    if not curated.train.items:
        raise InputError(
            f"nothing is left to train on\n{curated.report.summary()}",
            repair="look at what was dropped; the recipe's curate keys decide what may train",
        )
    return curated
