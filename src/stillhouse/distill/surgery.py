"""A student cut by a recipe: which parts it keeps, chosen once, and built from that by every stage.

Nothing here needs torch to be imported: the keys of `student.cut` are part of the recipe.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stillhouse.distill.run import Run

LAYERS = "layers.json"
PARTS = "parts.json"  # written last: what stands in it is not chosen again
TRIES = "tries"
SCORED_EXAMPLES = 256  # training examples that the parts' scores are measured on


def _key(help_text: str) -> Any:
    return field(default=None, metadata={"help": help_text})


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSpec:
    """How much of each kind a student keeps; all of it when absent."""

    heads: int | None = _key(
        "query heads of each layer; whole groups that share a key-value head are dropped where "
        "their size divides it, else as many from each group"
    )
    kv_heads: int | None = _key("key-value heads of each layer, where heads alone does not say it")
    feed_forward: int | None = _key("neurons of each feed-forward layer")
    hidden: int | None = _key("channels of the hidden state")
    vocabulary: int | None = _key(
        "most tokens: what cannot be left out, the tokens of training prompts and replies by "
        "count, then the tokenizer's earliest merges"
    )

    @property
    def narrows(self) -> bool:
        """Whether anything but the vocabulary is cut."""
        return any(
            getattr(self, name) is not None
            for name in ("heads", "kv_heads", "feed_forward", "hidden")
        )


def shaped(run: Run, start: Any) -> Any:
    """Return a model of the student's widths and vocabulary, with all layers: for the plan alone.

    Which parts it holds means nothing. `start` is the loaded `LocalModel` to cut. Raises
    `InputError` with the repair for widths or a vocabulary that cannot be.
    """
    from stillhouse.students import (
        Shape,
        Units,
        Widths,
        choose_vocabulary,
        cut_vocabulary,
        cut_width,
    )

    spec, model = run.recipe.student.cut, start.model
    if spec.vocabulary is not None:
        _check_tail(run)
        prompts = [
            start.template.encode(start.template.prompt(item.messages, f"item {item.id}"))
            for item in run.splits.train.items[:SCORED_EXAMPLES]
        ]
        vocabulary = choose_vocabulary(model, start.tokenizer, prompts, spec.vocabulary)
        model = cut_vocabulary(model, vocabulary)
    if not spec.narrows:
        return model
    shape = Shape.of(model)
    left = Widths(
        heads=spec.heads, kv_heads=spec.kv_heads, feed_forward=spec.feed_forward, hidden=spec.hidden
    ).of(shape)
    group, share = shape.heads // shape.kv_heads, left.heads // left.kv_heads
    kv_heads = tuple(range(left.kv_heads))
    return cut_width(
        model,
        Units(
            kv_heads=(kv_heads,) * shape.layers,
            heads=(tuple(kv * group + one for kv in kv_heads for one in range(share)),)
            * shape.layers,
            neurons=(tuple(range(left.feed_forward)),) * shape.layers,
            channels=tuple(range(left.hidden)),
        ),
    )


def _check_tail(run: Run) -> None:
    """Refuse what cannot learn a distribution whose other tokens are one bucket."""
    divergence, recipe = run.recipe.train.divergence, run.recipe
    if divergence is None:
        return
    if divergence.source == "cache" and divergence.keep != "hidden":
        raise InputError(
            f"a cache of {divergence.keep} ids lists tokens that a student with"
            " student.cut.vocabulary does not have",
            repair="set train.divergence.keep to hidden, or source to live",
        )
    if recipe.student.lora_rank is not None:
        raise InputError(
            "adapters leave embedding and head as they are, and a student of a trimmed vocabulary"
            " learns a distribution with one row more",
            repair="leave student.lora_rank, student.cut.vocabulary or train.divergence out",
        )


def choose_parts(run: Run, folder: Path, choose_layers: Callable[[Run], dict[str, Any]]) -> None:
    """Write `layers.json` and `parts.json`, from training prompts and replies only; once.

    With `student.try_steps`, every choice of layers is trained that long and the one with the
    least validation loss is kept: rankings flip in training.
    """
    from stillhouse.distill.run import write_json

    if not (folder / PARTS).exists():
        layers, parts = choose_layers(run), _units_and_vocabulary(run)
        tried = _try_layers(run, folder, layers, parts)
        if tried:
            best = min(tried, key=lambda one: one["validation_loss"])
            layers = {**layers, "layers": best["layers"], "rule": best["rule"]}
        write_json(folder / LAYERS, layers)
        write_json(folder / PARTS, {**parts, "tried": tried})
    remove_tries(folder)


def remove_tries(folder: Path) -> None:
    """Delete the weights of what was tried: their losses are in `parts.json`."""
    from stillhouse.distill.stages import remove_folder

    remove_folder(folder / TRIES)


def build_cut(run: Run, start: Any) -> tuple[Any, Any]:
    """Return the student before any training and before any adapter, and its tokenizer."""
    layers, parts = run.read("train", LAYERS)["layers"], run.read("train", PARTS)
    return _build(start, layers, parts)


def _build(start: Any, layers: Sequence[int] | None, parts: dict[str, Any]) -> tuple[Any, Any]:
    from stillhouse.students import (
        Units,
        Vocabulary,
        cut_depth,
        cut_vocabulary,
        cut_width,
        trim_tokenizer,
    )

    model, tokenizer = start.model, start.tokenizer
    if parts["units"] is not None:
        units = {name: _tuples(value) for name, value in parts["units"].items()}
        model = cut_width(model, Units(**units))
    if layers is not None:
        model = cut_depth(model, layers)
    if parts["vocabulary"] is not None:
        vocabulary = Vocabulary(
            **{**parts["vocabulary"], "kept": tuple(parts["vocabulary"]["kept"])}
        )
        model, tokenizer = cut_vocabulary(model, vocabulary), trim_tokenizer(tokenizer, vocabulary)
    return (copy.deepcopy(model) if model is start.model else model), tokenizer


def _units_and_vocabulary(run: Run) -> dict[str, Any]:
    """What is kept of widths and vocabulary, as plain values; None keeps all."""
    from stillhouse.students import (
        Widths,
        choose_units,
        choose_vocabulary,
        measure_activations,
    )

    spec = run.recipe.student.cut
    units = vocabulary = None
    if spec.narrows or spec.vocabulary is not None:
        start = run.load(run.student_place, "float32")
        sequences = _training_ids(run, start)
        if spec.narrows:
            widths = Widths(
                heads=spec.heads,
                kv_heads=spec.kv_heads,
                feed_forward=spec.feed_forward,
                hidden=spec.hidden,
            )
            scores = measure_activations(start.model, sequences[:SCORED_EXAMPLES])
            units = dataclasses.asdict(choose_units(start.model, widths, scores))
        if spec.vocabulary is not None:
            kept = choose_vocabulary(start.model, start.tokenizer, sequences, spec.vocabulary)
            vocabulary = dataclasses.asdict(kept)
    return {"units": units, "vocabulary": vocabulary}


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
        cut_replies=run.recipe.train.cut_replies,
    )
    return [example.ids for example in found.examples]


def _try_layers(
    run: Run, folder: Path, choice: dict[str, Any], parts: dict[str, Any]
) -> list[dict[str, Any]]:
    """Train each choice of layers for `student.try_steps`; each resumes where a kill left it."""
    from stillhouse.distill.steps.curate import read_targets
    from stillhouse.distill.training import train
    from stillhouse.students import add_adapter

    steps, candidates = run.recipe.student.try_steps, choice.get("candidates")
    if not steps or candidates is None or run.recipe.student.choose != "data":
        return []
    start = run.load(run.student_place, "float32")
    train_split, validation, targets = read_targets(run)
    config = dataclasses.replace(
        run.recipe.train,
        steps=steps,
        dtype=run.plan["precision"]["train"],
        evaluate_every=steps,
        patience=None,
        divergence=None,
        processes=1,
    )
    tried: list[dict[str, Any]] = []
    for rule, layers in candidates.items():
        if any(one["layers"] == list(layers) for one in tried):
            continue  # two rules that name the same layers
        model, tokenizer = _build(start, layers, parts)
        if run.recipe.student.lora_rank is not None:
            model = add_adapter(model, rank=run.recipe.student.lora_rank, seed=run.recipe.seed)
        result = train(
            model,
            tokenizer,
            train_split,
            validation,
            targets,
            config,
            folder / TRIES / rule,
            lambda seen, rule=rule: run.progress.advance(  # type: ignore[misc]
                f"trying {rule}", seen.step, seen.steps, {"loss": f"{seen.loss:.3f}"}
            ),
            seed=run.recipe.seed,
            labels=run.task.labels,
        )
        tried.append(
            {
                "rule": rule,
                "layers": list(layers),
                "divergence": choice["divergence"][rule],
                "validation_loss": result.best_validation_loss,
                "steps": steps,
            }
        )
    return tried


def parts_in_words(run: Run) -> dict[str, str]:
    """What was cut and tried, for the report; test documents are counted here, never chosen by."""
    try:
        parts = orjson.loads((run.folder / "train" / PARTS).read_bytes())
    except FileNotFoundError:  # a run of an older release
        return {}
    facts: dict[str, str] = {}
    if parts["units"] is not None:
        units = parts["units"]
        facts["kept of each layer"] = (
            f"{len(units['heads'][0])} heads on {len(units['kv_heads'][0])} key-value heads,"
            f" {len(units['neurons'][0]):,} neurons; {len(units['channels']):,} hidden channels"
        )
    if parts["vocabulary"] is not None:
        facts |= _lengths(run, parts["vocabulary"])
    if parts["tried"]:
        before, after = (
            ", ".join(f"{one['rule']} {one[key]:.3f}" for one in sorted(tried, key=_by(key)))
            for tried, key in ((parts["tried"], "divergence"), (parts["tried"], "validation_loss"))
        )
        facts["layer choices before training (KL to the teacher, nats)"] = before
        facts[f"layer choices after {parts['tried'][0]['steps']} steps (validation loss)"] = after
    return facts


def _by(key: str) -> Callable[[dict[str, Any]], float]:
    return lambda one: float(one[key])


def _lengths(run: Run, vocabulary: dict[str, Any]) -> dict[str, str]:
    from stillhouse.students import measure_lengths

    start = run.load(run.student_place, "float32")
    student = run.load(run.student(run.recipe.seed), "float32")
    texts = [
        start.template.prompt(item.messages, f"item {item.id}") for item in run.splits.test.items
    ]
    found = measure_lengths(texts, start.tokenizer, student.tokenizer).as_json()
    return {
        "vocabulary": f"{len(vocabulary['kept']):,} of {vocabulary['parent_size']:,} tokens",
        "tokens per test document": (
            f"{found['tokens_before']:,.1f} before, {found['tokens_after']:,.1f} after trimming;"
            f" {found['documents_longer']:,} of {found['documents']:,} documents are longer, at"
            f" most {found['largest_growth']:.2f} times"
        ),
    }


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
