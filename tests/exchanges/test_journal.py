import errno
import math
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillhouse.exchanges import (
    DamagedJournalError,
    InputError,
    InUseError,
    Journal,
    iterate_journal,
    read_journal,
)

HEADER = {"kind": "test", "seed": 7}
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
records_of_any_kind = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=6)


def written(path: Path, count: int = 4, **options: Any) -> Path:
    with Journal.open(path, header=HEADER, **options) as journal:
        for index in range(count):
            assert journal.append({"index": index, "text": "zażółć\n" * 3}) == index + 1
    return path


def indices(path: Path) -> list[int]:
    return [record["index"] for record in read_journal(path).records]


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(records_of_any_kind, records_of_any_kind)
def test_records_come_back_unchanged_also_after_reopening(
    tmp_path: Path, first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    for batch in (first, second):
        with Journal.open(path, header=HEADER, fsync_every=0) as journal:
            for record in batch:
                journal.append(record)
            assert list(journal.records()) == list(iterate_journal(path))
    contents = read_journal(path)
    assert contents.records == first + second
    assert contents.header == HEADER
    assert contents.repair is None


def test_many_records_are_appended_as_one(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", header=HEADER) as journal:
        assert journal.append_all({"index": i} for i in range(5)) == 5
        assert journal.append_all([]) == 5
        assert journal.append({"index": 5}) == 6
    assert indices(tmp_path / "j") == list(range(6))


def test_every_cut_of_the_last_line_is_repaired_and_reported(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole").read_bytes()
    last_line = whole.rindex(b"\n", 0, -1) + 1
    path = tmp_path / "cut"
    for size in range(last_line + 1, len(whole)):
        path.write_bytes(whole[:size])
        seen = read_journal(path).repair
        assert path.stat().st_size == size  # reading changes nothing
        with Journal.open(path, header=HEADER) as journal:
            assert journal.repair == seen
            assert seen is not None
            assert (seen.line, seen.bytes_cut) == (5, size - last_line)
            assert "cut:5" in str(seen)
            assert journal.append({"index": 3}) == 4
        assert indices(path) == [0, 1, 2, 3]
        assert read_journal(path).repair is None


def test_every_cut_of_the_first_line_begins_a_new_journal(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", 0).read_bytes()
    path = tmp_path / "cut"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with Journal.open(path, header=None) as journal:
            assert journal.header == {}
            assert journal.count == 0
            with pytest.raises(InputError, match="no header"):
                journal.append({})
        path.write_bytes(whole[:size])
        with Journal.open(path, header=HEADER):
            pass
        assert path.read_bytes() == whole


@pytest.mark.parametrize("hole", [b"\0" * 50, b'{"seq":5,"crc":"' + b"\0" * 20 + b"1}}\n"])
def test_the_holes_that_a_loss_of_power_leaves_are_cut(tmp_path: Path, hole: bytes) -> None:
    path = written(tmp_path / "j")
    with path.open("ab") as file:
        file.write(hole)
    with Journal.open(path, header=HEADER) as journal:
        assert journal.repair is not None
        assert journal.repair.bytes_cut == len(hole)
    assert indices(path) == [0, 1, 2, 3]


def test_a_change_of_any_byte_of_a_whole_line_is_noticed_at_that_line(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", 2).read_bytes()
    path = tmp_path / "j"
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for index in range(len(whole) - 1):
        changed = bytearray(whole)
        changed[index] ^= 1 << index % 7
        path.write_bytes(changed)
        line = 1 + sum(end < index for end in ends)
        for read in (read_journal, lambda path: Journal.open(path, header=HEADER)):
            with pytest.raises(InputError) as caught:
                read(path)
            place = f"{path}:{line}"
            assert place in str(caught.value) or (line == 1 and "no journal" in str(caught.value))
        assert path.read_bytes() == changed


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (lambda lines: lines[:2] + lines[3:], 3, "lines are missing before it"),
        (lambda lines: lines[:2] + lines[1:], 3, "it is repeated"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2, "missing"),
        (lambda lines: [*lines[:2], b"\n", *lines[2:]], 3, "checksum"),
    ],
)
def test_lines_that_are_dropped_repeated_or_moved_are_noticed(
    tmp_path: Path, change: Any, line: int, says: str
) -> None:
    path = written(tmp_path / "j")
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(DamagedJournalError, match=rf"j:{line}: .*{says}"):
        read_journal(path)


def test_a_line_of_a_journal_with_another_header_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "j")
    with Journal.open(tmp_path / "other", header={"kind": "other"}) as other:
        other.append({"index": 0})
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = (tmp_path / "other").read_bytes().splitlines(keepends=True)[1]
    path.write_bytes(b"".join(lines))
    with pytest.raises(DamagedJournalError, match="j:2"):
        read_journal(path)


def test_another_header_is_refused_and_the_key_named(tmp_path: Path) -> None:
    path = written(tmp_path / "j")
    with pytest.raises(InputError, match="begun with seed = 7, now it is 8"):
        Journal.open(path, header=HEADER | {"seed": 8})
    with pytest.raises(InputError, match=r"begun with new = '\(absent\)'"):
        Journal.open(path, header=HEADER | {"new": 1})
    with Journal.open(path, header=HEADER):
        pass


def test_a_header_that_would_come_back_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="64-bit"):
        Journal.open(tmp_path / "j", header=HEADER | {"seed": 2**64})
    assert not (tmp_path / "j").exists()


def test_another_version_of_the_format_is_refused(tmp_path: Path) -> None:
    from stillhouse.exchanges import journal as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FORMAT", "stillhouse-journal-9")
        written(tmp_path / "j")
    with pytest.raises(InputError, match="stillhouse-journal-9"):
        read_journal(tmp_path / "j")


@pytest.mark.parametrize("content", [b"hello", b"hello\n", b'{"a":1}\n{"b":2}\n'])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no journal"):
        Journal.open(path, header=HEADER)
    assert path.read_bytes() == content


def test_a_missing_journal_is_not_made_by_reading(tmp_path: Path) -> None:
    for read in (read_journal, lambda path: Journal.open(path, header=None)):
        with pytest.raises(InputError, match="no such journal"):
            read(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_only_one_writer_at_a_time(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", header=HEADER) as journal:
        with pytest.raises(InUseError):
            Journal.open(tmp_path / "j", header=HEADER)
        journal.append({"index": 0})
    written(tmp_path / "j", 0)


@pytest.mark.parametrize("replaced", [False, True])
def test_the_lock_of_a_removed_journal_is_not_taken_for_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    from stillhouse.exchanges import storage

    path = written(tmp_path / "j")
    lock = storage.lock_descriptor

    def removed_meanwhile(descriptor: int, locked: Path) -> None:
        monkeypatch.setattr(storage, "lock_descriptor", lock)
        path.unlink()
        if replaced:
            path.touch()
        lock(descriptor, locked)

    monkeypatch.setattr(storage, "lock_descriptor", removed_meanwhile)
    with Journal.open(path, header=HEADER) as journal:
        journal.append({"index": 9})
    assert indices(path) == [9]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"a": math.nan}, r"\$\.a: nan"),
        ({"a": [None, {"b": -math.inf}]}, r"\$\.a\[1\]\.b: -inf"),
        ({1: 2}, "not a record"),
        ({"a": "\ud800"}, "not a record"),
        ({"a": {1, 2}}, "not a record"),
        ({"a": 2**70}, "not a record"),
        ([1], "a mapping"),
    ],
)
def test_a_record_that_would_change_is_refused(tmp_path: Path, record: Any, says: str) -> None:
    with Journal.open(tmp_path / "j", header=HEADER) as journal:
        with pytest.raises(InputError, match=says):
            journal.append(record)
        journal.append({"index": 0, "null": None})
    assert indices(tmp_path / "j") == [0]


