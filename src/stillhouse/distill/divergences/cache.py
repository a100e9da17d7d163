"""The teacher's word on a data set, kept: one file, memory-mapped, checksummed, resumable.

Layout, all integers little-endian:

    4 KiB    header: JSON padded with spaces (format, key, payload, block limits, state, fidelity)
    4 n B    reply tokens of each of the n examples, uint32, then the SHA-256 of these bytes
    blocks   the records of consecutive examples, then their SHA-256

A block closes with the example that brings it to `BLOCK_POSITIONS` or more. While it is made the
file is called NAME.part and grows by whole blocks, each on the disk before the next is begun; a
part that was cut short anywhere goes on after its last whole block, and ends up with the very bytes
of an undisturbed one. The finished file appears under its name by one rename.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import orjson

from stillhouse.distill.divergences.payloads import Payload
from stillhouse.exchanges import InputError, storage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillhouse.distill.divergences.head import Head
    from stillhouse.distill.divergences.signals import Signal

FORMAT = "stillhouse teacher cache 1"
HEADER_BYTES = 1 << 12
BLOCK_POSITIONS = 4096
_SHA = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKey:
    """What a cache is of. Another teacher, template or data set is another cache.

    `teacher` is the model's fingerprint, `template` the digest of the chat template, `data` that
    of the examples' token ids and reply places, `seed` what the draws were made with.
    """

    teacher: str
    template: str
    data: str
    payload: Payload
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How near a cache is to the full distribution, measured on its first positions.

    `kl_nats` is the mean KL(kept || full), the tail of a top-k spread evenly. `gradient_cosine` is
    that of forward KL's gradient in the head's weight, averaged over all `positions`, against the
    full one's; the student it is taken for is the teacher itself at twice the temperature.
    """

    positions: int
    kl_nats: float
    gradient_cosine: float


class Layout:
    """Where everything lies, from the examples' counts alone."""

    def __init__(self, counts: NDArray[np.uint32], record_bytes: int):
        self.record_bytes = record_bytes
        self.first_N = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        ends, before = [], 0
        for example in range(len(counts)):
            if self.first_N[example + 1] - before >= BLOCK_POSITIONS or example + 1 == len(counts):
                ends.append(example + 1)
                before = int(self.first_N[example + 1])
        self.block_end = np.array(ends, dtype=np.int64)
        self.begin = HEADER_BYTES + 4 * len(counts) + _SHA

    def examples_of(self, block: int) -> range:
        """The examples of a block."""
        return range(int(self.block_end[block - 1]) if block else 0, int(self.block_end[block]))

    def bytes_of(self, block: int) -> tuple[int, int]:
        """Where a block's records begin and end in the file; its digest follows."""
        examples = self.examples_of(block)
        records = self.first_N[[examples.start, examples.stop]] * self.record_bytes
        shift = self.begin + _SHA * block
        return int(records[0]) + shift, int(records[1]) + shift

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.bytes_of(len(self.block_end) - 1)[1] + _SHA


def header_bytes(key: CacheKey, examples: int, fidelity: Fidelity | None) -> bytes:
    """The header as it stands in the file; one without fidelity is unfinished."""
    content = {
        "format": FORMAT,
        "key": key.as_json(),
        "examples": examples,
        "block_positions": BLOCK_POSITIONS,
        "record_bytes": key.payload.record_bytes,
        "fidelity": None if fidelity is None else asdict(fidelity),
    }
    header = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    if len(header) > HEADER_BYTES:
        raise InputError(
            f"a cache header of {len(header)} bytes", repair="use digests in the key, not texts"
        )
    return header.ljust(HEADER_BYTES)


def counts_bytes(counts: NDArray[np.uint32]) -> bytes:
    """The table of counts with its digest."""
    table = counts.astype("<u4").tobytes()
    return table + hashlib.sha256(table).digest()


