"""Judge any two models, endpoints, recordings or answer files on a file of items; trains none."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.distill.asking import ask_endpoint, open_endpoint, require_whole
from stillhouse.distill.costing import not_measured, time_models, unconstrained
from stillhouse.distill.parsing import parse_yaml
from stillhouse.distill.pipeline import RunResult
from stillhouse.distill.progress import Progress, Silent
from stillhouse.distill.recipe import (
    BudgetSpec,
    JudgeSpec,
    Recipe,
    TaskSpec,
    TeacherSpec,
    key,
    rooted,
    with_function_path,
    with_model_path,
)
from stillhouse.distill.references import with_references
from stillhouse.distill.run import choose, write_json
from stillhouse.exchanges import InputError, RunLock
from stillhouse.parity import (
    Answers,
    CostReport,
    DataSpec,
    Item,
    JudgeConfig,
    ModelCost,
    Price,
    Task,
    TestSplit,
    TrainSplit,
    answers_price,
    cost_report,
    examples_of,
    judge,
    majority_answers,
    nearest_answers,
    read_answers,
    read_items,
    regex_answers,
    tfidf_answers,
    write_answers,
)
from stillhouse.parity.ngram import ngram_answers
from stillhouse.parity.outcomes import LabelRule
from stillhouse.parity.report import ReportInputs, write_report
from stillhouse.parity.sheets import reference_of
from stillhouse.parity.standing import STUDENTS, standing
from stillhouse.teachers import RecordedTeacher, answers_alone, open_journal
from stillhouse.teachers.chat import ChatRequest, Sampling
from stillhouse.teachers.records import item_seed

if TYPE_CHECKING:
    from stillhouse.teachers.latency import Latency
    from stillhouse.teachers.local import LocalModel
    from stillhouse.teachers.weights import Precision

NO_TRAINING = "it learns from training items, and this judgement names none (`training`)"
NO_ANSWERS = "the teacher did not answer the items of `training`"
NO_STUDENT = "this judgement trains no student"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What is judged: a recipe without teacher and student."""

    name: str = key("title of the report")
    seed: int = key("seed of the resampling", 1)
    task: TaskSpec = key("what an answer is")
    data: DataSpec = key("the test items")
    training: DataSpec | None = key(
        "other items with gold answers, for baselines that learn from them", None
    )
    judge: JudgeSpec = key("what is claimed")
    label_rule: LabelRule = key("how a label is read: exact, or the reply's first_word", "exact")
    max_tokens: int = key("longest reply of a model folder", 256)
    budget: BudgetSpec = key("caps on what endpoints may cost", BudgetSpec)


def read_judging(path: Path) -> Judging:
    """Read the recipe of a judgement."""
    try:
        found = parse_yaml(path, Judging)
    except InputError as error:
        if error.message in {f"unknown key {field.name!r}" for field in fields(Recipe)}:
            own = ", ".join(field.name for field in fields(Judging))
            raise InputError(
                f"{error.message}: this is a recipe of `stillhouse distill`",
                place=error.place,
                repair=f"judging needs a file of its own, with no more than {own}",
            ) from error
        raise
    beside = path.resolve().parent
    found = rooted(found, beside)
    return dataclasses.replace(found, judge=with_function_path(found.judge, beside))


