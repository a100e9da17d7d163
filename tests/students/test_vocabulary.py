"""Trimming a vocabulary: the same text for the same words, and nothing that cannot be written."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from stillhouse.exchanges import InputError
from stillhouse.students import (
    choose_vocabulary,
    close_tail,
    cut_vocabulary,
    load_student,
    measure_lengths,
    open_tail,
    save_student,
    trim_tokenizer,
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TRAINING = [
    "The film was good, the acting was better and the music was the best of all.",
    "def total(prices):\n    return sum(price for price in prices)\n",
    "Invoice 2024-03-17, amount 1,234.50 EUR; 東京 naïve café 🙂🙂",
]
ODD = [
    "",
    " ",
    "\n\t  \r\n",
    "zzz ΑΒΓ ыц ـة",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "x" * 50,
    "0123456789" * 3,
    "a\u0301 e\u0301\u200d\ufeff",
    "\x00\x01\x7f\x80",
    "for(;;){i++;}//€",
    "<|im_end|>x<|im_start|>",
]


def byte_level(*, digits: bool = False) -> Any:
    core = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
        if digits
        else level
    )
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return _trained(core, initial_alphabet=alphabet)


def byte_fallback() -> Any:
    """As Llama 2 and Gemma have it: characters, a mark for spaces, bytes for what is unknown."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _trained(core, extra=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))])


def characters() -> Any:
    """Without bytes: only the characters that it was trained on can be written."""
    core = Tokenizer(models.BPE())
    core.decoder = decoders.Fuse()
    return _trained(core)


def _trained(core: Any, *, extra: list[str] | None = None, **options: Any) -> Any:
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL, show_progress=False, **options
    )
    core.train_from_iterator([*TRAINING, *ODD[3:]] * 3, trainer)
    if extra:
        # Bytes are ordinary tokens, not special ones.
        plain = json.loads(core.to_str())
        for token in extra:
            plain["model"]["vocab"].setdefault(token, len(plain["model"]["vocab"]))
        core = Tokenizer.from_str(json.dumps(plain))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    return tokenizer


PARENTS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "byte level, digits apart": lambda: byte_level(digits=True),
    "byte fallback": byte_fallback,
    "characters": characters,
}


@pytest.fixture(scope="module", params=PARENTS)
def parent(request: pytest.FixtureRequest) -> Any:
    return PARENTS[request.param]()


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def written(tokenizer: Any, text: str) -> str:
    return tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=False)


def model_for(tokenizer: Any, *, extra_rows: int = 5, **options: Any) -> Any:
    torch.set_num_threads(1)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer) + extra_rows,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        **{"bos_token_id": 1, "eos_token_id": [2, 0], "pad_token_id": 0, **options},
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def trimmed_of(parent: Any, texts: list[str], spare: int = 0) -> tuple[Any, Any]:
    """The parent cut to what `texts` need, with room for `spare` more tokens."""
    model = model_for(parent)
    sequences = [ids_of(parent, text) for text in texts]
    size = len(choose_all(parent, model, sequences)) + spare
    vocabulary = choose_vocabulary(model, parent, sequences, size)
    return trim_tokenizer(parent, vocabulary), vocabulary


def choose_all(parent: Any, model: Any, sequences: list[list[int]]) -> set[int]:
    """Exactly what the text and the requirements need, found from the largest choice."""
    from stillhouse.students.merges import Merges
    from stillhouse.students.vocabulary import _core, _required, _special_ids, named_ids

    core = _core(parent)
    merges = Merges.of(core["model"])
    wanted = _required(core, merges) | named_ids(model) | _special_ids(parent)
    wanted |= {token for ids in sequences for token in ids}
    return set().union(*(merges.needed(token) for token in wanted))


def test_training_text_is_split_as_before(parent: Any) -> None:
    trimmed, vocabulary = trimmed_of(parent, TRAINING)
    assert len(trimmed) == len(vocabulary) < len(parent)
    for text in TRAINING:
        assert [vocabulary.kept[i] for i in ids_of(trimmed, text)] == ids_of(parent, text)


@settings(max_examples=150, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=40),
        st.text(alphabet="abcdefgthe film was good 0123456789.,\n", max_size=60),
        st.text(st.characters(min_codepoint=0x1F300, max_codepoint=0x1FAFF), max_size=12),
        st.sampled_from([*TRAINING, *ODD, *SPECIAL]),
    )
)
@example("東京🙂 def f(x): return x**2 # 3.14 <|im_end|>")
def test_what_the_parent_writes_back_the_trimmed_one_does(parent: Any, text: str) -> None:
    assert written(cut_once(parent), text) == written(parent, text)


@functools.cache
def cut_once(parent: Any) -> Any:
    return trimmed_of(parent, TRAINING[:1])[0]


def test_unseen_words_are_made_of_kept_pieces(parent: Any) -> None:
    trimmed, vocabulary = trimmed_of(parent, TRAINING[:1])
    before, after = (ids_of(tokenizer, TRAINING[1]) for tokenizer in (parent, trimmed))
    assert len(after) > len(before)
    assert set(before) - set(vocabulary.kept)
    lengths = measure_lengths([TRAINING[1], TRAINING[0]], parent, trimmed)
    assert (lengths.before[0], lengths.after[0]) == (len(before), len(after))
    facts = lengths.as_json()
    assert facts["documents"] == 2
    assert facts["documents_longer"] == 1
    assert facts["largest_growth"] == len(after) / len(before)


