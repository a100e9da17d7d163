"""What a reply must pass before it trains: a JSON Schema, a pattern, a function of the user's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import orjson

from stillhouse.exchanges import InputError
from stillhouse.parity.functions import beside, load_function
from stillhouse.parity.items import Item
from stillhouse.parity.outcomes import parse_document

# What is wrong with a reply: (rule, detail); None when nothing is.
Verifier = Callable[[str, Item], tuple[str, str] | None]


def schema_verifier(schema: str) -> Verifier:
    """Require a document that fits `schema` (JSON Schema 2020-12 as JSON; formats are checked).

    Raises InputError when it is not a schema.
    """
    import jsonschema  # part of the distill extra

    document = orjson.loads(schema)
    try:
        jsonschema.Draft202012Validator.check_schema(document)
    except jsonschema.SchemaError as error:
        raise InputError(
            f"not a JSON Schema: {error.message}",
            place=f"task.schema at {error.json_path}",
            repair="correct the schema file",
        ) from error
    validator = jsonschema.Draft202012Validator(
        document, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )

    def verify(reply: str, _: Item) -> tuple[str, str] | None:
        parsed = parse_document(reply)
        if parsed is None:
            return "not_json", "the reply is not one JSON object"
        worst = min(validator.iter_errors(parsed), key=lambda e: e.json_path, default=None)
        return None if worst is None else ("schema", f"{worst.json_path}: {worst.message}")

    return verify


def pattern_verifier(pattern: str) -> Verifier:
    """Require that the whole reply, without outer space, matches a regular expression."""
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise InputError(
            f"curate.pattern is not a regular expression: {error}: {pattern!r}",
            repair="Python's syntax; the whole reply must match, . matches line breaks too",
        ) from error

    def verify(reply: str, _: Item) -> tuple[str, str] | None:
        if compiled.fullmatch(reply.strip()):
            return None
        return "pattern", f"does not match {pattern!r}"

    return verify


def function_verifier(name: str, folder: Path) -> Verifier:
    """Require that the user's `module:function` accepts (reply, item): it returns true.

    The module is looked for in `folder` (the recipe's), then among what is installed. A function
    that raises or returns something else rejects that one reply, with what it said. This runs the
    user's code with the user's rights.
    """
    function = load_function(beside(name, folder))

    def verify(reply: str, item: Item) -> tuple[str, str] | None:
        try:
            accepted = function(reply, item)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            return "function_error", f"{type(error).__name__}: {error}"
        if not isinstance(accepted, bool):
            return "function_error", f"returned {accepted!r}, neither True nor False"
        return None if accepted else ("function", f"{name} returned False")

    return verify