class TeacherCache:
    """A finished cache, open for reading. Each block is checked when it is first touched."""

    def __init__(
        self, path: Path, key: CacheKey, counts: NDArray[np.uint32], fidelity: Fidelity, size: int
    ):
        self.path, self.key, self.fidelity = path, key, fidelity
        self.layout = Layout(counts, key.payload.record_bytes)
        if size != self.layout.size:
            raise _damaged(path, f"it has {size} bytes, not {self.layout.size}")
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)
        self._checked = np.zeros(len(self.layout.block_end), dtype=bool)

    @classmethod
    def open(cls, path: Path, key: CacheKey) -> Self:
        """Map the file. Raises `InputError` where it is missing, damaged, or of another key."""
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                header = _read_header(file.read(HEADER_BYTES), path)
                check_key(header, key, path)
                counts = read_counts(file.read(4 * header["examples"] + _SHA), path)
        except FileNotFoundError as error:
            raise InputError(
                "no teacher cache here", place=str(path), repair="build it with build_cache"
            ) from error
        if header["fidelity"] is None:
            raise _damaged(path, "it was never finished")
        return cls(path, key, counts, Fidelity(**header["fidelity"]), size)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.layout.first_N) - 1

    @property
    def positions(self) -> int:
        """The number of reply tokens."""
        return int(self.layout.first_N[-1])

    @property
    def bytes_per_token(self) -> float:
        """The whole file, header and digests included, over its reply tokens."""
        return self.layout.size / self.positions

    def signal(self, examples: Sequence[int], *, head: Head | None = None) -> Signal:
        """Return the signal of some examples' reply positions, end to end in the given order."""
        return self.key.payload.decode(
            np.concatenate([self._records(example) for example in examples]), head
        )

    def _records(self, example: int) -> NDArray[np.uint8]:
        block = int(np.searchsorted(self.layout.block_end, example, side="right"))
        start, end = self.layout.bytes_of(block)
        if not self._checked[block]:
            kept = self._bytes[end : end + _SHA].tobytes()
            if hashlib.sha256(self._bytes[start:end].data).digest() != kept:
                raise _damaged(self.path, f"block {block} does not match its digest")
            self._checked[block] = True
        first = self.layout.first_N
        width = self.layout.record_bytes
        shift = start - int(first[self.layout.examples_of(block).start]) * width
        rows = self._bytes[shift + first[example] * width : shift + first[example + 1] * width]
        return rows.reshape(-1, width)


def check_key(header: dict[str, Any], key: CacheKey, path: Path) -> None:
    """Raise `InputError` naming what differs between a file's key and the wanted one."""
    theirs = header["key"]
    for name, value in key.as_json().items():
        if theirs.get(name) != value:
            raise InputError(
                f"this teacher cache is of another {name}: {theirs.get(name)}, not {value}",
                place=str(path),
                repair="build a cache of its own under another name, or remove this one",
            )
    if header["block_positions"] != BLOCK_POSITIONS:
        raise InputError("this cache has blocks of another size", place=str(path))


def read_part(path: Path, key: CacheKey, counts: NDArray[np.uint32]) -> int | None:
    """Return how many whole blocks an unfinished file holds, or None where there is no use of it.

    Raises `InputError` when it is of another key.
    """
    expected = header_bytes(key, len(counts), None) + counts_bytes(counts)
    try:
        with path.open("rb") as file:
            begun = file.read(len(expected))
            if len(begun) < len(expected):
                return None
            header = _read_header(begun[:HEADER_BYTES], path)
            check_key(header, key, path)
            if begun[HEADER_BYTES:] != expected[HEADER_BYTES:]:
                raise _damaged(path, "its table of counts is another")
            layout = Layout(counts, key.payload.record_bytes)
            for block in range(len(layout.block_end)):
                start, end = layout.bytes_of(block)
                data, digest = file.read(end - start), file.read(_SHA)
                if hashlib.sha256(data).digest() != digest:
                    return block
            return len(layout.block_end)
    except FileNotFoundError:
        return None


def write_at(path: Path, offset: int, data: bytes, step: str) -> None:
    """Write `data` at `offset` of `path`, cut off what follows it, and sync it."""
    storage.on_step(f"write:{step}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        place, view = offset, memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, place)
            place, view = place + written, view[written:]
        if offset:
            os.ftruncate(descriptor, place)
        storage.on_step(f"fsync:{step}")
        os.fsync(descriptor)
        storage.on_step(f"fsync:{step}:done")
    except OSError as error:
        raise storage.explain(error, path) from error
    finally:
        os.close(descriptor)


def read_counts(data: bytes, path: Path) -> NDArray[np.uint32]:
    """Return the checked table of counts."""
    table, digest = data[:-_SHA], data[-_SHA:]
    if hashlib.sha256(table).digest() != digest:
        raise _damaged(path, "its table of counts does not match its digest")
    return np.frombuffer(table, dtype="<u4")


def _read_header(data: bytes, path: Path) -> dict[str, Any]:
    try:
        header: dict[str, Any] = orjson.loads(data.rstrip(b" "))
        if header["format"] != FORMAT:
            raise _damaged(path, f"its format is {header['format']!r}")
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise _damaged(path, "its header cannot be read") from error
    return header


def _damaged(path: Path, why: str) -> InputError:
    return InputError(
        f"this teacher cache is damaged: {why}",
        place=str(path),
        repair="remove it and build it again",
    )
