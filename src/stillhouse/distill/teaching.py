"""The teacher's side of white-box training: its word on batches of examples, live or kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from stillhouse.distill.divergences import (
    CacheKey,
    Head,
    HiddenStates,
    TeacherCache,
    build_cache,
)
from stillhouse.distill.states import reply_states
from stillhouse.exchanges import content_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stillhouse.distill.distribution import DivergenceConfig
    from stillhouse.distill.divergences import Signal
    from stillhouse.distill.examples import Example, Examples
    from stillhouse.teachers.local import LocalModel

SplitName = Literal["train", "validation"]


class Teacher(Protocol):
    """What `DistributionObjective` asks of a teacher."""

    @property
    def vocabulary(self) -> int:
        """The number of ids that it shares with the student."""

    @property
    def identity(self) -> str:
        """All that its word hangs on, as text."""

    def word(
        self, split: SplitName, places: Sequence[int], examples: Sequence[Example]
    ) -> tuple[Signal, list[torch.Tensor]]:
        """The signal on the examples' reply tokens, and all layers' states where asked for."""


class LiveTeacher:
    """A model that reads every batch."""

    def __init__(self, local: LocalModel, config: DivergenceConfig, vocabulary: int):
        self.vocabulary = vocabulary
        self.identity = f"live {local.fingerprint} {local.dtype}"
        self._model = local.model
        self._head = Head.of(local.model)
        self._pack, self._every = config.packing, config.hidden_states is not None

    @torch.no_grad()
    def word(
        self, _split: SplitName, _places: Sequence[int], examples: Sequence[Example]
    ) -> tuple[Signal, list[torch.Tensor]]:
        """See `Teacher`."""
        layers = reply_states(self._model, examples, pack=self._pack, every=self._every)
        signal = HiddenStates(hidden_MD=layers[-1], head=self._head)
        return signal, layers if self._every else []


@dataclass(frozen=True, slots=True)
class KeptTeacher:
    """What a teacher said once, in a cache for each split; `head` is needed for hidden states."""

    caches: dict[SplitName, TeacherCache]
    head: Head | None
    vocabulary: int

    @property
    def identity(self) -> str:
        """See `Teacher`."""
        return content_digest([cache.key.as_json() for cache in self.caches.values()])

    def word(
        self, split: SplitName, places: Sequence[int], _examples: Sequence[Example]
    ) -> tuple[Signal, list[torch.Tensor]]:
        """See `Teacher`."""
        return self.caches[split].signal(places, head=self.head), []


def keep(
    local: LocalModel,
    config: DivergenceConfig,
    vocabulary: int,
    examples: dict[SplitName, Examples],
    folder: Path,
    *,
    template: str,
    seed: int,
    progress: Callable[[SplitName, int, int], None],
) -> KeptTeacher:
    """Let the teacher read each reply once; `folder` keeps it in a file for each split.

    Killed at any time and called again, it goes on where it was; files that stand are opened.
    Raises `InputError` for files of another teacher, template, data or payload.
    """
    head = Head.of(local.model)
    width = int(head.weight_VD.shape[1])
    caches: dict[SplitName, TeacherCache] = {}
    for split, found in examples.items():
        key = CacheKey(
            teacher=content_digest([local.fingerprint, local.dtype]),
            template=content_digest(template),
            data=found.digest(),
            payload=config.payload(vocabulary, width),
            seed=seed,
        )

        def states_of(part: range, every: tuple[Example, ...] = found.examples) -> torch.Tensor:
            return _states(local.model, every[part.start : part.stop], pack=config.packing)

        def show(done: int, total: int, split: SplitName = split) -> None:
            progress(split, done, total)

        caches[split] = build_cache(
            folder / f"{split}.cache",
            key,
            [example.reply_tokens for example in found.examples],
            states_of,
            head,
            progress=show,
        )
    return KeptTeacher(caches, head if config.keep == "hidden" else None, vocabulary)


READ_TOKENS = 4096  # that the teacher reads in one forward pass


@torch.no_grad()
def _states(model: Any, examples: Sequence[Example], *, pack: bool) -> torch.Tensor:
    parts, held = [], 0
    begun = 0
    for place, example in enumerate(examples):
        if held and held + len(example.ids) > READ_TOKENS:
            parts.append(reply_states(model, examples[begun:place], pack=pack)[-1])
            begun, held = place, 0
        held += len(example.ids)
    parts.append(reply_states(model, examples[begun:], pack=pack)[-1])
    return torch.cat(parts)
