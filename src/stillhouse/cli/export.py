"""`stillhouse export`: a student as a GGUF or ONNX file, checked in the engine that runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import orjson

from stillhouse.cli.exits import Exit


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--to", required=True, type=click.Choice(["gguf", "onnx"]), help="File format.")
@click.option(
    "--check",
    "prompts",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON Lines of prompts to compare on: a few hundred, like those it will see.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write.  [default: FOLDER.gguf or FOLDER.onnx]",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the matrices in a GGUF file.",
)
@click.option(
    "--tokens", default=8, show_default=True, type=click.IntRange(1), help="Greedy tokens compared."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    help="Largest logit difference that passes.  [default: 0.05, with float16 0.5]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the check's report as JSON on stdout.")
def export(
    folder: Path,
    to: str,
    prompts: Path,
    out: Path | None,
    precision: str,
    tokens: int,
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Write the model FOLDER as one GGUF or ONNX file, and check the file in its own engine.

    llama.cpp (GGUF) or onnxruntime (ONNX) answers every prompt, and its next-token logits and
    greedy tokens are compared with the student's in transformers. The file appears only when they
    agree; the report stands beside it as OUT.check.json either way. Exit 7 when they do not agree.

    A line of the prompts' file is {"prompt": TEXT} or {"messages": [{"role": ..., "content":
    ...}]}; both go through the student's chat template.

    \b
    Example:
      stillhouse export runs/reviews/student --to gguf --check prompts.jsonl
    """
    from stillhouse.students.export import CheckFailed, export_student

    out = out or folder.with_name(f"{folder.name}.{to}")
    try:
        report = export_student(
            folder,
            to,  # type: ignore[arg-type]
            prompts,
            out,
            precision=precision,  # type: ignore[arg-type]
            tokens=tokens,
            tolerance=tolerance,
        )
    except CheckFailed as failed:
        if as_json:
            click.echo(orjson.dumps(failed.report.as_json(), option=orjson.OPT_INDENT_2).decode())
        click.echo(f"stillhouse: {failed}", err=True)
        sys.exit(int(Exit.CHECK))
    if as_json:
        click.echo(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2).decode())
    else:
        click.echo(report.as_text())
        click.echo(f"file: {out}\nreport: {out}.check.json")
