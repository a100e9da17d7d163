"""Judge any two models or answer files on a file of items, without training."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from stillhouse.distill.parsing import parse_yaml
from stillhouse.distill.pipeline import RunResult
from stillhouse.distill.progress import Progress, Silent
from stillhouse.distill.recipe import JudgeSpec, TaskSpec, key, rooted
from stillhouse.distill.run import write_json
from stillhouse.exchanges import RunLock
from stillhouse.parity import (
    Answers,
    DataSpec,
    Item,
    JudgeConfig,
    TestSplit,
    judge,
    read_answers,
    read_items,
    write_answers,
)
from stillhouse.parity.report import ReportInputs, write_report
from stillhouse.teachers.chat import ChatRequest, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What is judged: a recipe without teacher and student."""

    name: str = key("title of the report")
    seed: int = key("seed of the resampling", 1)
    task: TaskSpec = key("what an answer is")
    data: DataSpec = key("the test items")
    judge: JudgeSpec = key("what is claimed")
    max_tokens: int = key("longest reply of a model folder", 256)


def read_judging(path: Path) -> Judging:
    """Read the recipe of a judgement."""
    return rooted(parse_yaml(path, Judging), path.resolve().parent)


def judge_pair(
    judging: Judging, *, teacher: str, student: str, out: Path, progress: Progress | None = None
) -> RunResult:
    """Judge `student` against `teacher`, each an answer file (.jsonl) or a model folder.

    Writes both answer sheets, `judgement.json`, `report.html` and `report.json` into `out`.
    """
    progress = progress or Silent()
    task = judging.task.task()
    items = read_items(judging.data, task)
    with RunLock(out):
        sheets = {
            name: _answers(judging, source, items, out / f"{name}.jsonl", progress)
            for name, source in (("teacher", teacher), ("student", student))
        }
        spec = judging.judge
        judgement = judge(
            TestSplit(items),
            sheets["teacher"],
            sheets["student"],
            {},
            JudgeConfig(
                task=task,
                margin=spec.margin,
                primary=spec.metric,
                function=spec.function,
                reference="gold" if all(item.gold is not None for item in items) else "teacher",
                teacher_lead=None,
                min_parseable=spec.min_parseable,
                seed=judging.seed,
            ),
        )
        write_json(out / "judgement.json", judgement.to_json())
        write_report(
            out,
            ReportInputs(
                title=judging.name,
                judgement=judgement,
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                data={"file": judging.data.path.name, "items": f"{len(items):,}"},
                reproduce=(f"stillhouse judge RECIPE --teacher {teacher} --student {student}",),
            ),
        )
    return RunResult(out, {}, judgement.to_json(), page=out / "report.html")


def _answers(
    judging: Judging, source: str, items: tuple[Item, ...], path: Path, progress: Progress
) -> Answers:
    """Read a sheet, or ask the model of a folder."""
    if source.endswith(".jsonl"):
        return read_answers(Path(source))
    from stillhouse.teachers.local import LocalModel

    model = LocalModel.load(Path(source))
    sampling = Sampling(max_tokens=judging.max_tokens)
    replies = model.reply_batch(
        [ChatRequest(messages=item.messages, sampling=sampling) for item in items],
        judging.judge.batch_size,
        names=[f"item {item.id}" for item in items],
        progress=lambda done, total: progress.advance(path.stem, done, total),
    )
    answers = {item.id: reply for item, reply in zip(items, replies, strict=True)}
    write_answers(path, answers)
    return answers
