"""The training loop behind `training.train`: its state is small, explicit and resumable."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import torch

from stillhouse.distill.checkpoints import STUDENT, CheckpointFolder, load, weights_digest, whole
from stillhouse.distill.examples import build_examples, epoch_batches
from stillhouse.distill.freezing import freeze
from stillhouse.distill.objective import DistributionObjective, RepliesObjective
from stillhouse.distill.precision import choose_dtype
from stillhouse.distill.ranks import Ranks
from stillhouse.distill.training import CurvePoint, TrainProgress, TrainResult
from stillhouse.exchanges import InputError, RunLock
from stillhouse.students import close_tail, save_student
from stillhouse.teachers.template import ChatTemplate
from stillhouse.teachers.weights import end_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from stillhouse.distill.examples import Examples, Target
    from stillhouse.distill.teaching import SplitName, Teacher
    from stillhouse.distill.training import TrainConfig
    from stillhouse.parity.items import TrainSplit, ValidationSplit

# What changes nothing in the weights, or by rounding only, may change between attempts.
_FREE = ("checkpoint_seconds", "checkpoint_steps", "processes", "shard")


@dataclass(slots=True)
class _State:
    """Everything a resumed run needs beside weights, optimiser and random numbers."""

    step: int = 0
    best_step: int | None = None
    best_loss: float = math.inf
    without_best: int = 0
    since_point: list[float] = field(default_factory=lambda: [0.0, 0.0])  # loss sum, reply tokens
    curve: list[tuple[int, float, float, float | None]] = field(default_factory=list)
    tokens: int = 0
    reply_tokens: int = 0
    seconds: float = 0.0
    threads: list[int] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
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
    teacher: Teacher | None,
    ranks: Ranks | None,
    compiled: bool,
) -> TrainResult:
    """See `training.train`."""
    ranks = ranks or Ranks()
    if student.dtype != torch.float32:
        raise InputError(
            f"the student's weights are {student.dtype}; small updates would be rounded away",
            repair="load it with dtype float32 (train.dtype sets the precision of the products)",
        )
    if (config.divergence is None) != (teacher is None):
        raise InputError("train.divergence and a teacher go together")
    sets = prepare(student, tokenizer, train, validation, targets, config, labels)
    dtype = choose_dtype(config.dtype)
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE}
    if config.divergence is not None:
        settings["divergence"].pop("model")  # the teacher's identity says which, wherever it lies
    key = {
        **{f"train.{name}": str(value) for name, value in settings.items()},
        "computed dtype": dtype,
        "seed": str(seed),
        "training data": sets["train"].digest(),
        "validation data": sets["validation"].digest(),
        "student": weights_digest(student.state_dict()),
        "student config": _config_digest(student.config),
    }
    objective: RepliesObjective | DistributionObjective
    if config.divergence is not None and teacher is not None:
        key |= {"teacher": teacher.identity, "compiled": str(compiled)}
        objective = DistributionObjective(
            student, sets, dtype, config.divergence, teacher, compiled=compiled
        )
    else:
        objective = RepliesObjective(student, sets, dtype, config.writing_weight)
    with RunLock(folder) if ranks.leads else contextlib.nullcontext(), ranks.together():
        checkpoints = CheckpointFolder(folder, key, ranks)
        finished = checkpoints.read_result()
        if ranks.share(finished is not None):
            checkpoints.drop_checkpoint()
            return ranks.share(finished)  # type: ignore[no-any-return]
        written = sum(len(targets[e.id].reply.encode()) for e in sets["validation"].examples)
        loop = _Loop(objective, sets, config, checkpoints, seed, ranks, validation_bytes=written)
        state = loop.train(progress)
        ordinary = whole(student, ranks)
        if teacher is not None and teacher.kept is not None:
            ordinary = close_tail(ordinary)
        # A kill after the rename of an earlier attempt leaves the same student here.
        if ranks.leads and not (folder / STUDENT).exists():
            save_student(ordinary, tokenizer, folder / STUDENT)
        result = TrainResult(
            student=folder / STUDENT,
            weights_sha256=weights_digest(ordinary.state_dict()),
            steps=state.step,
            planned_steps=loop.steps,
            best_step=state.best_step or 0,
            best_validation_loss=state.best_loss,
            stopped_early=state.step < loop.steps,
            examples=len(sets["train"].examples),
            tokens=state.tokens,
            reply_tokens=state.reply_tokens,
            skipped={name: dict(found.skipped) for name, found in sets.items()},
            dtype=dtype,
            threads=tuple(state.threads),
            processes=tuple(state.processes),
            seconds=state.seconds,
            curve=tuple(
                CurvePoint(step=step, train_loss=a, validation_loss=b, bits_per_byte=c)
                for step, a, b, c in state.curve
            ),
        )
        checkpoints.write_result(result)
    return result


def prepare(
    student: Any,
    tokenizer: Any,
    train: TrainSplit,
    validation: ValidationSplit,
    targets: Mapping[str, Target],
    config: TrainConfig,
    labels: Sequence[str],
) -> dict[SplitName, Examples]:
    """The examples of both splits, as the student reads them."""
    template = ChatTemplate(tokenizer, end_ids(student, tokenizer), "the student's tokenizer")
    window = getattr(student.config, "max_position_embeddings", None) or 1 << 30
    building: dict[str, Any] = {
        "window": min(window, config.max_tokens or window),
        "labels": labels,
        # A divergence is from the whole distribution at that token: labels have no part in it.
        "label_targets": config.label_targets if config.divergence is None else "hard",
        "overlong": config.overlong,
    }
    return {
        "train": build_examples(train.items, targets, template, **building),
        "validation": build_examples(validation.items, targets, template, **building),
    }


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
        objective: RepliesObjective | DistributionObjective,
        sets: Mapping[SplitName, Examples],
        config: TrainConfig,
        checkpoints: CheckpointFolder,
        seed: int,
        ranks: Ranks,
        *,
        validation_bytes: int,
    ):
        self.objective, self.config, self.seed = objective, config, seed
        self.model = model = objective.model
        self.sets, self.checkpoints, self.ranks = sets, checkpoints, ranks
        self.validation_bytes = validation_bytes
        self.lengths = {name: [len(e.ids) for e in found.examples] for name, found in sets.items()}
        self.steps = config.steps or math.ceil(
            config.epochs * len(self.lengths["train"]) / config.batch_size
        )
        freeze(model, embeddings=config.freeze_embeddings, layers=config.freeze_layers)
        self.module = ranks.wrap(objective)
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
                due = self.ranks.share(now - last_write >= config.checkpoint_seconds)
                if due or self.state.done or state.step - last_step >= every:
                    self._checkpoint()
                    last_write, last_step = time.monotonic(), state.step
        if self.best is not None:
            load(self.parameters, self.best)
        self.model.eval()
        return state

    def _step(self, rate: float) -> float:
        """Take one optimiser step; return its mean loss per reply token."""
        state, config, ranks = self.state, self.config, self.ranks
        examples = self.sets["train"].examples
        batch = self._batch(state.step)
        # Normalised over the whole step, so that its division into micro-batches, and of those
        # among processes (whose gradients are averaged), does not matter.
        reply_tokens = sum(examples[i].reply_tokens for i in batch)
        divisor = reply_tokens / ranks.size
        lengths = self.lengths["train"]
        self.model.train()
        total = 0.0
        rounds = ranks.mine(self.objective.parts(batch, lengths, config.micro_batch_tokens))
        for number, part in enumerate(rounds):
            with ranks.collecting(self.module, last=number + 1 == len(rounds)):
                loss = self.module("train", part or _least(batch, lengths))
                # One without a part of its own works for nothing, since the others wait for it.
                (loss / divisor if part else loss * 0.0).backward()
            total += loss.item() if part else 0.0
        (total,) = ranks.total(total)
        norm = float(
            _full(torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.clip_norm))
        )
        if not math.isfinite(total) or not math.isfinite(norm):
            raise InputError(
                f"training diverged at step {state.step + 1}: loss {total / reply_tokens}, "
                f"gradient norm {norm}",
                repair="lower train.learning_rate, or set train.dtype to float32",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.since_point[0] += total
        state.since_point[1] += reply_tokens
        state.tokens += sum(lengths[i] for i in batch)
        state.reply_tokens += reply_tokens
        state.done = state.step == self.steps
        return total / reply_tokens

    def _batch(self, step: int) -> list[int]:
        lengths = self.lengths["train"]
        per_epoch = math.ceil(len(lengths) / self.config.batch_size)
        number, place = divmod(step, per_epoch)
        if self.epoch is None or self.epoch[0] != number:
            batches = epoch_batches(lengths, self.config.batch_size, seed=self.seed, epoch=number)
            self.epoch = (number, batches)
        return self.epoch[1][place]

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Measure the validation loss; keep the weights when it is the best so far."""
        state, lengths = self.state, self.lengths["validation"]
        self.model.eval()
        total = nats = 0.0
        every = range(len(lengths))
        parts = self.objective.parts(every, lengths, self.config.micro_batch_tokens)
        for part in self.ranks.mine(parts):
            found = self.objective("validation", part or _least(every, lengths), measure=True)
            if part:
                total, nats = total + found[0].item(), nats + found[1].item()
        total, nats = self.ranks.total(total, nats)
        reply_tokens = sum(e.reply_tokens for e in self.sets["validation"].examples)
        loss = total / reply_tokens
        bits = nats / math.log(2) / self.validation_bytes
        if not math.isfinite(loss):
            raise InputError(
                f"the validation loss at step {state.step} is {loss}",
                repair="lower train.learning_rate, or set train.dtype to float32",
            )
        trained = state.since_point[0] / state.since_point[1]
        state.curve.append((state.step, trained, loss, None if math.isnan(bits) else bits))
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
        random = self.ranks.gather(torch.get_rng_state())
        state = {**asdict(self.state), "random": random}
        self.checkpoints.write(state, self.parameters, self.optimizer, self.best)

    def _resume(self) -> _State:
        found = self.checkpoints.read(self.parameters, self.optimizer)
        if found is not None:
            stored, self.best = found
            random = stored.pop("random")
            torch.set_rng_state(random[self.ranks.rank if self.ranks.rank < len(random) else 0])
            self.state = _State(**stored)
        for value, seen in (
            (torch.get_num_threads(), self.state.threads),
            (self.ranks.size, self.state.processes),
        ):
            if value not in seen:
                seen.append(value)
        return self.state


def _least(batch: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """The shortest example of a batch."""
    return [min(batch, key=lambda i: lengths[i])]


def _full(value: Any) -> Any:
    """A sharded value as all of it; needs every rank."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