def test_a_full_disk_leaves_only_whole_lines_and_the_journal_usable(
    tmp_path: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "j"
    with Journal.open(path, header=HEADER, fsync_every=0) as journal:
        journal.append({"index": 0})
        size = path.stat().st_size
        for room in (0, 1, 60, 120):
            with file_size_limit(size + room), pytest.raises(InputError, match="size limit"):
                journal.append_all([{"index": 1, "text": "x" * 50}, {"index": 2}])
            assert path.stat().st_size == size
        assert journal.append({"index": 1}) == 2
    assert indices(path) == [0, 1]


def test_no_space_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    with Journal.open(path, header=HEADER) as journal:
        write = os.write

        def half(descriptor: int, data: bytes) -> int:
            monkeypatch.setattr(os, "write", full)
            return write(descriptor, data[:10])

        def full(_descriptor: int, _data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", half)
        with pytest.raises(InputError, match="disk is full"):
            journal.append({"index": 0})
        monkeypatch.setattr(os, "write", write)
        journal.append({"index": 1})
    assert indices(path) == [1]


def test_ctrl_c_in_the_middle_of_an_append_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    with Journal.open(path, header=HEADER) as journal:
        write = os.write

        def interrupted(descriptor: int, data: bytes) -> int:
            write(descriptor, data)
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append({"index": 0})
        monkeypatch.setattr(os, "write", write)
        journal.append({"index": 1})
    assert indices(path) == [1]


def test_after_a_failed_sync_nothing_more_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(tmp_path / "j", header=HEADER, fsync_every=2)
    journal.append({"index": 0})

    def refused(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refused)
        with pytest.raises(OSError, match="Input/output"):
            journal.append({"index": 1})
    for attempt in (journal.sync, lambda: journal.append({"index": 2})):
        with pytest.raises(InputError, match="refused a sync"):
            attempt()
    journal.close()
    written(tmp_path / "j", 0)


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j", header=HEADER)
    journal.close()
    journal.close()
    with pytest.raises(InputError, match="closed"):
        journal.append({})


def test_syncs_come_as_often_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillhouse.exchanges import storage

    syncs: list[str] = []
    journal = Journal.open(tmp_path / "j", header=HEADER, fsync_every=3)
    monkeypatch.setattr(
        storage, "on_step", lambda name: syncs.append(name) if name == "fsync:j" else None
    )
    counts = []
    for index in range(7):
        journal.append({"index": index})
        counts.append(len(syncs))
    journal.close()
    assert counts == [0, 0, 1, 1, 1, 2, 2]
    assert len(syncs) == 3
    with pytest.raises(InputError, match="fsync_every is -1"):
        Journal.open(tmp_path / "j", header=HEADER, fsync_every=-1)


def test_threads_can_share_a_journal(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", header=HEADER, fsync_every=0) as journal:

        def work(start: int) -> None:
            for index in range(start, start + 200):
                journal.append({"index": index})

        threads = [threading.Thread(target=work, args=(n * 200,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(indices(tmp_path / "j")) == list(range(800))


def test_a_copy_made_while_it_is_written_can_be_read(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", header=HEADER, fsync_every=0) as journal:
        journal.append({"index": 0})
        shutil.copy(tmp_path / "j", tmp_path / "copy")
        journal.append({"index": 1})
    assert indices(tmp_path / "copy") == [0]
