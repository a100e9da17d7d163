"""Train one tiny student again and again, alone or as one of two ranks; a program for `test_ranks`.

Reads JSON from standard input: this process's `rank`, the folders of `start` and `teacher`, how
many `steps` a whole training takes, and `jobs`. Each job has a `folder` (of one training, which
later jobs may go on with), a `size` (1: rank 0 alone), whether to `shard`, and the step to `leave`
after, if any. The losses go to `NUMBER-RANK.json` beside the folders, and to standard output how
long each job took.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from stillhouse.distill.distribution import DivergenceConfig
from stillhouse.distill.examples import Target
from stillhouse.distill.ranks import Ranks, leave
from stillhouse.distill.teaching import LiveTeacher
from stillhouse.distill.training import TrainConfig, TrainProgress, train
from stillhouse.parity.items import Item, TrainSplit, ValidationSplit
from stillhouse.students import load_student
from stillhouse.teachers.chat import Message
from stillhouse.teachers.local import LocalModel


def items(prefix: str, count: int) -> tuple[Item, ...]:
    return tuple(
        Item(
            id=f"{prefix}{i}",
            messages=(Message("user", "x" * (1 + i % 7)),),
            variable="",
            group="",
        )
        for i in range(count)
    )


class Left(Exception):  # noqa: N818 (it is meant)
    """A training was left in the middle."""


def run(given: dict[str, Any]) -> list[float]:
    student, tokenizer = load_student(Path(given["start"]))
    model, _ = load_student(Path(given["teacher"]))
    config = DivergenceConfig(**given["divergence"])
    teacher = LiveTeacher(
        LocalModel(model, tokenizer, name="t", fingerprint=""), config, len(tokenizer)
    )
    store = None
    if given["size"] > 1:
        store = torch.distributed.FileStore(given["store"], given["size"])
    ranks = Ranks(given["rank"], given["size"], store, shard=given["shard"])
    train_items, validation = items("t", 40), items("v", 5)
    targets = {
        item.id: Target(reply="good film " * (1 + place % 5))
        for place, item in enumerate((*train_items, *validation))
    }
    losses: list[float] = []

    def seen(progress: TrainProgress) -> None:
        losses.append(progress.loss)
        if progress.step == given.get("leave"):
            raise Left

    with contextlib.suppress(Left):
        train(
            student,
            tokenizer,
            TrainSplit(train_items),
            ValidationSplit(validation),
            targets,
            TrainConfig(
                steps=given["steps"],
                batch_size=18,
                micro_batch_tokens=100,  # six parts of a batch: three for each of two ranks
                learning_rate=0.003,
                evaluate_every=10,
                checkpoint_steps=10,
                dtype="float32",
                freeze_embeddings=given.get("freeze_embeddings", False),
                divergence=config,
            ),
            Path(given["folder"]),
            seen,
            seed=3,
            teacher=teacher,
            ranks=ranks,
        )
    return losses


def main() -> None:
    torch.set_num_threads(1)
    given = json.load(sys.stdin)
    for number, job in enumerate(given["jobs"]):
        if given["rank"] < job["size"]:
            began = time.monotonic()
            losses = run({**given, **job, "store": f"{job['folder']}-store-{number}"})
            place = Path(job["folder"]).with_name(f"{number}-{given['rank']}.json")
            place.write_text(json.dumps(losses))
            left = sorted(path.name for path in Path(job["folder"]).iterdir())
            place.with_suffix(".left").write_text(json.dumps(left))
            print(number, job, time.monotonic() - began)
    leave()


if __name__ == "__main__":
    main()
