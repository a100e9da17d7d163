"""Write a student in another format, ask that format's engine, and keep the file if it agrees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import orjson

from stillhouse.exchanges import InputError, storage, write_atomic
from stillhouse.students.export.checking import CheckReport, Engine, check
from stillhouse.students.export.prompts import read_prompts
from stillhouse.teachers.template import ChatTemplate
from stillhouse.teachers.weights import end_ids, read_model

if TYPE_CHECKING:
    from pathlib import Path

Format = Literal["gguf", "onnx"]
FORMATS: tuple[Format, ...] = ("gguf", "onnx")
# Largest difference of logits that passes: float32 engines of SmolLM2-135M differ from
# transformers by less than a hundredth of it, half-precision weights by less than a half.
TOLERANCES = {"float32": 0.05, "float16": 0.5}


class CheckFailed(Exception):  # noqa: N818 (an answer about a file, not an error of the program)
    """The exported file answers otherwise than the student; it was not kept."""

    def __init__(self, report: CheckReport, report_path: Path):
        self.report = report
        super().__init__(
            f"{report.engine} answers otherwise than the student, so the file was not kept:"
            f" largest logit difference {report.largest_difference:.3g} (at most"
            f" {report.tolerance:g}), {report.prompts - report.split_alike} of {report.prompts}"
            f" prompts split into other tokens\n  report: {report_path}"
        )


def export_student(
    folder: Path,
    to: Format,
    prompts: Path,
    out: Path,
    *,
    precision: Literal["float32", "float16"] = "float32",
    tokens: int = 8,
    tolerance: float | None = None,
) -> CheckReport:
    """Write the model folder as the file `out`, and `out`.check.json beside it.

    `prompts` is a file for `read_prompts`; the file is put in place by one rename, after its
    engine answered all of them as the student does (see `CheckReport`). Raises `InputError` for a
    model that cannot be exported or a place where something stands, `CheckFailed` otherwise; the
    report is written in that case too.
    """
    if to == "onnx" and precision != "float32":
        raise InputError("ONNX files are written in float32", repair="leave --precision out")
    if out.exists():
        raise InputError("something stands here already", place=str(out), repair="name another")
    model, tokenizer, _ = read_model(folder)
    template = ChatTemplate(tokenizer, end_ids(model, tokenizer), str(folder))
    asked = read_prompts(prompts, template)
    out.parent.mkdir(parents=True, exist_ok=True)
    report_path = out.with_name(out.name + ".check.json")
    with storage.replacing(out) as temporary:
        # Each writer and its engine are imported where they are needed: they are large.
        if to == "gguf":
            from stillhouse.students.export.gguf_file import write_gguf
            from stillhouse.students.export.llama_cpp import LlamaCpp

            write_gguf(model, tokenizer, temporary, precision=precision, name=folder.name)
            plain = template.encode("a")[-1]
            engine: Engine = LlamaCpp(temporary, end_ids=template.end_ids, plain_id=plain)
        else:
            from stillhouse.students.export.onnx_file import write_onnx
            from stillhouse.students.export.onnx_runtime import OnnxRuntime

            write_onnx(model, temporary)
            engine = OnnxRuntime(temporary, template.end_ids)
        report = check(
            model,
            template.end_ids,
            asked,
            engine,
            tokens=tokens,
            tolerance=TOLERANCES[precision] if tolerance is None else tolerance,
            precision=precision,
        )
        # Before the file: a report without its file is no harm, a file without its report is.
        write_atomic(report_path, orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2))
        if not report.passed:
            raise CheckFailed(report, report_path)
    return report
