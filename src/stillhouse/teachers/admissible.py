"""Which replies may train, what of them, and whether they end.

A reply that was cut must never teach the student to stop there, and one that a filter touched is
not the teacher's. Hidden reasoning is dropped, kept beside, or trained on, as the recipe says;
spans inside the text are taken for reasoning only where the recipe declares their delimiters.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stillhouse.exchanges.errors import InputError
from stillhouse.teachers.chat import Failure, FinishReason, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPLETE: frozenset[FinishReason] = frozenset({"stop", "tool_calls"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyPolicy:
    """What the recipe allows. `delimiters` such as ("<think>", "</think>") are never assumed."""

    finish_reasons: frozenset[FinishReason] = COMPLETE
    reasoning: Literal["drop", "keep", "train"] = "drop"
    delimiters: tuple[str, str] | None = None
    allow_empty: bool = False

    def __post_init__(self) -> None:
        if self.delimiters is not None and not all(self.delimiters):
            raise InputError(
                "a reasoning delimiter is empty",
                place="teacher.reasoning_delimiters",
                repair='give both, such as ["<think>", "</think>"]',
            )


@dataclass(frozen=True, slots=True)
class Admitted:
    """What to train on. End-of-text may follow `text` only where `complete`.

    `reasoning` is what was dropped from the text or came beside it, None where the policy is to
    drop it; `reasoning_tokens` is the teacher's own count, None where it gave none. `thought` is
    how `text` begins where reasoning is trained on; the answer follows it.
    """

    text: str
    complete: bool
    reasoning: str | None
    reasoning_tokens: int | None
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a reply does not train. `code` is stable (docs/failures.md)."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Admission:
    """All replies sorted, with the sums that the report shows."""

    admitted: Mapping[str, Admitted]
    rejected: Mapping[str, Rejected]
    reasoning_tokens: int
    without_reasoning_count: int


def admit(outcome: Reply | Failure, policy: ReplyPolicy) -> Admitted | Rejected:
    """Decide on one reply.

    Raises `InputError` when reasoning that came beside the text is to be trained on and the recipe
    declares no delimiters to write it with.
    """
    if isinstance(outcome, Failure):
        return Rejected("no_reply", f"there is no reply: {outcome.code}")
    if outcome.finish_reason not in policy.finish_reasons:
        return Rejected(
            f"finish_{outcome.finish_reason}",
            f"the reply ended by {outcome.finish_reason!r}; to train on such replies list it under"
            " curate.allow (they are trained on without end-of-text)",
        )
    text, inner, cut = outcome.text, None, False
    if policy.delimiters is not None:
        text, inner, cut = _split(outcome.text, policy.delimiters)
    if cut:
        return Rejected("reasoning_cut", "the reply ends inside its reasoning: there is no answer")
    if not text.strip() and not policy.allow_empty:
        return Rejected("empty", "the reply holds no answer")
    thought, reasoning = "", outcome.reasoning or inner
    if policy.reasoning == "train" and reasoning:
        if inner is not None:
            thought = outcome.text.removesuffix(text)  # verbatim: it has the teacher's own form
        elif policy.delimiters is None:
            raise InputError(
                "the teacher's reasoning comes beside its text, and no delimiters are declared to"
                " write it with",
                place="teacher.reasoning",
                repair='declare teacher.reasoning_delimiters, such as ["<think>", "</think>"]',
            )
        else:
            opening, closing = policy.delimiters
            thought = f"{opening}\n{reasoning}\n{closing}\n\n"
    return Admitted(
        text=thought + text,
        complete=outcome.finish_reason in COMPLETE,
        reasoning=reasoning if policy.reasoning != "drop" else None,
        reasoning_tokens=outcome.tokens_reasoning,
        thought=thought,
    )


def admit_all(answers: Mapping[str, Reply | Failure], policy: ReplyPolicy) -> Admission:
    """Decide on every reply, and count the reasoning tokens that were paid for."""
    decided = {item: admit(outcome, policy) for item, outcome in answers.items()}
    counts = [a.tokens_reasoning for a in answers.values() if isinstance(a, Reply)]
    return Admission(
        admitted={i: d for i, d in decided.items() if isinstance(d, Admitted)},
        rejected={i: d for i, d in decided.items() if isinstance(d, Rejected)},
        reasoning_tokens=sum(count or 0 for count in counts),
        without_reasoning_count=sum(count is None for count in counts),
    )


def answers_alone(
    answers: Mapping[str, Reply | Failure], delimiters: tuple[str, str] | None
) -> dict[str, Reply | Failure]:
    """The answers as they are scored: reasoning inside declared delimiters is no part of them.

    A reply that ends inside its reasoning is an empty answer.
    """
    if delimiters is None:
        return dict(answers)
    found = dict(answers)
    for item, reply in answers.items():
        if isinstance(reply, Reply):
            text, inner, _ = _split(reply.text, delimiters)
            if inner is not None:
                found[item] = dataclasses.replace(
                    reply, text=text, reasoning=reply.reasoning or inner
                )
    return found


def _split(text: str, delimiters: tuple[str, str]) -> tuple[str, str | None, bool]:
    """Return (answer, reasoning, ends inside the reasoning) of a text with at most one span.

    Templates that open the span themselves leave only the closing delimiter in the reply.
    """
    opening, closing = delimiters
    head, found, tail = text.partition(opening)
    if found and not head.strip():
        inner, closed, answer = tail.partition(closing)
        return (answer.lstrip("\n"), inner.strip(), False) if closed else ("", tail.strip(), True)
    inner, closed, answer = text.partition(closing)
    if closed and not found:
        return answer.lstrip("\n"), inner.strip(), False
    return text, None, False
