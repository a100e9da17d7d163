"""`stillhouse doctor`: what is installed, what this machine can do, what a recipe opens."""

from __future__ import annotations

from pathlib import Path

import click
import orjson


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
def doctor(recipe: Path | None, as_json: bool) -> None:
    """Say what is installed, what this machine can do, and what RECIPE would open or need.

    Changes nothing and asks nobody: no network, no model is loaded.

    \b
    Example:
      stillhouse doctor
      stillhouse doctor my-task/recipe.yaml
    """
    from stillhouse.distill.examination import examine

    findings = examine(recipe)
    if as_json:
        click.echo(orjson.dumps([f.as_json() for f in findings], option=orjson.OPT_INDENT_2))
        return
    for finding in findings:
        click.echo(f"{finding.state:8} {finding.subject}: {finding.detail}")
        if finding.repair:
            click.echo(f"{'':8} repair: {finding.repair}")
