"""Build one teacher cache, killed where it is told to be; a program for `test_cache`.

Arguments: the folder, then any number of KILLs, `event:INDEX` (SIGKILL at that named step),
`torn:INDEX` (halfway through writing the INDEXth piece) or `after:SECONDS`. One attempt, each in a
fork, for every KILL and then one to the end. Prints, as JSON, how the attempts ended, the steps of
the last one, and how many times the teacher was run for each block in all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillhouse.distill.divergences import CacheKey, Head, Payload, TeacherCache, build_cache, cache
from stillhouse.exchanges import storage

VOCABULARY, WIDTH, EXAMPLES = 60, 5, 23


def key(kind: Any = "sampled", size: int = 6, **changed: Any) -> CacheKey:
    fields: dict[str, Any] = {"teacher": "t" * 64, "template": "m" * 64, "data": "d" * 64}
    payload = Payload(kind=kind, size=size, vocabulary=VOCABULARY)
    return CacheKey(**{**fields, "payload": payload, **changed})


def counts() -> list[int]:
    return np.random.default_rng(1).integers(1, 9, size=EXAMPLES).tolist()


def head() -> Head:
    rng = np.random.default_rng(2)
    return Head(weight_VD=torch.from_numpy(rng.normal(size=(VOCABULARY, WIDTH))).float())


def states_of(examples: range) -> torch.Tensor:
    """What the teacher makes of each example depends on nothing but the example."""
    sizes = counts()
    parts = [np.random.default_rng([3, i]).normal(size=(sizes[i], WIDTH)) for i in examples]
    return torch.from_numpy(np.concatenate(parts)).float()


def build(path: Path, wanted: CacheKey | None = None) -> TeacherCache:
    return build_cache(path, wanted or key(), counts(), states_of, head())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def attempt(path: Path, kill: tuple[str, float] | None) -> None:
    events: list[str] = []
    writes = 0
    pwrite = os.pwrite

    def on_step(name: str) -> None:
        events.append(name)
        if kill is not None and kill[0] == "event" and len(events) == kill[1]:
            die()

    def torn_pwrite(descriptor: int, data: Any, place: int) -> int:
        nonlocal writes
        writes += 1
        if kill is not None and kill[0] == "torn" and writes == kill[1]:
            pwrite(descriptor, bytes(data)[: len(data) // 2], place)
            die()
        return pwrite(descriptor, data, place)

    storage.on_step = on_step
    os.pwrite = torn_pwrite
    if kill is not None and kill[0] == "after":
        threading.Timer(kill[1], die).start()
    build(path)
    path.with_suffix(".events").write_text(json.dumps(events))


def in_fork(path: Path, kill: tuple[str, float] | None) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            attempt(path, kill)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    torch.set_num_threads(1)
    cache.BLOCK_POSITIONS = 20
    root = Path(sys.argv[1])
    runs = json.loads(sys.argv[2])
    found = {}
    for number, kills in enumerate(runs):
        path = root / str(number) / "teacher.cache"
        codes = [in_fork(path, (kind, value)) for kind, value in kills]
        codes.append(in_fork(path, None))
        found[number] = {
            "codes": codes,
            "bytes": storage.sha256_file(path),
            "left": sorted(one.name for one in path.parent.iterdir()),
            "events": json.loads(path.with_suffix(".events").read_text()),
        }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
