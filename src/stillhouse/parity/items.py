"""Items of a task, and the three splits as types that cannot be mistaken for each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stillhouse.teachers.chat import Message

TaskKind = Literal["label", "text", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What an answer is: one of `labels`, free text, or a JSON document under `schema`."""

    kind: TaskKind
    labels: tuple[str, ...] = ()
    schema: str | None = None  # JSON Schema as canonical JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One prompt with, where known, its gold answer.

    `variable` is the part of the prompt that differs between items (contamination is judged on
    it); `group` is the cluster the item was drawn in (document, template, user): intervals
    resample groups, and a split never cuts through one.
    """

    id: str
    messages: tuple[Message, ...]
    variable: str
    group: str
    gold: str | None = None
    slice: str | None = None


@dataclass(frozen=True, slots=True)
class TrainSplit:
    """Items that may be trained on."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class ValidationSplit:
    """Items that may choose between models, and stop training early."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class TestSplit:
    """Items that may only be judged on. Nothing in `distill.train` accepts this type."""

    items: tuple[Item, ...]

    __test__ = False  # not a pytest class
