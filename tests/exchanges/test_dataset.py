import dataclasses
import datetime
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from stillhouse.exchanges import (
    DamagedJournalError,
    Exchange,
    ExchangeLog,
    InputError,
    InUseError,
    Journal,
    RunLock,
    new_id,
)
from stillhouse.exchanges.dataset import (
    DAY_US,
    SCHEMA,
    compact,
    open_dataset,
    read_exchanges,
    to_table,
    write_part,
)
from stillhouse.exchanges.exchange import COLUMNS, LATEST_US, REQUIRED

START_US = 20_000 * DAY_US  # 2024-10-04
NEXT_DAY = datetime.date(2024, 10, 6)


def some(count: int, *, step_us: int = DAY_US // 4) -> list[Exchange]:
    times = [START_US + index * step_us for index in range(count)]
    return [
        Exchange(id=new_id(t), time_us=t, account=f"a{t % 3}", tokens_in=i, content_cells=(i, 7))
        for i, t in enumerate(times)
    ]


def logged(folder: Path, records: list[Exchange], **options: Any) -> None:
    with ExchangeLog(folder, key_id="k", time_us=START_US, fsync_every=0, **options) as log:
        for exchange in records:
            log.append(exchange)


def journals(folder: Path) -> list[Path]:
    return sorted((folder / "journal").iterdir())


def test_the_columns_are_those_of_the_record() -> None:
    assert SCHEMA.names == list(COLUMNS)
    assert [field.name for field in SCHEMA if not field.nullable] == [
        name for name in COLUMNS if name in REQUIRED
    ]


def test_a_log_becomes_parquet_by_day_and_its_journals_go(tmp_path: Path) -> None:
    records = some(10)
    logged(tmp_path, records, journal_length=6)
    assert len(journals(tmp_path)) == 2
    done = compact(tmp_path)
    assert (done.exchanges, done.in_use, done.repairs) == (10, (), ())
    assert journals(tmp_path) == []
    days = sorted(path.name for path in (tmp_path / "parquet").iterdir())
    assert days == ["day=2024-10-04", "day=2024-10-05", "day=2024-10-06"]
    assert sorted(read_exchanges(tmp_path), key=lambda e: e.id) == records
    assert compact(tmp_path).exchanges == 0


def test_the_journal_that_is_written_to_waits(tmp_path: Path) -> None:
    records = some(5)
    with ExchangeLog(tmp_path, key_id="k", time_us=1, journal_length=3) as log:
        for exchange in records:
            log.append(exchange)
        done = compact(tmp_path)
        assert done.exchanges == 3
        assert done.in_use == (log.path,)
        log.append(some(6)[5])
    assert compact(tmp_path).exchanges == 3
    assert open_dataset(tmp_path).count_rows() == 6


def test_only_one_compaction_at_a_time(tmp_path: Path) -> None:
    logged(tmp_path, some(1))
    with RunLock(tmp_path), pytest.raises(InUseError):
        compact(tmp_path)
    assert compact(tmp_path).exchanges == 1


def test_rows_are_filtered_by_time_and_by_column(tmp_path: Path) -> None:
    records = some(12)
    logged(tmp_path, records)
    compact(tmp_path)
    start_us, end_us = records[3].time_us, records[9].time_us
    assert list(read_exchanges(tmp_path, start_us=start_us, end_us=end_us)) == records[3:9]
    chosen = read_exchanges(tmp_path, where=ds.field("tokens_in") > 10)
    assert list(chosen) == records[11:]


def test_days_out_of_range_are_not_even_opened(tmp_path: Path) -> None:
    from stillhouse.exchanges.dataset import between

    logged(tmp_path, some(12))
    compact(tmp_path)
    condition = between(START_US + DAY_US, START_US + DAY_US + 1)
    (fragment,) = open_dataset(tmp_path).get_fragments(condition & (ds.field("day") < NEXT_DAY))
    assert "day=2024-10-05" in fragment.path


def test_a_torn_line_is_reported_and_the_rest_compacted(tmp_path: Path) -> None:
    records = some(3)
    logged(tmp_path, records)
    with journals(tmp_path)[0].open("ab") as file:
        file.write(b'{"seq":4,')
    (repair,) = compact(tmp_path).repairs
    assert repair.line == 5
    assert list(read_exchanges(tmp_path)) == records


def test_a_journal_that_was_begun_and_no_more_goes(tmp_path: Path) -> None:
    logged(tmp_path, [])
    (tmp_path / "journal" / "torn.journal").write_bytes(b'{"seq":0,"crc":')
    assert compact(tmp_path).exchanges == 0
    assert journals(tmp_path) == []


def test_a_damaged_journal_stays_and_is_named(tmp_path: Path) -> None:
    logged(tmp_path, some(3))
    (path,) = journals(tmp_path)
    content = path.read_bytes().replace(b'"account":"a', b'"account":"b', 1)
    path.write_bytes(content)
    with pytest.raises(DamagedJournalError, match=rf"{path.name}:2"):
        compact(tmp_path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("header", "says"),
    [({"kind": "labels"}, "'labels'"), ({"kind": "exchanges", "schema": 99}, "version 99")],
)
def test_a_journal_of_something_else_stays(
    tmp_path: Path, header: dict[str, Any], says: str
) -> None:
    path = tmp_path / "journal" / "x.journal"
    path.parent.mkdir()
    with Journal.open(path, header=header) as journal:
        journal.append({"a": 1})
    with pytest.raises(InputError, match=says):
        compact(tmp_path)
    assert path.exists()


def test_a_line_that_is_no_exchange_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "x.journal"
    path.parent.mkdir()
    header = {"kind": "exchanges", "schema": 1, "part": "x", "key_id": "k"}
    with Journal.open(path, header=header) as journal:
        journal.append(some(1)[0].to_record())
        journal.append(some(1)[0].to_record() | {"tokens_inn": 1})
    with pytest.raises(InputError, match=r"x.journal:3: .*tokens_inn(?s:.*)tokens_in"):
        compact(tmp_path)
    assert path.exists()


def test_a_journal_is_kept_when_its_parquet_reads_back_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged(tmp_path, some(3))
    write_table = pq.write_table

    def flipped(table: pa.Table, path: Path, **options: Any) -> None:
        write_table(table.slice(0, len(table) - 1), path, **options)

    monkeypatch.setattr(pq, "write_table", flipped)
    with pytest.raises(InputError, match="read back"):
        compact(tmp_path)
    assert len(journals(tmp_path)) == 1
    assert not list((tmp_path / "parquet").rglob("*.parquet"))
    monkeypatch.undo()
    assert compact(tmp_path).exchanges == 3


def test_a_full_disk_loses_nothing(
    tmp_path: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    records = some(40, step_us=1)
    logged(tmp_path, records)
    with file_size_limit(1000), pytest.raises(InputError, match="size limit"):
        compact(tmp_path)
    assert not list((tmp_path / "parquet").rglob("*.parquet"))
    compact(tmp_path)
    assert list(read_exchanges(tmp_path)) == records


def test_a_part_is_replaced_but_never_by_fewer_rows(tmp_path: Path) -> None:
    records = some(3, step_us=1)
    write_part(tmp_path, to_table(records[:2]), part="p")
    write_part(tmp_path, to_table(records), part="p")
    assert list(read_exchanges(tmp_path)) == records
    with pytest.raises(InputError, match="3 rows, and 2 would replace"):
        write_part(tmp_path, to_table(records[:2]), part="p")
    for name in ("../p", "_p", "-p", ""):  # what begins with _ would not be read again
        with pytest.raises(InputError, match="cannot name a part"):
            write_part(tmp_path, to_table(records), part=name)


def test_a_time_that_has_no_day_is_refused_before_it_blocks_compaction(tmp_path: Path) -> None:
    (record,) = some(1)
    with pytest.raises(InputError, match=r"time_us .* to 253402300799999999, not int"):
        dataclasses.replace(record, time_us=record.time_us * 1000)
    table = to_table([record])
    late = pa.array([record.time_us * 1000], pa.int64())
    with pytest.raises(InputError, match="not a time from 1970 to 9999"):
        write_part(tmp_path, table.set_column(1, SCHEMA.field("time_us"), late), part="p")
    last = dataclasses.replace(record, time_us=LATEST_US)
    logged(tmp_path, [last])
    compact(tmp_path)
    assert list(read_exchanges(tmp_path, start_us=-(10**18), end_us=2**63 - 1)) == [last]


def test_a_table_may_lack_what_may_be_unknown_and_nothing_else(tmp_path: Path) -> None:
    records = some(2, step_us=1)
    table = to_table(records)
    write_part(tmp_path, table.select(["account", "time_us", "id", "tokens_in"]), part="p")
    assert [e.tokens_in for e in read_exchanges(tmp_path)] == [0, 1]
    assert all(e.content_cells is None for e in read_exchanges(tmp_path))
    wrong = {
        "needs account": table.drop_columns("account"),
        "no column 'other'": table.append_column("other", [[1, 2]]),
        "tokens_in holds string": table.set_column(
            table.schema.get_field_index("tokens_in"), "tokens_in", [["1", "2"]]
        ),
        "needs id": table.set_column(0, "id", [[None, None]]),
    }
    for says, bad in wrong.items():
        with pytest.raises(InputError, match=says):
            write_part(tmp_path, bad, part="q")


def test_files_of_another_kind_or_version_are_named(tmp_path: Path) -> None:
    table = to_table(some(1))
    (path,) = write_part(tmp_path, table, part="p")
    stranger = path.with_name("q.parquet")
    versions = {
        "does not hold exchanges": table.replace_schema_metadata({}),
        "version 2": table.replace_schema_metadata({"stillhouse.schema": "2"}),
        "lacks the column seed": table.drop_columns("seed"),
        "unknown column, zeal": table.append_column("zeal", [[1]]),
        "tokens_in holds double": table.set_column(
            table.schema.get_field_index("tokens_in"), "tokens_in", [[1.0]]
        ),
    }
    for says, other in versions.items():
        pq.write_table(other, stranger)
        with pytest.raises(InputError, match=rf"q\.parquet: .*{says}"):
            open_dataset(tmp_path)
    stranger.write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"q\.parquet: not a readable"):
        open_dataset(tmp_path)
    stranger.unlink()
    assert open_dataset(tmp_path).count_rows() == 1


def test_a_folder_without_exchanges_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no exchanges"):
        open_dataset(tmp_path)