def judge_pair(
    judging: Judging,
    *,
    teacher: str,
    student: str,
    out: Path,
    progress: Progress | None = None,
    place: str = "RECIPE",
) -> RunResult:
    """Judge `student` against `teacher`.

    Each is an answer file (.jsonl), a model folder or GGUF file, or a YAML file with the keys of a
    recipe's `teacher` section (an endpoint, a recording, a local model that scores labels). Writes
    both answer sheets, `judgement.json`, `cost.json`, `report.html` and `report.json` into `out`;
    models that run here are timed. `place` is the recipe as the report names it. Raises
    InputError for what cannot be read or asked, and Stopped where a budget or an endpoint ends it;
    what an endpoint answered is journaled, and the same call goes on from there.
    """
    progress = progress or Silent()
    task = judging.task.task()
    items = read_items(judging.data, task)
    baselines, fitted = _baselines(judging, task, items)
    with RunLock(out):
        sides = {
            name: _side(judging, name, source, items, out / f"{name}.jsonl", progress)
            for name, source in (("teacher", teacher), ("student", student))
        }
        sheets = {name: side.answers for name, side in sides.items()}
        progress.now("intervals, and timing what runs here")
        spec = judging.judge
        judgement = judge(
            TestSplit(items),
            sheets["teacher"],
            sheets["student"],
            baselines,
            JudgeConfig(
                task=task,
                margin=spec.margin,
                primary=spec.metric,
                function=spec.function,
                label_rule=judging.label_rule,
                reference=reference_of(items),
                teacher_lead=None,
                min_parseable=spec.min_parseable,
                constrained=tuple(
                    name
                    for name, side in sides.items()
                    if side.constrained and task.schema is not None
                ),
                seed=judging.seed,
            ),
        )
        cost = _cost(judging, sides, items)
        write_json(out / "cost.json", cost)
        write_json(out / "judgement.json", judgement.to_json())
        write_report(
            out,
            ReportInputs(
                title=judging.name,
                judgement=judgement,
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                cost=cost,
                baselines=fitted,
                absent={
                    **dict.fromkeys(standing(task.kind, judgement.verdict.metric), NO_TRAINING),
                    **({} if judging.training is None else {"tfidf": NO_ANSWERS}),
                    **dict.fromkeys(STUDENTS, NO_STUDENT),
                },
                data={
                    "file": judging.data.path.name,
                    "items": f"{len(items):,}",
                    "teacher": teacher,
                    "student": student,
                },
                reproduce=(
                    f"stillhouse judge {place} --teacher {teacher} --student {student} --out {out}",
                ),
            ),
        )
    return RunResult(out, {}, judgement.to_json(), page=out / "report.html")


