"""Ask whatever a `teacher` section names, within a budget; what was paid for is journaled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from stillhouse.distill.progress import Progress
from stillhouse.distill.recipe import BudgetSpec, TeacherSpec
from stillhouse.distill.stages import Stopped
from stillhouse.exchanges import InputError, Journal
from stillhouse.teachers import (
    Budget,
    Caps,
    EndpointSettings,
    EndpointTeacher,
    IdentityPolicy,
    LabelResult,
    LabelSettings,
    Price,
    Secret,
    Timeouts,
    label,
)
from stillhouse.teachers import Progress as LabelProgress
from stillhouse.teachers.chat import ChatRequest
from stillhouse.teachers.labelling import restore_spend


def price_of(spec: TeacherSpec) -> Price | None:
    """The teacher's price as given; None is unknown."""
    if spec.price_in_nano is None or spec.price_out_nano is None:
        return None
    return Price.per_token(spec.price_in_nano, spec.price_out_nano)


def open_endpoint(spec: TeacherSpec, seed: int) -> EndpointTeacher:
    """The endpoint that a section of kind `endpoint` names."""
    if spec.url is None:
        raise InputError("the teacher has no url", repair="set kind: endpoint and url")
    return EndpointTeacher(
        EndpointSettings(
            url=spec.url,
            model=spec.model,
            # The first byte of an answer that is not streamed comes with its last.
            timeouts=Timeouts(read_s=spec.timeout_s, total_s=spec.timeout_s),
            max_tokens_name=spec.max_tokens_name,
            extra=spec.extra,
        ),
        Secret.from_env(spec.api_key_env) if spec.api_key_env else None,
        seed=seed,
    )


def ask_endpoint(
    teacher: EndpointTeacher,
    journal: Journal,
    requests: Mapping[str, ChatRequest],
    spec: TeacherSpec,
    caps: BudgetSpec,
    *,
    seed: int,
    progress: Progress,
    beside: Iterable[Path] = (),
) -> LabelResult:
    """Bring every request to an answer, or say in the result why not.

    `beside` are journals of other teachers that are paid from the same caps.
    """
    budget = Budget(
        Caps(
            money_nano=None if caps.usd is None else round(caps.usd * 1e9),
            tokens=caps.tokens,
            requests=caps.requests,
        ),
        price_of(spec),
    )
    for path in beside:
        restore_spend(path, budget)
    result = label(
        requests,
        teacher,
        journal,
        budget,
        lambda seen: progress.advance("items", seen.done, seen.total, _facts(seen)),
        identity=IdentityPolicy(on_change=spec.on_change, canaries=spec.canaries),
        settings=LabelSettings(
            concurrency=spec.concurrency,
            template_allowance_tokens=spec.template_allowance,
            seed=seed,
        ),
    )
    for note in result.notes:
        progress.say(note)
    return result


def require_whole(result: LabelResult) -> None:
    """Raise Stopped (KeyboardInterrupt for Ctrl-C) where asking ended early."""
    if result.stopped is None:
        return
    if result.stopped.code == "interrupted":
        raise KeyboardInterrupt
    raise Stopped(
        "budget" if result.stopped.code == "budget_exhausted" else "teacher",
        result.stopped.message,
    )


def _facts(seen: LabelProgress) -> dict[str, str]:
    facts = {"tokens": f"{seen.spent.tokens:,}", "in flight": str(seen.in_flight)}
    if seen.spent.nano is not None:
        facts["spent"] = f"${seen.spent.nano / 1e9:.4f}"
    else:
        facts["price"] = "unknown"
    if seen.failed:
        facts["failed"] = str(seen.failed)
    return facts
