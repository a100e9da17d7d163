"""Which parts a student keeps: candidates from training prompts and replies, chosen from once.

Candidates are the rules for layers and the aggregations of the scores of heads, neurons and hidden
channels. What looks best before any training is often not best after it (Muralidharan et al.,
arXiv 2407.14679, rank after a short retraining too), so `student.try_steps` trains each a little.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.distill.run import choose, write_json
from stillhouse.distill.stages import remove_folder
from stillhouse.distill.surgery import LAYERS, PARTS, SCORED_EXAMPLES, cut, trim
from stillhouse.exchanges import InputError, content_digest, make_folder
from stillhouse.parity import TrainSplit, ValidationSplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillhouse.distill.run import Run
    from stillhouse.distill.training import TrainConfig

TRIES = "tries"
CANDIDATES = "candidates.json"
PROMPTS = 48  # training prompts that candidates are compared on before training
HELD_OUT = 0.125  # share of the training items that candidates are compared on after training
ALL = "all"  # in place of a rule: nothing of that kind is cut


def choose_parts(run: Run, folder: Path) -> None:
    """Write `layers.json` and `parts.json`, from training prompts and replies only; once.

    With `student.try_steps` candidates are trained that long, and the one with the least loss on
    training items that were held out of it is kept. A kill costs no finished try.
    """
    if not (folder / PARTS).exists():
        found = _candidates(run, folder)
        layers, aggregation = found["choice"], next(iter(found["units"]))
        tried = _rank(run, folder, found)
        if tried:
            best = min(tried, key=_loss)
            aggregation = best["aggregation"]
            layers = {**layers, "layers": best["layers"], "rule": best["rule"]}
        write_json(folder / LAYERS, layers)
        parts = {"units": found["units"][aggregation], "aggregation": aggregation}
        write_json(folder / PARTS, {**parts, "vocabulary": found["vocabulary"], "tried": tried})
    remove_tries(folder)


def remove_tries(folder: Path) -> None:
    """Delete the weights of what was tried: their losses are in `parts.json`."""
    remove_folder(folder / TRIES)


def most_tries(run: Run, depth: int) -> int:
    """Return the most candidates that are trained of a start with `depth` layers; 0 for none.

    Raises `InputError` where there are some and no training items can be held out to rank them.
    """
    from stillhouse.students import AGGREGATIONS, LAYER_RULES

    spec = run.recipe.student
    chosen = spec.choose == "data" and spec.layers not in (None, depth)
    count = len(LAYER_RULES) if chosen else 1
    count += len(AGGREGATIONS) - 1 if spec.cut.narrows else 0
    if not spec.try_steps or count == 1:
        return 0
    hold_out(run.splits.train, run.recipe.seed)
    return count


def hold_out(train: TrainSplit, seed: int) -> tuple[TrainSplit, ValidationSplit]:
    """Divide training items into those that candidates learn from and those that rank them.

    Whole groups are held out, about `HELD_OUT` of the items and at least the smallest group.
    Raises `InputError` where all items are of one group.
    """
    sizes = Counter(item.group for item in train.items)
    if len(sizes) < 2:
        raise InputError(
            f"the {len(train.items):,} training items are of one group: none can be held out to"
            " rank candidates",
            repair="leave student.try_steps out, or give more items or groups (data.group)",
        )
    room = max(HELD_OUT * len(train.items), min(sizes.values()))
    held: set[str] = set()
    for group in sorted(sizes, key=lambda name: content_digest([seed, name])):
        if sizes[group] <= room:
            held.add(group)
            room -= sizes[group]
    return (
        TrainSplit(tuple(item for item in train.items if item.group not in held)),
        ValidationSplit(tuple(item for item in train.items if item.group in held)),
    )


def _candidates(run: Run, folder: Path) -> dict[str, Any]:
    """Choices of layers by rule, of units by aggregation, and the vocabulary, as plain values.

    Where candidates are tried this is written down: on another number of threads scores could
    round to other units, and what was tried would be of no use.
    """
    path = folder / TRIES / CANDIDATES
    if not path.exists():
        choice = _choose_layers(run)
        layers: Mapping[str, Any] = {choice["rule"]: choice["layers"]}
        if run.recipe.student.try_steps and run.recipe.student.choose == "data":
            layers = _distinct(choice.get("candidates", layers))
        units, vocabulary = _units_and_vocabulary(run)
        found = {"choice": choice, "layers": layers, "units": units, "vocabulary": vocabulary}
        if not run.recipe.student.try_steps:
            return found
        make_folder(path.parent)
        write_json(path, found)
    stored: dict[str, Any] = orjson.loads(path.read_bytes())
    return stored


def _choose_layers(run: Run) -> dict[str, Any]:
    """Which layers the student keeps, and what each rule scored; `layers` None keeps all."""
    from stillhouse.students import choose_layers

    spec = run.recipe.student
    start = run.load(run.student_place, "float32")
    depth = int(start.model.config.num_hidden_layers)
    if spec.layers is None or spec.layers == depth:
        return {"layers": None, "rule": ALL}
    if spec.choose == "first":
        return {"layers": list(range(spec.layers)), "rule": "first"}
    choice = choose_layers(start.model, spec.layers, _prompts(run, start))
    if spec.choose == "data":
        return dataclasses.asdict(choice)
    return {**dataclasses.asdict(choice), "layers": choice.candidates[spec.choose],
            "rule": spec.choose}  # fmt: skip


def _prompts(run: Run, start: Any) -> list[tuple[int, ...]]:
    return [
        start.template.encode(start.template.prompt(item.messages, f"item {item.id}"))
        for item in choose(run.train_split.items, PROMPTS, run.recipe.seed)
    ]


def _units_and_vocabulary(run: Run) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What is kept of widths by aggregation, and of the vocabulary; None keeps all."""
    from stillhouse.students import (
        AGGREGATIONS,
        choose_units,
        choose_vocabulary,
        measure_activations,
    )

    spec = run.recipe.student.cut
    units: dict[str, Any] = {ALL: None}
    vocabulary = None
    if spec.narrows or spec.vocabulary is not None:
        start = run.load(run.student_place, "float32")
        sequences = _training_ids(run, start)
        if spec.narrows:
            units = {}
            for aggregation in AGGREGATIONS if run.recipe.student.try_steps else AGGREGATIONS[:1]:
                scores = measure_activations(
                    start.model, sequences[:SCORED_EXAMPLES], aggregation=aggregation
                )
                kept = choose_units(start.model, spec.widths(), scores)
                units[aggregation] = dataclasses.asdict(kept)
        if spec.vocabulary is not None:
            tokens = choose_vocabulary(start.model, start.tokenizer, sequences, spec.vocabulary)
            vocabulary = dataclasses.asdict(tokens)
    return _distinct(units), vocabulary