def _baselines(
    judging: Judging, task: Task, items: tuple[Item, ...]
) -> tuple[dict[str, Answers], dict[str, str]]:
    """What trivial methods reach that learned from the gold answers of `training`, and how."""
    if judging.training is None:
        return {}, {}
    learned = TrainSplit(read_items(judging.training, task))
    examples = examples_of(task, learned, None)
    common = {item.id for item in learned.items} & {item.id for item in items}
    if common:
        raise InputError(
            f"{len(common):,} items are among `training` and `data`, such as {min(common)}",
            place=str(judging.training.path),
            repair="take the test items out of `training`",
        )
    count = f"{len(examples):,} gold answers of {judging.training.path.name}"
    sheets: dict[str, Answers] = {}
    if judging.judge.metric == "bits_per_byte":
        sheets["ngram"] = ngram_answers(examples, items)
        return sheets, {"ngram": f"counted in {count}; it does not read the prompt"}
    sheets["majority"] = majority_answers(task, examples, items)
    if task.kind == "label":
        sheets["tfidf_gold"] = tfidf_answers(task, examples, [], items, name="tfidf_gold").answers
    else:
        sheets["nearest"] = nearest_answers(examples, items)
    if task.kind == "json":
        sheets["regex"] = regex_answers(examples, items)
    return sheets, dict.fromkeys(sheets, f"learned from {count}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One of the two that are judged. `spec` is None for an answer file, `model` for all others."""

    answers: Answers
    what: str
    spec: TeacherSpec | None = None
    model: LocalModel | None = None

    @property
    def constrained(self) -> bool:
        """Whether its answers were asked for under a response schema."""
        return self.spec is not None and self.spec.kind == "endpoint" and self.spec.constrain


def _side(
    judging: Judging,
    name: str,
    source: str,
    items: tuple[Item, ...],
    path: Path,
    progress: Progress,
) -> _Side:
    """Read a sheet, or ask the model, endpoint or recording that `source` names."""
    if source.endswith(".jsonl"):
        return _Side(answers=read_answers(Path(source)), what="an answer file")
    if source.endswith((".yaml", ".yml")):
        beside = Path(source).resolve().parent
        spec = parse_yaml(Path(source), TeacherSpec)
        spec = with_model_path(rooted(spec, beside), beside)
    else:
        spec = TeacherSpec(kind="local", model=source, dtype="float32")
        spec = dataclasses.replace(spec, max_tokens=judging.max_tokens)
    requests = {item.id: _request(item, spec, judging) for item in items}
    model = None
    if spec.kind == "local":
        model = _load(spec)
        answers = _ask_local(judging, spec, model, items, requests, name, progress)
    elif spec.kind == "endpoint":
        answers = _ask_endpoint(judging, spec, requests, path, progress)
    else:
        recording = RecordedTeacher.open(Path(spec.model))
        answers = {item: recording.find(request) for item, request in requests.items()}
    write_answers(path, answers)
    return _Side(
        answers=answers_alone(answers, spec.reasoning_delimiters),
        what=f"of kind {spec.kind}",
        spec=spec,
        model=model,
    )


def _cost(judging: Judging, sides: Mapping[str, _Side], items: tuple[Item, ...]) -> CostReport:
    """What both cost; only two that run here in one precision and one way of answering compare."""
    spec = judging.judge
    hourly = None if spec.machine_usd_per_hour is None else round(spec.machine_usd_per_hour * 1e9)
    here = {
        name: (side.spec, side.model)
        for name, side in sides.items()
        if side.spec is not None and side.model is not None
    }
    ways = {(model.dtype, own.answer) for own, model in here.values()}
    chosen = choose(items, spec.latency_items, judging.seed)
    labels = judging.task.task().labels
    costs: dict[str, ModelCost] = {}
    timed: dict[str, Latency] = {}
    for group in [list(here)] if len(ways) == 1 else [[name] for name in here]:
        own = here[group[0]][0]
        more, times = time_models(
            {name: here[name][1] for name in group},
            {name: Path(here[name][0].model) for name in group},
            [_request(item, own, judging) for item in chosen],
            labels=labels if own.answer == "score" else (),
            batch_size=spec.batch_size,
            hourly_nano=hourly,
        )
        costs |= more
        timed |= times
    for name in sides.keys() - costs.keys():
        costs[name] = not_measured(name, sides[name].what, _price(sides[name]))
    return cost_report(
        costs["teacher"], costs["student"], None, timed=timed if len(ways) == 1 else None
    )


def _price(side: _Side) -> Price:
    if side.spec is not None and side.spec.kind == "endpoint":
        return answers_price(side.answers, "prices of its file")
    return Price(nano_per_thousand=None, basis=f"unknown: {side.what} has no price")


def _request(item: Item, spec: TeacherSpec, judging: Judging) -> ChatRequest:
    return ChatRequest(
        messages=item.messages,
        sampling=Sampling(
            max_tokens=spec.max_tokens,
            temperature=spec.temperature,
            seed=item_seed(judging.seed, item.messages) if spec.temperature > 0 else None,
            response_schema=judging.task.task().schema if spec.constrain else None,
        ),
    )


def _load(spec: TeacherSpec) -> LocalModel:
    from stillhouse.teachers.local import LocalModel

    if spec.package is not None:
        raise InputError(
            "`stillhouse judge` fetches no package", repair="give the model's folder or GGUF file"
        )
    dtype: Precision = "float32" if spec.dtype == "auto" else spec.dtype
    model = LocalModel.load(Path(spec.model), dtype=dtype)
    if spec.template is not None:
        model = model.with_template(spec.template.read_text(encoding="utf-8"))
    return model


def _ask_local(
    judging: Judging,
    spec: TeacherSpec,
    model: LocalModel,
    items: tuple[Item, ...],
    requests: Mapping[str, ChatRequest],
    name: str,
    progress: Progress,
) -> Answers:
    asked = [unconstrained(request) for request in requests.values()]
    size = judging.judge.batch_size
    names = [f"item {item.id}" for item in items]

    def show(done: int, total: int) -> None:
        progress.advance(name, done, total)

    if spec.answer == "score":
        labels = judging.task.task().labels
        replies = model.reply_labels(asked, labels, size, names=names, progress=show)
    else:
        replies = model.reply_batch(asked, size, names=names, progress=show)
    if judging.judge.metric == "bits_per_byte":
        replies = with_references(model, items, asked, replies, size)
    return {item.id: reply for item, reply in zip(items, replies, strict=True)}


def _ask_endpoint(
    judging: Judging,
    spec: TeacherSpec,
    requests: Mapping[str, ChatRequest],
    path: Path,
    progress: Progress,
) -> Answers:
    """Ask over HTTP; the journal beside the sheet keeps what was paid for."""
    if judging.judge.metric == "bits_per_byte":
        raise InputError(
            "judge.metric: bits_per_byte needs the likelihood of the gold texts, which an endpoint"
            " does not tell",
            place=str(spec.url),
            repair="judge by rouge_l or exact_match, or give a model folder",
        )
    teacher = open_endpoint(spec, judging.seed)
    own = path.with_suffix(".journal")
    with open_journal(own, teacher) as journal:
        result = ask_endpoint(
            teacher,
            journal,
            requests,
            spec,
            judging.budget,
            seed=judging.seed,
            progress=progress,
            beside=[other for other in path.parent.glob("*.journal") if other != own],
        )
    require_whole(result)
    return result.answers
