"""White-box training speed and memory: this product, TRL's two ways, and a naive loop.

SmolLM2-135M-Instruct (30 layers, bfloat16, itself a 4-bit model) teaches its own layers 1, 5, 9,
.. 30 (8 of them, every weight trained), by full-vocabulary forward KL at temperature 1 on the reply
tokens. Batches of 4 sequences (`--batch`) of 130 to 250 tokens of Python's manual; AdamW (fused),
gradients clipped at 1, float32 weights with products in bfloat16, the same batches for all (their
digests are compared). Rows are made at a reply share of 50 % and of 95 %; a goal's figure is the
worse of both.

Each contender runs in processes of its own, one a round, in turns; every other round turns the
order round and all rounds have other batches. A process drops its first 5 steps. A step's tokens
are its real ones (prompt and reply, no padding), its seconds hold everything: the teacher's forward
pass, the loss, the optimiser. Memory is the whole process's peak, Python, weights and loading
included. What is compared was measured side by side in each round, and rounds differ more than
steps do: intervals are of the rounds' ratios, by t (95 %) from three rounds on; of two rounds `low`
and `high` are the two.

gkd      TRL's GKDTrainer (lmbda 0, beta 0, bf16, no gradient checkpointing), its own step
chunked  TRL's ChunkedDivergenceFunction on the reply tokens' states, in a plain loop
naive    whole logits of both models in a plain loop, KL on the reply tokens
ours     packed sequences, `divergence_loss` on the teacher's states
cached   the same with sampled ids out of a teacher cache (built before the clock starts)
padded   ours with padding in place of packing: what packing gains apart
floor    only the matrix products that any of them must do, one after the other

Every finished cell (contender, share, round) is kept in runs/training under a digest of code and
settings and skipped next time, so the study may be run in pieces. Its steps are in
results/training-steps.tsv, and `--rows` makes the rows from them again.

TRL lies in a folder of its own, since nothing else needs it:

    pip install --no-deps --target FOLDER trl==1.16.0 datasets dill multiprocess xxhash pandas \
        python-dateutil pytz six
    python -m benchmarks.training --peers FOLDER                  about an hour on 2 quiet cores
    python -m benchmarks.training --peers FOLDER --cells 4        four more cells of it
    python -m benchmarks.training --peers FOLDER --smoke          3 steps each, no rows
    python -m benchmarks.training --peers FOLDER --memory         peaks of 8 steps of 16 sequences
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from scipy.stats import t as student_t

from benchmarks import rows, told
from benchmarks.whitebox.cell import Cell
from benchmarks.whitebox.data import prepare
from benchmarks.whitebox.gkd import TRL
from stillhouse.exchanges import write_atomic
from stillhouse.teachers.packages import cache_folder

STEPS = rows.RESULTS / "training-steps.tsv"
COLUMNS = ("contender", "share", "round", "step", "batch", "tokens", "seconds", "peak_bytes",
           "commit")  # fmt: skip
PEERS = {"gkd": f"TRL {TRL} GKDTrainer", "chunked": f"TRL {TRL} chunked kernel", "naive": "naive"}
OURS = ("ours", "cached", "padded")
ALL = (*OURS, *PEERS, "floor")
SHARES = (50, 95)
PACKAGES = ("torch", "transformers", "stillhouse")
COMMAND = "python -m benchmarks.training --peers FOLDER"  # wherever TRL lies
MEMORY = {"steps": 7, "warm_up": 1, "batch": 16}  # of `--memory`


def in_process(cell: Cell, models: Path, folder: Path, peers: Path | None) -> dict[str, Any]:
    """Run a cell in a process of its own, or read what it gave when it ran before."""
    path = folder / f"{cell.name}.json"
    if not path.exists():
        command = [sys.executable, "-m", "benchmarks.whitebox.cell"]
        command += [json.dumps(dataclasses.asdict(cell))]
        command += ["--models", str(models), "--folder", str(folder)]
        environment = dict(os.environ, TRL_EXPERIMENTAL_SILENCE="1")
        if peers is not None:
            kept = environment.get("PYTHONPATH", "")
            environment["PYTHONPATH"] = f"{kept}{os.pathsep}{peers}" if kept else str(peers)
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
        found = {"commit": rows.commit(), **json.loads(done.stdout.splitlines()[-1])}
        write_atomic(path, orjson.dumps(found))
    read: dict[str, Any] = orjson.loads(path.read_bytes())
    return read


def cells(share: int, rounds: int, settings: dict[str, int]) -> Iterator[Cell]:
    """All cells of a reply share in their order, each round's cache first."""
    for number in range(rounds):
        order = ALL if number % 2 == 0 else ALL[::-1]
        for name in ("make-cache", *order):
            yield Cell(contender=name, share=share, round=number, **settings)


