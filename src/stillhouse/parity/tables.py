"""Rows of a user's JSON Lines, CSV or Parquet file, each with the place it came from."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson

from stillhouse.exchanges.errors import InputError

Format = Literal["jsonl", "csv", "parquet"]

SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
LONGEST_CSV_FIELD = 1 << 27  # characters; the csv module stops at 131,072 unless told
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Row:
    """One record. `place` is FILE:LINE (for Parquet FILE:row N), counted from 1."""

    place: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """A file's rows, read as they are asked for. `columns` are the first row's for JSON Lines."""

    path: Path
    format: Format
    columns: tuple[str, ...]
    rows: Iterator[Row]

    def missing(self, message: str, name: str, row: Row | None = None) -> InputError:
        """The error for a column that the file (or that `row`) has not, with the nearest it has."""
        columns = self.columns if row is None else tuple(row.values)
        near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        if name == "messages" and not near:
            hint = 'for plain columns write data.prompt, such as "{text}". '
        if self.format == "csv" and len(columns) == 1:
            for other in (";", "\t", "|"):
                if other in columns[0]:
                    hint = f"the columns look separated by {other!r}: set data.delimiter. "
        return InputError(
            message,
            place=str(self.path) if row is None else row.place,
            repair=f"{hint}columns here: {', '.join(columns[:20])}",
        )


def open_table(path: Path, *, format: Format | None = None, delimiter: str | None = None) -> Table:  # noqa: A002
    """Open `path`; the format is taken from its first bytes and its name unless given.

    Raises InputError, with the line, for a file that is missing, empty, not UTF-8, or malformed;
    for errors further down, when that row is reached.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(
            f"the file cannot be read: {error.strerror}",
            place=str(path),
            repair="name a readable JSON Lines, CSV or Parquet file",
        ) from error
    kind = format or _format_of(path, head)
    if kind != "parquet" and not head.strip():
        raise InputError(
            "the file is empty", place=str(path), repair="give it at least one row per item"
        )
    if kind == "parquet":
        return _parquet_table(path)
    if head.startswith(UTF16_MARKS):
        raise InputError(
            "the file is UTF-16, not UTF-8",
            place=str(path),
            repair=f"iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}",
        )
    return _json_table(path) if kind == "jsonl" else _csv_table(path, delimiter)


def _format_of(path: Path, head: bytes) -> Format:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"\x1f\x8b"):
        raise InputError(
            "the file is compressed", place=str(path), repair=f"gunzip --keep {path.name}"
        )
    found = SUFFIXES.get(path.suffix.lower())
    if found is None and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return "jsonl"
    if found is None:
        raise InputError(
            f"the format cannot be told from the name {path.name!r}",
            place=str(path),
            repair=f"rename it to one of {', '.join(SUFFIXES)}, or set data.format",
        )
    return found


def _primed(path: Path, rows: Iterator[Row]) -> tuple[Row, Iterator[Row]]:
    """The first row, and all rows with it."""
    first = next(rows, None)
    if first is None:
        raise InputError(
            "the file holds no rows", place=str(path), repair="give it at least one row per item"
        )

    def all_rows() -> Iterator[Row]:
        yield first
        yield from rows

    return first, all_rows()


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(file, 1):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"byte {error.start + 1} of the line is not UTF-8 (0x{raw[error.start]:02x})",
                place=f"{path}:{number}",
                repair="save the file as UTF-8 (if it is Latin-1: iconv -f LATIN1 -t UTF-8)",
            ) from error


def _json_table(path: Path) -> Table:
    first, rows = _primed(path, _json_rows(path))
    return Table(path=path, format="jsonl", columns=tuple(first.values), rows=rows)


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in _lines(path, file):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InputError(
                    f"not JSON: {error.msg} at column {error.colno}",
                    place=place,
                    repair="write one JSON object a line"
                    + (
                        f"; this looks like an indented document or an array: "
                        f"jq -c '.[]' {path.name} > lines.jsonl"
                        if line.strip() in ("[", "{", "[{")
                        else ""
                    ),
                ) from error
            if not isinstance(value, dict):
                raise InputError(
                    f"a line must hold one JSON object, not {kind_of(value)}",
                    place=place,
                    repair="write one JSON object a line"
                    + (f": jq -c '.[]' {path.name} > lines.jsonl" if number == 1 else ""),
                )
            yield Row(place, value)


def _csv_table(path: Path, delimiter: str | None) -> Table:
    comma = delimiter or ("\t" if path.suffix.lower() == ".tsv" else ",")
    records = _csv_records(path, comma)
    place, header = next(records, (str(path), []))
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled or "" in header:
        raise InputError(
            f"the header names the column {doubled[0]!r} twice"
            if doubled
            else "the header has a column without a name",
            place=place,
            repair="give each column a name of its own",
        )

    def rows() -> Iterator[Row]:
        for place, cells in records:
            if len(cells) != len(header):
                raise InputError(
                    f"{len(cells)} cells under {len(header)} columns",
                    place=place,
                    repair="put cells that hold the separator or a line break in double quotes",
                )
            yield Row(place, dict(zip(header, cells, strict=True)))

    _, primed = _primed(path, rows())
    return Table(path=path, format="csv", columns=tuple(header), rows=primed)


def _csv_records(path: Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CSV_FIELD))
    with path.open("rb") as file:
        try:
            reader = csv.reader(
                (line for _, line in _lines(path, file)), delimiter=delimiter, strict=True
            )
        except (csv.Error, TypeError) as error:
            raise InputError(
                f"{delimiter!r} cannot separate columns",
                repair="set data.delimiter to one character",
            ) from error
        while True:
            place = f"{path}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InputError(
                    f"not CSV: {error}",
                    place=place,
                    repair='close every quoted cell, and write a quote inside one as ""',
                ) from error
            if cells:
                yield place, cells


def _parquet_table(path: Path) -> Table:
    import pyarrow  # a slow import that JSON Lines and CSV do without
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"not a Parquet file: {str(error).splitlines()[0]}",
            place=str(path),
            repair="write it again, or set data.format to what it is",
        ) from error
    columns = tuple(file.schema_arrow.names)

    def rows() -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}:row {number}", values)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"the Parquet file is damaged: {str(error).splitlines()[0]}",
                place=f"{path}:row {number + 1}",
                repair="write it again",
            ) from error

    _, primed = _primed(path, rows())
    return Table(path=path, format="parquet", columns=columns, rows=primed)


def kind_of(value: Any) -> str:
    """What a JSON value is, in a user's words, with the value where it is short."""
    names = {
        type(None): "nothing (null)",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
        bytes: "bytes",
    }
    name = names.get(type(value), type(value).__name__)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{name} ({json.dumps(value)})"
    return name
