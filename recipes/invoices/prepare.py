"""3,000 invoices with a large model's recorded answers, as JSON Lines.

The package taskdistill (Apache-2.0) ships what DeepSeek-V4-Flash answered to 3,000 made-up
invoices, and the generator that made them. Here its generator rebuilds the inputs, each recorded
answer is joined by its request key, and three files of items and one recording are written:

    train.jsonl       2,000 invoices of 20 layouts: no gold, so training cannot see any
    validation.jsonl  400 of 4 other layouts, with gold
    test.jsonl        600 of 6 other layouts, with gold
    recording.jsonl   the teacher's reply to each, for `teacher.kind: recording`

The teacher answered under long instructions of its own (`teacher_prompt.md` in the package); the
student reads SYSTEM and the invoice only, and the recording is keyed by that shorter request. The
generator knows all layouts with their gold: nothing but inputs may be taken from it for training.

    python recipes/invoices/prepare.py
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson

from stillhouse.exchanges import InputError, write_atomic
from stillhouse.teachers.packages import cache_folder, fetch, unpack

REQUIREMENT = "taskdistill==0.1.1"
SHA256 = "e279bd5999e295d22bc475822b325b4457de25a6a4075b63e862767ed0061eac"
PYTHON_VERSION = "3.12"  # what the wheel asks for; the two modules used here run on 3.11
LICENCE = "Apache-2.0"
SYSTEM = "Extract the invoice's fields as JSON."  # the recipe's data.system must say the same
GENERATOR = "taskdistill/demos/invoices.py"
KEYS = "taskdistill/teacher/request_key.py"
PROMPT = "taskdistill/_data/tasks/invoices/teacher_prompt.md"
SCHEMA = "taskdistill/_data/tasks/invoices/schema.json"
RECORDING = "taskdistill/_data/demos/invoices/teacher_recording.jsonl.gz"
SPLITS = {"train": "train", "valid": "validation", "test": "test"}
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Invoice:
    """One document, its layout, and what the teacher answered. `gold` is None in training."""

    id: str
    layout: str
    split: str
    text: str
    gold: Mapping[str, Any] | None
    reply: str
    finish_reason: str
    tokens_in: int
    tokens_out: int


def rebuild(folder: Path) -> tuple[list[Invoice], str]:
    """The invoices, joined with their recorded replies, and the teacher's name.

    `folder` holds the package's unpacked files. Raises InputError when an input has no reply: then
    the generator has not made what the teacher answered.
    """
    with gzip.open(folder / RECORDING) as file:
        manifest, *records = [orjson.loads(line) for line in file if line.strip()]
    replies = {record["key"]: record for record in records}
    generator = _load(folder / GENERATOR, "stillhouse_recipe_invoice_generator")
    keys = _load(folder / KEYS, "stillhouse_recipe_request_keys")
    prompt = (folder / PROMPT).read_text(encoding="utf-8")
    generation = manifest["generation"]
    invoices, missing = [], []
    for document in generator.generate():
        body = {
            "model": manifest["teacher_model"],
            "messages": [
                {"role": "system", "content": prompt},
                {"role": "user", "content": document.text},
            ],
            **{k: generation[k] for k in ("temperature", "max_tokens", "response_format")},
        }
        record = replies.get(keys.request_key(body))
        if record is None:
            missing.append(document.id)
            continue
        split = SPLITS[document.split]
        invoices.append(
            Invoice(
                id=document.id,
                layout=document.template,
                split=split,
                text=document.text,
                gold=None if split == "train" else document.gold,
                reply=record["output"],
                finish_reason=record["finish_reason"],
                tokens_in=record["usage"]["prompt_tokens"],
                tokens_out=record["usage"]["completion_tokens"],
            )
        )
    if missing or len(invoices) != len(records):
        raise InputError(
            f"{len(missing)} inputs have no recorded reply ({', '.join(missing[:3])}), and"
            f" {len(invoices)} of {len(records)} replies have an input",
            place=str(folder),
            repair="delete that folder and prepare again",
        )
    return invoices, manifest["teacher_model"]


def item_lines(invoices: Sequence[Invoice], split: str) -> bytes:
    """The items of one split; no reply and, in training, no gold."""
    rows = [
        {"id": one.id, "layout": one.layout, "text": one.text}
        | ({} if one.gold is None else {"gold": one.gold})
        for one in invoices
        if one.split == split
    ]
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def recording_lines(invoices: Sequence[Invoice], teacher: str) -> bytes:
    """All replies, in the plain form that `RecordedTeacher.open` reads."""
    rows = [
        {
            "id": one.id,
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": one.text},
            ],
            "reply": one.reply,
            "finish_reason": one.finish_reason,
            "model": teacher,
            "tokens_in": one.tokens_in,
            "tokens_out": one.tokens_out,
        }
        for one in invoices
    ]
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def prepare(out: Path, cache: Path | None = None) -> dict[str, int]:
    """Fetch the package, write the files named above and schema.json; returns items per split."""
    wheel = fetch(REQUIREMENT, SHA256, cache, python_version=PYTHON_VERSION)
    folder = (cache or cache_folder()) / "unpacked" / SHA256
    unpack(wheel, [GENERATOR, KEYS, PROMPT, SCHEMA, RECORDING], folder)
    invoices, teacher = rebuild(folder)
    out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS.values():
        write_atomic(out / f"{split}.jsonl", item_lines(invoices, split))
    write_atomic(out / "recording.jsonl", recording_lines(invoices, teacher))
    write_atomic(out / "schema.json", (folder / SCHEMA).read_bytes())
    return {split: sum(one.split == split for one in invoices) for split in SPLITS.values()}


def _load(path: Path, name: str) -> ModuleType:
    """Import one file of the package, whose wheel was checked against its digest."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError("this file cannot be imported", place=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Parse the command line and prepare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "data", help="folder to write to")
    given = parser.parse_args()
    counts = prepare(given.out)
    listed = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"{given.out}: {listed} invoices from {REQUIREMENT} ({LICENCE}), SHA-256 as pinned")


if __name__ == "__main__":
    main()
