"""Training, validation and test items: by named files, or by a seeded hash of each item's group."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.items import Item, Task, TestSplit, TrainSplit, ValidationSplit
from stillhouse.parity.reading import DataSpec, read_items

SEEDS_TRIED = 1000
SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """How items are divided. A fraction counts where no file is named for that split."""

    seed: int = field(default=1, metadata={"help": "seed of the hash that places each group"})
    validation: float = field(
        default=0.15, metadata={"help": "share of groups that choose between models"}
    )
    test: float = field(default=0.15, metadata={"help": "share of groups that are judged on"})
    validation_file: Path | None = field(
        default=None, metadata={"help": "file of validation items, read like data.path"}
    )
    test_file: Path | None = field(
        default=None, metadata={"help": "file of test items, read like data.path"}
    )

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            share = getattr(self, name)
            if not 0 < share < 1:
                raise InputError(
                    f"split.{name} is {share}, not a share between 0 and 1",
                    repair="0.15 is usual; a file can be named instead",
                )
        if self.validation + self.test >= 1:
            raise InputError(
                f"split.validation and split.test together are {self.validation + self.test:g}:"
                " nothing is left to train on",
                repair="keep their sum below 1",
            )


@dataclass(frozen=True, slots=True)
class Splits:
    """The items of a task, each in one of three types."""

    train: TrainSplit
    validation: ValidationSplit
    test: TestSplit


def read_splits(data: DataSpec, split: Split, task: Task) -> Splits:
    """Read `data.path` and the files that `split` names, and divide them.

    Raises InputError when an id or a group is in two files, or a split would be empty.
    """
    apart = split.test_file is not None
    items = read_items(data, task, require_gold=not apart)
    named: dict[SplitName, tuple[Item, ...]] = {}
    if split.validation_file is not None:
        beside = dataclasses.replace(data, path=split.validation_file)
        named["validation"] = read_items(beside, task, require_gold=not apart)
    if split.test_file is not None:
        named["test"] = read_items(dataclasses.replace(data, path=split.test_file), task)
    files = {"train": data.path, "validation": split.validation_file, "test": split.test_file}
    _refuse_shared([(str(files[n]), part) for n, part in (("train", items), *named.items())])
    return divide(items, split, named)


def divide(
    items: Sequence[Item],
    split: Split,
    named: dict[SplitName, tuple[Item, ...]] | None = None,
) -> Splits:
    """Place each item by its group, which always goes the same way, whatever else is there.

    A group's place is the first 64 bits of SHA-256(seed, group), as a fraction: below `split.test`
    it is tested on, below `split.test + split.validation` validated on, otherwise trained on; so
    adding items never moves an earlier one. `named` gives splits that are already whole. Raises
    InputError for an empty split, with a seed that fills all three where there is one.
    """
    found: dict[SplitName, list[Item]] = {"train": [], "validation": [], "test": []}
    whole = named or {}
    for name, given in whole.items():
        found[name] = list(given)
    for item in items:
        found[place_of(item.group, split, whole)].append(item)
    empty = [name for name, members in found.items() if not members]
    if empty:
        raise InputError(
            f"no group falls into {' and '.join(empty)}: {len(items)} items in"
            f" {len({item.group for item in items})} groups",
            repair=_repair(items, split, whole),
        )
    return Splits(
        TrainSplit(tuple(found["train"])),
        ValidationSplit(tuple(found["validation"])),
        TestSplit(tuple(found["test"])),
    )


def place_of(group: str, split: Split, named: Iterable[SplitName] = ()) -> SplitName:
    """The split of `group`; shares of splits that are `named` files count as nothing."""
    digest = hashlib.sha256(f"{split.seed}\n{group}".encode()).digest()
    where = int.from_bytes(digest[:8], "big") / 2**64
    test = 0.0 if "test" in named else split.test
    validation = 0.0 if "validation" in named else split.validation
    if where < test:
        return "test"
    return "validation" if where < test + validation else "train"


def find_seed(groups: Iterable[str], split: Split, named: Iterable[SplitName] = ()) -> int | None:
    """The smallest seed from `split.seed` on that leaves no split empty; None if there is none.

    For files of a few dozen lines, where a share of 15 % can well be empty.
    """
    distinct = sorted(set(groups))
    whole = set(named)
    for seed in range(split.seed, split.seed + SEEDS_TRIED):
        tried = dataclasses.replace(split, seed=seed)
        if len({place_of(group, tried, whole) for group in distinct} | whole) == 3:
            return seed
    return None


def _repair(items: Sequence[Item], split: Split, named: Iterable[SplitName]) -> str:
    groups = {item.group for item in items}
    needed = 3 - len(set(named))
    if len(groups) < needed:
        return (
            f"give at least {needed} groups (data.group decides what a group is), or name files in"
            " split.validation_file and split.test_file"
        )
    seed = find_seed(groups, split, named)
    return (
        f"set split.seed to {seed}, or take larger shares"
        if seed is not None
        else "take larger shares, or name files in split.validation_file and split.test_file"
    )


def _refuse_shared(files: Sequence[tuple[str, tuple[Item, ...]]]) -> None:
    """Raise InputError when an id or a group is in more than one file, or a file named twice."""
    ids: dict[str, int] = {}
    groups: dict[str, int] = {}
    for number, (file, items) in enumerate(files):
        for item in items:
            for what, value, seen in (("id", item.id, ids), ("group", item.group, groups)):
                first = seen.setdefault(value, number)
                if first != number:
                    raise InputError(
                        f"the {what} {value!r} is also in {files[first][0]}",
                        place=file,
                        repair="an item may be in one file only, with all of its group",
                    )
