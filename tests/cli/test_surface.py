"""The command line and the recipe's keys are a promise: changing them is a decision."""

from __future__ import annotations

from pathlib import Path

from stillhouse.cli import command, pages
from stillhouse.distill.parsing import keys_of
from stillhouse.distill.recipe import Recipe

ROOT = Path(__file__).parent.parent.parent
FROZEN = Path(__file__).parent / "frozen_surface.txt"


def surface() -> list[str]:
    lines = []
    for name in sorted(command.commands):
        parameters = command.commands[name].params
        spelled = [" ".join(parameter.opts) for parameter in parameters]
        lines.append(f"stillhouse {name}: {', '.join(spelled)}")
    return lines + [f"recipe {key}" for key in keys_of(Recipe)]


def test_the_surface_is_the_frozen_one() -> None:
    frozen = FROZEN.read_text(encoding="utf-8").splitlines()
    assert surface() == frozen, (
        "if the change is meant: note it in CHANGELOG.md, write the new list to "
        "tests/cli/frozen_surface.txt and run `python -m stillhouse.cli.pages`"
    )


def test_the_pages_of_the_docs_say_what_the_code_says() -> None:
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == pages.recipe_page()
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == pages.cli_page()


def test_every_key_of_a_recipe_is_explained() -> None:
    empty = [name for name, _, _, meaning in pages._rows(Recipe, "") if not meaning]
    assert empty == []


def test_every_verb_shows_a_worked_example() -> None:
    for name, verb in command.commands.items():
        assert "Example:" in (verb.help or ""), f"stillhouse {name} --help has no example"
