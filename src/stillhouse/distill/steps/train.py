"""Train: one student a seed, and where asked one on gold answers for comparison."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

from stillhouse.distill.disk import disk_errors
from stillhouse.distill.examples import Target
from stillhouse.distill.run import Run, choose, write_json
from stillhouse.distill.steps.curate import read_targets
from stillhouse.distill.training import TrainConfig, TrainProgress, train
from stillhouse.exchanges import InputError
from stillhouse.parity import TrainSplit, ValidationSplit

LAYER_PROMPTS = 48
NEVER = -1e4  # a log-probability whose exponential is 0.0


def run_train(run: Run, folder: Path) -> None:
    """Write `seed-N/student`, a model folder, for each seed; `gold/student` where asked."""
    train_split, validation, targets = read_targets(run)
    layers = choose_student_layers(run)
    write_json(folder / "layers.json", layers)
    config = dataclasses.replace(
        run.recipe.train, dtype=run.plan["precision"]["train"], **_steps(run)
    )
    for number in range(run.recipe.seeds):
        seed = run.recipe.seed + number
        _train_one(run, folder / f"seed-{seed}", train_split, validation, targets, config, seed)
    if run.recipe.judge.gold_student:
        gold_train, gold_validation, gold = _gold(run, train_split, validation)
        seed = run.recipe.seed
        _train_one(run, folder / "gold", gold_train, gold_validation, gold, config, seed)


def build_student(run: Run, dtype: str = "float32") -> tuple[Any, Any]:
    """The student before any training, and its tokenizer with the template it is trained with."""
    from stillhouse.students import add_adapter, cut_depth

    start = run.load(run.student_place, dtype)
    layers = run.read("train", "layers.json")["layers"]
    model = copy.deepcopy(start.model) if layers is None else cut_depth(start.model, layers)
    rank = run.recipe.student.lora_rank
    if rank is not None:
        model = add_adapter(model, rank=rank, seed=run.recipe.seed)
    return model, start.tokenizer


def choose_student_layers(run: Run) -> dict[str, Any]:
    """Which layers the student keeps, and what each rule scored; `layers` None keeps all."""
    from stillhouse.students import choose_layers

    spec = run.recipe.student
    start = run.load(run.student_place, "float32")
    depth = int(start.model.config.num_hidden_layers)
    if spec.layers is None or spec.layers == depth:
        return {"layers": None, "rule": "all"}
    if spec.choose == "first":
        return {"layers": list(range(spec.layers)), "rule": "first"}
    prompts = [
        start.template.encode(start.template.prompt(item.messages, f"item {item.id}"))
        for item in choose(run.train_split.items, LAYER_PROMPTS, run.recipe.seed)
    ]
    choice = choose_layers(start.model, spec.layers, prompts)
    if spec.choose == "data":
        return dataclasses.asdict(choice)
    return {**dataclasses.asdict(choice), "layers": choice.candidates[spec.choose],
            "rule": spec.choose}  # fmt: skip


def _steps(run: Run) -> dict[str, Any]:
    steps = run.plan.get("steps")
    return {} if steps is None else {"steps": steps}


def _train_one(
    run: Run,
    folder: Path,
    train_split: TrainSplit,
    validation: ValidationSplit,
    targets: dict[str, Target],
    config: TrainConfig,
    seed: int,
) -> None:
    model, tokenizer = build_student(run)
    # Every seed starts from the same weights: training changes the model that was loaded.
    run.forget()

    def show(seen: TrainProgress) -> None:
        facts = {"loss": f"{seen.loss:.3f}", "tokens/s": f"{seen.tokens_per_second:,.0f}"}
        if seen.validation_loss is not None:
            facts["validation"] = f"{seen.validation_loss:.3f}"
        run.progress.advance(f"steps ({folder.name})", seen.step, seen.steps, facts)

    with disk_errors(folder):
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
        )
    run.progress.say(
        f"{folder.name}: {result.steps} of {result.planned_steps} steps, {result.examples:,}"
        f" examples, validation loss {result.best_validation_loss:.4f} at step {result.best_step}"
        + (", stopped early" if result.stopped_early else "")
    )


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
    """The same items with gold answers in place of the teacher's, where they have one."""
    gold = {
        item.id: gold_target(run, item.gold)
        for item in (*train_split.items, *validation.items)
        if item.gold is not None
    }
    kept_train = TrainSplit(tuple(item for item in train_split.items if item.id in gold))
    kept_validation = ValidationSplit(tuple(i for i in validation.items if i.id in gold))
    if not kept_train.items or not kept_validation.items:
        raise InputError(
            "judge.gold_student needs gold answers among training and validation items",
            repair="set data.gold, or judge.gold_student: false",
        )
    return kept_train, kept_validation, gold
