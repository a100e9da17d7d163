"""Exchanges as a Parquet dataset: `folder`/parquet/day=YYYY-MM-DD/PART.parquet."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from stillhouse.exchanges import storage
from stillhouse.exchanges.errors import InputError
from stillhouse.exchanges.exchange import COLUMNS, LATEST_US, REQUIRED, SCHEMA_VERSION, Exchange
from stillhouse.exchanges.journal import Journal
from stillhouse.exchanges.log import JOURNAL_FOLDER, JOURNAL_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stillhouse.exchanges.exchange import Column
    from stillhouse.exchanges.journal import Repair

PARQUET_FOLDER = "parquet"
DAY_US = 86_400_000_000
_EPOCH_ORDINAL = datetime.date(1970, 1, 1).toordinal()
_CHUNK = 10_000
_PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # pyarrow reads no file named _x
_VERSION_KEY = b"stillhouse.schema"


def _arrow_type(column: Column) -> pa.DataType:
    kinds = {
        "text": pa.string(),
        "integer": pa.int64(),
        "real": pa.float64(),
        "truth": pa.bool_(),
        "bytes": pa.binary(-1 if column.size is None else column.size),
        "integers": pa.list_(pa.int32()),
    }
    return kinds[column.kind]


SCHEMA = pa.schema(
    [pa.field(n, _arrow_type(c), nullable=n not in REQUIRED) for n, c in COLUMNS.items()],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION)},
)
_PARTITION = pa.schema([("day", pa.date32())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """What `compact` did."""

    exchanges: int
    written: tuple[Path, ...]
    in_use: tuple[Path, ...]  # journals that a process still writes to
    repairs: tuple[Repair, ...]


def to_table(exchanges: Sequence[Exchange]) -> pa.Table:
    """Return exchanges as an Arrow table with `SCHEMA`."""
    columns = [[getattr(exchange, name) for exchange in exchanges] for name in SCHEMA.names]
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


def from_table(table: pa.Table | pa.RecordBatch) -> Iterator[Exchange]:
    """Read the rows of a table or batch with the columns of `SCHEMA` (others are left out)."""
    for row in table.select(SCHEMA.names).to_pylist():
        cells = row["content_cells"]
        if cells is not None:
            row["content_cells"] = tuple(cells)
        yield Exchange(**row)


def write_part(folder: Path, table: pa.Table, *, part: str) -> tuple[Path, ...]:
    """Write a table of exchanges as one file a day, each atomically and read back before it counts.

    Writing the same `part` again replaces it, unless that would lose rows (`InputError`). Columns
    that may be unknown may be missing; any other difference from `SCHEMA` is an `InputError`.
    """
    if not _PART_NAME.fullmatch(part):
        raise InputError(
            f"{part!r} cannot name a part",
            repair="use letters, digits, - and _, and begin with a letter or digit",
        )
    table = _conform(table, place=f"part {part}")
    written = []
    days = pc.divide(table["time_us"], DAY_US)
    for number in sorted(pc.unique(days).to_pylist()):
        day = _day(number * DAY_US)
        path = folder / PARQUET_FOLDER / f"day={day}" / f"{part}.parquet"
        _write_file(path, table.filter(pc.equal(days, number)))
        written.append(path)
    return tuple(written)


def part_ids(folder: Path, part: str) -> set[bytes]:
    """Return the ids of the exchanges in the files of one part; none where it has no files."""
    files = (folder / PARQUET_FOLDER).glob(f"*/{part}.parquet")
    return {one for path in files for one in pq.read_table(path, columns=["id"])["id"].to_pylist()}


def compact(folder: Path) -> Compaction:
    """Turn every closed journal of `folder` into Parquet files, then remove the journal.

    A journal goes only after its files were read back and found equal to it. A kill at any point
    loses nothing: the next call writes the same files again. Raises `DamagedJournalError` (the
    damaged journal and later ones stay as they are), and `InputError` where another compaction is
    running or the disk is full.
    """
    written: list[Path] = []
    in_use: list[Path] = []
    repairs: list[Repair] = []
    exchanges = 0
    with storage.RunLock(folder):
        for path in sorted((folder / JOURNAL_FOLDER).glob(f"*{JOURNAL_SUFFIX}")):
            try:
                journal = Journal.open(path, header=None, fsync_every=0)
            except storage.InUseError:
                in_use.append(path)
                continue
            with journal:
                if journal.repair:
                    repairs.append(journal.repair)
                if journal.count:
                    part = _part(journal)
                    table = _read_exchanges(journal)
                    written += write_part(folder, table, part=part)
                    exchanges += len(table)
                storage.remove(path)
    return Compaction(
        exchanges=exchanges, written=tuple(written), in_use=tuple(in_use), repairs=tuple(repairs)
    )


def open_dataset(folder: Path) -> ds.Dataset:
    """Open the Parquet files of `folder` as a pyarrow dataset with `SCHEMA` and a `day` column.

    Raises `InputError` naming the file where one cannot be read or has other columns.
    """
    base = folder / PARQUET_FOLDER
    if not base.is_dir():
        raise InputError("no exchanges were compacted here", place=str(base))
    schema = pa.schema([*SCHEMA, *_PARTITION], metadata=SCHEMA.metadata)
    dataset = ds.dataset(
        base,
        schema=schema,
        format="parquet",
        partitioning=ds.partitioning(_PARTITION, flavor="hive"),
    )
    for fragment in dataset.get_fragments():
        try:
            found = fragment.physical_schema
        except (OSError, pa.ArrowException) as error:
            raise InputError("not a readable Parquet file", place=fragment.path) from error
        _check_schema(found, place=fragment.path)
    return dataset


def read_exchanges(
    folder: Path,
    *,
    start_us: int | None = None,
    end_us: int | None = None,
    where: ds.Expression | None = None,
) -> Iterator[Exchange]:
    """Read exchanges with start_us <= time_us < end_us, and those only for which `where` holds."""
    condition = between(start_us, end_us)
    if where is not None:
        condition = condition & where
    for batch in open_dataset(folder).to_batches(columns=SCHEMA.names, filter=condition):
        yield from from_table(batch)


def between(start_us: int | None, end_us: int | None) -> ds.Expression:
    """Return the filter start_us <= time_us < end_us, which skips the files of other days."""
    condition = ds.scalar(True)
    if start_us is not None:
        condition = condition & (ds.field("day") >= _day(start_us))
        condition = condition & (ds.field("time_us") >= start_us)
    if end_us is not None:
        condition = condition & (ds.field("day") <= _day(end_us))
        condition = condition & (ds.field("time_us") < end_us)
    return condition


def _write_file(path: Path, table: pa.Table) -> None:
    if path.exists() and (kept := pq.read_metadata(path).num_rows) > len(table):
        raise InputError(
            f"this file has {kept} rows, and {len(table)} would replace them",
            place=str(path),
            repair="was the journal restored from an old copy? move one of the two away",
        )
    storage.make_folder(path.parent)
    with storage.replacing(path) as temporary:
        storage.on_step(f"write:{path.name}")
        pq.write_table(table, temporary, compression="zstd")
        storage.on_step(f"write:{path.name}:done")
        if not pq.ParquetFile(temporary).read().equals(table):
            raise InputError(
                "what was read back is not what was written",
                place=str(path),
                repair="check the disk and the memory of this machine",
            )


def _read_exchanges(journal: Journal) -> pa.Table:
    tables = []
    exchanges: list[Exchange] = []
    for index, record in enumerate(journal.records()):
        try:
            exchanges.append(Exchange.from_record(record))
        except InputError as error:
            place = f"{journal.path}:{index + 2}"
            raise InputError(error.message, place=place, repair=error.repair) from error
        if len(exchanges) == _CHUNK:
            tables.append(to_table(exchanges))
            exchanges.clear()
    return pa.concat_tables([*tables, to_table(exchanges)])


def _part(journal: Journal) -> str:
    header = journal.header
    if header.get("kind") != "exchanges" or header.get("schema") != SCHEMA_VERSION:
        raise InputError(
            f"this journal holds {header.get('kind')!r}, version {header.get('schema')!r}, not "
            f"exchanges, version {SCHEMA_VERSION}",
            place=str(journal.path),
            repair="move it elsewhere, or use the version of stillhouse that wrote it",
        )
    return str(header["part"])


def _conform(table: pa.Table, *, place: str) -> pa.Table:
    names = set(table.column_names)
    if unknown := sorted(names - set(SCHEMA.names)):
        raise InputError(f"an exchange has no column {unknown[0]!r}", place=place)
    for name in sorted(REQUIRED):
        if name not in names or table[name].null_count:
            raise InputError(f"an exchange needs {name}: {COLUMNS[name].meaning}", place=place)
    columns = []
    for field in SCHEMA:
        column = table[field.name] if field.name in names else pa.nulls(len(table), field.type)
        if column.type != field.type:
            raise InputError(
                f"the column {field.name} holds {column.type}, not {field.type}", place=place
            )
        columns.append(column)
    for time_us in pc.min_max(table["time_us"]).as_py().values():
        if time_us is not None and not 0 <= time_us <= LATEST_US:
            raise InputError(
                f"time_us is {time_us}, not a time from 1970 to 9999 in microseconds", place=place
            )
    return pa.table(columns, schema=SCHEMA)


def _check_schema(found: pa.Schema, *, place: str) -> None:
    version = (found.metadata or {}).get(_VERSION_KEY)
    if version is None:
        raise InputError(
            "this Parquet file does not hold exchanges", place=place, repair="move it elsewhere"
        )
    if version != str(SCHEMA_VERSION).encode():
        raise InputError(
            f"this file has version {version.decode()} of the columns, this program reads "
            f"{SCHEMA_VERSION}",
            place=place,
            repair="use the version of stillhouse that wrote it",
        )
    for name in sorted(set(found.names) ^ set(SCHEMA.names)):
        fault = "lacks the column" if name in SCHEMA.names else "has an unknown column,"
        raise InputError(f"this file {fault} {name}", place=place, repair="restore it from a copy")
    for field in SCHEMA:
        if found.field(field.name).type != field.type:
            raise InputError(
                f"the column {field.name} holds {found.field(field.name).type}, not {field.type}",
                place=place,
            )


def _day(time_us: int) -> datetime.date:
    """The day of a time; of one before 1970 or after 9999, the nearest that a record can have."""
    return datetime.date.fromordinal(_EPOCH_ORDINAL + min(max(time_us, 0), LATEST_US) // DAY_US)
