"""What a process does that is not rank 0: follow rank 0 from one training to the next.

As a program it is started by `ranks.started`, which writes to its standard input where to meet.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from typing import TYPE_CHECKING

from torch.distributed import FileStore  # type: ignore[attr-defined]

from stillhouse.distill.ranks import Ranks, leave
from stillhouse.distill.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from stillhouse.distill.recipe import Recipe


def follow(ranks: Ranks, recipe: Recipe, folder: Path) -> None:
    """Take part in every training that rank 0 announces, until it says that it is done."""
    from stillhouse.distill.steps.train import train_one

    while (job := ranks.next_job()) is not None:
        try:
            # Read anew: the plan and the data are there now, and may not have been before.
            train_one(Run(recipe, folder), job, ranks)
        except BaseException:  # noqa: BLE001 (whatever it is, it is told)
            # At once: an ordinary end would wait for the others, who wait for this one.
            traceback.print_exc()
            os._exit(1)


def main() -> None:
    """Meet rank 0 where it says."""
    # What is read was written by the process that started this one.
    rank, size, place, shard, recipe, folder = pickle.load(sys.stdin.buffer)  # noqa: S301
    store = FileStore(place, size)
    follow(Ranks(rank, size, store, shard=shard), recipe, folder)
    leave()


if __name__ == "__main__":
    main()
