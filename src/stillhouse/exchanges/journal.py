"""The append-only journal: what was acknowledged survives `kill -9`, and damage is noticed.

One JSON line a record: `{"seq":7,"crc":"9af3c2d1","record":{...}}`. Line 0 is the header. The
checksum is CRC-32 of the record's bytes, seeded with its number and with the header's checksum, so
that a line that was changed, dropped, repeated, moved or taken from a journal with another header
does not fit. What it cannot show is that whole lines are missing at the *end*.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import orjson

from stillhouse.exchanges import storage
from stillhouse.exchanges.canonical import canonical_json
from stillhouse.exchanges.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

FORMAT = "stillhouse-journal-1"
_HEAD = b'{"seq":0,"crc":"'
_MIDDLE = b'","record":'
_PREFIX = b'{"seq":%d,"crc":"'
_LINE = b'{"seq":%d,"crc":"%08x","record":%b}\n'
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


class DamagedJournalError(InputError):
    """A line that was written whole is no longer what was written."""


class OtherHeaderError(InputError):
    """A journal was begun with another header than the one it is opened with."""


@dataclass(frozen=True, slots=True)
class Repair:
    """A torn last line that was found (and cut, where the journal was opened for writing)."""

    path: Path
    line: int  # counted from 1, as editors do
    bytes_cut: int

    def __str__(self) -> str:
        return (
            f"{self.path}:{self.line}: the last write was cut off; its {self.bytes_cut} bytes were "
            "never acknowledged and are left out"
        )


@dataclass(frozen=True, slots=True)
class JournalContents:
    """A journal that was read whole."""

    header: dict[str, Any]
    records: list[dict[str, Any]]
    repair: Repair | None


class Journal:
    """A journal open for appending. Holds the file's exclusive lock. Threads may share it."""

    def __init__(self, path: Path, descriptor: int, fsync_every: int):
        self.path = path
        self.header: dict[str, Any] = {}
        self.repair: Repair | None = None
        self._descriptor = descriptor
        self._fsync_every = fsync_every
        self._guard = threading.Lock()
        self._seed = 0
        # Number of the next line and size of the file: one value, so that an interrupt (Ctrl-C)
        # between two statements cannot leave them at odds.
        self._end = (0, 0)
        self._half_written = False
        self._unsynced = 0
        self._broken: str | None = None
        self._write_step = f"write:{path.name}"
        self._write_done = f"write:{path.name}:done"

    @classmethod
    def open(cls, path: Path, *, header: Mapping[str, Any] | None, fsync_every: int = 1) -> Self:
        """Open `path`, creating it with `header` as its first line if it does not exist.

        With `header` None the file's own header is taken as it is (`InputError` where there is no
        file); one that was cut off before its header was whole has `header` {} and takes no record.

        `fsync_every` = n syncs at every n-th append; 0 only in `sync` and `close`. A kill of the
        process loses nothing that was acknowledged; a loss of power loses what was not synced.

        Every line is checked. A torn last line (no newline at its end, or holes of NUL bytes) is
        cut off and told in `repair`. Raises `DamagedJournalError` for any other damage,
        `InputError` where `header` differs from the file's, the file is no journal, another process
        writes to it, or the place cannot be written.
        """
        if fsync_every < 0:
            raise InputError(f"fsync_every is {fsync_every}", repair="give 0 or more")
        if header is not None:
            encode_record(header)  # an integer of more than 64 bits would be read back as a float
        try:
            if header is None and not path.exists():
                raise InputError("no such journal", place=str(path))
            journal = cls(path, _open_locked(path), fsync_every)
        except OSError as error:
            raise storage.explain(error, path) from error
        try:
            journal._start(None if header is None else dict(header))
        except OSError as error:
            os.close(journal._descriptor)
            raise storage.explain(error, path) from error
        except BaseException:
            os.close(journal._descriptor)
            raise
        return journal

    @property
    def count(self) -> int:
        """How many records the journal holds (the header is not one)."""
        return max(0, self._end[0] - 1)

    def append(self, record: Mapping[str, Any]) -> int:
        """Write one record and return its number, from 1 on. It is in the kernel on return.

        Raises `InputError` for a record that JSON cannot hold without change, and when the disk is
        full: then nothing of it stays in the file and the journal can be used again.
        """
        return self.append_all((record,))

    def append_all(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Write several records with one system call and return the number of the last.

        All or none of them are acknowledged; after a kill a first part of them may be there.
        """
        return self.append_encoded([encode_record(record) for record in records])

    def append_encoded(self, payloads: Sequence[bytes]) -> int:
        """`append_all` for records that `encode_record` made, or that have exactly that form."""
        with self._guard:
            if self._broken:
                raise InputError(self._broken, place=str(self.path), repair="open it again")
            if not payloads:
                return self.count
            self._write(payloads)
            self._unsynced += len(payloads)
            if self._fsync_every and self._unsynced >= self._fsync_every:
                self._sync()
            return self.count

    def sync(self) -> None:
        """Put everything that was appended on the disk. Other threads wait meanwhile."""
        with self._guard:
            if self._broken:
                raise InputError(self._broken, place=str(self.path), repair="open it again")
            self._sync()

    def records(self) -> Iterator[dict[str, Any]]:
        """Read the records that are in the file now, in order."""
        return itertools.islice(iterate_journal(self.path), self.count)

    def close(self) -> None:
        """Sync and let go of the file. Closing twice is allowed."""
        with self._guard:
            if self._descriptor < 0:
                return
            try:
                if not self._broken:
                    self._sync()
            finally:
                os.close(self._descriptor)
                self._descriptor = -1
                self._broken = "this journal is closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, header: dict[str, Any] | None) -> None:
        scan = _Scan(self.path).finish()
        if scan.torn_bytes:
            self.repair = Repair(self.path, scan.lines + 1, scan.torn_bytes)
            os.ftruncate(self._descriptor, scan.good_bytes)
            self._sync()
        self._end = (0, scan.good_bytes)
        if scan.lines == 0:
            if header is None:
                self._broken = "this journal has no header line"
                return
            self._write([canonical_json({"format": FORMAT, "header": header})])
            self._sync()
            storage.sync_folder(self.path.parent, self.path.name)
            scan = _Scan(self.path).finish()
        self.header = scan.header
        self._end = (scan.lines, scan.good_bytes)
        self._seed = scan.seed
        if header is not None:
            _compare(self.path, scan.header, header)

    def _write(self, payloads: Sequence[bytes]) -> None:
        self._undo()
        lines = []
        seq, size = self._end
        for payload in payloads:
            checksum = zlib.crc32(payload, zlib.crc32(b"%d" % seq, self._seed))
            lines.append(_LINE % (seq, checksum, payload))
            seq += 1
        data = b"".join(lines)
        storage.on_step(self._write_step)
        self._half_written = True
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            self._end = (seq, size + len(data))
            self._half_written = False
        except OSError as error:
            self._undo()
            raise storage.explain(error, self.path) from error
        except BaseException:
            self._undo()
            raise
        storage.on_step(self._write_done)

    def _undo(self) -> None:
        """Cut off what a failed or interrupted write left behind the last good line."""
        if self._half_written:
            try:
                os.ftruncate(self._descriptor, self._end[1])
                self._half_written = False
            except OSError as error:
                self._broken = f"a write failed halfway and could not be undone ({error.strerror})"

    def _sync(self) -> None:
        self._undo()
        storage.on_step(f"fsync:{self.path.name}")
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            # The kernel may have dropped the pages: a second fsync would falsely succeed.
            self._broken = f"the disk refused a sync ({error.strerror}): recent lines may be lost"
            raise storage.explain(error, self.path) from error
        self._unsynced = 0
        storage.on_step(f"fsync:{self.path.name}:done")


def read_journal(path: Path) -> JournalContents:
    """Read a journal whole, without its lock and without changing it.

    A torn last line is left out and told in `repair`. Raises `DamagedJournalError`, or `InputError`
    where the file does not exist or is no journal.
    """
    scan = _Scan(path)
    records = [orjson.loads(payload) for payload in scan.payloads()]
    if scan.lines == 0:
        raise InputError("this journal has no header line", place=str(path), repair="delete it")
    repair = Repair(path, scan.lines + 1, scan.torn_bytes) if scan.torn_bytes else None
    return JournalContents(scan.header, records, repair)


def iterate_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Read a journal's records one by one, as `read_journal` does, in constant memory."""
    for payload in _Scan(path).payloads():
        yield orjson.loads(payload)


class _Scan:
    """One checked pass over a journal's lines."""

    def __init__(self, path: Path):
        self.path = path
        self.header: dict[str, Any] = {}
        self.seed = 0
        self.lines = 0
        self.good_bytes = 0
        self.torn_bytes = 0

    def finish(self) -> Self:
        for _ in self.payloads():
            pass
        return self

    def payloads(self) -> Iterator[bytes]:
        """Yield the bytes of each record; the counts are right once it is exhausted."""
        try:
            file = self.path.open("rb")
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise InputError("no such journal", place=str(self.path)) from error
            raise
        with file:
            end = os.fstat(file.fileno()).st_size
            for line in file:
                last = self.good_bytes + len(line) >= end
                if not line.endswith(b"\n") or (last and b"\0" in line):
                    self._torn(line)
                    return
                payload = self._check(line)
                self.good_bytes += len(line)
                self.lines += 1
                if self.lines == 1:
                    self._read_header(payload)
                else:
                    yield payload

    def _torn(self, line: bytes) -> None:
        if self.lines == 0 and not (_HEAD.startswith(line[: len(_HEAD)]) or not line.strip(b"\0")):
            raise _not_a_journal(self.path)
        self.torn_bytes = len(line)

    def _check(self, line: bytes) -> bytes:
        prefix = _PREFIX % self.lines
        start = len(prefix) + 8
        payload = line[start + len(_MIDDLE) : -2]
        expected = zlib.crc32(payload, zlib.crc32(b"%d" % self.lines, self.seed))
        if line == b"%b%08x%b%b}\n" % (prefix, expected, _MIDDLE, payload):
            return payload
        if self.lines == 0 and not line.startswith(_HEAD):
            raise _not_a_journal(self.path)
        raise DamagedJournalError(
            f"this line is damaged: {_reason(line, self.lines)}",
            place=f"{self.path}:{self.lines + 1}",
            repair="restore the file from a copy; the lines before this one are sound",
        )

    def _read_header(self, payload: bytes) -> None:
        first = orjson.loads(payload)
        if first.get("format") != FORMAT:
            raise InputError(
                f"the journal's format is {first.get('format')!r}, this version reads {FORMAT!r}",
                place=f"{self.path}:1",
                repair="read it with the version of stillhouse that wrote it",
            )
        self.header = first["header"]
        self.seed = zlib.crc32(payload)


def _open_locked(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            storage.lock_descriptor(descriptor, path)
            # Whoever held the lock may have removed the file: then we hold one without a name.
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def encode_record(record: Mapping[str, Any]) -> bytes:
    """Return a record as the JSON object that a journal's line holds. Raises `InputError`."""
    try:
        payload = orjson.dumps(record, option=_OPTIONS)
    except TypeError as error:
        raise InputError(f"not a record that JSON can hold: {error}") from error
    if not payload.startswith(b"{"):
        raise InputError(f"a record is a mapping, not {type(record).__name__}")
    if b"null" in payload:
        # orjson writes NaN and infinities as null: a silent change of the record.
        _refuse_nan(record)
    return payload


def _refuse_nan(value: Any, place: str = "$") -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{value} has no JSON form", place=place, repair="write None or a string")
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_nan(inner, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _refuse_nan(inner, f"{place}[{index}]")


def _compare(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in sorted(found.keys() | wanted.keys()):
        before, now = (side.get(key, "(absent)") for side in (found, wanted))
        if canonical_json(before) != canonical_json(now):
            raise OtherHeaderError(
                f"this journal was begun with {key} = {before!r}, now it is {now!r}",
                place=f"{path}:1",
                repair=f"set {key} back, or begin a new journal",
            )


def _reason(line: bytes, expected_seq: int) -> str:
    digits = line[len(b'{"seq":') :].split(b",", 1)[0]
    if line.startswith(b'{"seq":') and digits.isdigit() and int(digits) != expected_seq:
        seq = int(digits)
        happened = "lines are missing before it" if seq > expected_seq else "it is repeated"
        return f"it is record {seq} where {expected_seq} belongs ({happened})"
    return "its checksum does not fit its bytes"


def _not_a_journal(path: Path) -> InputError:
    return InputError("this file is no journal", place=str(path), repair="choose another path")
