"""The report of a judgement: one self-contained HTML page, and the same as JSON.

The page loads nothing: no script, no font, no image from anywhere; its content policy forbids it.
Everything that a model or a user wrote is escaped. The same inputs give the same bytes.
Needs Jinja2 and matplotlib.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillhouse.exchanges.storage import write_atomic
from stillhouse.parity import wording
from stillhouse.parity.cost import CostReport, ModelCost, dollars
from stillhouse.parity.judgement import Judgement, SheetResult
from stillhouse.parity.plain import plain
from stillhouse.parity.plots import (
    Curve,
    Point,
    Row,
    forest,
    learning_curves,
    quality_against_cost,
)
from stillhouse.parity.standing import standing
from stillhouse.statistics import Interval

FORMAT = "stillhouse-report/1"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInputs:
    """Everything a report says. What is absent is said to be absent.

    `data`, `terms`, `baselines` and `machine` are facts by name (sources and digests; who permits
    training on the teacher's outputs; how each baseline was fitted). `absent` says of a baseline
    that was not judged why (`standing` lists them). `curves` are learning curves,
    `reproduce` the commands, `created` a date that the caller chooses, `notes` further limits.
    """

    title: str
    judgement: Judgement
    created: str
    cost: CostReport | None = None
    curves: tuple[Curve, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    reproduce: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFiles:
    """Where the report was written."""

    page: Path
    data: Path


def write_report(folder: Path, inputs: ReportInputs) -> ReportFiles:
    """Write `report.html` and `report.json` into `folder`, atomically."""
    files = ReportFiles(page=folder / "report.html", data=folder / "report.json")
    body = json.dumps(report_json(inputs), indent=1, allow_nan=False)
    write_atomic(files.data, body.encode() + b"\n")
    write_atomic(files.page, render_page(inputs).encode("utf-8", "replace"))
    return files


def report_json(inputs: ReportInputs) -> dict[str, Any]:
    """The report as plain JSON values."""
    return {"format": FORMAT, **plain(inputs), "absent": absent_baselines(inputs)}


def absent_baselines(inputs: ReportInputs) -> dict[str, str]:
    """Every baseline that should stand beside the verdict and does not, with the reason."""
    judgement = inputs.judgement
    present = {sheet.name for sheet in judgement.sheets}
    reasons = {**inputs.absent, **judgement.absent}
    names = (*standing(judgement.config.task.kind, judgement.verdict.metric), *judgement.absent)
    return {
        name: reasons.get(name, "it was not given, and no reason was")
        for name in names
        if name not in present
    }


def render_page(inputs: ReportInputs) -> str:
    """The HTML page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        words=wording, dollars=dollars, bar=_bar, unknown=wording.UNKNOWN, zip=zip
    )
    judgement = inputs.judgement
    return environment.get_template("report.html.jinja").render(
        report=inputs,
        absent=absent_baselines(inputs),
        judgement=judgement,
        verdict=judgement.verdict,
        cost=inputs.cost,
        unit=judgement.verdict.unit,
        title_of_metric=wording.metric_title(judgement),
        in_short=wording.in_short(judgement, inputs.cost),
        forest=_forest(judgement),
        quality=_quality(judgement, inputs.cost),
        curves=_curves(inputs.curves),
        cost_rows=[] if inputs.cost is None else _cost_rows(inputs.cost),
        slice_reach=_reach([row.difference for row in judgement.slices], judgement),
    )


def _clean(value: Any) -> Any:
    return (
        value if not isinstance(value, str) or hasattr(value, "__html__") else wording.clean(value)
    )


def _forest(judgement: Judgement) -> str:
    rows = [
        Row(
            label=" \u2212 ".join(
                wording.label(wording.short(name)) for name in (comparison.left, comparison.right)
            ),
            low=comparison.interval.low,
            estimate=comparison.interval.estimate,
            high=comparison.interval.high,
            main=index == 0,
        )
        for index, comparison in enumerate(judgement.comparisons)
    ]
    verdict = judgement.verdict
    return forest(rows, verdict.margin, verdict.unit)


