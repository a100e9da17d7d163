"""Training on replies: the loss, the step, what is kept, and what is refused."""

from __future__ import annotations

import dataclasses
import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stillhouse.distill import loop, precision
from stillhouse.distill.examples import Example, Target, build_examples, epoch_batches
from stillhouse.distill.loop import learning_rate
from stillhouse.distill.loss import make_batch, reply_loss
from stillhouse.distill.training import TrainConfig, TrainProgress, TrainResult, train
from stillhouse.exchanges import InputError, storage
from stillhouse.parity.items import Item, TestSplit, TrainSplit, ValidationSplit
from stillhouse.students import add_adapter
from stillhouse.teachers.chat import ChatRequest, Message, Sampling
from stillhouse.teachers.local import LocalModel
from stillhouse.teachers.template import ChatTemplate

Build = Callable[..., Any]
TEXTS = ["the film", "very good", "was bad", "no", "yes the film was very very good", "film"]
LABELS = ("good", "bad")


def items(prefix: str, count: int) -> tuple[Item, ...]:
    return tuple(
        Item(
            id=f"{prefix}{i}",
            messages=(Message("user", TEXTS[i % 6] + " x" * (i % 4)),),
            variable="",
            group="",
        )
        for i in range(count)
    )


TRAIN, VALIDATION = TrainSplit(items("t", 24)), ValidationSplit(items("v", 6))
TARGETS = {
    item.id: Target(reply="good" if "good" in item.messages[0].content else "bad film")
    for item in (*TRAIN.items, *VALIDATION.items)
}
CONFIG = TrainConfig(
    steps=6,
    batch_size=8,
    learning_rate=0.01,
    dtype="float32",
    evaluate_every=2,
    freeze_embeddings=False,
)


@pytest.fixture
def fit(tiny_model: Build, tiny_tokenizer: Build, tmp_path: Path) -> Callable[..., TrainResult]:
    def run(
        student: Any = None, *, folder: str = "run", seed: int = 1, **changes: Any
    ) -> TrainResult:
        given = {"targets": TARGETS, "progress": None, "labels": (), **changes}
        options = {name: given.pop(name) for name in ("targets", "progress", "labels")}
        return train(
            student if student is not None else tiny_model(),
            tiny_tokenizer(),
            TRAIN,
            VALIDATION,
            options["targets"],
            dataclasses.replace(CONFIG, **given),
            tmp_path / folder,
            options["progress"],
            seed=seed,
            labels=options["labels"],
        )

    return run


def oracle_loss(
    model: Any, example: Example, label_tokens: tuple[int, ...], weight: float
) -> torch.Tensor:
    """The documented sum, term by term, one example at a time, in the model's precision."""
    logprobs = torch.log_softmax(model(torch.tensor([example.ids])).logits[0], -1)
    total = torch.zeros((), dtype=logprobs.dtype)
    soft = example.label_probabilities
    for t in range(example.start, len(example.ids)):
        if t == example.start and soft is not None:
            mass = sum(logprobs[t - 1, token].exp() for token in label_tokens)
            for q, token in zip(soft, label_tokens, strict=True):
                total = total - q * (logprobs[t - 1, token].exp() / mass).log()
            total = total - weight * mass.log()
        else:
            total = total - (1.0 if soft is None else weight) * logprobs[t - 1, example.ids[t]]
    return total


def soft_examples(tokenizer: Any) -> Any:
    targets = {
        item.id: Target(reply=LABELS[i % 2], label_scores=(-0.3 * i, -1.0) if i % 3 else None)
        for i, item in enumerate(TRAIN.items)
    }
    template = ChatTemplate(tokenizer, [2], "tiny")
    return build_examples(TRAIN.items, targets, template, window=512, labels=LABELS)


