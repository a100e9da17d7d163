"""Report: one page, the same as JSON, and the student's folder with a card of measured figures."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from stillhouse.distill.curation import reasoning_in_words
from stillhouse.distill.parsing import build
from stillhouse.distill.run import CACHES, Run
from stillhouse.distill.stages import remove_folder
from stillhouse.distill.steps.judge import BASELINES, judge_sheets, seeds_of
from stillhouse.distill.steps.train import PLAIN
from stillhouse.distill.surgery import parts_in_words
from stillhouse.exchanges import replacing
from stillhouse.parity import CostReport
from stillhouse.parity.card import write_model_card
from stillhouse.parity.contamination import RECALL_WANTED
from stillhouse.parity.plots import Curve
from stillhouse.parity.report import ReportInputs, write_report

STUDENT = "student"


def run_report(run: Run, folder: Path) -> None:
    """Write `report.html` and `report.json`, and `student/` beside the stages."""
    manifest = orjson.loads((run.folder / "manifest.json").read_bytes())
    baselines = run.read("judge", BASELINES)
    files = write_report(
        folder,
        ReportInputs(
            title=run.recipe.name,
            judgement=judge_sheets(run),
            created=manifest["started"],
            cost=build(CostReport, run.read("judge", "cost.json"), place="cost.json"),
            curves=tuple(_curve(run, seed) for seed in seeds_of(run)),
            data=_data(run),
            baselines=baselines["fitted"],
            absent=baselines["absent"],
            terms=_terms(run.read("label", "summary.json").get("terms") or run.plan["terms"]),
            machine=_machine(run.plan),
            reproduce=(f"stillhouse distill {manifest['recipe']}",),
            notes=(*run.plan["cuts"], *run.plan["notes"], *_doubts(run)),
        ),
    )
    _place_student(run)
    write_model_card(run.folder / STUDENT, files.data)


def _place_student(run: Run) -> None:
    """Put the first seed's model at `student/`; weights are linked, not copied, where possible."""
    source, target = run.student(seeds_of(run)[0]).folder, run.folder / STUDENT
    remove_folder(target)
    with replacing(target) as temporary:
        temporary.mkdir()
        for file in sorted(source.iterdir()):
            try:
                os.link(file, temporary / file.name)
            except OSError:
                shutil.copy2(file, temporary / file.name)


def student_stands(run: Run) -> bool:
    """Whether `student/` is there, with all that the report put into it."""
    files = [file.name for file in run.student(seeds_of(run)[0]).folder.iterdir()]
    return all((run.folder / STUDENT / name).is_file() for name in (*files, "README.md"))


def _curve(run: Run, seed: int) -> Curve:
    result = run.read("train", f"seed-{seed}/result.json")
    return Curve(
        title=f"seed {seed}",
        x_label="optimiser steps",
        y_label="validation loss, nats per reply token",
        points=tuple(
            (float(point["step"]), float(point["validation_loss"])) for point in result["curve"]
        ),
        chosen=float(result["best_step"]),
    )


def _data(run: Run) -> dict[str, str]:
    curated = run.read("curate", "report.json")
    found = run.read("curate", "contamination.json")
    summary = run.read("label", "summary.json")
    facts = {
        "teacher": _teacher(run, summary),
        "student": f"{run.plan['parameters']['student']:,} parameters, started from"
        f" {run.plan['parameters']['start']:,}",
        "file": run.recipe.data.path.name,
        "items": ", ".join(f"{count:,} {name}" for name, count in run.plan["items"].items()),
        "trained on": f"{curated['kept']:,} of {curated['items']:,} labelled items",
        **_loss(run),
        **parts_in_words(run),
        "test groups": f"{run.plan['groups_in_test']:,}",
        "contamination": "none found"
        if found["clean"]
        else f"{len(found['train_ids'])} training items held test items and were dropped",
        "teacher replies": f"{summary['replies']:,} of {summary['items']:,}",
    }
    if len(summary.get("teachers", {})) > 1:
        facts["teachers"] = (
            "; ".join(f"{name}: {count:,} replies" for name, count in summary["teachers"].items())
            + ". The first one is judged and was learned from; items that another one answered are"
            " left out"
        )
    if run.recipe.teacher.kind != "local" or curated["reasoning_tokens"]:
        facts["hidden reasoning"] = reasoning_in_words(curated).removeprefix("hidden reasoning: ")
    for name in ("recall", "false_alarms"):
        if found[name] is not None:
            facts[f"contamination check, {name.replace('_', ' ')}"] = (
                f"{100 * found[name]['estimate']:.1f} %"
                f" [{100 * found[name]['low']:.1f}, {100 * found[name]['high']:.1f}]"
            )
    return facts


