"""A smaller vocabulary: which tokens to keep, chosen from training text, and the tokenizer of them.

Only byte-pair encodings are trimmed, by leaving out merges. A kept token keeps every merge that
makes it, so text that is made of kept tokens alone is split exactly as before; elsewhere a word is
made of smaller kept pieces, down to single bytes. Special tokens, single bytes (or, where a
tokenizer has no bytes to fall back on, single characters) and the template stay.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
import transformers

from stillhouse.exchanges import InputError
from stillhouse.students.merges import Merges

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

TAIL = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The tokens of a parent that a student keeps: the student's id i is the parent's `kept[i]`.

    `parent_size` counts the rows of the parent's head. What is not kept is one bucket, the tail.
    """

    kept: tuple[int, ...]
    parent_size: int

    def __len__(self) -> int:
        return len(self.kept)

    def new_ids(self) -> NDArray[np.int64]:
        """Return the student's id of each of the parent's, or `TAIL`: shape (parent_size,)."""
        new = np.full(self.parent_size, TAIL, dtype=np.int64)
        new[list(self.kept)] = np.arange(len(self.kept))
        return new


def choose_vocabulary(
    model: Any, tokenizer: Any, sequences: Iterable[Sequence[int]], size: int
) -> Vocabulary:
    """Choose at most `size` tokens of `tokenizer` to keep.

    `sequences` are the token ids of training prompts with their replies, as the template renders
    them; never those of validation or test items. First comes what cannot be left out (special
    tokens, bytes, ids that the model's configs name), then the tokens of the text by falling
    count, each with the pieces that its merges need, then the parent's earliest merges, which are
    its most frequent.

    Raises `InputError` for a tokenizer that cannot be trimmed so that it still writes everything
    it could, or a `size` too small for what cannot be left out.
    """
    core = _core(tokenizer)
    merges = Merges.of(core["model"])
    rows = int(model.get_input_embeddings().weight.shape[0])
    required = _required(core, merges) | named_ids(model) | _special_ids(tokenizer)
    required = set().union(*(merges.needed(token) for token in required))
    if len(required) > size:
        raise InputError(
            f"a vocabulary of {size:,} cannot hold the {len(required):,} tokens that must stay",
            repair=f"keep at least {len(required):,}; a few thousand are usual",
        )
    counts: Counter[int] = Counter()
    for ids in sequences:
        counts.update(ids)
    if not counts:
        raise InputError("choosing a vocabulary needs some training text")
    kept = set(required)
    by_count = sorted(counts, key=lambda token: (-counts[token], token))
    for token in (*by_count, *merges.products):
        if len(kept) >= size:
            break
        wanted = merges.needed(token) - kept
        if len(kept) + len(wanted) <= size:
            kept |= wanted
    return Vocabulary(kept=tuple(sorted(kept)), parent_size=rows)


def trim_tokenizer(tokenizer: Any, vocabulary: Vocabulary) -> Any:
    """Return a new tokenizer of the kept tokens, with the parent's special tokens and template.

    Merges whose two sides and product are all kept stay, in the parent's order. The parent is left
    as it was.
    """
    core = _core(tokenizer)
    new = {old: place for place, old in enumerate(vocabulary.kept)}
    model = core["model"]
    names = {token: new[old] for token, old in model["vocab"].items() if old in new}
    model["vocab"] = names
    model["merges"] = [
        [left, right]
        for left, right in map(_pair, model["merges"])
        if left in names and right in names and left + right in names
    ]
    for token in core["added_tokens"]:
        token["id"] = new[token["id"]]
    core["post_processor"] = _renumbered(core.get("post_processor"), new)
    build: Any = transformers.PreTrainedTokenizerFast
    trimmed = build(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(core)),
        clean_up_tokenization_spaces=False,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        **tokenizer.special_tokens_map,
    )
    trimmed.chat_template = tokenizer.chat_template
    return trimmed


def named_ids(model: Any) -> set[int]:
    """Return every token id that the model's config or generation config names."""
    found: set[int] = set()
    for config in (model.config, model.generation_config):
        for name, value in vars(config).items():
            if names_tokens(name):
                found |= {int(one) for one in _flat(value)}
    return found


def names_tokens(name: str) -> bool:
    """Say whether a config's entry of this name holds token ids."""
    return name.endswith(("_token_id", "_token_ids", "suppress_tokens", "bad_words_ids"))


def _flat(value: Any) -> list[int]:
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [one for part in value for one in _flat(part)]
    return [value]


def _core(tokenizer: Any) -> Any:
    """The parts of a tokenizer as plain values; raises InputError unless it is byte-pair."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json, so its merges are"
            " not known",
            repair="save it as a fast tokenizer first, or keep the whole vocabulary",
        )
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = core["model"]["type"]
    if kind != "BPE":
        raise InputError(
            f"a tokenizer of kind {kind} cannot be trimmed, only byte-pair encodings (BPE)",
            repair="keep the whole vocabulary: leave student.cut.vocabulary out",
        )
    return core


def _required(core: Any, merges: Merges) -> set[int]:
    """What must stay so that every text that could be written still can."""
    model = core["model"]
    names: dict[str, int] = model["vocab"]
    required = {token["id"] for token in core["added_tokens"]}
    if model.get("unk_token") in names:
        required.add(names[model["unk_token"]])
    fallback = [names.get(f"<0x{byte:02X}>") for byte in range(256)]
    if model.get("byte_fallback") and None not in fallback:
        return required | {one for one in fallback if one is not None}
    # Without bytes to fall back on (byte-level alphabets among them), single symbols must stay.
    made = set(merges.products)
    return required | {old for token, old in names.items() if old not in made and len(token) == 1}


def _special_ids(tokenizer: Any) -> set[int]:
    return {int(one) for one in tokenizer.all_special_ids if one is not None}


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _renumbered(processor: Any, new: dict[int, int]) -> Any:
    """A post-processor with the ids of its special tokens replaced."""
    if isinstance(processor, list):
        if len(processor) == 2 and isinstance(processor[0], str) and isinstance(processor[1], int):
            return [processor[0], new[processor[1]]]
        return [_renumbered(part, new) for part in processor]
    if not isinstance(processor, dict):
        return processor
    if "ids" in processor and "tokens" in processor:
        return {**processor, "ids": [new[old] for old in processor["ids"]]}
    return {name: _renumbered(part, new) for name, part in processor.items()}
