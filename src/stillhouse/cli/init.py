"""`stillhouse init`: write a recipe for the user's own file."""

from __future__ import annotations

from pathlib import Path

import click
import orjson


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Your prompts: JSONL (chat messages or columns), CSV or Parquet.",
)
@click.option(
    "--teacher",
    type=click.Choice(["endpoint", "local", "recording"]),
    default="endpoint",
    show_default=True,
    help="What answers.",
)
@click.option("--model", help="Model name, folder or recording of the teacher.")
@click.option("--url", help="Base URL of an endpoint, up to and including /v1.")
@click.option("--student", help="Model folder that the student starts from.")
@click.option("--prompt", help="Column that holds the prompt.  [default: guessed]")
@click.option("--gold", help="Column that holds the right answer.  [default: guessed]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
def init(
    folder: Path,
    data: Path,
    teacher: str,
    model: str | None,
    url: str | None,
    student: str | None,
    prompt: str | None,
    gold: str | None,
    as_json: bool,
) -> None:
    """Write FOLDER/recipe.yaml for your own data, with every choice explained in place.

    Reads a few lines of the file to find the columns of prompt, answer and id; never overwrites.

    \b
    Example:
      stillhouse init triage --data tickets.csv --model my-model --url http://localhost:8000/v1
    """
    from stillhouse.distill import draft_recipe

    path = draft_recipe(
        folder,
        data=data,
        teacher=teacher,
        model=model,
        url=url,
        student=student,
        prompt=prompt,
        gold=gold,
    )
    following = f"stillhouse distill {path} --until plan"
    if as_json:
        click.echo(orjson.dumps({"recipe": str(path), "next": following}).decode())
    else:
        click.echo(f"wrote {path}\nnext: {following}")
