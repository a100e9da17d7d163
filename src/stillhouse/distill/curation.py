"""What curation did with every item: counts, meanings and examples of each rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

EXAMPLES = 5
SHOWN = 200  # characters of a text in a report

RULES: dict[str, str] = {
    "no_reply": "the teacher gave no reply",
    "finish_reason": "the reply was cut or filtered, and curate.allow does not list its reason",
    "reasoning_cut": "the reply ends inside its reasoning",
    "empty": "the reply holds no answer",
    "refusal": "the reply opens like a refusal",
    "not_a_label": "the reply is none of the task's labels",
    "not_json": "the reply is not one JSON object",
    "short_reply": "the reply has fewer characters than curate.min_reply_chars",
    "long_reply": "the reply has more characters than curate.max_reply_chars",
    "long_prompt": "the prompt has more characters than curate.max_prompt_chars",
    "schema": "the document does not fit task.schema",
    "pattern": "the reply does not match curate.pattern",
    "function": "curate.function returned False",
    "function_error": "curate.function raised, or returned neither True nor False",
    "in_validation": "the prompt is also among the validation items",
    "duplicate": "an earlier item has the same prompt",
    "near_duplicate": "an earlier item has nearly the same prompt",
    "in_test": "the prompt is also among the test items",
}


@dataclass(frozen=True, slots=True)
class Dropped:
    """One item that was dropped: the rule's detail, and the start of the reply or prompt."""

    id: str
    detail: str
    text: str


@dataclass(frozen=True, slots=True)
class RuleCount:
    """How many items a rule dropped, what it means, and the first five of them."""

    count: int
    meaning: str
    examples: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two items with the same prompt that the teacher answered differently; the first is kept."""

    kept: str
    dropped: str
    kept_reply: str
    dropped_reply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CurateReport:
    """What became of every item. `answers` counts the labels that are left (label tasks).

    `reasoning` is the policy; `reasoning_tokens` sums the teacher's own counts, which
    `without_reasoning_count` replies lack.
    """

    items: int
    kept: int
    dropped: Mapping[str, RuleCount]
    conflicts: int
    conflict_examples: tuple[Conflict, ...]
    answers: Mapping[str, int]
    reasoning: Literal["drop", "keep", "train"]
    reasoning_tokens: int
    without_reasoning_count: int

    def as_json(self) -> dict[str, Any]:
        """Plain values for the run's files."""
        return dataclasses.asdict(self)

    def summary(self) -> str:
        """A few lines for the terminal."""
        lines = [f"curate: {self.kept} of {self.items} items train"]
        lines += [f"  {rule.count} dropped: {rule.meaning}" for rule in self.dropped.values()]
        if self.conflicts:
            lines.append(f"  {self.conflicts} repeated prompts had another answer than the first")
        if self.reasoning_tokens:
            lines.append(f"  {reasoning_in_words(self.as_json())}")
        if self.answers:
            lines.append("  " + ", ".join(f"{k}: {v}" for k, v in self.answers.items()))
        return "\n".join(lines)


def reasoning_in_words(report: Mapping[str, Any]) -> str:
    """What became of hidden reasoning, from the fields of a report."""
    policy = {"drop": "dropped", "keep": "kept beside", "train": "trained on"}[report["reasoning"]]
    told = f"hidden reasoning: {policy}; {report['reasoning_tokens']:,} tokens by the teacher's"
    missing = report["without_reasoning_count"]
    return told + " count" + (f", {missing:,} replies say none" if missing else "")


def count_dropped(broken: Iterable[tuple[str, Dropped]]) -> dict[str, RuleCount]:
    """Count (rule, item) pairs by rule, in the order of `RULES`."""
    by_rule: dict[str, list[Dropped]] = {}
    for rule, dropped in broken:
        by_rule.setdefault(rule, []).append(dropped)
    return {
        rule: RuleCount(len(by_rule[rule]), meaning, tuple(by_rule[rule][:EXAMPLES]))
        for rule, meaning in RULES.items()
        if rule in by_rule
    }
