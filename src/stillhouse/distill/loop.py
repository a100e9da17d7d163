"""The training loop behind `training.train`: its state is small, explicit and resumable."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import orjson
import torch

from stillhouse.distill.checkpoints import STUDENT, CheckpointFolder, weights_digest
from stillhouse.distill.examples import build_examples, epoch_batches, micro_batches
from stillhouse.distill.freezing import freeze
from stillhouse.distill.loss import make_batch, reply_loss
from stillhouse.distill.precision import choose_dtype, compute_in
from stillhouse.distill.training import CurvePoint, TrainProgress, TrainResult
from stillhouse.exchanges import InputError, RunLock
from stillhouse.students import merged, save_student
from stillhouse.teachers.template import ChatTemplate
from stillhouse.teachers.weights import end_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from stillhouse.distill.examples import Examples, Target
    from stillhouse.distill.training import TrainConfig
    from stillhouse.parity.items import TrainSplit, ValidationSplit

# How often to checkpoint changes nothing in the weights, so it may change between attempts.
_FREE = ("checkpoint_seconds", "checkpoint_steps")


@dataclass(slots=True)
class _State:
    """Everything a resumed run needs beside weights, optimiser and random numbers."""

    step: int = 0
    best_step: int | None = None
    best_loss: float = math.inf
    without_best: int = 0
    since_point: list[float] = field(default_factory=lambda: [0.0, 0.0])  # loss sum, reply tokens
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    tokens: int = 0
    reply_tokens: int = 0
    seconds: float = 0.0
    threads: list[int] = field(default_factory=list)
    done: bool = False


def run(
    student: Any,
    tokenizer: Any,
    train: TrainSplit,
    validation: ValidationSplit,
    targets: Mapping[str, Target],
    config: TrainConfig,
    folder: Path,
    progress: Callable[[TrainProgress], None],
    *,
    seed: int,
    labels: Sequence[str],
) -> TrainResult:
    """See `training.train`."""
    if student.dtype != torch.float32:
        raise InputError(
            f"the student's weights are {student.dtype}; small updates would be rounded away",
            repair="load it with dtype float32 (train.dtype sets the precision of the products)",
        )
    template = ChatTemplate(tokenizer, end_ids(student, tokenizer), "the student's tokenizer")
    window = getattr(student.config, "max_position_embeddings", None) or 1 << 30
    building: dict[str, Any] = {
        "window": min(window, config.max_tokens or window),
        "labels": labels,
        "label_targets": config.label_targets,
        "overlong": config.overlong,
        "cut_replies": config.cut_replies,
    }
    train_set = build_examples(train.items, targets, template, **building)
    validation_set = build_examples(validation.items, targets, template, **building)
    dtype = choose_dtype(config.dtype)
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE}
    key = {
        **{f"train.{name}": str(value) for name, value in settings.items()},
        "computed dtype": dtype,
        "seed": str(seed),
        "training data": train_set.digest(),
        "validation data": validation_set.digest(),
        "student": weights_digest(student.state_dict()),
        "student config": _config_digest(student.config),
    }
    with RunLock(folder):
        checkpoints = CheckpointFolder(folder, key)
        finished = checkpoints.read_result()
        if finished is not None:
            checkpoints.drop_checkpoint()
            return finished
        loop = _Loop(student, train_set, validation_set, config, dtype, checkpoints, seed)
        state = loop.train(progress)
        ordinary = merged(student)
        # A kill after the rename of an earlier attempt leaves the same student here.
        if not (folder / STUDENT).exists():
            save_student(ordinary, tokenizer, folder / STUDENT)
        result = TrainResult(
            student=folder / STUDENT,
            weights_sha256=weights_digest(ordinary.state_dict()),
            steps=state.step,
            planned_steps=loop.steps,
            best_step=state.best_step or 0,
            best_validation_loss=state.best_loss,
            stopped_early=state.step < loop.steps,
            examples=len(train_set.examples),
            tokens=state.tokens,
            reply_tokens=state.reply_tokens,
            skipped={"train": dict(train_set.skipped), "validation": dict(validation_set.skipped)},
            dtype=dtype,
            threads=tuple(state.threads),
            seconds=state.seconds,
            curve=tuple(
                CurvePoint(step=step, train_loss=a, validation_loss=b) for step, a, b in state.curve
            ),
        )
        checkpoints.write_result(result)
    return result


def _config_digest(config: Any) -> str:
    # Where a student was read from is no part of what it is.
    plain = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    return hashlib.sha256(orjson.dumps(plain, default=str, option=options)).hexdigest()


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Return the rate of step `step` (from 0): linear warm-up, then decay to the final share."""
    warmup = round(config.warmup_share * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    along = (step - warmup) / max(1, steps - 1 - warmup)
    fall = along if config.schedule == "linear" else (1 - math.cos(math.pi * along)) / 2
    return config.learning_rate * (1 - (1 - config.final_share) * fall)


class _Loop:
    def __init__(
        self,
        model: Any,
        train: Examples,
        validation: Examples,
        config: TrainConfig,
        dtype: Literal["float32", "bfloat16"],
        checkpoints: CheckpointFolder,
        seed: int,
    ):
        self.model, self.config, self.seed = model, config, seed
        self.train_set, self.validation_set = train, validation
        self.checkpoints, self.dtype = checkpoints, dtype
        self.lengths = [len(example.ids) for example in train.examples]
        self.steps = config.steps or math.ceil(
            config.epochs * len(self.lengths) / config.batch_size
        )
        freeze(model, embeddings=config.freeze_embeddings, layers=config.freeze_layers)
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        groups = [
            {
                "params": [p for p in self.parameters.values() if p.ndim > 1],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in self.parameters.values() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            betas=(0.9, config.beta2),
            fused=True,
        )
        self.state = _State()
        self.best: dict[str, torch.Tensor] | None = None
        self.epoch: tuple[int, list[list[int]]] | None = None

    def train(self, progress: Callable[[TrainProgress], None]) -> _State:
        """Train to the end, leave the best weights in the model, and return the final state."""
        state, config = self.state, self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            state = self._resume()
            began, first, tokens_before = time.monotonic(), state.seconds, state.tokens
            last_write, last_step = began, state.step
            while not state.done:
                rate = learning_rate(state.step, self.steps, config)
                loss = self._step(rate)
                if state.step % config.evaluate_every == 0 or state.step == self.steps:
                    self._evaluate()
                now = time.monotonic()
                state.seconds = first + now - began
                speed = (state.tokens - tokens_before) / max(now - began, 1e-9)
                per_step = state.tokens / state.step
                progress(
                    TrainProgress(
                        step=state.step,
                        steps=self.steps,
                        loss=loss,
                        validation_loss=state.curve[-1][2] if state.curve else None,
                        learning_rate=rate,
                        tokens_per_second=speed,
                        eta_seconds=(self.steps - state.step) * per_step / max(speed, 1e-9),
                    )
                )
                every = config.checkpoint_steps or self.steps
                due = now - last_write >= config.checkpoint_seconds
                if due or self.state.done or state.step - last_step >= every:
                    self._checkpoint()
                    last_write, last_step = time.monotonic(), state.step
        if self.best is not None:
            self._load(self.best)
        self.model.eval()
        return state

    def _step(self, rate: float) -> float:
        """Take one optimiser step; return its mean loss per reply token."""
        state, config = self.state, self.config
        examples = self.train_set.examples
        batch = self._batch(state.step)
        # Normalised over the whole step, so that its division into micro-batches does not matter.
        reply_tokens = sum(examples[i].reply_tokens for i in batch)
        self.model.train()
        total = 0.0
        for part in micro_batches(batch, self.lengths, config.micro_batch_tokens):
            tensors = make_batch([examples[i] for i in part], self.train_set.label_tokens)
            with compute_in(self.dtype):
                loss = reply_loss(self.model, tensors, config.writing_weight)
            (loss / reply_tokens).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.clip_norm)
        if not math.isfinite(total) or not math.isfinite(norm):
            raise InputError(
                f"training diverged at step {state.step + 1}: loss {total / reply_tokens}, "
                f"gradient norm {float(norm)}",
                repair="lower train.learning_rate, or set train.dtype to float32",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.since_point[0] += total
        state.since_point[1] += reply_tokens
        state.tokens += sum(self.lengths[i] for i in batch)
        state.reply_tokens += reply_tokens
        state.done = state.step == self.steps
        return total / reply_tokens

    def _batch(self, step: int) -> list[int]:
        per_epoch = math.ceil(len(self.lengths) / self.config.batch_size)
        number, place = divmod(step, per_epoch)
        if self.epoch is None or self.epoch[0] != number:
            batches = epoch_batches(
                self.lengths, self.config.batch_size, seed=self.seed, epoch=number
            )
            self.epoch = (number, batches)
        return self.epoch[1][place]

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Measure the validation loss; keep the weights when it is the best so far."""
        state, examples = self.state, self.validation_set.examples
        lengths = [len(example.ids) for example in examples]
        self.model.eval()
        total = 0.0
        for part in micro_batches(range(len(examples)), lengths, self.config.micro_batch_tokens):
            tensors = make_batch([examples[i] for i in part], self.validation_set.label_tokens)
            with compute_in(self.dtype):
                total += reply_loss(self.model, tensors, self.config.writing_weight).item()
        loss = total / sum(example.reply_tokens for example in examples)
        if not math.isfinite(loss):
            raise InputError(
                f"the validation loss at step {state.step} is {loss}",
                repair="lower train.learning_rate, or set train.dtype to float32",
            )
        state.curve.append((state.step, state.since_point[0] / state.since_point[1], loss))
        state.since_point = [0.0, 0.0]
        if loss < state.best_loss:
            state.best_loss, state.best_step, state.without_best = loss, state.step, 0
            self.best = {name: p.detach().clone() for name, p in self.parameters.items()}
        else:
            state.without_best += 1
            patience = self.config.patience
            if patience is not None and state.without_best >= patience:
                state.done = True

    def _checkpoint(self) -> None:
        self.checkpoints.write(
            {
                **asdict(self.state),
                "weights": dict(self.parameters),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
            },
            self.best,
        )

    def _resume(self) -> _State:
        found = self.checkpoints.read()
        if found is not None:
            stored, self.best = found
            self._load(stored.pop("weights"))
            self.optimizer.load_state_dict(stored.pop("optimizer"))
            torch.set_rng_state(stored.pop("random"))
            stored.pop("key")
            self.state = _State(**stored)
        threads = torch.get_num_threads()
        if threads not in self.state.threads:
            self.state.threads.append(threads)
        return self.state

    @torch.no_grad()
    def _load(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
