"""An extracting student on disk: encoder, heads, tokenizer and fields in one folder."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.exchanges import InputError, storage
from stillhouse.students.extraction.examples import prepare_example
from stillhouse.students.extraction.fields import Field, write_value
from stillhouse.students.extraction.model import Extractor, load_encoder
from stillhouse.students.extraction.pieces import Cutter
from stillhouse.students.extraction.predicting import predict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FIELDS, HEADS, ENCODER, TOKENIZER = "fields.json", "heads.safetensors", "encoder", "tokenizer.json"


def read_cutter(tokenizer_file: Path) -> Cutter:
    """A cutter with the tokenizer.json of a BERT-like model."""
    from tokenizers import Tokenizer

    if not tokenizer_file.is_file():
        raise InputError("this tokenizer cannot be read", place=str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()  # some files come with both set
    tokenizer.no_truncation()
    return Cutter(tokenizer)


def new_extractor(encoder_folder: Path, fields: Sequence[Field], *, frozen: int = 0) -> Extractor:
    """An untrained student on a pretrained encoder; word embeddings and `frozen` layers stay."""
    encoder = load_encoder(str(encoder_folder), add_pooling_layer=False)
    encoder.get_input_embeddings().weight.requires_grad_(requires_grad=False)
    for layer in encoder.encoder.layer[:frozen]:
        layer.requires_grad_(requires_grad=False)
    return Extractor(encoder, encoder.config.hidden_size, fields)


def save_extractor(model: Extractor, tokenizer_file: Path, folder: Path) -> None:
    """Write the student to a new folder, which appears by one rename."""
    from safetensors.torch import save_file

    heads = {n: w for n, w in model.state_dict().items() if not n.startswith("encoder.")}
    with storage.replacing(folder) as temporary:
        temporary.mkdir()
        encoder: Any = model.encoder
        encoder.save_pretrained(temporary / ENCODER)
        save_file(heads, str(temporary / HEADS))
        (temporary / TOKENIZER).write_bytes(tokenizer_file.read_bytes())
        (temporary / FIELDS).write_bytes(orjson.dumps([asdict(one) for one in model.fields]))


def load_extractor(folder: Path) -> tuple[Extractor, Cutter]:
    """The student of a folder, ready to answer. Raises `InputError` when there is none,
    or one with other heads."""
    from safetensors.torch import load_file

    if not (folder / FIELDS).is_file():
        raise InputError("no extracting student stands here", place=str(folder))
    rows = orjson.loads((folder / FIELDS).read_bytes())
    fields = [Field(**{**row, "choices": tuple(row["choices"])}) for row in rows]
    model = new_extractor(folder / ENCODER, fields)
    missing, unknown = model.load_state_dict(load_file(str(folder / HEADS)), strict=False)
    if unknown or any(not name.startswith("encoder.") for name in missing):
        raise InputError(
            "this student has other heads than this version reads",
            place=str(folder),
            repair="train it again, or read it with the version that kept it",
        )
    return model.eval(), read_cutter(folder / TOKENIZER)


def extract(model: Extractor, cutter: Cutter, texts: Sequence[str]) -> list[dict[str, Any]]:
    """The JSON object of each text, every field in it, null where the student found none."""
    found = predict(model, [prepare_example(text, None, cutter) for text in texts])
    return [{name: write_value(value) for name, value in values.items()} for values in found]