def _teacher(run: Run, summary: dict[str, Any]) -> str:
    """Who answered, as far as it can be told: names, digests, fingerprints."""
    spec = run.recipe.teacher
    if spec.kind == "recording":
        return f"recorded replies, {Path(spec.model).name}, SHA-256 {summary['recording'][:12]}"
    if spec.kind == "local":
        name = spec.package.requirement if spec.package is not None else Path(spec.model).name
        how = "scores labels" if spec.answer == "score" else "writes"
        return f"{name}, {how} on this machine; fingerprint {summary['teacher_fingerprint'][:12]}"
    told = f"{spec.model} at {urlsplit(spec.url or '').hostname}"
    for title, found in (
        ("answered as", summary["models"]),
        ("system fingerprint", summary["fingerprints"]),
    ):
        if found:
            told += f"; {title} " + ", ".join(f"{name} ({n:,})" for name, n in found.items())
    return told


def _doubts(run: Run) -> list[str]:
    """What the check for contamination could not promise on these data."""
    found = run.read("curate", "contamination.json")
    doubts = []
    if found["recall"] is None:
        doubts.append("on these data nothing shows how well near-copies of test items are found")
    elif found["recall"]["estimate"] < RECALL_WANTED:
        doubts.append(
            f"the contamination check finds {100 * found['recall']['estimate']:.0f} % of planted"
            " near-copies here, fewer than the 95 % it promises: some may have trained"
        )
    return doubts


def _loss(run: Run) -> dict[str, str]:
    """What the student learned of the teacher, and what plain training beside it was given."""
    config = run.recipe.train.divergence
    if config is None:
        return {"trained by": "cross-entropy at the tokens of the teacher's replies"}
    first = f"seed-{run.recipe.seed}"
    white, plain = (run.read("train", f"{name}/result.json") for name in (first, PLAIN))
    facts = {
        "trained by": config.in_words(),
        "plain training beside it": (
            f"{plain['steps']:,} steps on the replies' tokens: the matrix products of"
            f" {white['steps']:,} steps with the teacher's part; training took"
            f" {_seconds(plain['seconds'])} and {_seconds(white['seconds'])} s"
        ),
    }
    last = white["curve"][-1]["bits_per_byte"]
    if last is not None:
        facts["bits per byte of validation replies"] = f"{last:.3f} after the last step"
    for split in ("train", "validation"):
        path = run.folder / "train" / CACHES / f"{split}.cache"
        if path.exists():
            facts[f"teacher cache, {split}"] = f"{path.stat().st_size:,} bytes"
    return facts


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _terms(record: dict[str, Any]) -> dict[str, str]:
    facts = {
        row["id"]: f"{row['document']} ({row['who']}); may train other models: "
        f"{row['may_train']}; {row['basis']}" + (f"; {row['source']}" if row["source"] else "")
        for row in record["terms"]
    }
    permission = record["permission"]
    if permission is not None:
        facts["permission"] = (
            f"granted by {permission['granted_by']} on {permission['date']}: "
            f"{permission['purpose']} ({permission['document']})"
        )
    return facts


def _machine(plan: dict[str, Any]) -> dict[str, str]:
    machine = plan["machine"]
    packages = ", ".join(f"{name} {v}" for name, v in machine["packages"].items() if v)
    return {
        "processor": machine["processor"],
        "cores": str(machine["cores"]),
        "memory": f"{machine['memory_bytes'] / 2**30:.0f} GiB",
        "bfloat16 units": ", ".join(machine["bf16_units"]) or "none",
        "precision": ", ".join(f"{name} {dtype}" for name, dtype in plan["precision"].items()),
        "packages": packages,
    }
