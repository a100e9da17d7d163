"""YAML to frozen dataclasses, strictly: unknown, doubled or mistyped keys name their line."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import json
import types
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pydantic
import yaml

from stillhouse.exchanges import InputError

T = TypeVar("T")
KeyPath = tuple[str, ...]


def parse_yaml(path: Path, kind: type[T]) -> T:
    """Read `path` as one `kind`.

    Raises InputError naming file, line and key for anything that is not exactly a `kind`: an
    unknown key (with the nearest known one), a key given twice, a missing key, a wrong type.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(
            f"the recipe cannot be read: {why}",
            place=str(path),
            repair="name a UTF-8 YAML file; `stillhouse init` writes one",
        ) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        value, lines = _plain(root, path) if root is not None else ({}, {})
    except yaml.YAMLError as error:
        raise _not_yaml(error, path) from error
    return build(kind, value, place=str(path), lines=lines)


def build(kind: type[T], value: Any, *, place: str, lines: dict[KeyPath, int] | None = None) -> T:
    """Make a `kind` (a dataclass) of nested plain values; errors name `place` and the key."""
    return _Builder(place, lines or {}).dataclass(kind, value, ())


def keys_of(kind: type[Any], prefix: str = "") -> list[str]:
    """Every dotted key that a `kind` accepts, in the order of its fields."""
    hints = get_type_hints(kind)
    found: list[str] = []
    for field in dataclasses.fields(kind):
        inner = _dataclass_in(hints[field.name])
        name = prefix + field.name
        found.append(name)
        if inner is not None:
            found += keys_of(inner, name + ".")
    return found


def _not_yaml(error: yaml.YAMLError, path: Path) -> InputError:
    """The error with its line, in words; a tab is the mistake that YAML words worst."""
    place, problem = str(path), str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        problem = ", ".join(filter(None, (error.problem, error.context)))
        if error.problem_mark is not None:
            place = f"{path}:{error.problem_mark.line + 1}"
    elif isinstance(error, yaml.reader.ReaderError):
        problem = f"a character that YAML does not allow (U+{error.character:04X})"
    repair = (
        "indent by spaces, never by tabs"
        if "'\\t'" in problem
        else "a key is `name: value`, deeper keys are indented alike, and text with : # { [ or a"
        " quote in it stands in quotes; `stillhouse init` writes a recipe to start from"
    )
    return InputError(f"not YAML: {problem}", place=place, repair=repair)


def _plain(root: yaml.Node, path: Path) -> tuple[Any, dict[KeyPath, int]]:
    lines: dict[KeyPath, int] = {}
    construct = yaml.SafeLoader("").construct_object

    def walk(node: yaml.Node, at: KeyPath) -> Any:
        lines[at] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            out: dict[str, Any] = {}
            for key_node, child in node.value:
                key = str(key_node.value)
                if key in out:
                    raise InputError(
                        f"the key {'.'.join((*at, key))!r} is given twice",
                        place=f"{path}:{key_node.start_mark.line + 1}",
                        repair="keep one of the two",
                    )
                out[key] = walk(child, (*at, key))
                lines[(*at, key)] = key_node.start_mark.line + 1
            return out
        if isinstance(node, yaml.SequenceNode):
            return [walk(child, (*at, str(i))) for i, child in enumerate(node.value)]
        value = construct(node)
        return value.isoformat() if isinstance(value, datetime.date) else value

    return walk(root, ()), lines


def _dataclass_in(hint: Any) -> type[Any] | None:
    """The dataclass that a hint asks for: itself, or the one in `X | None`."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    found = [option for option in options if dataclasses.is_dataclass(option)]
    return found[0] if found and isinstance(found[0], type) else None


@dataclasses.dataclass(frozen=True, slots=True)
class _Builder:
    place: str
    lines: dict[KeyPath, int]

    def at(self, path: KeyPath) -> str:
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.place}:{self.lines[path]}" if path in self.lines else self.place

    def dataclass(self, kind: type[T], value: Any, path: KeyPath) -> T:
        name = ".".join(path) or "the recipe"
        if not isinstance(value, dict):
            raise InputError(f"{name} must be a mapping, not {value!r}", place=self.at(path))
        if not dataclasses.is_dataclass(kind):
            raise TypeError(f"{kind} is not a dataclass")
        hints = get_type_hints(kind)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        for key in value:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                raise InputError(
                    f"unknown key {'.'.join((*path, key))!r}",
                    place=self.at((*path, key)),
                    repair=(
                        f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(fields)}"
                    ),
                )
        arguments = {
            key: self.value(hints[key], given, (*path, key)) for key, given in value.items()
        }
        for field in fields.values():
            has_default = (
                field.default is not dataclasses.MISSING
                or field.default_factory is not dataclasses.MISSING
            )
            if field.name not in arguments and not has_default:
                missing = ".".join((*path, field.name))
                raise InputError(
                    f"the key {missing!r} is missing", place=self.at(path), repair=f"add {missing}"
                )
        try:
            return kind(**arguments)
        except InputError as error:
            raise InputError(
                error.message, place=error.place or self.at(path), repair=error.repair
            ) from error

    def value(self, hint: Any, given: Any, path: KeyPath) -> Any:
        inner = _dataclass_in(hint)
        if inner is not None and (given is not None or hint is inner):
            # A section whose keys are all commented out reads as nothing: its defaults.
            return self.dataclass(inner, {} if given is None else given, path)
        try:
            adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(hint)
            return adapter.validate_json(json.dumps(given), strict=True)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            detail = ".".join(str(part) for part in first["loc"])
            repair = "give a value of that kind; docs/recipe.md lists every key"
            if first["type"] == "string_type" and isinstance(first["input"], (bool, int, float)):
                repair = "put it in quotes: YAML takes yes, no, on, off and digits for no text"
            raise InputError(
                f"{'.'.join(path)}: {first['msg']}{f' (at {detail})' if detail else ''},"
                f" got {given!r}",
                place=self.at(path),
                repair=repair,
            ) from error
