"""What a run claims, by which margin and metric, and whether that was fixed before its answers.

The manifest keeps the claim that was made while no test item had been answered, and any that was
made later: a margin that was chosen with results in sight must not be called fixed before the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from stillhouse.distill.parsing import build
from stillhouse.distill.run import Run
from stillhouse.parity import MarginRecord
from stillhouse.parity.scores import default_metric

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One margin on one metric. `blind`: no test item of the run had been answered yet."""

    margin: float
    metric: str
    recipe_digest: str
    recorded_at: str
    blind: bool

    def same(self, other: Claim) -> bool:
        """Whether both claim the same, whenever that was."""
        return (self.margin, self.metric) == (other.margin, other.metric)


def next_claims(earlier: Mapping[str, Any] | None, run: Run, digest: str, now: str) -> list[Claim]:
    """The claims of the run so far, and its recipe's where that is another one.

    `earlier` is the manifest that stands, `digest` the recipe's.
    """
    judge = run.recipe.judge
    new = Claim(
        margin=judge.margin,
        metric=_metric(judge.metric, judge.function, run.recipe.task.kind),
        recipe_digest=digest,
        recorded_at=now,
        blind=not (run.folder / "label" / "test.jsonl").exists(),
    )
    claims = [] if earlier is None else _claims(earlier)
    if claims and claims[-1].same(new):
        return claims
    return [new] if new.blind else [*claims, new]


def margin_record(run: Run) -> MarginRecord | None:
    """When the claim was fixed, and what it was then; None where answers were there before it."""
    claims = _claims(orjson.loads((run.folder / MANIFEST).read_bytes()))
    first, last = claims[0], claims[-1]
    if not first.blind:
        return None
    record = MarginRecord(recipe_digest=first.recipe_digest, recorded_at=first.recorded_at)
    if last.same(first):
        return record
    return dataclasses.replace(
        record, margin=first.margin, metric=first.metric, changed_at=last.recorded_at
    )


def _claims(manifest: Mapping[str, Any]) -> list[Claim]:
    if "claims" in manifest:
        return [build(Claim, claim, place=MANIFEST) for claim in manifest["claims"]]
    values = manifest["values"]  # of a version that kept one claim, the latest
    judge = values["judge"]
    return [
        Claim(
            margin=judge["margin"],
            metric=_metric(judge["metric"], judge["function"], values["task"]["kind"]),
            recipe_digest=manifest["recipe_digest"],
            recorded_at=manifest["started"],
            blind=True,
        )
    ]


def _metric(metric: Any, function: str | None, kind: Any) -> str:
    if metric == "function" and function is not None:
        return f"function {Path(function).name}"
    return str(metric or default_metric(kind))
