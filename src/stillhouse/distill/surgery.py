"""A student cut by a recipe: how much it keeps, built by every stage from the parts once chosen.

Nothing here needs torch to be imported: the keys of `student.cut` are part of the recipe.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillhouse.distill.run import Run
    from stillhouse.students import Widths

LAYERS = "layers.json"
PARTS = "parts.json"  # written last: what stands in it is not chosen again
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

    def widths(self) -> Widths:
        """The same without the vocabulary."""
        from stillhouse.students import Widths

        return Widths(
            heads=self.heads,
            kv_heads=self.kv_heads,
            feed_forward=self.feed_forward,
            hidden=self.hidden,
        )


def shaped(run: Run, start: Any) -> Any:
    """Return a model of the student's widths and vocabulary, with all layers: for the plan alone.

    Which parts it holds means nothing. `start` is the loaded `LocalModel` to cut. Raises
    `InputError` with the repair for widths or a vocabulary that cannot be.
    """
    from stillhouse.students import (
        Shape,
        Units,
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
    left = spec.widths().of(shape)
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


def build_cut(run: Run, start: Any) -> tuple[Any, Any]:
    """Return the student before any training and before any adapter, and its tokenizer."""
    layers, parts = run.read("train", LAYERS)["layers"], run.read("train", PARTS)
    return trim(cut(start.model, layers, parts["units"]), start.tokenizer, parts["vocabulary"])


def cut(whole: Any, layers: Sequence[int] | None, units: dict[str, Any] | None) -> Any:
    """Return a model of its own with these parts of `whole`, as JSON has them; None keeps all."""
    from stillhouse.students import Units, cut_depth, cut_width

    model = whole
    if units is not None:
        model = cut_width(model, Units(**{name: _tuples(value) for name, value in units.items()}))
    if layers is not None:
        model = cut_depth(model, layers)
    return copy.deepcopy(model) if model is whole else model


def trim(model: Any, tokenizer: Any, vocabulary: dict[str, Any] | None) -> tuple[Any, Any]:
    """Return model and tokenizer with the kept tokens alone; both as they are for None."""
    from stillhouse.students import Vocabulary, cut_vocabulary, trim_tokenizer

    if vocabulary is None:
        return model, tokenizer
    kept = Vocabulary(**{**vocabulary, "kept": tuple(vocabulary["kept"])})
    return cut_vocabulary(model, kept), trim_tokenizer(tokenizer, kept)


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
            f" {len(units['neurons'][0]):,} neurons; {len(units['channels']):,} hidden channels;"
            f" scored by {parts['aggregation']}"
        )
    if parts["vocabulary"] is not None:
        facts |= _lengths(run, parts["vocabulary"])
    tried: list[dict[str, Any]] = parts["tried"]
    if tried:
        titles = {
            "divergence": "choices of parts before training (KL to the teacher, nats)",
            "loss": f"choices of parts after {tried[0]['steps']} steps (loss on held-out training"
            " items)",
        }
        for key, title in titles.items():
            ranked = sorted((one[key], one["candidate"]) for one in tried)
            facts[title] = ", ".join(f"{name} {figure:.3f}" for figure, name in ranked)
    return facts


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
