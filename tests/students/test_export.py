"""Exported files, checked in llama.cpp and onnxruntime themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.conftest import CHATML
from tests.students.decoders import decoder
from tests.students.test_vocabulary import ODD, TRAINING, byte_level, characters

from stillhouse.cli import Exit, command
from stillhouse.exchanges import InputError, storage
from stillhouse.students import (
    Widths,
    choose_units,
    choose_vocabulary,
    cut_depth,
    cut_vocabulary,
    cut_width,
    measure_activations,
    save_student,
    trim_tokenizer,
)

pytest.importorskip("xllamacpp", reason="the extra `export` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

from stillhouse.students.export import CheckFailed, export_student, gguf_file, read_prompts
from stillhouse.students.export.checking import before_end, greedy
from stillhouse.students.export.llama_cpp import LlamaCpp

PROMPTS = [*TRAINING, *ODD[3:7], "  two spaces,\ttabs", "don't we'll 12345"]
SHAPES = {
    "kept": ("llama", {"num_hidden_layers": 3}),
    "grouped with biases": ("llama with biases", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give a folder with a saved student, and the prompts' file beside it."""
    root = tmp_path_factory.mktemp("students")
    lines = [json.dumps({"prompt": text}) for text in PROMPTS]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the film"}]
    lines.append(json.dumps({"messages": turns, "id": 7}))
    (root / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def give(name: str, family: str = "llama", tokenizer: Any = None, **changes: Any) -> Path:
        folder = root / name
        if not folder.exists():
            tokenizer = tokenizer or tokenizer_with_template()
            model = decoder(
                family, vocab_size=len(tokenizer) + 3, max_position_embeddings=512, **changes
            )
            save_student(model, tokenizer, folder)
        return folder

    return give


def tokenizer_with_template(make: Callable[[], Any] = byte_level) -> Any:
    tokenizer = make()
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_answers_like_the_student(
    shape: str, place: Callable[..., Path], tmp_path: Path
) -> None:
    family, changes = SHAPES[shape]
    folder = place(shape, family, **changes)
    out = tmp_path / "student.gguf"
    report = export_student(folder, "gguf", folder.parent / "prompts.jsonl", out, tokens=4)
    assert report.passed
    assert report.prompts == report.split_alike == len(PROMPTS) + 1
    assert report.largest_difference < 0.01
    assert report.greedy_agreement == report.first_agreement == 1.0
    assert json.loads((tmp_path / "student.gguf.check.json").read_text()) == report.as_json()
    assert "greedy agreement 100.0%" in report.as_text()


def test_a_student_cut_in_every_way_is_exported(place: Callable[..., Path], tmp_path: Path) -> None:
    parent = tokenizer_with_template(lambda: byte_level(digits=True))
    model = decoder("llama", vocab_size=len(parent) + 3, num_hidden_layers=3)
    sequences = [parent(text, add_special_tokens=False)["input_ids"] for text in TRAINING]
    units = choose_units(
        model, Widths(heads=2, feed_forward=9, hidden=16), measure_activations(model, sequences)
    )
    vocabulary = choose_vocabulary(model, parent, sequences, 400)
    student = cut_vocabulary(cut_depth(cut_width(model, units), [0, 2]), vocabulary)
    folder = tmp_path / "student"
    save_student(student, trim_tokenizer(parent, vocabulary), folder)
    prompts = place("kept", "llama", num_hidden_layers=3).parent / "prompts.jsonl"
    report = export_student(folder, "gguf", prompts, tmp_path / "student.gguf", tokens=2)
    assert (report.split_alike, report.passed) == (report.prompts, True)


@pytest.mark.slow
def test_onnxruntime_answers_like_the_student(place: Callable[..., Path], tmp_path: Path) -> None:
    folder = place("kept", "llama", num_hidden_layers=3)
    prompts, out = folder.parent / "prompts.jsonl", tmp_path / "student.onnx"
    report = export_student(folder, "onnx", prompts, out, tokens=4)
    assert (report.engine, report.passed, report.greedy_agreement) == ("onnxruntime", True, 1.0)
    assert report.largest_difference < 1e-3
    assert {path.name for path in tmp_path.iterdir()} == {"student.onnx", "student.onnx.check.json"}


def test_half_precision_differs_and_passes_within_its_own_tolerance(
    place: Callable[..., Path], tmp_path: Path
) -> None:
    folder = place("kept", "llama", num_hidden_layers=3)
    prompts = folder.parent / "prompts.jsonl"
    report = export_student(
        folder, "gguf", prompts, tmp_path / "half.gguf", precision="float16", tokens=1
    )
    assert 1e-5 < report.largest_difference < 0.5
    assert (report.precision, report.tolerance) == ("float16", 0.5)


def test_a_file_that_answers_otherwise_is_not_kept(
    place: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotary rows left in the wrong order: llama.cpp loads such a file without a word."""
    folder = place("kept", "llama", num_hidden_layers=3)
    prompts, out = folder.parent / "prompts.jsonl", tmp_path / "student.gguf"
    monkeypatch.setattr(gguf_file, "_interleaved", lambda value, _heads: value)
    with pytest.raises(CheckFailed, match="answers otherwise"):
        export_student(folder, "gguf", prompts, out, tokens=1)
    assert [path.name for path in tmp_path.iterdir()] == ["student.gguf.check.json"]
    assert json.loads((tmp_path / "student.gguf.check.json").read_text())["passed"] is False
    done = CliRunner().invoke(
        command,
        ["export", str(folder), "--to", "gguf", "--check", str(prompts), "--out", str(out)],
    )
    assert done.exit_code == Exit.CHECK
    assert "was not kept" in done.output
    assert not out.exists()


def test_the_command_writes_the_file_and_prints_the_report(
    place: Callable[..., Path], tmp_path: Path
) -> None:
    folder = place("kept", "llama", num_hidden_layers=3)
    prompts, out = folder.parent / "prompts.jsonl", tmp_path / "new" / "student.gguf"
    arguments = ["export", str(folder), "--to", "gguf", "--check", str(prompts), "--tokens", "1"]
    done = CliRunner().invoke(command, [*arguments, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["passed"] is True
    assert out.exists()
    with pytest.raises(InputError, match="stands here already"):
        CliRunner().invoke(command, [*arguments, "--out", str(out)], catch_exceptions=False)


def test_a_stopped_export_leaves_no_file(
    place: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place("kept", "llama", num_hidden_layers=3)

    def stop(name: str) -> None:
        if name == "rename:student.gguf":
            raise KeyboardInterrupt

    monkeypatch.setattr(storage, "on_step", stop)
    with pytest.raises(KeyboardInterrupt):
        export_student(
            folder, "gguf", folder.parent / "prompts.jsonl", tmp_path / "student.gguf", tokens=1
        )
    assert [path.name for path in tmp_path.iterdir()] == ["student.gguf.check.json"]


@pytest.mark.parametrize(
    ("family", "changes", "make", "message"),
    [
        ("gemma2", {}, byte_level, r"(?s)'gemma2' \(Gemma2ForCausalLM\).*repair: export to ONNX"),
        ("llama", {}, characters, r"(?s)no splitting rule.*repair: export to ONNX"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            byte_level,
            "positions of type 'linear'",
        ),
        ("mistral", {"sliding_window": 8}, byte_level, "sliding window"),
    ],
)
def test_what_gguf_is_not_written_for_is_refused(
    family: str,
    changes: dict[str, Any],
    make: Callable[[], Any],
    message: str,
    place: Callable[..., Path],
    tmp_path: Path,
) -> None:
    prompts = place("kept", "llama", num_hidden_layers=3).parent / "prompts.jsonl"
    tokenizer = tokenizer_with_template(make)
    folder = tmp_path / "student"
    save_student(decoder(family, vocab_size=len(tokenizer), **changes), tokenizer, folder)
    if make is characters:
        prompts = tmp_path / "plain.jsonl"
        prompts.write_text(json.dumps({"prompt": "the film"}))
    with pytest.raises(InputError, match=message):
        export_student(folder, "gguf", prompts, tmp_path / "student.gguf")
    assert not (tmp_path / "student.gguf").exists()


def test_llama_cpps_end_is_an_error_that_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(InputError, match=r"llama.cpp gave up on the exported file \(exit"):
        LlamaCpp(broken, end_ids=frozenset(), plain_id=4).answers([prompt()], 1)


def prompt() -> Any:
    from stillhouse.students.export import Prompt

    return Prompt("the film", (5, 6))


def test_prompts_that_cannot_be_read_name_their_line(
    place: Callable[..., Path], tmp_path: Path
) -> None:
    from stillhouse.teachers.template import ChatTemplate

    template = ChatTemplate(tokenizer_with_template(), [2], "here")
    bad = tmp_path / "bad.jsonl"
    for text, message in (
        ('{"prompt": "x"}\n{"text": "y"}\n', r"bad.jsonl:2"),
        ("[1]", "not a prompt"),
        ("\n", "no prompts"),
    ):
        bad.write_text(text)
        with pytest.raises(InputError, match=message):
            read_prompts(bad, template)
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "absent.jsonl", template)
    folder = place("kept", "llama", num_hidden_layers=3)
    with pytest.raises(InputError, match="float32"):
        export_student(
            folder, "onnx", bad, tmp_path / "student.onnx", precision="float16", tokens=1
        )


def test_greedy_writing_is_the_likeliest_token_each_time() -> None:
    model = decoder("llama")
    ids = [1, 20, 33]
    written = greedy(model, ids, 5, frozenset())
    for token in written:
        with torch.no_grad():
            assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids = [*ids, token]
    assert len(written) == 5
    stop = frozenset({written[2]})
    first = written.index(written[2])
    assert greedy(model, [1, 20, 33], 5, stop) == written[: first + 1]
    assert before_end(written, stop) == written[:first]


def test_an_engine_that_differs_in_one_logit_fails() -> None:
    from stillhouse.students.export.checking import Answer, check

    model = decoder("llama")
    ids = (1, 20, 33)
    with torch.no_grad():
        row = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1).numpy()

    class Fake:
        name, version = "fake", "1"

        def __init__(self, change: float, tokens: int = 3):
            self.change, self.tokens = change, tokens

        def answers(self, prompts: Any, tokens: int) -> list[Answer]:
            changed = row.astype(np.float32).copy()
            changed[7] += self.change
            return [
                Answer(
                    tokens=self.tokens,
                    log_probs_V=changed,
                    greedy=greedy(model, ids, tokens, frozenset()),
                )
            ]

    from stillhouse.students.export import Prompt

    def run(engine: Fake) -> Any:
        return check(
            *(model, frozenset(), [Prompt("x", ids)], engine),
            tokens=2,
            tolerance=0.05,
            precision="float32",
        )

    assert run(Fake(0.0)).passed
    wrong = run(Fake(0.2))
    assert not wrong.passed
    assert wrong.largest_difference == pytest.approx(0.2, abs=1e-4)
    assert not run(Fake(0.0, tokens=4)).passed
