"""Train a student on replies; the run can be killed at any time and resumed to the same weights.

This file holds what a caller sees and needs no torch to import; the loop is in `loop`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillhouse.distill.distribution import DivergenceConfig
from stillhouse.exchanges import InputError
from stillhouse.parity.items import TrainSplit, ValidationSplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stillhouse.distill.examples import Target
    from stillhouse.distill.ranks import Ranks
    from stillhouse.distill.teaching import Teacher


def _key(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How training goes. Every default is for a cut student of tens of millions of parameters."""

    epochs: float = _key(3.0, "passes over the training examples; early stopping may end sooner")
    steps: int | None = _key(None, "optimiser steps, instead of epochs")
    batch_size: int = _key(
        32, "examples per optimiser step; enough to average out single replies' noise"
    )
    micro_batch_tokens: int = _key(
        4096, "most tokens, padding included, in one forward pass: bounds memory, not the result"
    )
    learning_rate: float = _key(
        3e-4, "peak step size of AdamW; about ten times what whole models are tuned with, "
        "because a cut model has to be repaired (use 1e-4 or 2e-4 with LoRA on a whole one)"
    )  # fmt: skip
    schedule: Literal["cosine", "linear"] = _key(
        "cosine", "decay of the learning rate after warm-up"
    )
    warmup_share: float = _key(
        0.1, "share of the steps that raise the rate linearly; Adam's averages need some steps"
    )
    final_share: float = _key(
        0.02, "learning rate of the last step as a share of the peak; near zero settles the weights"
    )
    weight_decay: float = _key(
        0.01, "decay of matrices per unit of learning rate (AdamW); vectors such as norms have none"
    )
    beta2: float = _key(
        0.98, "decay of Adam's squared-gradient average; 0.999 remembers longer than a short run"
    )
    clip_norm: float = _key(1.0, "largest norm of a step's whole gradient; longer ones are scaled")
    dtype: Literal["auto", "float32", "bfloat16"] = _key(
        "auto",
        "precision of the matrix products; weights, gradients and optimiser stay float32. "
        "auto: bfloat16 where the CPU has units for it",
    )
    freeze_embeddings: bool = _key(
        True,
        "leave embedding and head as they are: half the parameters of a small student, and "
        "most of their rows never occur in a task's data. No effect with LoRA",
    )
    freeze_layers: int = _key(
        0,
        "leave that many of the first layers as they are: they hold what a cut model can keep, and "
        "need no backward pass. No effect with LoRA",
    )
    label_targets: Literal["soft", "hard"] = _key(
        "soft",
        "soft: train the first reply token on the teacher's label probabilities where the teacher "
        "gave them; hard: on the label alone",
    )
    writing_weight: float = _key(
        0.01,
        "with soft label targets: weight of writing a label at all and ending there, beside which "
        "label it is; 1 is plain cross-entropy over the vocabulary, 0 a student that only scores",
    )
    divergence: DivergenceConfig | None = _key(
        None,
        "learn the teacher's whole next-token distributions at the replies' tokens, instead of "
        "the tokens alone; needs a teacher of the same vocabulary on this machine",
    )
    max_tokens: int | None = _key(
        None, "longest example in tokens, prompt and reply; the model's window when absent"
    )
    overlong: Literal["error", "skip"] = _key(
        "error", "what an example beyond max_tokens does; nothing is ever truncated"
    )
    evaluate_every: int = _key(50, "steps between two measurements of the validation loss")
    patience: int | None = _key(
        5, "stop after this many evaluations without a new best; null: never stop early"
    )
    checkpoint_seconds: float = _key(
        60.0, "wall time between two checkpoints: the most work a kill can cost"
    )
    checkpoint_steps: int | None = _key(
        None, "steps between two checkpoints, beside the wall time; for slow steps"
    )
    processes: int = _key(
        1,
        "processes that share each batch on this machine; under torchrun, its own number. More "
        "than one changes the result by rounding only",
    )
    shard: bool = _key(
        False,
        "with several processes: each holds a part of weights, gradients and optimiser (FSDP2) "
        "instead of all of them (DDP)",
    )

    def __post_init__(self) -> None:
        rules = {
            "epochs": self.epochs > 0,
            "steps": self.steps is None or self.steps >= 1,
            "batch_size": self.batch_size >= 1,
            "micro_batch_tokens": self.micro_batch_tokens >= 1,
            "learning_rate": self.learning_rate > 0,
            "warmup_share": 0 <= self.warmup_share < 1,
            "final_share": 0 <= self.final_share <= 1,
            "weight_decay": self.weight_decay >= 0,
            "beta2": 0 < self.beta2 < 1,
            "clip_norm": self.clip_norm > 0,
            "writing_weight": self.writing_weight >= 0,
            "max_tokens": self.max_tokens is None or self.max_tokens >= 2,
            "freeze_layers": self.freeze_layers >= 0,
            "evaluate_every": self.evaluate_every >= 1,
            "patience": self.patience is None or self.patience >= 1,
            "checkpoint_seconds": self.checkpoint_seconds >= 0,
            "checkpoint_steps": self.checkpoint_steps is None or self.checkpoint_steps >= 1,
            "processes": self.processes >= 1,
        }
        for name, holds in rules.items():
            if not holds:
                raise InputError(
                    f"train.{name} is {getattr(self, name)}, which is out of range",
                    repair="docs/recipe.md gives the meaning and the unit of each key",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainProgress:
    """Where training is; `loss` is the last step's mean in nats per reply token."""

    step: int
    steps: int
    loss: float
    validation_loss: float | None
    learning_rate: float
    tokens_per_second: float
    eta_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Mean losses in nats per reply token: training since the last point, validation at `step`.

    The loss is the recipe's own: cross-entropy, or the divergence. `bits_per_byte` is what the
    student spends on the validation replies' text, their ends included; None for soft labels.
    """

    step: int
    train_loss: float
    validation_loss: float
    bits_per_byte: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What training did. `student` is an ordinary model folder with the best step's weights.

    Everything but `seconds` is the same for the same inputs at the same thread count.
    `weights_sha256` is over names, shapes and bytes of all the weights; `threads` and `processes`
    list every thread count and number of processes that the run was worked on with (more than one:
    not exactly repeatable); `seconds` is wall time over all attempts, as far as checkpoints know.
    """

    student: Path
    weights_sha256: str
    steps: int
    planned_steps: int
    best_step: int
    best_validation_loss: float
    stopped_early: bool
    examples: int
    tokens: int
    reply_tokens: int
    skipped: dict[str, dict[str, int]]
    dtype: Literal["float32", "bfloat16"]
    threads: tuple[int, ...]
    seconds: float
    processes: tuple[int, ...] = (1,)
    curve: tuple[CurvePoint, ...]


def train(
    student: Any,
    tokenizer: Any,
    train: TrainSplit,
    validation: ValidationSplit,
    targets: Mapping[str, Target],
    config: TrainConfig,
    folder: Path,
    progress: Callable[[TrainProgress], None] | None = None,
    *,
    seed: int,
    labels: Sequence[str] = (),
    teacher: Teacher | None = None,
    ranks: Ranks | None = None,
    compiled: bool = False,
) -> TrainResult:
    """Train `student` (changed in place) on the targets of `train` and save the best in `folder`.

    `student` is a causal model in float32, plain or with adapters (only parameters that require a
    gradient are trained), and must be the same at every resume. `targets` are keyed by item id and
    cover both splits; `labels` are a label task's, in the order of `label_scores`. `teacher` gives
    the distributions that `config.divergence` asks for; `compiled` fuses the arithmetic of such a
    loss (a C++ compiler is needed, and must be at every resume). With `ranks` every process of a
    group calls this with the same arguments, and each takes its part of every batch. `folder` then
    holds `student/` and `result.json`; until then a checkpoint. Called again it continues, or
    returns the finished result without training.

    A run killed at any time and called again ends with weights that are bit-identical to those of
    an undisturbed run on the same machine and thread count.

    Raises `TypeError` for splits of any other kind (`TestSplit` above all), `InputError` for
    examples that cannot be built, ids in both splits, a checkpoint of another configuration, data
    or student, and a loss that is not finite.
    """
    if type(train) is not TrainSplit or type(validation) is not ValidationSplit:
        raise TypeError(
            f"training takes a TrainSplit and a ValidationSplit, not {type(train).__name__} and "
            f"{type(validation).__name__}: test items may only be judged on"
        )
    shared = {item.id for item in train.items} & {item.id for item in validation.items}
    if shared:
        raise InputError(
            f"{len(shared)} items are in the training and the validation split, such as "
            f"{min(shared)}",
            repair="give every item one split",
        )
    from stillhouse.distill import loop

    return loop.run(
        student,
        tokenizer,
        train,
        validation,
        targets,
        config,
        folder,
        progress or (lambda _progress: None),
        seed=seed,
        labels=labels,
        teacher=teacher,
        ranks=ranks,
        compiled=compiled,
    )
