"""An extracting student learns to point, goes on after a kill, and is kept whole."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stillhouse.exchanges import InputError, storage
from stillhouse.students import extraction
from stillhouse.students.extraction.examples import make_batch, options_of, prepare_example
from stillhouse.students.extraction.model import loss_of

SCHEMA = {
    "properties": {
        "code": {"type": "string"},
        "sent": {"type": "string", "format": "date"},
        "due": {"type": ["string", "null"], "format": "date"},
        "unit": {"type": "string", "enum": ["kg", "lb"]},
        "weight": {"type": ["number", "null"]},
    }
}
FIELDS = extraction.read_fields(SCHEMA, {"due": "sent"})
WORDS = ["code", "sent", "due", "weight", "order", "net", "kg", "lb", "days", ":", ".", "-", "/"]
SETTINGS = extraction.FitSettings(
    steps=24, batch_size=4, learning_rate=1e-3, warm_up=2, evaluate_every=12, keep_every_s=0.0
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 32 dimensions, untrained, with a WordPiece tokenizer of letters and digits."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel

    torch.set_num_threads(1)
    signs = list("abcdefghijklmnopqrstuvwxyz0123456789")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"[unused{i}]" for i in (1, 2, 3))]
    tokens = list(dict.fromkeys([*special, *WORDS, *signs, *(f"##{sign}" for sign in signs)]))
    core = Tokenizer(
        models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]")
    )
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.enable_padding(length=16)  # as shipped by sentence encoders; must not be used
    core.enable_truncation(16)
    folder = tmp_path_factory.mktemp("encoder")
    core.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def documents(count: int, seed: int) -> list[extraction.Document]:
    random = Random(seed)
    made = []
    for _ in range(count):
        code = f"{random.choice('ABC')}{random.randrange(100, 1000)}"
        sent = date(2025, random.randrange(1, 13), random.randrange(1, 28))
        days = random.choice((None, 10, 30))
        unit, weight = random.choice(("kg", "lb")), random.randrange(100, 9999) / 100
        lines = [f"order code: {code}", f"sent: {sent}", f"weight: {weight:.2f} {unit}"]
        lines += [] if days is None else [f"due: net {days} days"]
        reply = {
            "code": code,
            "sent": sent,
            "due": None if days is None else sent + timedelta(days),
            "unit": unit,
            "weight": weight,
        }
        made.append(("\n".join(lines), reply, f"group {random.randrange(3)}"))
    return made


def fresh(encoder: Path) -> tuple[extraction.Extractor, Any]:
    torch.manual_seed(1)
    model = extraction.new_extractor(encoder, FIELDS)
    return model, extraction.read_cutter(encoder / "tokenizer.json")


def run(
    encoder: Path,
    checkpoint: Path,
    settings: extraction.FitSettings = SETTINGS,
    seed: int = 3,
    drawn: int = 1,
) -> tuple[extraction.Extractor, extraction.Fitted]:
    model, cutter = fresh(encoder)
    train, held = documents(40, drawn), documents(20, 2)
    fitted = extraction.fit(
        model,
        cutter,
        train,
        held,
        settings,
        seed=seed,
        checkpoint=checkpoint,
        say=lambda _line: None,
    )
    return model, fitted


def test_a_student_learns_where_the_values_stand(encoder: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, steps=160, batch_size=16, evaluate_every=80, masked=0)
    model, fitted = run(encoder, tmp_path / "checkpoint.pt", settings)
    assert fitted.best_share > 0.9
    model, cutter = model.eval(), extraction.read_cutter(encoder / "tokenizer.json")
    [answer] = extraction.extract(
        model, cutter, ["order code: B555\nsent: 2025-02-03\nweight: 12.50 kg\ndue: net 30 days"]
    )
    assert answer["sent"] == "2025-02-03"
    assert answer["due"] == "2025-03-05"
    assert answer["weight"] == 12.5


class StoppedError(Exception):
    """Stands for a kill."""


def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, fitted = run(encoder, tmp_path / "whole.pt")
    renames = 0

    def stop(step: str) -> None:
        nonlocal renames
        if step == "rename:killed.pt:done":
            renames += 1
            if renames in (5, 9):
                raise StoppedError

    monkeypatch.setattr(storage, "on_step", stop)
    for _ in range(2):
        with pytest.raises(StoppedError):
            run(encoder, tmp_path / "killed.pt")
    again, resumed = run(encoder, tmp_path / "killed.pt")
    assert [point[0] for point in resumed.curve] == [12, 24]
    assert resumed.curve == fitted.curve
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_a_checkpoint_of_another_seed_or_other_documents_is_refused(
    encoder: Path, tmp_path: Path
) -> None:
    short = dataclasses.replace(SETTINGS, steps=2, evaluate_every=2)
    run(encoder, tmp_path / "one.pt", short, seed=1)
    with pytest.raises(InputError, match="another seed"):
        run(encoder, tmp_path / "one.pt", short, seed=2)
    with pytest.raises(InputError, match="other data"):
        run(encoder, tmp_path / "one.pt", short, seed=1, drawn=4)


def test_a_kept_student_answers_as_before(encoder: Path, tmp_path: Path) -> None:
    model, cutter = fresh(encoder)
    texts = [text for text, _, _ in documents(6, 5)]
    before = extraction.extract(model.eval(), cutter, texts)
    extraction.save_extractor(model, encoder / "tokenizer.json", tmp_path / "student")
    loaded, its_cutter = extraction.load_extractor(tmp_path / "student")
    assert extraction.extract(loaded, its_cutter, texts) == before
    assert loaded.fields == FIELDS
    with pytest.raises(InputError, match="exists already"):
        extraction.save_extractor(model, encoder / "tokenizer.json", tmp_path / "student")
    with pytest.raises(InputError, match="no extracting student"):
        extraction.load_extractor(tmp_path / "nothing")
    heads = tmp_path / "student" / "heads.safetensors"
    kept = load_file(str(heads))
    for changed in (
        {n: w for n, w in kept.items() if n != "relations"},
        kept | {"old": kept["relations"].clone()},
    ):
        save_file(changed, str(heads))
        with pytest.raises(InputError, match=r"(?s)other heads.*train it again"):
            extraction.load_extractor(tmp_path / "student")


def test_answers_do_not_depend_on_the_other_documents_of_a_batch(encoder: Path) -> None:
    model, cutter = fresh(encoder)
    texts = [text for text, _, _ in documents(5, 6)] + ["code: A1 sent: 2025-01-02 " * 9]
    together = extraction.extract(model.eval(), cutter, texts)
    assert together == [extraction.extract(model, cutter, [text])[0] for text in texts]


def test_the_loss_adds_the_probabilities_of_all_right_readings(encoder: Path) -> None:
    model, cutter = fresh(encoder)
    text = "code: A12\ncode: A12\nsent: 2025-01-02"
    reply = {"code": "A12", "sent": date(2025, 1, 2), "due": None, "unit": "kg", "weight": None}
    example = prepare_example(text, reply, cutter)
    batch = make_batch([example], FIELDS)
    scores = model(batch)
    assert batch.targets["code"].sum() == 2
    right = [
        score.exp().item()
        for option, score in zip(options_of(example, FIELDS[0]), scores["code"][0], strict=True)
        if option is not None and option.value == "A12"
    ]
    only = {"code": scores["code"]}
    assert loss_of(only, batch).item() == pytest.approx(-torch.tensor(sum(right)).log().item())


def test_a_field_that_no_reading_says_teaches_nothing(encoder: Path) -> None:
    model, cutter = fresh(encoder)
    reply = {"code": "Z9", "sent": date(2025, 1, 2), "due": None, "unit": "kg", "weight": None}
    batch = make_batch([prepare_example("sent: 2025-01-02", reply, cutter)], FIELDS)
    assert not batch.targets["code"].any()
    loss = loss_of({"code": model(batch)["code"]}, batch)
    assert loss.item() == 0


def test_a_stated_date_goes_before_a_count_of_days_that_happens_to_fit(encoder: Path) -> None:
    _, cutter = fresh(encoder)
    text = "sent 2025-01-02, due 2025-01-12, 10 seats"
    reply = {"code": "A", "sent": date(2025, 1, 2), "due": date(2025, 1, 12)}
    reply |= {"unit": "kg", "weight": None}  # type: ignore[dict-item]
    example = prepare_example(text, reply, cutter)
    target = make_batch([example], FIELDS).targets["due"][0]
    options = options_of(example, FIELDS[2])
    said = [options[i].kind for i in target.nonzero().flatten().tolist()]  # type: ignore[union-attr]
    assert said == ["date"]


@pytest.mark.parametrize("rates", [extraction.Rates(), extraction.Rates(1, 1, 1, 1, 1, 1, 1, 0, 1)])
def test_a_recombined_document_still_says_what_its_reply_says(rates: extraction.Rates) -> None:
    train = documents(60, 7)
    recombiner = extraction.Recombiner(train, FIELDS, rates)
    random = Random(8)
    changed = dropped = 0
    for text, reply, _ in train:
        new_text, new_reply = recombiner.recombine(text, reply, random)
        example = prepare_example(new_text, new_reply, _AnyCutter())  # type: ignore[arg-type]
        for field in FIELDS:
            if field.kind == "choice":
                continue
            target = make_batch([example], (field,)).targets[field.name]
            assert target.any(), (field.name, new_text, new_reply)
        changed += new_text != text
        dropped += new_reply["weight"] is None
    assert changed > 30
    assert dropped > 0


def test_recombination_leaves_the_given_reply_alone_and_repeats_by_seed() -> None:
    train = documents(30, 9)
    recombiner = extraction.Recombiner(train, FIELDS)
    text, reply, _ = train[0]
    before = dict(reply)
    first = recombiner.recombine(text, reply, Random(4))
    assert reply == before
    assert first == recombiner.recombine(text, reply, Random(4))


class _AnyCutter:
    """Pieces of one character: for checks of readings alone."""

    def cut(self, text: str) -> Any:
        from stillhouse.students.extraction.pieces import Pieces

        count = min(len(text), 400) + 2
        return Pieces((1,) * count, (0,) * count, (-1, *range(count - 2), len(text)))