def test_merges_are_closed(parent: Any) -> None:
    trimmed, _ = trimmed_of(parent, TRAINING[:1], spare=20)
    model = json.loads(trimmed.backend_tokenizer.to_str())["model"]
    names = model["vocab"]
    assert sorted(names.values()) == list(range(len(trimmed)))
    for left, right in model["merges"]:
        assert {left, right, left + right} <= names.keys()
    products = {left + right for left, right in model["merges"]}
    fixed = set(SPECIAL) | {"<unk>"} | {f"<0x{byte:02X}>" for byte in range(256)}
    lost = [name for name in names if len(name) > 1 and name not in products | fixed]
    assert lost == []  # no kept token that nothing could make


def test_spare_room_goes_to_the_earliest_merges_and_little_room_to_the_commonest() -> None:
    parent = byte_level()
    model = model_for(parent)
    sequences = [ids_of(parent, text) for text in TRAINING[:1]]
    needed = choose_all(parent, model, sequences)
    more = choose_vocabulary(model, parent, sequences, len(needed) + 30)
    assert len(more) == len(needed) + 30
    assert needed < set(more.kept)
    fewer = choose_vocabulary(model, parent, sequences, len(needed) - 10)
    assert len(fewer) <= len(needed) - 10
    assert set(fewer.kept) < set(more.kept)
    the = ids_of(parent, " the")
    assert len(the) == 1
    assert the[0] in fewer.kept  # three times in the text
    trimmed = trim_tokenizer(parent, fewer)
    assert written(trimmed, TRAINING[0]) == TRAINING[0]


def test_the_cut_model_gives_the_parents_logits_at_the_kept_ids(tmp_path: Path) -> None:
    parent = byte_level()
    for tied in (True, False):
        model = model_for(parent, tie_word_embeddings=tied)
        model.generation_config.suppress_tokens = [1]
        vocabulary = choose_vocabulary(model, parent, [ids_of(parent, TRAINING[0])], 400)
        trimmed = trim_tokenizer(parent, vocabulary)
        student = cut_vocabulary(model, vocabulary)
        ids = ids_of(trimmed, TRAINING[0] + TRAINING[2])
        old = torch.tensor([[vocabulary.kept[i] for i in ids]])
        with torch.no_grad():
            whole = model(old).logits[..., list(vocabulary.kept)]
            torch.testing.assert_close(
                student(torch.tensor([ids])).logits, whole, rtol=1e-5, atol=1e-6
            )
        new = vocabulary.new_ids()
        assert student.config.vocab_size == len(trimmed) == len(vocabulary)
        assert student.config.eos_token_id == [new[2], new[0]]
        assert student.generation_config.eos_token_id == [new[2], new[0]]
        assert student.generation_config.suppress_tokens == [new[1]]
        folder = tmp_path / str(tied)
        save_student(student, trimmed, folder)
        loaded, again = load_student(folder)
        assert ids_of(again, TRAINING[2] + ODD[4]) == ids_of(trimmed, TRAINING[2] + ODD[4])
        assert again.chat_template == parent.chat_template
        assert again.eos_token == parent.eos_token
        assert again.eos_token_id == new[parent.eos_token_id]
        assert loaded.config.tie_word_embeddings == tied


def test_the_tail_is_one_row_more_and_goes_without_a_trace() -> None:
    model = model_for(byte_level())
    ids = torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        before = model(ids).logits
        grown = open_tail(model)
        after = grown(ids).logits
        assert after.shape[-1] == before.shape[-1] + 1
        torch.testing.assert_close(after[..., :-1], before, rtol=0, atol=1e-6)
        torch.testing.assert_close(after[..., -1], before.mean(-1), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(close_tail(grown)(ids).logits, before, rtol=0, atol=1e-6)


def test_special_tokens_of_a_post_processor_are_renumbered() -> None:
    from tokenizers.processors import TemplateProcessing

    parent = byte_level()
    parent.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", 2)]
    )
    sequences = [ids_of(parent, TRAINING[0])]
    model = model_for(parent, bos_token_id=None)
    vocabulary = choose_vocabulary(model, parent, sequences, 400)
    trimmed = trim_tokenizer(parent, vocabulary)
    assert trimmed("x")["input_ids"][-1] == trimmed.eos_token_id


def test_what_cannot_be_trimmed_is_refused() -> None:
    parent = byte_level()
    model = model_for(parent)
    sequences = [ids_of(parent, TRAINING[0])]
    with pytest.raises(InputError, match=r"of 100 cannot hold the 259 tokens.*\n.*at least 259"):
        choose_vocabulary(model, parent, sequences, 100)
    with pytest.raises(InputError, match="training text"):
        choose_vocabulary(model, parent, [], 400)
    unigram = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.Unigram([("a", -1.0), ("<unk>", -2.0)], unk_id=1))
    )
    with pytest.raises(InputError, match=r"(?s)kind Unigram.*student.cut.vocabulary"):
        choose_vocabulary(model, unigram, sequences, 400)
    vocabulary = choose_vocabulary(model, parent, sequences, 400)
    with pytest.raises(InputError, match="cut from"):
        cut_vocabulary(model_for(parent, extra_rows=9), vocabulary)


def test_a_tokenizer_that_writes_something_else_is_not_measured() -> None:
    parent = byte_level()
    other = characters()
    with pytest.raises(InputError, match="writes"):
        measure_lengths(["the film \u0416"], parent, other)


def test_the_suite_notices_open_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that keeps the tokens of the text but not the pieces they are merged from."""
    from stillhouse.students.merges import Merges

    parent = byte_level()
    model = model_for(parent)
    sequences = [ids_of(parent, TRAINING[0])]
    size = len(choose_all(parent, model, sequences))
    monkeypatch.setattr(Merges, "needed", lambda self, token: frozenset({token}))
    vocabulary = choose_vocabulary(model, parent, sequences, size)
    trimmed = trim_tokenizer(parent, vocabulary)
    assert [vocabulary.kept[i] for i in ids_of(trimmed, TRAINING[0])] != sequences[0]
