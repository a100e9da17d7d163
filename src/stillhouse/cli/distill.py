"""`stillhouse distill`: run a recipe from plan to report."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import orjson

from stillhouse.cli.exits import Exit, leave
from stillhouse.cli.progress import LiveProgress


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="The run's folder.  [default: runs/NAME, NAME from the recipe]",
)
@click.option(
    "--until",
    type=click.Choice(["plan", "label", "curate", "train", "judge", "report"]),
    help="Stop after this stage; `--until plan` spends nothing.",
)
@click.option(
    "--accept-changes", is_flag=True, help="Redo finished stages whose inputs have changed."
)
@click.option("--require", type=click.Choice(["non-inferior"]), help="Exit 8 on another verdict.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
def distill(
    recipe: Path,
    folder: Path | None,
    until: str | None,
    accept_changes: bool,
    require: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Distil a teacher into a student by RECIPE, and judge it.

    Plans, labels, curates, trains, judges and reports. Each stage is resumed after any
    interruption by the same command, and skipped when nothing it depends on has changed.

    \b
    Example:
      stillhouse distill recipe.yaml --until plan     what it will cost, spending nothing
      stillhouse distill recipe.yaml                  the whole run
    """
    from stillhouse.distill import Stopped, read_recipe, run_recipe

    with LiveProgress(quiet=quiet) as progress:
        try:
            result = run_recipe(
                read_recipe(recipe),
                folder=folder,
                until=until,
                accept_changes=accept_changes,
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
