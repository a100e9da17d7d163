"""Small synthetic items and answer sheets."""

from __future__ import annotations

import json
from collections.abc import Sequence

from stillhouse.parity.items import Item, Task
from stillhouse.teachers.chat import Failure, Message, Reply

LABEL = Task(kind="label", labels=("no", "yes"))
TEXT = Task(kind="text")
JSON = Task(
    kind="json",
    schema='{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}}}',
)


def items_of(golds: Sequence[str | None], *, groups: int | None = None) -> list[Item]:
    return [
        Item(
            id=f"i{n}",
            messages=(Message("user", f"question {n}"),),
            variable=f"question {n}",
            group=f"g{n % groups}" if groups else f"i{n}",
            gold=gold,
            slice="even" if n % 2 == 0 else "odd",
        )
        for n, gold in enumerate(golds)
    ]


def sheet(texts: Sequence[str | None], *, model: str = "m") -> dict[str, Reply | Failure]:
    return {
        f"i{n}": Failure(code="timeout", message="late")
        if text is None
        else Reply(text=text, finish_reason="stop", model=model)
        for n, text in enumerate(texts)
    }


def flipped(golds: Sequence[str], wrong: Sequence[int]) -> list[str]:
    other = {"yes": "no", "no": "yes"}
    return [other[gold] if n in set(wrong) else gold for n, gold in enumerate(golds)]


def documents(count: int, wrong_b: Sequence[int] = ()) -> list[str]:
    return [json.dumps({"a": n, "b": -1 if n in set(wrong_b) else n}) for n in range(count)]


GOLDS = ["yes" if n % 3 else "no" for n in range(200)]
