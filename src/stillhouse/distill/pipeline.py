"""The order of the stages, what each depends on, and what a finished run says."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from stillhouse.distill.claims import MANIFEST, next_claims
from stillhouse.distill.contents import recipe_values
from stillhouse.distill.machine import describe_machine
from stillhouse.distill.progress import Progress, Silent
from stillhouse.distill.recipe import Recipe
from stillhouse.distill.run import DECIDED, Run, write_json
from stillhouse.distill.stages import Stage, StageRecord, check_unchanged, run_stages
from stillhouse.distill.steps.curate import run_curate
from stillhouse.distill.steps.judge import run_judge
from stillhouse.distill.steps.label import nothing_to_ask, run_label
from stillhouse.distill.steps.plan import run_plan
from stillhouse.distill.steps.report import run_report, student_stands
from stillhouse.distill.steps.train import in_group, run_train
from stillhouse.exchanges import InputError, RunLock, content_digest


def _of(*names: str) -> Any:
    """The values of these parts and keys of the recipe, by key."""

    def inputs(run: Run) -> Mapping[str, Any]:
        values = recipe_values(run.recipe)
        flat: dict[str, Any] = {}
        for name in names:
            found: Any = functools.reduce(lambda part, key: part[key], name.split("."), values)
            if isinstance(found, dict):
                flat |= {f"{name}.{key}": item for key, item in found.items()}
            else:
                flat[name] = found
        return {name: item for name, item in flat.items() if name not in FREE}

    return inputs


FREE = {  # how a run is carried out, not what comes out of it
    "teacher.concurrency",
    "teacher.template_allowance",
    "teacher.timeout_s",
    "teacher.url",
    "teacher.api_key_env",
    "train.checkpoint_seconds",
    "train.checkpoint_steps",
    "train.processes",
    "train.shard",
}
_BASE = ("task", "data", "split", "seed")
_PRICES = ("teacher.price_in_nano", "teacher.price_out_nano")
_CLAIM = ("judge.margin", "judge.metric", "judge.function")
_FORECAST = (  # what of training decides how long it takes, and in which memory
    *("epochs", "steps", "batch_size", "micro_batch_tokens", "dtype", "freeze_embeddings"),
    *("freeze_layers", "label_targets", "evaluate_every", "divergence"),
)
_DECIDED = f"plan/{DECIDED}"
STAGES: tuple[Stage[Run], ...] = (
    Stage(
        "plan",
        _of(
            *_BASE,
            *("teacher", "student", "seeds", "judge.gold_student", "judge.writing"),
            *(f"train.{name}" for name in _FORECAST),
            *("budget.minutes", *_CLAIM),
        ),
        run_plan,
        cheap=True,
        tells=frozenset({"judge.margin", "judge.function", *_PRICES}),
    ),
    Stage(
        "label",
        _of(*_BASE, "teacher"),
        run_label,
        reads=(_DECIDED,),
        keeps_work=True,
        whole=nothing_to_ask,
    ),
    Stage(
        "curate",
        _of(
            *_BASE,
            *("curate", "teacher.reasoning", "teacher.reasoning_delimiters"),
            *_CLAIM,
            *("judge.teacher_lead", "judge.min_parseable"),
        ),
        run_curate,
        reads=(_DECIDED, "label/*.jsonl"),
    ),
    Stage(
        "train",
        _of(
            *_BASE,
            *("student", "train", "seeds", "judge.gold_student"),
            *(f"teacher.{name}" for name in ("kind", "model", "package", "template", "answer")),
        ),
        run_train,
        reads=(_DECIDED, "curate/targets.jsonl"),
    ),
    Stage(
        "judge",
        _of(*_BASE, "judge", "teacher", "curate.label_rule"),
        run_judge,
        reads=(_DECIDED, "label/*", "curate/gate.json", "train/*"),
    ),
    Stage("report", _of("name"), run_report, whole=student_stands),
)


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    folder: Path
    records: dict[str, StageRecord]
    judgement: dict[str, Any] | None
    page: Path | None = None

    @property
    def verdict(self) -> str | None:
        """The verdict's outcome; None when the run stopped before judging."""
        return None if self.judgement is None else str(self.judgement["verdict"]["outcome"])

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "run": str(self.folder),
            "seconds": {name: record.seconds for name, record in self.records.items()},
            "verdict": None if self.judgement is None else self.judgement["verdict"],
            "report": None if self.page is None else str(self.page),
            "student": str(self.folder / "student") if "report" in self.records else None,
        }

    def as_text(self) -> str:
        """What the terminal shows at the end."""
        times = ", ".join(f"{name} {r.seconds:,.1f} s" for name, r in self.records.items())
        total = sum(record.seconds for record in self.records.values())
        lines = [f"stages: {times} (total {total:,.0f} s)"] if self.records else []
        if self.judgement is not None:
            verdict = self.judgement["verdict"]
            lines += [f"verdict: {verdict['outcome']}", verdict["sentence"]]
            lines += [_comparison(one, verdict["unit"]) for one in self.judgement["comparisons"]]
        if "report" in self.records:
            lines.append(f"student: {self.folder / 'student'}")
        if self.page is not None:
            lines.append(f"report: {self.page}")
        return "\n".join(lines)


def run_recipe(
    recipe: Recipe,
    *,
    folder: Path | None = None,
    until: str | None = None,
    accept_changes: bool = False,
    progress: Progress | None = None,
    place: str = "recipe.yaml",
) -> RunResult:
    """Run a recipe to the end, or to the stage `until`; skips what is done and unchanged.

    Raises InputError for what the user can repair, and Stopped where terms, a budget, the teacher
    or a check on the data ends the run.
    """
    progress = progress or Silent()
    folder = folder or Path("runs") / recipe.name
    run = Run(recipe, folder, progress, accepts_changes=accept_changes)
    with in_group(run), RunLock(folder):
        if not accept_changes:
            check_unchanged(folder, STAGES, run)
        _write_manifest(run, place)
        records = run_stages(
            folder,
            STAGES,
            run,
            accept_changes=accept_changes,
            until=until,
            on_stage=progress.stage,
        )
    judgement = run.read("judge", "judgement.json") if "judge" in records else None
    page = folder / "report" / "report.html" if "report" in records else None
    return RunResult(folder, records, judgement, page)


def _write_manifest(run: Run, place: str) -> None:
    """Note what was asked, when it was first asked, and on which machine; kept when unchanged.

    What is claimed has a record of its own (`claims`), which outlives other changes.
    """
    path = run.folder / MANIFEST
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    recipe = recipe_values(run.recipe)
    digest = content_digest({name: part for name, part in recipe.items() if name != "budget"})
    earlier = None
    try:
        if path.exists():
            earlier = orjson.loads(path.read_bytes())
            if earlier["recipe_digest"] == digest:
                return
        claims = next_claims(earlier, run, digest, now)
    except (orjson.JSONDecodeError, KeyError) as error:
        raise InputError(
            f"the run's manifest is damaged: {error}",
            place=str(path),
            repair="delete it: the same recipe writes it again",
        ) from error
    write_json(
        path,
        {
            "recipe": place,
            "recipe_digest": digest,
            "started": now,
            "claims": claims,
            "values": recipe,
            "machine": describe_machine(run.folder).as_json(),
        },
    )


def _comparison(comparison: Mapping[str, Any], unit: str) -> str:
    interval = comparison["interval"]
    return (
        f"  {comparison['left']} - {comparison['right']}: {interval['estimate']:+.2f} {unit}"
        f" [{interval['low']:+.2f}, {interval['high']:+.2f}]"
    )