@pytest.mark.parametrize("weight", [1.0, 0.1, 0.0])
def test_the_padded_loss_and_gradient_equal_the_plain_sum(
    tiny_model: Build, tiny_tokenizer: Build, weight: float
) -> None:
    built = soft_examples(tiny_tokenizer())
    examples = built.examples[:7]
    assert len({len(example.ids) for example in examples}) > 3
    fast, slow = tiny_model().double(), tiny_model().double()
    loss = reply_loss(fast, make_batch(examples, built.label_tokens), weight)
    loss.backward()
    expected = sum(oracle_loss(slow, example, built.label_tokens, weight) for example in examples)
    expected.backward()
    # The fast loss takes logits to float32 on purpose; everything before is float64 here.
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    for a, b in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_a_writing_weight_of_one_is_cross_entropy_over_the_vocabulary(
    tiny_model: Build, tiny_tokenizer: Build
) -> None:
    built = soft_examples(tiny_tokenizer())
    example = next(one for one in built.examples if one.label_probabilities is not None)
    model = tiny_model()
    logprobs_LV = torch.log_softmax(model(torch.tensor([example.ids])).logits[0].float(), -1)
    expected = -sum(
        q * logprobs_LV[example.start - 1, token]
        for q, token in zip(example.label_probabilities, built.label_tokens, strict=True)
    ) - sum(logprobs_LV[t - 1, example.ids[t]] for t in range(example.start + 1, len(example.ids)))
    torch.testing.assert_close(
        reply_loss(model, make_batch([example], built.label_tokens), 1.0), expected
    )


