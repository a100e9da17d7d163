"""`stillhouse judge`: compare any two models, endpoints or answer files on any test file."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import orjson

from stillhouse.cli.exits import Exit, leave
from stillhouse.cli.progress import LiveProgress


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--teacher", required=True, help="What answers: see below.")
@click.option("--student", required=True, help="What answers: see below.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the report.",
)
@click.option("--require", type=click.Choice(["non-inferior"]), help="Exit 8 on another verdict.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def judge(
    recipe: Path,
    teacher: str,
    student: str,
    out: Path,
    require: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Judge STUDENT against TEACHER by the task, data and margin of RECIPE, without training.

    RECIPE needs only name, task, data and judge (budget, too, where an endpoint is asked). All
    items of its file are test items; `training` may name others with gold answers, for baselines.

    TEACHER and STUDENT are each an answer file (.jsonl, one {"id": ITEM, "text": REPLY} a line), a
    model folder or GGUF file, or a YAML file with the keys of a recipe's teacher section: an
    endpoint, a recording, a local model that scores labels.

    \b
    Example:
      stillhouse judge judge.yaml --teacher gpt.jsonl --student ./my-student --out verdict/
    """
    from stillhouse.distill import Stopped, judge_pair, read_judging

    with LiveProgress(quiet=quiet) as progress:
        try:
            result = judge_pair(
                read_judging(recipe),
                teacher=teacher,
                student=student,
                out=out,
                progress=progress,
                place=str(recipe),
            )
        except Stopped as stop:
            leave(stop, as_json=as_json)
    if as_json:
        click.echo(orjson.dumps(result.as_json(), option=orjson.OPT_INDENT_2).decode())
    else:
        click.echo(result.as_text())
    if require is not None and result.verdict != require:
        sys.exit(int(Exit.VERDICT))
