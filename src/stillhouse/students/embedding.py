"""A model with fewer tokens: the rows of its embedding and head that a trimmed vocabulary keeps."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import transformers

from stillhouse.exchanges import InputError
from stillhouse.students.vocabulary import TAIL, names_tokens

if TYPE_CHECKING:
    from stillhouse.students.vocabulary import Vocabulary


def cut_vocabulary(model: Any, vocabulary: Vocabulary) -> Any:
    """Return a new model of the same class with the embedding and head rows of `vocabulary`.

    Its logits are the parent's at the kept ids, in their order. Token ids that config and
    generation config name are renumbered; padding rows of the parent are gone. The original is
    left as it was. Raises `InputError` for a vocabulary of another model.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    if vocabulary.parent_size != rows or vocabulary.kept[-1] >= rows:
        raise InputError(
            f"a vocabulary cut from {vocabulary.parent_size:,} rows for a model of {rows:,}"
        )
    return _with_rows(model, torch.tensor(vocabulary.kept), vocabulary)


def open_tail(model: Any) -> Any:
    """Return a copy with one row more, the tail: all tokens that the vocabulary does not keep.

    For training against the whole distribution of a teacher: its mass outside the kept set is
    learned as that one bucket. The new row is the mean of the others. No tokenizer writes the id;
    `close_tail` takes it away again.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    grown = _with_rows(model, torch.arange(rows), None, extra=1)
    with torch.no_grad():
        for end in (grown.get_input_embeddings(), grown.get_output_embeddings()):
            end.weight[rows] = end.weight[:rows].mean(0)
            if getattr(end, "bias", None) is not None:
                end.bias[rows] = end.bias[:rows].mean()
    return grown


def close_tail(model: Any) -> Any:
    """Return a copy without its last row, after training.

    What the student gave to the tail is then divided among the kept tokens in proportion, which is
    what leaving an id out of a softmax does.
    """
    rows = int(model.get_input_embeddings().weight.shape[0])
    return _with_rows(model, torch.arange(rows - 1), None)


def _with_rows(
    model: Any, rows_K: torch.Tensor, vocabulary: Vocabulary | None, *, extra: int = 0
) -> Any:
    config = copy.deepcopy(model.config)
    config.vocab_size = len(rows_K) + extra
    generation = copy.deepcopy(model.generation_config)
    if vocabulary is not None:
        for one in (config, generation):
            _renumber(one, vocabulary)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    inner = {id(parameter) for end in ends for parameter in end.parameters()}
    names = {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in inner}
    weights = {}
    for name, tensor in model.state_dict().items():
        if name in names:
            blank = tensor.new_zeros((extra, *tensor.shape[1:]))
            weights[name] = torch.cat([tensor[rows_K], blank])
        else:
            weights[name] = tensor
    with torch.random.fork_rng(devices=[]):
        auto: Any = transformers.AutoModelForCausalLM
        cut = auto.from_config(config, dtype=model.dtype)
    cut.load_state_dict(weights, strict=True)
    cut.generation_config = generation
    return cut.train(model.training)


def _renumber(config: Any, vocabulary: Vocabulary) -> None:
    new = vocabulary.new_ids()

    def changed(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [changed(one) for one in value]
        return value if value is None or new[value] == TAIL else int(new[value])

    for name, value in list(vars(config).items()):
        if names_tokens(name) and value is not None:
            setattr(config, name, changed(value))
