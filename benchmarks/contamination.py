"""How well the contamination check finds near-copies, and how rarely it cries wolf, on real data.

Each data set is divided as a user would divide it. Recall: into the training items goes one
near-copy (a random one of the five kinds) of every test item that the check does not find already,
and the check must find the item again. False alarms: what the check itself measures on the honest
half of the data. Beside it, on the same copies: the rule that is common elsewhere, a Jaccard
similarity of at least 0.9 between the sets of three-word shingles of both texts.

    python -m benchmarks.contamination
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks import rows
from stillhouse.parity.contamination import check_contamination
from stillhouse.parity.items import Item
from stillhouse.parity.likeness import FEWEST_WORDS, words_of
from stillhouse.parity.planting import PLANTERS
from stillhouse.statistics import binomial_interval
from stillhouse.teachers.packages import cache_folder, fetch, unpack

RECIPES = Path(__file__).parent.parent / "recipes"
SEED = 20
PACKAGES = ("numpy", "scipy")


def recipe(name: str) -> ModuleType:
    """The preparation module of a recipe."""
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", RECIPES / name / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def item(name: str, text: str, group: str) -> Item:
    """An item of which only the variable part matters."""
    return Item(id=name, messages=(), variable=text, group=group)


def divide(items: Sequence[Item], rng: np.random.Generator) -> tuple[list[Item], list[Item]]:
    """Three quarters and a quarter of the groups."""
    groups = sorted({one.group for one in items})
    tested = {groups[i] for i in rng.permutation(len(groups))[: len(groups) // 4]}
    train = [one for one in items if one.group not in tested]
    return train, [one for one in items if one.group in tested]


def shingles(text: str) -> set[tuple[str, ...]]:
    """Three-word shingles."""
    words = words_of(text, numbers=True)
    return set(zip(words, words[1:], words[2:], strict=False))


def jaccard(one: str, other: str) -> float:
    """Jaccard similarity of the three-word shingles of two texts."""
    a, b = shingles(one), shingles(other)
    return len(a & b) / max(1, len(a | b))


def measure(name: str, train: list[Item], test: list[Item], rng: np.random.Generator) -> None:
    """Append recall and false alarms on one division of one data set."""
    clean = check_contamination(train, test, seed=SEED)
    print(f"-- {name}: {clean.summary()}")
    found = set(clean.test_ids)
    long = [one for one in test if len(words_of(one.variable, numbers=True)) >= FEWEST_WORDS]
    honest = [one for one in long if one.id not in found]
    kinds = list(PLANTERS.values())
    copies = [kinds[int(rng.integers(len(kinds)))](one.variable, rng) for one in honest]
    planted = [item(f"copy of {o.id}", c, "copy") for o, c in zip(honest, copies, strict=True)]
    dirty = check_contamination([*train, *planted], honest, seed=SEED)
    recall = binomial_interval(len(dirty.test_ids), len(honest))
    usual = np.mean([jaccard(o.variable, c) >= 0.9 for o, c in zip(honest, copies, strict=True)])
    rows.append(
        "contamination",
        f"recall_{name}",
        100 * recall.estimate,
        low=100 * recall.low,
        high=100 * recall.high,
        unit="%",
        peer="3-shingle Jaccard >= 0.9",
        peer_value=100 * float(usual),
        packages=PACKAGES,
    )
    alarms = clean.false_alarms
    assert alarms is not None
    rows.append(
        "contamination",
        f"false_alarms_{name}",
        100 * alarms.estimate,
        low=100 * alarms.low,
        high=100 * alarms.high,
        unit="%",
        packages=PACKAGES,
    )


def main() -> None:
    """Measure on reviews, on invoices of unseen and of the same layouts, and time a large one."""
    rng = np.random.default_rng(SEED)
    reviews = recipe("reviews")
    sdist = fetch(reviews.REQUIREMENT, reviews.SHA256)
    snippets = [
        item(row["id"], row["text"], row["document"])
        for row in reviews.read_sdist(sdist, ("amazon", "movies", "editorials"))
    ]
    measure("reviews", *divide(snippets, rng), rng)

    invoices = recipe("invoices")
    wheel = fetch(invoices.REQUIREMENT, invoices.SHA256, python_version=invoices.PYTHON_VERSION)
    folder = cache_folder() / "unpacked" / invoices.SHA256
    unpack(wheel, ["taskdistill/*"], folder)
    documents, _ = invoices.rebuild(folder)
    train = [item(d.id, d.text, d.layout) for d in documents if d.split == "train"]
    test = [item(d.id, d.text, d.layout) for d in documents if d.split == "test"]
    measure("invoices_unseen_layouts", train, test, rng)
    alone = [item(d.id, d.text, d.id) for d in documents]
    measure("invoices_same_layouts", *divide(alone, rng), rng)

    large = [one for one in snippets if len(one.variable) > 20]
    start = time.perf_counter()
    check_contamination(large[:10_000], large[10_000:13_000], seed=SEED)
    rows.append(
        "contamination",
        "seconds_10000_by_3000",
        time.perf_counter() - start,
        unit="s",
        packages=PACKAGES,
    )


if __name__ == "__main__":
    main()
