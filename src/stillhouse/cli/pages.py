"""The reference pages of the docs, written from the code: docs/recipe.md and docs/cli.md.

`python -m stillhouse.cli.pages` writes both; a test fails when they differ from the code.
"""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from stillhouse.cli import command
from stillhouse.cli.exits import MEANINGS
from stillhouse.distill.recipe import Recipe

RECIPE_HEAD = """# Recipe

One YAML file says everything that a run depends on. Unknown keys are errors that name the line and
the nearest known key; relative paths are taken from the recipe's folder. `stillhouse init` writes a
first one for your data. This page is written from the code.

| key | kind | default | meaning |
|---|---|---|---|
"""

CLI_HEAD = """# Command line

This page is written from the code; `stillhouse VERB --help` says the same.
"""


def recipe_page() -> str:
    """Every key of a recipe, with its kind, default and meaning."""
    rows = [
        f"| `{name}` | {kind} | {default} | {meaning} |"
        for name, kind, default, meaning in _rows(Recipe, "")
    ]
    return RECIPE_HEAD + "\n".join(rows) + "\n"


def cli_page() -> str:
    """Help of every verb, and the exit codes."""
    parts = [CLI_HEAD]
    settings: dict[str, Any] = {**command.context_settings, "max_content_width": 90}
    whole = click.Context(command, info_name="stillhouse", **settings)
    for name in sorted(command.commands):
        verb = command.commands[name]
        with click.Context(verb, info_name=name, parent=whole, **settings) as context:
            parts.append(f"## stillhouse {name}\n\n```text\n{verb.get_help(context)}\n```\n")
    parts.append("## Exit codes\n\n| code | meaning |\n|---|---|")
    rows = "\n".join(f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items())
    return "\n".join(parts) + "\n" + rows + "\n"


def _rows(kind: type[Any], prefix: str) -> list[tuple[str, str, str, str]]:
    hints = get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        meaning = str(field.metadata.get("help", "")).replace("|", "\\|")
        inner = _section(hints[field.name])
        name = prefix + field.name
        if inner is not None:
            rows.append((name, "section", _default(field, section=True), meaning))
            rows += _rows(inner, name + ".")
        else:
            rows.append((name, _kind(hints[field.name]), _default(field), meaning))
    return rows


def _section(hint: Any) -> type[Any] | None:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((o for o in options if dataclasses.is_dataclass(o) and isinstance(o, type)), None)


def _kind(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _kind(next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if (
        origin is not None and issubclass(origin, types.MappingProxyType | dict)
    ) or "Mapping" in str(hint):
        return "mapping"
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _default(field: dataclasses.Field[Any], *, section: bool = False) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "**required**"
    if section:
        return "none" if field.default is None else "defaults"
    value = field.default
    if value is None or value == () or value is dataclasses.MISSING:
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def main(docs: Path = Path("docs")) -> None:
    """Write both pages."""
    (docs / "recipe.md").write_text(recipe_page(), encoding="utf-8")
    (docs / "cli.md").write_text(cli_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