def _distinct(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Without the rules that choose what an earlier one does."""
    found: dict[str, Any] = {}
    for rule, choice in choices.items():
        if choice not in found.values():
            found[rule] = choice
    return found


def _training_ids(run: Run, start: Any) -> list[tuple[int, ...]]:
    """Prompts with their replies, as the student's start reads them; training items alone."""
    from stillhouse.distill.examples import build_examples
    from stillhouse.distill.steps.curate import read_targets

    train, _, targets = read_targets(run)
    found = build_examples(
        train.items,
        targets,
        start.template,
        window=start.window,
        overlong="skip",
    )
    return [example.ids for example in found.examples]


def _rank(run: Run, folder: Path, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Try each choice of layers with the first of units, then the others of units with its best."""
    aggregations = list(found["units"])
    if not run.recipe.student.try_steps:
        return []
    if len(found["layers"]) == len(aggregations) == 1:
        run.progress.say("no candidates are trained: every rule keeps the same parts")
        return []
    tried = [_try(run, folder, found, rule, aggregations[0]) for rule in found["layers"]]
    rule = min(tried, key=_loss)["rule"]
    return [*tried, *(_try(run, folder, found, rule, other) for other in aggregations[1:])]


def _loss(one: dict[str, Any]) -> float:
    return float(one["loss"])


def _try(
    run: Run, folder: Path, found: dict[str, Any], rule: str, aggregation: str
) -> dict[str, Any]:
    """Train one candidate for `student.try_steps`, or go on where a kill left it."""
    from stillhouse.distill.steps.curate import read_targets
    from stillhouse.distill.training import train
    from stillhouse.students import add_adapter, next_token_divergence

    student = run.recipe.student
    name = "-".join(part for part in (rule, aggregation) if part != ALL)
    start = run.load(run.student_place, "float32")
    layers = found["layers"][rule]
    model = cut(start.model, layers, found["units"][aggregation])
    divergence = next_token_divergence(start.model, model, _prompts(run, start))
    model, tokenizer = trim(model, start.tokenizer, found["vocabulary"])
    if student.lora_rank is not None:
        model = add_adapter(model, rank=student.lora_rank, seed=run.recipe.seed)
    train_split, _, targets = read_targets(run)
    result = train(
        model,
        tokenizer,
        *hold_out(train_split, run.recipe.seed),
        targets,
        _short(run),
        folder / TRIES / name,
        lambda seen: run.progress.advance(
            f"trying {name}", seen.step, seen.steps, {"loss": f"{seen.loss:.3f}"}
        ),
        seed=run.recipe.seed,
        labels=run.task.labels,
    )
    return {
        "candidate": name,
        "rule": rule,
        "aggregation": aggregation,
        "layers": layers,
        "divergence": divergence,
        "loss": result.best_validation_loss,
        "steps": student.try_steps,
    }


def _short(run: Run) -> TrainConfig:
    steps = run.recipe.student.try_steps
    return dataclasses.replace(
        run.recipe.train,
        steps=steps,
        dtype=run.decided["precision"]["train"],
        evaluate_every=steps,
        patience=None,
        divergence=None,
        processes=1,
    )
