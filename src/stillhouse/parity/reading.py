"""A user's file of prompts to items: which column is what, and every way it can be wrong.

Text of the data is never interpreted: only the template's own braces name columns.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.items import Item, Task
from stillhouse.parity.outcomes import parse_document
from stillhouse.parity.tables import Format, Row, Table, kind_of, open_table
from stillhouse.parity.turns import FinalReply, Prompt, read_turns
from stillhouse.teachers.chat import Message

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """How a file is read. Every name is a column of it (docs/data.md has worked examples)."""

    path: Path = field(metadata={"help": "JSON Lines, CSV or Parquet file, UTF-8"})
    format: Format | None = field(
        default=None, metadata={"help": "jsonl, csv or parquet; told from the file when absent"}
    )
    delimiter: str | None = field(
        default=None, metadata={"help": "what separates CSV columns; a comma when absent"}
    )
    id: str | None = field(
        default=None, metadata={"help": "column that names each item; from its content when absent"}
    )
    prompt: str | None = field(
        default=None,
        metadata={"help": "the user's turn: {column} for a column's text, {{ and }} for braces"},
    )
    system: str | None = field(
        default=None, metadata={"help": "the system turn, the same for all items, literally"}
    )
    messages: str | None = field(
        default=None,
        metadata={"help": "column with chat turns; `messages` when there is no prompt"},
    )
    final_reply: FinalReply = field(
        default="refuse",
        metadata={"help": "turns that end with the assistant's: refuse, take as gold, or drop it"},
    )
    gold: str | None = field(
        default=None, metadata={"help": "column with the right answer, where it is known"}
    )
    gold_map: Mapping[str, str] | None = field(
        default=None, metadata={"help": "what the gold column says: what the answer is"}
    )
    group: str | None = field(
        default=None,
        metadata={"help": "column of the cluster (document, user); a split never cuts one"},
    )
    slice: str | None = field(
        default=None, metadata={"help": "column by which the report breaks scores down"}
    )
    variable: tuple[str, ...] = field(
        default=(),
        metadata={"help": "columns compared for contamination; all of the prompt's when absent"},
    )

    def __post_init__(self) -> None:
        if self.prompt is not None and self.messages is not None:
            raise InputError(
                "both data.prompt and data.messages are given", repair="keep one of the two"
            )
        if self.prompt is None and self.variable:
            raise InputError(
                "data.variable is for data.prompt; of chat turns all but the system's are compared",
                repair="remove data.variable",
            )
        if self.prompt is not None and not _columns_of(parse_template(self.prompt)):
            raise InputError(
                f"data.prompt names no column, so all prompts would be the same: {self.prompt!r}",
                repair="write {column} where a column's text goes",
            )
        if self.gold is not None and self.final_reply == "gold":
            raise InputError(
                "both data.gold and data.final_reply: gold say where the answer is",
                repair="keep one of the two",
            )


@dataclass(frozen=True, slots=True)
class _Column:
    name: str


Template = tuple[str | _Column, ...]


def parse_template(text: str) -> Template:
    """Split a prompt template into literal text and columns; raises InputError on a stray brace."""
    pieces: list[str | _Column] = []
    end = 0
    for match in _PIECE.finditer(text):
        pieces.append(text[end : match.start()])
        end = match.end()
        token = match[0]
        if token in ("{{", "}}"):
            pieces.append(token[0])
        elif token in ("{", "}") or not match[1].strip():
            near = text[max(0, match.start() - 15) : match.end() + 15]
            raise InputError(
                f"a brace in data.prompt names no column: ...{near!r}...",
                repair="write {column} for a column, {{ and }} for braces that stay",
            )
        else:
            pieces.append(_Column(match[1].strip()))
    return tuple(piece for piece in (*pieces, text[end:]) if piece != "")


def _columns_of(template: Template) -> tuple[str, ...]:
    return tuple(dict.fromkeys(p.name for p in template if isinstance(p, _Column)))


def read_items(spec: DataSpec, task: Task, *, require_gold: bool = True) -> tuple[Item, ...]:
    """Read every item of `spec.path`, in the file's order.

    An item without an id column is named by the SHA-256 of its turns (16 hexadecimal digits); the
    second item with the same turns gets `-2` and the same group. `require_gold`: when a gold column
    is named, at least one row must have it (off for a training file whose gold is kept elsewhere).

    Raises InputError naming FILE:LINE for whatever cannot be used: docs/data.md lists the cases.
    """
    table = open_table(spec.path, format=spec.format, delimiter=spec.delimiter)
    _check_columns(spec, table, require_gold)
    read_prompt = _prompt_reader(spec, table)
    seen: dict[str, str] = {}
    content_seen: dict[str, int] = {}
    items: list[Item] = []
    gold_found = False
    for row in table.rows:
        messages, variable, final = read_prompt(row)
        given = _name(row, spec.id, table) if spec.id is not None else None
        if given is not None and given in seen:
            raise InputError(
                f"the id {given!r} is given twice, first at {seen[given]}",
                place=row.place,
                repair="give each item an id of its own, or leave data.id out",
            )
        digest = _content_id(messages) if given is None else ""
        content_seen[digest] = count = content_seen.get(digest, 0) + 1
        item_id = given or (digest if count == 1 else f"{digest}-{count}")
        seen[item_id] = row.place
        gold = final if spec.final_reply == "gold" else gold_text(row, spec.gold)
        gold_found |= gold is not None
        group = _name(row, spec.group, table) if spec.group is not None else given or digest
        items.append(
            Item(
                id=item_id,
                messages=messages,
                variable=variable,
                group=group,
                gold=None if gold is None else _checked_gold(gold, row, spec, task),
                slice=_optional_name(row, spec.slice),
            )
        )
    wants_gold = spec.gold is not None or spec.final_reply == "gold"
    if wants_gold and require_gold and not gold_found:
        if spec.gold is not None and spec.gold not in table.columns:
            raise table.missing(f"no row has a gold answer in {spec.gold!r}", spec.gold)
        raise InputError(
            f"no row has a gold answer in {spec.gold or 'its last turn'!r}",
            place=str(spec.path),
            repair="fill it in, or leave data.gold out: the teacher is then the only reference",
        )
    if spec.slice is not None and not any(item.slice for item in items):
        raise table.missing(f"no row has a slice in {spec.slice!r}", spec.slice)
    return tuple(items)


def _check_columns(spec: DataSpec, table: Table, require_gold: bool) -> None:
    """Refuse a column that the file does not have (JSON Lines: that its first row has not)."""
    if spec.prompt is not None:
        for name in _columns_of(parse_template(spec.prompt)):
            if name not in table.columns:
                raise table.missing(
                    f"{{{name}}} in data.prompt names no column of the file"
                    " (braces that stay are written {{ and }})",
                    name,
                )
    named: list[tuple[str, str | None]] = [("id", spec.id), ("group", spec.group)]
    named += [("variable", name) for name in spec.variable]
    if spec.prompt is None:
        named.append(("messages", spec.messages or "messages"))
    if table.format != "jsonl":  # in JSON Lines an absent key is an unknown value
        named += [("slice", spec.slice), ("gold", spec.gold if require_gold else None)]
    for role, column in named:
        if column is not None and column not in table.columns:
            raise table.missing(f"data.{role}: {column!r} is no column of the file", column)


def _prompt_reader(spec: DataSpec, table: Table) -> Callable[[Row], Prompt]:
    """A function of a row to its turns, their variable part, and a final reply where there is."""
    system = () if spec.system is None else (Message("system", spec.system),)
    if spec.prompt is None:
        column = spec.messages or "messages"
        return lambda row: read_turns(row, column, system, spec.final_reply, table)
    template = parse_template(spec.prompt)
    columns = _columns_of(template)
    variable = spec.variable or columns

    def read(row: Row) -> Prompt:
        texts = {name: _text(row, name, table) for name in (*columns, *variable)}
        if not any(texts[name].strip() for name in columns):
            raise InputError(
                f"the prompt is empty: nothing in {', '.join(columns)}",
                place=row.place,
                repair="fill it in or remove the row",
            )
        user = "".join(texts[p.name] if isinstance(p, _Column) else p for p in template)
        return (*system, Message("user", user)), "\n".join(texts[v] for v in variable), None

    return read


def _text(row: Row, column: str, table: Table) -> str:
    if column not in row.values:
        raise table.missing(f"the row has no {column!r}", column, row)
    value = row.values[column]
    if not isinstance(value, str):
        raise InputError(
            f"{column!r} is {kind_of(value)}, not text",
            place=row.place,
            repair="write it as text, exactly as the model is to read it",
        )
    return value


def _optional_name(row: Row, column: str | None) -> str | None:
    """A short value as text: ids, groups and slices may be written as whole numbers or booleans."""
    value = row.values.get(column) if column is not None else None
    if value is None or value == "":
        return None
    if isinstance(value, bool | int):
        return orjson.dumps(value).decode()
    if not isinstance(value, str):
        raise InputError(
            f"{column!r} is {kind_of(value)}, not text or a whole number",
            place=row.place,
            repair="write it as text",
        )
    return value


def _name(row: Row, column: str, table: Table) -> str:
    if column not in row.values:
        raise table.missing(f"the row has no {column!r}", column, row)
    found = _optional_name(row, column)
    if found is None:
        raise InputError(
            f"{column!r} is empty", place=row.place, repair="fill it in, or remove the row"
        )
    return found


def gold_text(row: Row, column: str | None) -> str | None:
    """A right answer as text: a document as JSON, a boolean as JSON writes it."""
    value = row.values.get(column) if column is not None else None
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return _optional_name(row, column)


def _checked_gold(gold: str, row: Row, spec: DataSpec, task: Task) -> str:
    if spec.gold_map is not None:
        if gold not in spec.gold_map:
            raise InputError(
                f"the gold answer {gold!r} is not in data.gold_map",
                place=row.place,
                repair=_nearest(gold, spec.gold_map),
            )
        gold = spec.gold_map[gold]
    if task.kind == "label" and gold not in task.labels:
        raise InputError(
            f"the gold answer {gold!r} is not one of the task's labels",
            place=row.place,
            repair=_nearest(gold, task.labels) + "; data.gold_map can translate it",
        )
    if task.kind == "json" and parse_document(gold) is None:
        raise InputError(
            f"the gold answer is not one JSON object: {gold[:60]!r}",
            place=row.place,
            repair="write the document itself or its JSON text, with each key once",
        )
    return gold


def _nearest(value: str, known: Iterable[str]) -> str:
    names: Sequence[str] = list(known)
    near = difflib.get_close_matches(value.lower(), [name.lower() for name in names], n=1)
    listed = ", ".join(repr(name) for name in names[:20])
    if near:
        return f"did you mean {next(n for n in names if n.lower() == near[0])!r}? known: {listed}"
    return f"known: {listed}"


def _content_id(messages: Sequence[Message]) -> str:
    turns = orjson.dumps([[message.role, message.content] for message in messages])
    return hashlib.sha256(turns).hexdigest()[:16]
