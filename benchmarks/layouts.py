"""Layouts left out in turn: how an extracting student does on layouts it was not trained on.

The 24 layouts of training and validation are dealt into four folds of six (three emails and three
plain-text layouts each). A student is trained on the other eighteen and asked about the six; its
answers are compared with the teacher's recorded replies. The test split is never read, so settings
may be compared here as often as wanted. No weights are chosen: the averaged ones of the last step
answer.

    python -m benchmarks.layouts --fold 1 --steps 150 --seed 1 --folder runs/layouts/1

prints, per layout and field, the documents (of 100) that differ from the teacher, and writes
each of them to FOLDER/wrong.jsonl.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson
import torch

from benchmarks import invoices
from stillhouse.exchanges import write_atomic
from stillhouse.students import extraction

FOLDS = 4


def main() -> None:
    """Train without one fold's layouts and tell what goes wrong on them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fold", type=int, choices=range(1, FOLDS + 1), required=True)
    parser.add_argument("--steps", type=int, default=invoices.SETTINGS.steps)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = invoices.prepared(invoices.HERE.parent / "runs" / "invoices" / "data")
    fields = invoices.fields_of(data)
    documents = [
        one
        for split in ("train", "validation")
        for one in invoices.documents_of(data, split, fields)
    ]
    held = [one for one in documents if fold_of(one[2]) == given.fold]
    kept = [one for one in documents if fold_of(one[2]) != given.fold]
    torch.manual_seed(given.seed)
    model, tokenizer = invoices.new_student(fields)
    cutter = extraction.read_cutter(tokenizer)
    steps = given.steps
    fitted = extraction.fit(
        model,
        cutter,
        kept,
        held[:1],
        replace(invoices.SETTINGS, steps=steps, evaluate_every=steps),
        seed=given.seed,
        checkpoint=given.folder / invoices.CHECKPOINT,
        say=lambda line: print(line, flush=True),
    )
    examples = [extraction.prepare_example(text, reply, cutter) for text, reply, _ in held]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = extraction.predict(model, examples)
    wrong: dict[str, Counter[str]] = {layout: Counter() for _, _, layout in held}
    told = []
    for (text, reply, layout), answer in zip(held, found, strict=True):
        missed = [name for name in reply if answer[name] != reply[name]]
        wrong[layout].update(missed)
        if missed:
            wrong[layout]["any"] += 1
            different = {name: [answer[name], reply[name]] for name in missed}
            told.append({"layout": layout, "text": text, "wrong": different})
    write_atomic(given.folder / "wrong.jsonl", b"".join(orjson.dumps(one) + b"\n" for one in told))
    names = ["any", *(field.name for field in fields)]
    lines = ["\t".join(["layout", *names])]
    lines += ["\t".join([layout, *(str(c[n]) for n in names)]) for layout, c in wrong.items()]
    write_atomic(given.folder / "wrong.tsv", "\n".join([*lines, ""]).encode())
    print("\n".join(lines), f"{fitted.cpu_s / 60:.1f} processor minutes", sep="\n")


def fold_of(layout: str) -> int:
    """The fold of a layout: its number, dealt out in turn."""
    return (int(layout.rpartition("-")[2]) - 1) % FOLDS + 1


if __name__ == "__main__":
    main()