def test_training_equals_a_plain_loop_whatever_the_micro_batches(
    fit: Callable[..., TrainResult], tiny_model: Build, tiny_tokenizer: Build, tmp_path: Path
) -> None:
    """One example at a time, normalised by the step's reply tokens: the oracle of accumulation."""
    built = build_examples(
        TRAIN.items, TARGETS, ChatTemplate(tiny_tokenizer(), [2], "tiny"), window=512
    )
    model = tiny_model()
    named = dict(model.named_parameters())
    matrices = [p for p in named.values() if p.ndim > 1]
    vectors = [p for p in named.values() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    config = dataclasses.replace(CONFIG, weight_decay=0.3, clip_norm=0.5, steps=3, patience=None)
    for step, batch in enumerate(
        epoch_batches([len(e.ids) for e in built.examples], 8, seed=1, epoch=0)
    ):
        chosen = [built.examples[i] for i in batch]
        loss = sum(oracle_loss(model, e, (), 1.0) for e in chosen) / sum(
            e.reply_tokens for e in chosen
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, 3, config)
        optimizer.step()
    changes = {"weight_decay": 0.3, "clip_norm": 0.5, "steps": 3, "evaluate_every": 3}
    for tokens in (1, 60, 10_000):
        student = tiny_model()
        fit(student, folder=f"micro-{tokens}", micro_batch_tokens=tokens, **changes)
        for name, parameter in student.named_parameters():
            torch.testing.assert_close(parameter, named[name], rtol=1e-3, atol=2e-5)


def test_a_trained_student_answers_as_it_was_taught_and_stops(
    fit: Callable[..., TrainResult],
) -> None:
    result = fit(steps=60, evaluate_every=20)
    assert result.curve[-1].validation_loss < 0.1 < result.curve[0].train_loss
    model = LocalModel.load(result.student)
    requests = [
        ChatRequest(messages=item.messages, sampling=Sampling(max_tokens=9))
        for item in VALIDATION.items
    ]
    for item, reply in zip(VALIDATION.items, model.reply_batch(requests), strict=True):
        assert (reply.text, reply.finish_reason) == (TARGETS[item.id].reply, "stop")


def test_soft_targets_are_learned_as_probabilities(fit: Callable[..., TrainResult]) -> None:
    targets = {
        name: Target(reply="good", label_scores=(-0.3567, -1.2040)) for name in TARGETS
    }  # 0.7 and 0.3 for every prompt
    result = fit(steps=60, evaluate_every=20, targets=targets, labels=LABELS)
    model = LocalModel.load(result.student)
    requests = [
        ChatRequest(messages=item.messages, sampling=Sampling(max_tokens=9))
        for item in VALIDATION.items
    ]
    scores = model.score_labels(requests, LABELS)
    assert torch.tensor(scores).exp()[:, 0].tolist() == pytest.approx([0.7] * 6, abs=0.05)


def test_the_best_weights_are_kept_and_training_stops_when_they_get_old(
    fit: Callable[..., TrainResult], tiny_tokenizer: Build
) -> None:
    """The validation replies contradict the training replies: their loss soon rises."""
    wrong = TARGETS | {item.id: Target(reply="no") for item in VALIDATION.items}
    result = fit(steps=80, targets=wrong, patience=2)
    losses = [point.validation_loss for point in result.curve]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert result.best_validation_loss == losses[best]
    assert result.best_step == result.curve[best].step
    assert result.stopped_early
    assert (result.steps, result.planned_steps) == (result.best_step + 4, 80)
    built = build_examples(
        VALIDATION.items, wrong, ChatTemplate(tiny_tokenizer(), [2], "tiny"), window=512
    )
    model = LocalModel.load(result.student).model
    with torch.no_grad():
        total = float(sum(oracle_loss(model, example, (), 1.0) for example in built.examples))
    tokens = sum(example.reply_tokens for example in built.examples)
    assert total / tokens == pytest.approx(result.best_validation_loss, rel=1e-4)


def test_frozen_embeddings_stay_and_the_rest_moves(
    fit: Callable[..., TrainResult], tiny_model: Build
) -> None:
    student, before = tiny_model(), tiny_model().state_dict()
    fit(student, freeze_embeddings=True)
    after = student.state_dict()
    frozen = {"model.embed_tokens.weight", "lm_head.weight"}
    assert {name for name in after if torch.equal(after[name], before[name])} == frozen


def test_an_adapter_is_trained_alone_and_saved_merged(
    fit: Callable[..., TrainResult], tiny_model: Build
) -> None:
    student = add_adapter(tiny_model(), rank=2, dropout=0.1, seed=3)
    result = fit(student, freeze_embeddings=True)
    assert result.curve[-1].train_loss < result.curve[0].train_loss
    saved = LocalModel.load(result.student).model.state_dict()
    before = tiny_model().state_dict()
    assert saved.keys() == before.keys()
    moved = {name for name in saved if not torch.equal(saved[name], before[name])}
    assert moved == {name for name in before if "_proj" in name}


def test_progress_counts_steps_and_a_finished_run_is_not_trained_again(
    fit: Callable[..., TrainResult],
) -> None:
    seen: list[TrainProgress] = []
    first = fit(progress=seen.append)
    assert [progress.step for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert {progress.steps for progress in seen} == {6}
    assert seen[-1].eta_seconds == 0
    assert seen[-1].validation_loss == first.curve[-1].validation_loss
    assert fit(progress=seen.append) == first
    assert len(seen) == 6
    assert first.examples == 24
    assert fit(folder="other") == dataclasses.replace(
        first, student=first.student.parent.parent / "other" / "student", seconds=pytest.approx(
            first.seconds, abs=1e9
        )
    )  # fmt: skip


def test_a_run_resumed_with_other_inputs_is_refused_naming_them(
    fit: Callable[..., TrainResult], tiny_model: Build
) -> None:
    def stop(progress: TrainProgress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(progress=stop, checkpoint_steps=1)
    with pytest.raises(InputError, match=r"another train\.learning_rate .*there 0\.01, now 0\.02"):
        fit(learning_rate=0.02)
    with pytest.raises(InputError, match="another seed"):
        fit(seed=2)
    with pytest.raises(InputError, match="another student"):
        fit(tiny_model(seed=9))
    with pytest.raises(InputError, match="another training data"):
        fit(targets=TARGETS | {"t0": Target(reply="yes")})
    resumed = fit(checkpoint_steps=4)  # how often to checkpoint may change
    assert resumed.weights_sha256 == fit(folder="undisturbed").weights_sha256
    with pytest.raises(InputError, match="another seed"):
        fit(seed=2)


def test_a_full_disk_stops_cleanly_and_loses_nothing(
    fit: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    writes = 0

    def fill(name: str) -> None:
        nonlocal writes
        writes += name == "write:checkpoint.pt"
        if name == "write:checkpoint.pt" and writes == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "on_step", fill)
    with pytest.raises(InputError, match=r"checkpoint\.pt: the disk is full"):
        fit(checkpoint_steps=1)
    monkeypatch.undo()
    seen: list[TrainProgress] = []
    result = fit(checkpoint_steps=1, progress=seen.append)
    assert seen[0].step == 3
    assert result.weights_sha256 == fit(folder="undisturbed").weights_sha256
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        ".lock",
        "result.json",
        "student",
    ]


def test_a_damaged_checkpoint_is_an_error_that_names_it(
    fit: Callable[..., TrainResult], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"PK junk")
    with pytest.raises(InputError, match=r"checkpoint\.pt: the checkpoint cannot be read"):
        fit()


def test_a_test_split_is_refused_at_run_time(
    tiny_model: Build, tiny_tokenizer: Build, tmp_path: Path
) -> None:
    test: Any = TestSplit(VALIDATION.items)
    for splits in ((test, VALIDATION), (TRAIN, test)):
        with pytest.raises(TypeError, match="test items may only be judged on"):
            train(tiny_model(), tiny_tokenizer(), *splits, TARGETS, CONFIG, tmp_path, seed=1)
    with pytest.raises(InputError, match="24 items are in the training and the validation split"):
        train(
            tiny_model(),
            tiny_tokenizer(),
            TRAIN,
            ValidationSplit(TRAIN.items),
            TARGETS,
            CONFIG,
            tmp_path,
            seed=1,
        )


@pytest.mark.slow
def test_a_test_split_is_refused_by_the_type_checker(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "from stillhouse.distill.training import TrainConfig, train\n"
        "from stillhouse.parity.items import TestSplit, TrainSplit, ValidationSplit\n"
        "a, v, t = TrainSplit(()), ValidationSplit(()), TestSplit(())\n"
        "train(0, 0, a, v, {}, TrainConfig(), Path(), seed=1)\n"
        "train(0, 0, t, v, {}, TrainConfig(), Path(), seed=1)\n"
        "train(0, 0, a, t, {}, TrainConfig(), Path(), seed=1)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", str(program)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert [line.split(":")[1] for line in errors] == ["6", "7"], done.stdout + done.stderr
    assert all('incompatible type "TestSplit"' in line for line in errors)


def test_a_student_in_bfloat16_and_a_diverging_run_are_refused(
    fit: Callable[..., TrainResult], tiny_model: Build
) -> None:
    with pytest.raises(InputError, match="small updates would be rounded away"):
        fit(tiny_model().to(torch.bfloat16))
    broken = tiny_model()
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="training diverged at step 1"):
        fit(broken)


def test_bfloat16_is_used_where_the_processor_has_it_and_refused_elsewhere(
    fit: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_units", lambda: ("avx512_bf16",))
    assert precision.choose_dtype("auto") == "bfloat16"
    half = fit(dtype="auto", folder="half")
    whole = fit(folder="whole")
    assert (half.dtype, whole.dtype) == ("bfloat16", "float32")
    assert half.weights_sha256 != whole.weights_sha256
    assert half.best_validation_loss == pytest.approx(whole.best_validation_loss, rel=0.1)
    monkeypatch.setattr(precision, "bf16_units", lambda: ())
    assert precision.choose_dtype("auto") == "float32"
    with pytest.raises(InputError, match="no bfloat16 units"):
        precision.choose_dtype("bfloat16")


def test_the_learning_rate_warms_up_and_decays_to_its_final_share() -> None:
    for schedule in ("cosine", "linear"):
        config = dataclasses.replace(
            CONFIG, schedule=schedule, warmup_share=0.1, final_share=0.02, learning_rate=1.0
        )
        rates = [learning_rate(step, 100, config) for step in range(100)]
        assert rates[:11] == pytest.approx([0.1 * (i + 1) for i in range(10)] + [1.0])
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert rates[-1] == pytest.approx(0.02)
        assert learning_rate(0, 1, config) == 1.0
    assert rates[55] == pytest.approx(1 - 0.98 * 45 / 89)


def test_every_key_says_what_it_is_and_refuses_what_it_cannot_be() -> None:
    for field in dataclasses.fields(TrainConfig):
        assert len(field.metadata["help"]) > 20, field.name
    for bad in ({"batch_size": 0}, {"warmup_share": 1.0}, {"epochs": 0}, {"max_tokens": 1}):
        with pytest.raises(InputError, match=f"train.{next(iter(bad))} is .* out of range"):
            TrainConfig(**bad)


def test_two_runs_in_one_folder_are_refused(
    fit: Callable[..., TrainResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(_progress: TrainProgress) -> None:
        fit()

    with pytest.raises(InputError, match="is using this"):
        fit(progress=again)


def test_steps_follow_from_epochs(fit: Callable[..., TrainResult]) -> None:
    assert fit(steps=None, epochs=1.5, batch_size=10).planned_steps == 4  # 1.5 * 24 / 10
    assert loop.learning_rate(0, 4, CONFIG) > 0


def test_frozen_layers_and_embeddings_do_not_change(tiny_model: Any) -> None:
    from stillhouse.distill.freezing import freeze

    model = tiny_model(layers=3)
    freeze(model, embeddings=True, layers=2)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("model.layers.2.", "model.norm"))
    }
    with pytest.raises(InputError, match="freeze at most 2"):
        freeze(model, embeddings=True, layers=3)
