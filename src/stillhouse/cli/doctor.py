"""`stillhouse doctor`: what is installed, what this machine can do, what a file of yours opens."""

from __future__ import annotations

from pathlib import Path

import click
import orjson

FOUND_BY_ITSELF = Path("gateway.yaml")


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
def doctor(file: Path | None, as_json: bool) -> None:
    """Say what is installed, what this machine can do, and what FILE would open or need.

    FILE is a recipe or a gateway's configuration; without it gateway.yaml in this folder is looked
    at, if there is one. Changes nothing and asks nobody: no network, no model is loaded.

    \b
    Example:
      stillhouse doctor
      stillhouse doctor my-task/recipe.yaml
      stillhouse doctor gateway.yaml
    """
    from stillhouse.distill.examination import Finding, examine
    from stillhouse.gateway import examination

    if file is None and FOUND_BY_ITSELF.exists():
        file = FOUND_BY_ITSELF
    if file is not None and examination.is_configuration(file):
        remarks = examination.examine(file)
        findings = [*examine(None), *(Finding(*remark) for remark in remarks)]  # type: ignore[arg-type]
    else:
        findings = examine(file)
    if as_json:
        click.echo(orjson.dumps([f.as_json() for f in findings], option=orjson.OPT_INDENT_2))
        return
    for finding in findings:
        click.echo(f"{finding.state:8} {finding.subject}: {finding.detail}")
        if finding.repair:
            click.echo(f"{'':8} repair: {finding.repair}")
