"""A local model: replies, label likelihoods, identity, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stillhouse.exchanges import InputError
from stillhouse.teachers import heads, local, scoring
from stillhouse.teachers.chat import ChatRequest, Message, Sampling
from stillhouse.teachers.local import LocalModel

PROMPTS = ["the film", "good", "was the film very very bad or very good then", "x" * 40, "no"]


def ask(text: str, **sampling: Any) -> ChatRequest:
    return ChatRequest(
        messages=(Message("user", text),), sampling=Sampling(**{"max_tokens": 12, **sampling})
    )


@pytest.fixture
def local_model(tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]) -> LocalModel:
    return LocalModel(tiny_model(seed=3), tiny_tokenizer(), name="tiny", fingerprint="f")


def log_likelihood(model: LocalModel, prompt: list[int], reply: list[int]) -> float:
    """The slow oracle: one plain forward pass over prompt and reply, in float64."""
    ids = torch.tensor([prompt + reply])
    with torch.no_grad():
        logprobs = torch.log_softmax(model.model.double()(ids).logits[0], -1)
    model.model.float()
    steps = range(len(prompt) - 1, len(prompt) + len(reply) - 1)
    return float(sum(logprobs[step, token] for step, token in zip(steps, reply, strict=True)))


def log_likelihood_of(model: LocalModel, request: ChatRequest, reply: str) -> float:
    """The same of a text, whose tokens are those that follow the prompt's in the whole."""
    prompt = model.template.prompt(request.messages, "x")
    before, whole = model.template.encode(prompt), model.template.encode(prompt + reply)
    return log_likelihood(model, before, whole[len(before) :])


def test_batched_replies_equal_those_written_one_by_one(local_model: LocalModel) -> None:
    requests = [ask(text, max_tokens=4 + place) for place, text in enumerate(PROMPTS)]
    batched = local_model.reply_batch(requests, batch_size=4)
    assert batched == [local_model.reply_batch([request], 1)[0] for request in requests]
    assert len({reply.text for reply in batched}) > 1


def test_replies_equal_those_of_plain_generate(local_model: LocalModel) -> None:
    for request, reply in zip(
        map(ask, PROMPTS), local_model.reply_batch([*map(ask, PROMPTS)], 3), strict=True
    ):
        ids = torch.tensor(
            [local_model.template.encode(local_model.template.prompt(request.messages, "x"))]
        )
        whole = local_model.model.generate(ids, max_new_tokens=12, do_sample=False)[0].tolist()
        new = whole[ids.shape[1] :]
        assert reply.tokens_out == len(new)
        assert reply.text == local_model.tokenizer.decode(new, skip_special_tokens=True)


def test_a_cut_reply_is_never_called_complete(local_model: LocalModel) -> None:
    """Force the end-of-text id at a chosen step and compare the reasons on either side of it."""
    free = local_model.reply_batch([ask("the film", max_tokens=6)])[0]
    ids = local_model.template.encode(free.text)
    assert free.finish_reason == "length"
    assert free.tokens_out == 6
    local_model.template.end_ids = frozenset({ids[3]})
    first = ids.index(ids[3]) + 1
    stopped = local_model.reply_batch([ask("the film", max_tokens=first)])[0]
    assert (stopped.finish_reason, stopped.tokens_out) == ("stop", first)
    cut = local_model.reply_batch([ask("the film", max_tokens=first - 1)])[0]
    assert cut.finish_reason == "length"
    assert stopped.text == cut.text


