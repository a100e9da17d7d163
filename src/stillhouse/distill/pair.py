"""Judge any two models, endpoints, recordings or answer files on a file of items; trains none."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.distill.asking import ask_endpoint, open_endpoint, require_whole
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
    with_model_path,
)
from stillhouse.distill.references import with_references
from stillhouse.distill.run import write_json
from stillhouse.exchanges import InputError, RunLock
from stillhouse.parity import (
    Answers,
    DataSpec,
    Item,
    JudgeConfig,
    Task,
    TestSplit,
    TrainSplit,
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
from stillhouse.parity.report import ReportInputs, write_report
from stillhouse.parity.standing import STUDENTS, standing
from stillhouse.teachers import RecordedTeacher, open_journal
from stillhouse.teachers.chat import ChatRequest, Sampling

if TYPE_CHECKING:
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
    return rooted(found, path.resolve().parent)


def judge_pair(
    judging: Judging, *, teacher: str, student: str, out: Path, progress: Progress | None = None
) -> RunResult:
    """Judge `student` against `teacher`.

    Each is an answer file (.jsonl), a model folder or GGUF file, or a YAML file with the keys of a
    recipe's `teacher` section (an endpoint, a recording, a local model that scores labels). Writes
    both answer sheets, `judgement.json`, `report.html` and `report.json` into `out`. Raises
    InputError for what cannot be read or asked, and Stopped where a budget or an endpoint ends it;
    what an endpoint answered is journaled, and the same call goes on from there.
    """
    progress = progress or Silent()
    task = judging.task.task()
    items = read_items(judging.data, task)
    baselines, fitted = _baselines(judging, task, items)
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
            baselines,
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
                baselines=fitted,
                absent={
                    **dict.fromkeys(standing(task.kind, judgement.verdict.metric), NO_TRAINING),
                    **({} if judging.training is None else {"tfidf": NO_ANSWERS}),
                    **dict.fromkeys(STUDENTS, NO_STUDENT),
                },
                data={"file": judging.data.path.name, "items": f"{len(items):,}"},
                reproduce=(f"stillhouse judge RECIPE --teacher {teacher} --student {student}",),
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


def _answers(
    judging: Judging, source: str, items: tuple[Item, ...], path: Path, progress: Progress
) -> Answers:
    """Read a sheet, or ask the model, endpoint or recording that `source` names."""
    if source.endswith(".jsonl"):
        return read_answers(Path(source))
    if source.endswith((".yaml", ".yml")):
        beside = Path(source).resolve().parent
        spec = parse_yaml(Path(source), TeacherSpec)
        spec = with_model_path(rooted(spec, beside), beside)
    else:
        spec = TeacherSpec(kind="local", model=source, dtype="float32")
        spec = dataclasses.replace(spec, max_tokens=judging.max_tokens)
    ask = {"local": _ask_local, "endpoint": _ask_endpoint, "recording": _ask_recording}[spec.kind]
    requests = {item.id: _request(item, spec, judging) for item in items}
    answers = ask(judging, spec, items, requests, path, progress)
    write_answers(path, answers)
    return answers


def _request(item: Item, spec: TeacherSpec, judging: Judging) -> ChatRequest:
    return ChatRequest(
        messages=item.messages,
        sampling=Sampling(
            max_tokens=spec.max_tokens,
            temperature=spec.temperature,
            seed=judging.seed if spec.temperature > 0 else None,
            response_schema=judging.task.task().schema if spec.constrain else None,
        ),
    )


def _ask_local(
    judging: Judging,
    spec: TeacherSpec,
    items: tuple[Item, ...],
    requests: Mapping[str, ChatRequest],
    path: Path,
    progress: Progress,
) -> Answers:
    from stillhouse.teachers.local import LocalModel

    if spec.package is not None:
        raise InputError(
            "`stillhouse judge` fetches no package", repair="give the model's folder or GGUF file"
        )
    dtype: Precision = "float32" if spec.dtype == "auto" else spec.dtype
    model = LocalModel.load(Path(spec.model), dtype=dtype)
    if spec.template is not None:
        model = model.with_template(spec.template.read_text(encoding="utf-8"))
    asked, size = list(requests.values()), judging.judge.batch_size
    names = [f"item {item.id}" for item in items]

    def show(done: int, total: int) -> None:
        progress.advance(path.stem, done, total)

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
    _items: tuple[Item, ...],
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
    with open_journal(path.with_suffix(".journal"), teacher) as journal:
        result = ask_endpoint(
            teacher,
            journal,
            requests,
            spec,
            judging.budget,
            seed=judging.seed,
            progress=progress,
        )
    require_whole(result)
    return result.answers


def _ask_recording(
    _judging: Judging,
    spec: TeacherSpec,
    _items: tuple[Item, ...],
    requests: Mapping[str, ChatRequest],
    _path: Path,
    _progress: Progress,
) -> Answers:
    recording = RecordedTeacher.open(Path(spec.model))
    return {name: recording.find(request) for name, request in requests.items()}
