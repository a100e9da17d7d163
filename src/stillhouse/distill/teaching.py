"""The teacher's side of white-box training: its word on batches of examples, live or kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        """How many of its ids are tokens; rows beyond are padding."""

    @property
    def kept(self) -> tuple[int, ...] | None:
        """Its id of each of the student's, where the student has a part of them and a tail."""

    @property
    def identity(self) -> str:
        """All that its word hangs on, as text."""

    def word(
        self, split: SplitName, places: Sequence[int], examples: Sequence[Example]
    ) -> tuple[Signal, list[torch.Tensor]]:
        """The signal on the examples' reply tokens, and all layers' states where asked for."""


class LiveTeacher:
    """A model that reads every batch."""

    def __init__(
        self,
        local: LocalModel,
        config: DivergenceConfig,
        vocabulary: int,
        kept: tuple[int, ...] | None = None,
    ):
        self.vocabulary, self.kept = vocabulary, kept
        self.identity = f"live {local.fingerprint} {local.dtype}"
        if kept is not None:
            self.identity += f" {content_digest(list(kept))}"
        self._model = local.model
        self._head = Head.of(local.model)
        self._pack, self._every = config.packing, config.hidden_states is not None

    @torch.no_grad()
    def word(
        self, _split: SplitName, _places: Sequence[int], examples: Sequence[Example]
    ) -> tuple[Signal, list[torch.Tensor]]:
        """See `Teacher`."""
        examples = in_its_ids(examples, self.kept)
        layers = reply_states(self._model, examples, pack=self._pack, every=self._every)
        signal = HiddenStates(hidden_MD=layers[-1], head=self._head, kept_K=_tensor(self.kept))
        return signal, layers if self._every else []


@dataclass(frozen=True, slots=True)
class KeptTeacher:
    """What a teacher said once, in a cache for each split; `head` is needed for hidden states."""

    caches: dict[SplitName, TeacherCache]
    head: Head | None
    vocabulary: int
    kept: tuple[int, ...] | None = None

    @property
    def identity(self) -> str:
        """See `Teacher`."""
        return content_digest([cache.key.as_json() for cache in self.caches.values()])

    def word(
        self, split: SplitName, places: Sequence[int], _examples: Sequence[Example]
    ) -> tuple[Signal, list[torch.Tensor]]:
        """See `Teacher`."""
        signal = self.caches[split].signal(places, head=self.head)
        if self.kept is not None and isinstance(signal, HiddenStates):
            signal = replace(signal, kept_K=_tensor(self.kept))
        return signal, []


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
    kept: tuple[int, ...] | None = None,
) -> KeptTeacher:
    """Let the teacher read each reply once; `folder` keeps it in a file for each split.

    `kept` are its ids of a trimmed student's: it reads the examples in its own.

    Killed at any time and called again, it goes on where it was; files that stand are opened.
    Raises `InputError` for files of another teacher, template, data or payload.
    """
    head = Head.of(local.model)
    width = int(head.weight_VD.shape[1])
    caches: dict[SplitName, TeacherCache] = {}
    for split, found in examples.items():
        key = CacheKey(
            teacher=content_digest([local.fingerprint, local.dtype, *(kept or ())]),
            template=content_digest(template),
            data=found.digest(),
            payload=config.payload(vocabulary, width),
            seed=seed,
        )

        def states_of(part: range, every: tuple[Example, ...] = found.examples) -> torch.Tensor:
            read = in_its_ids(every[part.start : part.stop], kept)
            return _states(local.model, read, pack=config.packing)

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
    return KeptTeacher(caches, head if config.keep == "hidden" else None, vocabulary, kept)


def in_its_ids(examples: Sequence[Example], kept: tuple[int, ...] | None) -> Sequence[Example]:
    """The very tokens that a student of a trimmed vocabulary reads, as the teacher numbers them."""
    if kept is None:
        return examples
    return [replace(one, ids=tuple(kept[i] for i in one.ids)) for one in examples]


def _tensor(kept: tuple[int, ...] | None) -> torch.Tensor | None:
    return None if kept is None else torch.tensor(kept)


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
