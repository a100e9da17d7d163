"""One cell of the training study, in this process: a contender, a reply share, a round."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import stillhouse.distill
from benchmarks.whitebox import floor, gkd
from benchmarks.whitebox.data import digest, examples, make_cache, prepare
from benchmarks.whitebox.loops import MAKERS

FLOOR_BATCHES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is run; everything that its figures hang on but the machine and the libraries."""

    contender: str
    share: int
    round: int
    steps: int
    warm_up: int
    batch: int

    @property
    def key(self) -> str:
        """Digest of these settings and of the code: the rig's and, for ours, the product's."""
        found = hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode())
        sources = sorted(Path(__file__).parent.glob("*.py"))
        if self.contender in ("ours", "cached", "padded", "make-cache"):
            product = Path(stillhouse.distill.__file__).parent / "divergences"
            sources += sorted(product.rglob("*.py"))
        for path in sources:
            found.update(path.name.encode() + b"\0" + path.read_bytes())
        return found.hexdigest()[:12]

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.contender}-{self.share}-{self.round}-{self.key}"


def run(cell: Cell, models: Path, folder: Path) -> dict[str, Any]:
    """Tokens, seconds and batch digests of the measured steps, and the peak of this process."""
    torch.manual_seed(0)
    teacher, student = prepare(models)
    tokenizer = transformers.AutoTokenizer.from_pretrained(student)
    count = cell.steps + cell.warm_up
    data = examples(tokenizer, count * cell.batch, cell.share, seed=11 + cell.round)
    batches = [data[n * cell.batch : (n + 1) * cell.batch] for n in range(count)]
    cache = folder / f"reply{cell.share}-round{cell.round}-{count}x{cell.batch}.cache"
    if cell.contender == "make-cache":
        make_cache(teacher, cache, data, cell.batch)
        return {}
    dropped = cell.warm_up
    if cell.contender == "floor":
        batches, dropped = batches[cell.warm_up :][:FLOOR_BATCHES], 0
        seconds, fed = floor.seconds(teacher, student, batches), [digest(b) for b in batches]
    elif cell.contender == "gkd":
        seconds, fed = gkd.train(teacher, student, data, batch=cell.batch, steps=count)
    else:
        step = MAKERS[cell.contender](teacher, student, cache)
        seconds, fed = [], []
        for number, batch in enumerate(batches):
            fed.append(digest(batch))
            began = time.perf_counter()
            step(batch, range(number * cell.batch, (number + 1) * cell.batch))
            seconds.append(time.perf_counter() - began)
    if not len(batches) == len(seconds) == len(fed):
        raise RuntimeError(f"{len(batches)} batches, {len(seconds)} steps, {len(fed)} fed")
    return {
        "tokens": [sum(len(ids) for ids, _ in batch) for batch in batches][dropped:],
        "seconds": seconds[dropped:],
        "fed": fed[dropped:],
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """The most memory this process ever had resident: Python, libraries, weights, loading, all."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status does not say VmHWM; run this on Linux")


def main() -> None:
    """Run the cell that the first argument describes; print what was seen as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cell", help="the cell's fields as JSON")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        found = run(Cell(**json.loads(given.cell)), given.models, given.folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
