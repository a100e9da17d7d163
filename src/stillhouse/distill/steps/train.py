"""Train: one student a seed, and where asked one on gold answers for comparison."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.distill.candidates import choose_parts
from stillhouse.distill.disk import disk_errors
from stillhouse.distill.examples import NothingLeftError, Target
from stillhouse.distill.run import GOLD_ABSENT, Run, write_json
from stillhouse.distill.steps.curate import read_targets
from stillhouse.distill.surgery import build_cut
from stillhouse.distill.training import TrainProgress, train
from stillhouse.exchanges import InputError
from stillhouse.parity import TrainSplit, ValidationSplit

if TYPE_CHECKING:
    from stillhouse.distill.ranks import Ranks

PLAIN = "plain"  # the same student by plain training on replies, at equal compute
NEVER = -1e4  # a log-probability whose exponential is 0.0


def run_train(run: Run, folder: Path) -> None:
    """Write `seed-N/student`, a model folder, for each seed, and those trained for comparison.

    `gold/student` where there is gold (or `gold/absent.json`: why not), and `plain/student` beside
    a divergence.
    """
    from stillhouse.distill.ranks import started

    choose_parts(run, folder)
    config = run.recipe.train
    with contextlib.ExitStack() as stack:
        ranks = run.ranks or stack.enter_context(
            started(config.processes, run.recipe, run.folder, shard=config.shard)
        )
        for name in trainings(run):
            train_one(run, name, ranks)


@contextlib.contextmanager
def in_group(run: Run) -> Iterator[None]:
    """Take the place that torchrun gave this process, if it started it.

    Rank 0 does the whole run. The others join it in training alone, and end here when it is done.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    from stillhouse.distill.following import follow
    from stillhouse.distill.ranks import Ranks, leave

    ranks = Ranks.from_environment(shard=run.recipe.train.shard)
    if not ranks.leads:
        follow(ranks, run.recipe, run.folder)
        leave()
    run.ranks = ranks
    try:
        yield
    finally:
        ranks.dismiss()


def trainings(run: Run) -> list[str]:
    """Every training of a run, by the name of its folder."""
    names = [f"seed-{run.recipe.seed + number}" for number in range(run.recipe.seeds)]
    if run.recipe.train.divergence is not None:
        names.append(PLAIN)
    return [*names, *(["gold"] if run.trains_gold else [])]


def train_one(run: Run, name: str, ranks: Ranks) -> None:
    """Train one of `trainings`; every process of a group does."""
    from stillhouse.distill.loop import prepare
    from stillhouse.distill.pairing import open_teacher
    from stillhouse.students import open_tail

    folder = run.folder / "train" / name
    train_split, validation, targets = read_targets(run)
    config = dataclasses.replace(run.recipe.train, dtype=run.decided["precision"]["train"])
    seed = int(name[5:]) if name.startswith("seed-") else run.recipe.seed
    model, tokenizer = build_student(run, seed=seed)
    if name == "gold":
        # Other texts than the replies that the window was chosen for, and perhaps fewer of them.
        steps = result_of(run)["planned_steps"]
        config = dataclasses.replace(config, overlong="skip", steps=steps)
        alone = dataclasses.replace(config, divergence=None)
        (run.folder / "train" / GOLD_ABSENT).unlink(missing_ok=True)
        try:
            train_split, validation, targets = _gold(run, train_split, validation)
            prepare(model, tokenizer, train_split, validation, targets, alone, run.task.labels)
        except NothingLeftError as error:
            why = f"of the gold answers {error.message}"
            if run.recipe.judge.gold_student is not None:
                raise InputError(
                    f"judge.gold_student: {why}",
                    repair="set data.gold, or judge.gold_student: false",
                ) from error
            folder.mkdir(exist_ok=True)
            write_json(run.folder / "train" / GOLD_ABSENT, {"why": why})
            return
    # Every seed cuts the same weights anew: training changes the model that was loaded.
    run.forget(small=config.divergence is not None)

    def show(seen: TrainProgress) -> None:
        facts = {"loss": f"{seen.loss:.3f}", "tokens/s": f"{seen.tokens_per_second:,.0f}"}
        if seen.validation_loss is not None:
            facts["validation"] = f"{seen.validation_loss:.3f}"
        run.progress.advance(f"steps ({name})", seen.step, seen.steps, facts)

    def show_reading(split: str, done: int, total: int) -> None:
        run.progress.advance(f"teacher's word ({split})", done, total, {})

    with disk_errors(folder):
        teacher = None
        if config.divergence is not None and name.startswith("seed-"):
            sets = prepare(
                model, tokenizer, train_split, validation, targets, config, run.task.labels
            )
            teacher = open_teacher(run, model, tokenizer, sets, show_reading)
            if teacher is not None and teacher.kept is not None:
                model = open_tail(model)
        elif config.divergence is not None:
            config = dataclasses.replace(config, divergence=None)
        if ranks.leads:
            ranks.announce(name)  # now: what the others read stands, a cache above all
        if name == PLAIN:
            config = dataclasses.replace(config, patience=None, steps=_plain_steps(run))
        result = train(
            model,
            tokenizer,
            train_split,
            validation,
            targets,
            config,
            folder,
            show,
            seed=seed,
            labels=run.task.labels,
            teacher=teacher,
            ranks=ranks,
            compiled=bool(run.decided.get("compiled")),
        )
    run.progress.say(
        f"{name}: {result.steps} of {result.planned_steps} steps, {result.examples:,}"
        f" examples, validation loss {result.best_validation_loss:.4f} at step {result.best_step}"
        + (", stopped early" if result.stopped_early else "")
        + "".join(
            f"; {count:,} left out: {reason}" for reason, count in result.skipped["train"].items()
        )
    )