@dataclass(frozen=True)
class Measured:
    """The steps of a contender at a reply share, in the order of rounds and batches."""

    batches: tuple[str, ...]
    rounds: tuple[int, ...]
    tokens: Any
    seconds: Any
    peak_bytes: int

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return float(self.tokens.sum() / self.seconds.sum())

    def round_rates(self) -> dict[int, float]:
        """Tokens a second, round by round."""
        rounds = np.array(self.rounds)
        return {
            one: float(self.tokens[rounds == one].sum() / self.seconds[rounds == one].sum())
            for one in sorted(set(self.rounds))
        }

    def over(self, other: Measured) -> tuple[float, float | None, float | None]:
        """How many times as fast as `other`, with what the rounds say of it."""
        theirs = other.round_rates()
        ratios = [rate / theirs[one] for one, rate in self.round_rates().items()]
        return (self.rate / other.rate, *of_rounds(ratios))

    def paired(self, other: Measured) -> tuple[float, float | None, float | None]:
        """`over`, of two that were fed the same batches."""
        if self.batches != other.batches:
            raise ValueError("these two were not fed the same batches; remove their cells")
        return self.over(other)


def of_rounds(ratios: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % interval of their mean; of two their range, of one nothing."""
    if len(ratios) < 2:
        return None, None
    if len(ratios) == 2:
        return min(ratios), max(ratios)
    mean, error = np.mean(ratios), np.std(ratios, ddof=1) / np.sqrt(len(ratios))
    half = student_t.ppf(0.975, len(ratios) - 1) * error
    return float(mean - half), float(mean + half)


def write_steps(found: Sequence[tuple[Cell, dict[str, Any]]], path: Path = STEPS) -> None:
    """Keep every measured step of every cell."""
    lines: list[tuple[Any, ...]] = [COLUMNS]
    for cell, seen in found:
        place = (cell.contender, cell.share, cell.round)
        lines += [
            (*place, number, fed, tokens, f"{seconds:.6f}", seen["peak_bytes"], seen["commit"])
            for number, (fed, tokens, seconds) in enumerate(
                zip(seen["fed"], seen["tokens"], seen["seconds"], strict=True)
            )
        ]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(lines)


def read_steps(path: Path = STEPS) -> dict[int, dict[str, Measured]]:
    """Reply share -> contender -> its steps."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    lines.sort(key=lambda line: (int(line["round"]), int(line["step"])))
    found: dict[int, dict[str, Measured]] = {}
    for share in sorted({int(line["share"]) for line in lines}):
        for name in ALL:
            mine = [x for x in lines if (x["contender"], int(x["share"])) == (name, share)]
            if mine:
                found.setdefault(share, {})[name] = Measured(
                    batches=tuple(line["batch"] for line in mine),
                    rounds=tuple(int(line["round"]) for line in mine),
                    tokens=np.array([int(line["tokens"]) for line in mine], dtype=float),
                    seconds=np.array([float(line["seconds"]) for line in mine]),
                    peak_bytes=max(int(line["peak_bytes"]) for line in mine),
                )
    return found


def figures(found: dict[str, Measured]) -> Iterator[tuple[Any, ...]]:
    """(figure, value, low, high, unit, peer, peer's value) of one reply share."""
    best = max(PEERS, key=lambda name: found[name].rate)
    peer, rate = PEERS[best], found[best].rate
    for name in ALL:
        figure = "tokens_per_s" if name == "ours" else f"tokens_per_s_{name}"
        yield (figure, found[name].rate, None, None, "tok/s", peer, rate)
    for name in (*OURS, *PEERS):
        gib = found[name].peak_bytes / 2**30
        yield (f"peak_memory_{name}", gib, None, None, "GiB", peer,
               found[best].peak_bytes / 2**30)  # fmt: skip
    for name, figure in (("ours", "tokens_per_s"), ("cached", "cached_tokens_per_s")):
        yield (f"{figure}_over_best_peer", *found[name].paired(found[best]), "x", peer, 1.0)
    for name in ("ours", "cached"):
        figure = "peak_memory_over_best_peer"
        memory = found[name].peak_bytes / found[best].peak_bytes
        yield (figure if name == "ours" else f"cached_{figure}", memory, None, None, "x", peer, 1.0)
    floor = found["floor"]
    yield ("share_of_matmul_floor", *found["ours"].over(floor), "share", peer, rate / floor.rate)
    yield ("packing_gain", *found["ours"].paired(found["padded"]), "x", "ours, padded", 1.0)


def memory(found: dict[int, dict[str, Measured]], batch: int) -> None:
    """Rows of the peaks of one batch size, and of ours over the fastest peer's at the worse share.

    Speeds of so few steps tell which peer is the fastest, and get no rows.
    """
    ratios = []
    for share, contenders in found.items():
        best = max(PEERS, key=lambda name: contenders[name].rate)
        peak = contenders[best].peak_bytes
        for name in (*OURS, *PEERS):
            gib = contenders[name].peak_bytes / 2**30
            _tell(f"peak_memory_{name}_batch_{batch}_reply_{share}",
                  (gib, None, None, "GiB", PEERS[best], peak / 2**30),
                  append=True, command=f"{COMMAND} --memory")  # fmt: skip
        ratios.append((contenders["ours"].peak_bytes / peak, None, None, "x", PEERS[best], 1.0))
    _tell(f"peak_memory_over_best_peer_batch_{batch}", max(ratios, key=lambda one: one[0]),
          append=True, command=f"{COMMAND} --memory")  # fmt: skip


def report(found: dict[int, dict[str, Measured]], *, append: bool) -> None:
    """Every figure at every share; of the goals' figures the worse of both shares as well."""
    at_shares: dict[str, list[tuple[Any, ...]]] = {}
    for share, contenders in found.items():
        for figure, *rest in figures(contenders):
            at_shares.setdefault(figure, []).append(tuple(rest))
            _tell(f"{figure}_reply_{share}", rest, append=append)
    for figure, both in at_shares.items():
        if "_over_best_peer" in figure or figure in ("share_of_matmul_floor", "packing_gain"):
            small_is_good = "peak_memory" in figure
            worse = (max if small_is_good else min)(both, key=lambda one: one[0])
            if len(both) == len(SHARES):
                _tell(figure, worse, append=append)
    if append:
        told.write()


def _tell(figure: str, rest: Sequence[Any], *, append: bool, command: str = COMMAND) -> None:
    value, low, high, unit, peer, peer_value = rest
    if not append:
        print(f"{figure}: {value:.4g} [{low}, {high}] {unit}; {peer} {peer_value:.4g}", flush=True)
        return
    rows.append("training", figure, value, low=low, high=high, unit=unit, peer=peer,
                peer_value=peer_value, packages=PACKAGES, command=command)  # fmt: skip


def main() -> None:
    """Run the cells that are missing; with all there, write steps and rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=25, help="measured steps a round")
    parser.add_argument("--warm-up", type=int, default=5, help="steps dropped in every process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4, help="sequences a step")
    parser.add_argument("--share", type=int, choices=SHARES, help="this reply share alone")
    parser.add_argument("--cells", type=int, help="stop after this many new cells")
    parser.add_argument("--peers", type=Path, help="folder with trl and what it needs")
    parser.add_argument("--folder", type=Path, default=Path("runs/training"))
    parser.add_argument("--models", type=Path, default=cache_folder() / "benchmark-training")
    parser.add_argument("--smoke", action="store_true", help="3 steps each, one round, no rows")
    parser.add_argument("--memory", action="store_true", help="peaks at batches of 16 alone")
    parser.add_argument("--rows", action="store_true", help="rows from the committed steps alone")
    given = parser.parse_args()
    if given.rows:
        report(read_steps(), append=True)
        return
    settings = {"steps": given.steps, "warm_up": given.warm_up, "batch": given.batch}
    folder, rounds = given.folder, given.rounds
    if given.smoke:
        settings, rounds = {"steps": 3, "warm_up": 1, "batch": given.batch}, 1
        folder = folder.with_name(f"{folder.name}-smoke")
    if given.memory:
        settings, rounds = MEMORY, 1
        folder = folder.with_name(f"{folder.name}-memory")
    for one in (given.models, folder):
        one.mkdir(parents=True, exist_ok=True)
    prepare(given.models)
    found: list[tuple[Cell, dict[str, Any]]] = []
    new = 0
    for share in (given.share,) if given.share else SHARES:
        for cell in cells(share, rounds, settings):
            if given.memory and cell.contender == "floor":
                continue
            fresh = not (folder / f"{cell.name}.json").exists()
            if fresh and given.cells is not None and new >= given.cells:
                return
            new += fresh
            seen = in_process(cell, given.models, folder, given.peers)
            if seen.get("seconds"):
                found.append((cell, seen))
                rate = sum(seen["tokens"]) / sum(seen["seconds"])
                print(f"{share} % reply, round {cell.round}: {cell.contender} {rate:.0f} tok/s, "
                      f"peak {seen['peak_bytes'] / 2**30:.2f} GiB", flush=True)  # fmt: skip
    append = not given.smoke and given.share is None
    if given.memory:
        write_steps(found, folder / "steps.tsv")
        memory(read_steps(folder / "steps.tsv"), settings["batch"])
        return
    steps = STEPS if append else folder / "steps.tsv"
    write_steps(found, steps)
    report(read_steps(steps), append=append)


if __name__ == "__main__":
    main()