def _curves(curves: tuple[Curve, ...]) -> str:
    named = [
        dataclasses.replace(
            curve,
            title=wording.label(curve.title),
            x_label=wording.label(curve.x_label),
            y_label=wording.label(curve.y_label, 40),
        )
        for curve in curves
        if curve.points
    ]
    return learning_curves(named) if named else ""


def _quality(judgement: Judgement, cost: CostReport | None) -> str:
    """Quality against the best known cost that both models have; empty where there is none."""
    if cost is None:
        return ""
    axis = _cost_axis(cost.teacher, cost.student)
    if axis is None:
        return ""
    label, teacher, student = axis
    costs = {judgement.teacher.name: teacher, judgement.student.name: student}
    points = [_point(sheet, costs.get(sheet.name)) for sheet in judgement.sheets]
    quality = wording.label(wording.metric_title(judgement), 36)
    return quality_against_cost(points, label, quality)


def _point(sheet: SheetResult, cost: float | None) -> Point:
    score = sheet.scores[0]
    return Point(
        label=wording.label(wording.short(sheet.name)),
        role=sheet.role,
        quality=score.value,
        low=score.interval.low,
        high=score.interval.high,
        cost=cost,
    )


def _cost_axis(teacher: ModelCost, student: ModelCost) -> tuple[str, float, float] | None:
    prices = teacher.price.nano_per_thousand, student.price.nano_per_thousand
    if prices[0] and prices[1]:
        return "dollars per thousand requests", prices[0] / 1e9, prices[1] / 1e9
    if teacher.speed is not None and student.speed is not None:
        times = teacher.speed.us_per_request, student.speed.us_per_request
        return "milliseconds per request, same conditions", times[0] / 1e3, times[1] / 1e3
    if teacher.parameters and student.parameters:
        return "million parameters", teacher.parameters / 1e6, student.parameters / 1e6
    return None


def _cost_rows(cost: CostReport) -> list[tuple[str, str, str]]:
    """Lines of the cost table: name, teacher, student."""
    models = cost.teacher, cost.student
    speeds = [model.speed for model in models]
    notes = [model.speed_note or wording.UNKNOWN for model in models]

    def timed(write: Any) -> list[str]:
        return [
            note if speed is None else write(speed)
            for speed, note in zip(speeds, notes, strict=True)
        ]

    lines = {
        "Parameters": [wording.count(model.parameters) for model in models],
        "FLOPs per token": [wording.count(model.flops_per_token) for model in models],
        "On disk": [wording.size(model.disk_bytes) for model in models],
        "Runtime": timed(lambda speed: speed.runtime),
        "Precision, threads, batch": timed(
            lambda speed: f"{speed.dtype}, {speed.threads}, {speed.batch_size}"
        ),
        "Batch latency, median": timed(lambda speed: wording.duration(speed.batch_p50_us)),
        "Batch latency, 95th percentile": timed(lambda speed: wording.duration(speed.batch_p95_us)),
        "Throughput, requests/s": timed(lambda speed: wording.rate(speed.requests_per_second)),
        "Throughput, tokens/s": timed(lambda speed: wording.count(speed.tokens_per_second)),
        "Peak memory": timed(lambda speed: wording.size(speed.peak_memory_bytes)),
        "Per thousand requests": [
            wording.UNKNOWN
            if model.price.nano_per_thousand is None
            else dollars(model.price.nano_per_thousand)
            for model in models
        ],
        "Price basis": [model.price.basis for model in models],
    }
    return [(name, teacher, student) for name, (teacher, student) in lines.items()]


def _reach(intervals: list[Interval | None], judgement: Judgement) -> float:
    """Half the width of a table's bars: the farthest end of any interval, or the margin."""
    ends = [abs(end) for i in intervals if i is not None for end in (i.low, i.high)]
    return max([judgement.verdict.margin, *ends])


def _bar(low: float, estimate: float, high: float, reach: float) -> dict[str, float]:
    """Positions in percent of a bar from -reach to +reach."""
    left, middle, right = (50 + 50 * end / reach for end in (low, estimate, high))
    return {"left": left, "middle": middle, "width": max(right - left, 0.8)}