def _plain_steps(run: Run) -> int:
    """Steps on the replies' words that take the work of the first seed's, its teacher included."""
    from stillhouse.distill.whitebox import work_over_plain

    result = result_of(run)
    steps: int = round(result["steps"] * work_over_plain(run, result))
    return max(1, steps)


def result_of(run: Run) -> dict[str, Any]:
    """The first seed's training, as `result.json` has it."""
    found: dict[str, Any] = run.read("train", f"seed-{run.recipe.seed}/result.json")
    return found


def build_student(run: Run, dtype: str = "float32", *, seed: int = 0) -> tuple[Any, Any]:
    """The student before any training, and its tokenizer with the template it is trained with.

    `seed` draws where an adapter begins; before training it changes no answer.
    """
    from stillhouse.students import add_adapter

    model, tokenizer = build_cut(run, run.load(run.student_place, dtype))
    rank = run.recipe.student.lora_rank
    if rank is not None:
        model = add_adapter(model, rank=rank, seed=seed)
    return model, tokenizer


def gold_target(run: Run, gold: str) -> Target:
    """A gold answer to train on by the same loss as the teacher's.

    Where a teacher's labels are trained on as probabilities, so is gold, all of it on one label:
    the loss of a bare text would spend a short training on writing labels (see `loss`).
    """
    if run.recipe.teacher.answer != "score":
        return Target(reply=gold)
    scores = tuple(0.0 if label == gold else NEVER for label in run.task.labels)
    return Target(reply=gold, label_scores=scores)


def _gold(
    run: Run, train_split: TrainSplit, validation: ValidationSplit
) -> tuple[TrainSplit, ValidationSplit, dict[str, Target]]:
    """The same items with gold answers in place of the teacher's, where they have one.

    Raises `NothingLeftError` where curation left none that has.
    """
    gold = {
        item.id: gold_target(run, item.gold)
        for item in (*train_split.items, *validation.items)
        if item.gold is not None
    }
    kept_train = TrainSplit(tuple(item for item in train_split.items if item.id in gold))
    kept_validation = ValidationSplit(tuple(i for i in validation.items if i.id in gold))
    for split, kept in (("training", kept_train), ("validation", kept_validation)):
        if not kept.items:
            raise NothingLeftError(
                f"no example is left to train on: curation left no {split} item that has one"
            )
    return kept_train, kept_validation, gold