def test_a_reply_that_fills_the_window_is_cut(
    tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> None:
    model = LocalModel(tiny_model(seed=3, window=24), tiny_tokenizer(), name="t", fingerprint="f")
    reply = model.reply_batch([ask("the film", max_tokens=500)])[0]
    assert reply.finish_reason == "length"
    assert (reply.tokens_in or 0) + (reply.tokens_out or 0) == 24


def test_a_stop_string_ends_the_reply_before_it(local_model: LocalModel) -> None:
    free = local_model.reply_batch([ask("good", max_tokens=8)])[0]
    stop = free.text[3:5]
    reply = local_model.reply_batch([ask("good", max_tokens=8, stop=(stop,))])[0]
    assert reply.finish_reason == "stop"
    assert reply.text == free.text[: free.text.index(stop)]


def test_a_sampled_reply_depends_on_its_seed_alone(local_model: LocalModel) -> None:
    hot = {"temperature": 1.0, "top_p": 0.9}
    alone = local_model.reply_batch([ask("good", seed=1, **hot)], 1)[0]
    crowd = local_model.reply_batch([ask(text, seed=1, **hot) for text in PROMPTS], 5)
    assert crowd[1] == alone
    other = local_model.reply_batch([ask("good", seed=2, **hot)], 1)[0]
    assert other.text != alone.text


def test_a_tiny_top_p_is_the_arg_max(local_model: LocalModel) -> None:
    greedy = local_model.reply_batch([ask("good")])[0]
    assert local_model.reply_batch([ask("good", seed=1, temperature=1.0, top_p=1e-9)])[0] == greedy


def test_log_probabilities_are_those_of_the_model(local_model: LocalModel) -> None:
    request = ask("the film", max_tokens=3, top_logprobs=2)
    reply = local_model.reply_batch([request])[0]
    assert reply.logprobs is not None
    prompt = local_model.template.encode(local_model.template.prompt(request.messages, "x"))
    ids = local_model.template.encode(reply.text)
    total = sum(token.logprob for token in reply.logprobs)
    assert total == pytest.approx(log_likelihood(local_model, prompt, ids), abs=1e-4)
    assert reply.logprobs[0].top[0][1] == pytest.approx(reply.logprobs[0].logprob)


@pytest.mark.parametrize(
    "labels",
    [
        ("positive", "negative"),  # one token each: the fast path
        ("very good", "very bad", "no"),  # several tokens
        ("good", "good film"),  # one begins the other: the end of the turn decides
    ],
)
def test_label_scores_equal_the_plain_likelihood(
    local_model: LocalModel, labels: tuple[str, ...]
) -> None:
    requests = [ask(text) for text in PROMPTS]
    scores = local_model.score_labels(requests, labels, batch_size=3)
    nested = labels == ("good", "good film")
    for request, row in zip(requests, scores, strict=True):
        prompt = local_model.template.encode(local_model.template.prompt(request.messages, "x"))
        end = [2] if nested else []
        raw = [
            log_likelihood(local_model, prompt, local_model.template.encode(label) + end)
            for label in labels
        ]
        np.testing.assert_allclose(row, raw - np.logaddexp.reduce(raw), atol=2e-5)


def test_the_fast_label_path_equals_the_slow_one_and_skips_the_vocabulary(
    local_model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, labels = [ask(text) for text in PROMPTS], ("positive", "negative", "no")
    rows: list[int] = []
    head = local_model.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _m, args, _out: rows.append(args[0].shape[-2]))
    fast = local_model.score_labels(requests, labels, batch_size=2)
    handle.remove()
    assert rows == [0, 0, 0]
    monkeypatch.setattr(local, "score_tokens", scoring.score_sequences)
    slow = local_model.score_labels(requests, labels, batch_size=2)
    np.testing.assert_allclose(fast, slow, atol=2e-6)
    np.testing.assert_allclose(np.exp(fast).sum(axis=1), 1.0)


def test_labels_are_tokenised_as_replies_where_a_text_begins_otherwise(
    tiny_model: Callable[..., Any],
) -> None:
    core = Tokenizer(models.BPE(unk_token="<unk>"))  # as Llama 2 and Mistral: marks the first word
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    core.train_from_iterator(["[INST] the film [/INST] positive negative"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
    )
    model = LocalModel(tiny_model(), tokenizer, name="tiny", fingerprint="f")
    labels, request = ["positive", "negative"], ask("the film")
    replies = [log_likelihood_of(model, request, label) for label in labels]
    scores = model.score_labels([request], labels)
    np.testing.assert_allclose(scores[0], replies - np.logaddexp.reduce(replies), atol=2e-5)


@pytest.mark.parametrize(("copies", "positions"), [(1, 9), (7, 1024), (64, 1024)])
def test_many_labels_are_scored_in_parts_of_bounded_size(
    local_model: LocalModel, monkeypatch: pytest.MonkeyPatch, copies: int, positions: int
) -> None:
    labels = [f"{mood} film number {n}" for mood in ("good", "bad") for n in range(9)] + ["no"]
    requests = [ask(text) for text in PROMPTS]
    whole = local_model.score_labels(requests, labels, batch_size=3)
    monkeypatch.setattr(scoring, "MOST_COPIES", copies)
    monkeypatch.setattr(scoring, "MOST_POSITIONS", positions)
    logits_at, most = scoring.logits_at, [0, 0]

    def seen(model: Any, rows: Any, columns: Any, **inputs: Any) -> Any:
        if "past_key_values" in inputs:
            most[:] = max(most[0], len(inputs["input_ids"])), max(most[1], len(rows))
        return logits_at(model, rows, columns, **inputs)

    monkeypatch.setattr(scoring, "logits_at", seen)
    parts = local_model.score_labels(requests, labels, batch_size=3)
    assert 0 < most[0] <= copies
    longest = max(len(local_model.template.encode(label)) for label in labels)
    assert most[1] <= max(positions, longest)
    np.testing.assert_allclose(parts, whole, atol=2e-5)


def test_a_head_with_a_soft_cap_is_not_taken_for_a_plain_one(local_model: LocalModel) -> None:
    assert heads.is_plain(local_model.model)
    plain = local_model.model.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = 2 * torch.tanh(output.logits / 2)
        return output

    local_model.model.forward = capped
    assert not heads.is_plain(local_model.model)


def test_label_replies_carry_the_scores_of_the_best_label(local_model: LocalModel) -> None:
    labels = ("positive", "negative")
    requests = [ask(text) for text in PROMPTS]
    scores = local_model.score_labels(requests, labels)
    for reply, row in zip(local_model.reply_labels(requests, labels), scores, strict=True):
        assert reply.label_scores == tuple(row)
        assert reply.text == labels[int(row.argmax())]


@pytest.mark.parametrize(
    ("labels", "message"),
    [(("good",), "two labels"), (("good", "good"), "are equal"), (("good", ""), "is empty")],
)
def test_labels_that_cannot_be_told_apart_are_refused(
    local_model: LocalModel, labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        local_model.score_labels([ask("good")], labels)


def test_a_prompt_beyond_the_window_is_an_error_that_names_the_item(
    tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]
) -> None:
    model = LocalModel(tiny_model(window=32), tiny_tokenizer(), name="t", fingerprint="f")
    requests = [ask("good"), ask("x" * 40)]
    for call in (
        lambda: model.reply_batch(requests, names=["a", "item-7"]),
        lambda: model.score_labels(requests, ("yes", "no"), names=["a", "item-7"]),
    ):
        with pytest.raises(InputError, match=r"item-7 has \d\d tokens.*window of 32"):
            call()


def test_what_cannot_be_honoured_is_refused(local_model: LocalModel) -> None:
    with pytest.raises(InputError, match="response schema"):
        local_model.reply_batch([ask("good", response_schema="{}")])
    with pytest.raises(InputError, match="no seed"):
        local_model.reply_batch([ask("good", temperature=0.7)])
    with pytest.raises(InputError, match="max_tokens 0"):
        local_model.reply_batch([ask("good", max_tokens=0)])


def test_counts_of_parameters_and_operations_follow_the_formula(local_model: LocalModel) -> None:
    block = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48 + 2 * 32
    assert local_model.parameters == 2 * block + 32 + 330 * 32
    body = 2 * (2 * block + 32)
    assert local_model.flops_at(100) == body + 4 * 2 * 4 * 8 * 100 + 2 * 330 * 32
    assert local_model.flops_per_token == local_model.flops_at(512)


def test_a_folder_loads_and_its_fingerprint_follows_every_file(
    tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    first = LocalModel.load(folder, threads=1)
    assert first.name == "tiny"
    assert first.fingerprint == LocalModel.load(folder).fingerprint
    assert LocalModel.load(folder, dtype="bfloat16").dtype == "bfloat16"
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert LocalModel.load(folder).fingerprint != first.fingerprint


def test_unreadable_models_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        LocalModel.load(tmp_path / "missing")
    with pytest.raises(InputError, match=r"no config\.json"):
        LocalModel.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="no weights"):
        LocalModel.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot read a causal language model"):
        LocalModel.load(tmp_path)
    (tmp_path / "w.gguf").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"w\.gguf"):
        LocalModel.load(tmp_path / "w.gguf")


def test_a_prefix_that_all_prompts_share_is_computed_once_and_changes_nothing(
    local_model: LocalModel,
) -> None:
    from stillhouse.teachers.scoring import compute_prefix, score_tokens

    shared = [1, *range(20, 44)]
    prompts = [[*shared, 60, 61, 62], [*shared, 70], [*shared, 80, 81]]
    labels = [[100], [101]]
    prefix = compute_prefix(local_model.model, prompts)
    assert prefix is not None
    assert prefix.length == len(shared)
    plain_NL = score_tokens(local_model.model, prompts, labels)
    for _ in range(2):  # the cache may be used again
        fast_NL = score_tokens(local_model.model, prompts, labels, prefix)
        assert torch.allclose(fast_NL, plain_NL, atol=1e-5)
    assert compute_prefix(local_model.model, [[1, 2, 3], [1, 2, 4]]) is None
    assert compute_prefix(local_model.model, [shared, shared]).length == len(shared) - 1
