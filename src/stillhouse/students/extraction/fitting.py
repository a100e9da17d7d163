"""Training of an extracting student: resumable, on documents and the teacher's replies alone."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import torch

from stillhouse.exchanges import InputError, storage
from stillhouse.students.extraction.examples import Example, Reply, make_batch, prepare_example
from stillhouse.students.extraction.model import Extractor, loss_of
from stillhouse.students.extraction.pieces import SHAPES
from stillhouse.students.extraction.predicting import predict
from stillhouse.students.extraction.recombination import Recombiner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stillhouse.students.extraction.model import Batch
    from stillhouse.students.extraction.pieces import Cutter

Document = tuple[str, Reply, str]  # text, the teacher's values, group (layout)

_ROUND = 4  # batches drawn together and sorted by length
_WORDS = 5  # shapes above this are words


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """`recombined` and `masked` are shares of documents and of words; steps are batches."""

    steps: int
    batch_size: int = 16
    learning_rate: float = 2e-4
    head_factor: float = 10.0
    warm_up: int = 40
    recombined: float = 0.85
    masked: float = 0.08
    average: float = 0.98
    evaluate_every: int = 100
    keep_every_s: float = 120.0


@dataclass(slots=True)
class Fitted:
    """Where a training stands: what a checkpoint holds beside the tensors."""

    step: int = 0
    best_step: int = 0
    best_share: float = -1.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    pieces: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)


def fit(
    model: Extractor,
    cutter: Cutter,
    train: Sequence[Document],
    validation: Sequence[Document],
    settings: FitSettings,
    *,
    seed: int,
    checkpoint: Path,
    say: Callable[[str], None],
) -> Fitted:
    """Train `model` in place and leave in it the averaged weights that were best on validation.

    Best: the largest share of fields that equal the teacher's, nulls included. The loss reads
    nothing but documents and replies. Batches depend on `seed` and the step alone, so that a
    killed run goes on from `checkpoint` as if undisturbed; a checkpoint of other settings, another
    seed or other documents is an `InputError`.
    """
    run = _Run(model, cutter, train, settings, seed)
    documents = hashlib.sha256(repr((list(train), list(validation))).encode()).hexdigest()
    key = repr((settings, seed, documents))
    run.restore(checkpoint, key)
    held = [prepare_example(text, reply, cutter) for text, reply, _ in validation]
    kept = time.monotonic()
    while run.at.step < settings.steps:
        started, used = time.monotonic(), time.process_time()
        loss = run.one_step()
        step = run.at.step
        if step % settings.evaluate_every == 0 or step == settings.steps:
            share = run.examine(held)
            run.at.curve.append((step, loss, share))
            say(f"step {step} of {settings.steps}: loss {loss:.4f}, validation {share:.2%}")
        run.at.cpu_s += time.process_time() - used
        run.at.wall_s += time.monotonic() - started
        if time.monotonic() - kept > settings.keep_every_s or step == settings.steps:
            run.keep(checkpoint, key)
            kept = time.monotonic()
    model.load_state_dict(run.best, strict=False)
    return run.at


class _Run:
    def __init__(
        self,
        model: Extractor,
        cutter: Cutter,
        train: Sequence[Document],
        settings: FitSettings,
        seed: int,
    ) -> None:
        self.at = Fitted()
        self._model, self._cutter, self._train = model, cutter, train
        self._settings, self._seed = settings, seed
        self._recombiner = Recombiner(train, model.fields)
        model.learn_relations(reply for _, reply, _ in train)
        body: list[torch.nn.Parameter] = []
        heads: list[torch.nn.Parameter] = []
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                (body if name.startswith("encoder.") else heads).append(weight)
        rate = settings.learning_rate
        self._optimiser = torch.optim.AdamW(
            [{"params": body, "lr": rate}, {"params": heads, "lr": rate * settings.head_factor}]
        )
        self._rates = [group["lr"] for group in self._optimiser.param_groups]
        self._learned = {n: w for n, w in model.named_parameters() if w.requires_grad}
        self._average = {n: w.detach().clone() for n, w in self._learned.items()}
        self.best = {n: w.clone() for n, w in self._average.items()}
        self._round: tuple[int, list[Batch]] = (-1, [])
        self._ordered: tuple[int, list[int]] = (-1, [])

    def one_step(self) -> float:
        """Learn from one batch; returns its loss."""
        at, settings = self.at, self._settings
        batch = self._batch(at.step)
        self._model.train()
        factor = min(1.0, (at.step + 1) / settings.warm_up) * (1 - at.step / settings.steps)
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = self._model(batch)
        loss = loss_of(scores, batch)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self._learned.values()), 1.0)
        self._optimiser.step()
        at.step += 1
        at.pieces += int(batch.here.sum())
        keep = min(settings.average, at.step / (at.step + 10))
        with torch.no_grad():
            for name, weight in self._learned.items():
                self._average[name].lerp_(weight, 1 - keep)
        return float(loss.detach())

    def examine(self, held: Sequence[Example]) -> float:
        """Share of fields like the teacher's under the averaged weights; keeps the best."""
        now = {name: weight.detach().clone() for name, weight in self._learned.items()}
        self._model.load_state_dict(self._average, strict=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = predict(self._model, held)
        self._model.load_state_dict(now, strict=False)
        same = [
            value == (example.reply or {}).get(name)
            for values, example in zip(found, held, strict=True)
            for name, value in values.items()
        ]
        share: float = sum(same) / len(same)
        if share > self.at.best_share:
            self.at.best_share, self.at.best_step = share, self.at.step
            self.best = {name: weight.clone() for name, weight in self._average.items()}
        return share

    def keep(self, path: Path, key: str) -> None:
        """Make the state durable."""
        state = {
            "key": key,
            "at": {name: getattr(self.at, name) for name in Fitted.__dataclass_fields__},
            "learned": self._learned,
            "average": self._average,
            "best": self.best,
            "optimiser": self._optimiser.state_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with storage.replacing(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: Path, key: str) -> None:
        """Go on from a checkpoint, if there is one."""
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["key"] != key:
            raise InputError(
                "this checkpoint is of another seed, other settings or other data",
                place=str(path),
                repair="remove the folder, or run with what it was started with",
            )
        self.at = Fitted(**state["at"])
        self._model.load_state_dict(state["learned"], strict=False)
        self._average, self.best = state["average"], state["best"]
        self._optimiser.load_state_dict(state["optimiser"])

    def _batch(self, step: int) -> Batch:
        number, inside = divmod(step, _ROUND)
        if self._round[0] != number:
            self._round = (number, self._draw(number))
        return self._round[1][inside]

    def _draw(self, number: int) -> list[Batch]:
        """The batches of one round, from the documents whose turn it is."""
        size, settings = self._settings.batch_size, self._settings
        random = Random(f"{self._seed} round {number}")
        taken = []
        for turn in range(number * size * _ROUND, (number + 1) * size * _ROUND):
            epoch, place = divmod(turn, len(self._train))
            taken.append(self._train[self._order(epoch)[place]])
        examples = []
        for text, reply, _ in taken:
            if random.random() < settings.recombined:
                text, reply = self._recombiner.recombine(text, reply, random)
            examples.append(prepare_example(text, reply, self._cutter))
        examples.sort(key=lambda one: len(one.pieces.ids))
        groups = [examples[at : at + size] for at in range(0, len(examples), size)]
        random.shuffle(groups)
        batches = [make_batch(group, self._model.fields) for group in groups]
        chance = torch.Generator().manual_seed(random.getrandbits(60))
        for batch in batches:
            hidden = torch.rand(batch.ids.shape, generator=chance) < settings.masked
            words = batch.shapes.remainder(SHAPES // 2) > _WORDS
            batch.ids[hidden & words] = self._cutter.mask
        return batches

    def _order(self, epoch: int) -> list[int]:
        if self._ordered[0] != epoch:
            order = list(range(len(self._train)))
            Random(f"{self._seed} epoch {epoch}").shuffle(order)
            self._ordered = (epoch, order)
        return self._ordered[1]
