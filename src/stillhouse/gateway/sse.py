"""Server-sent events as bytes arrive, in any pieces."""

from __future__ import annotations

MAX_EVENT_BYTES = 8 << 20
_BOM = b"\xef\xbb\xbf"


class EventReader:
    """Takes a stream's bytes and gives the data of each event that is complete.

    Event names and ids are not kept: every surface repeats the type inside the data. Lines may end
    in LF, CRLF or CR. `comments` counts comment lines (keep-alives); `overflowed` is set once an
    event passes `max_event_bytes`, and from then on nothing is given.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES):
        self.comments = 0
        self.overflowed = False
        self._max = max_event_bytes
        self._pieces: list[bytes] = []
        self._held = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes, in order."""
        # The usual chunk is one event of one line, whole.
        if not self._held and not self._at_start and not self._after_cr:
            size = len(chunk)
            if (
                chunk.startswith(b"data: ")
                and chunk.find(b"\n") == size - 2
                and chunk.endswith(b"\n\n")
                and b"\r" not in chunk
                and size <= self._max
            ):
                return [chunk[6:-2]]
        if not chunk or self.overflowed:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
            if not chunk:
                return []
        self._after_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return self._split(chunk)

    def finish(self) -> list[bytes]:
        """Return the last event where the stream ended without the empty line that closes it."""
        rest = b"".join(self._pieces)
        self._pieces, self._held = [], 0
        data = self._data(rest)
        return [] if data is None else [data]

    def _split(self, chunk: bytes) -> list[bytes]:
        # Only where an end of line meets another can an event end: else keep the piece unjoined, so
        # that a large event in many pieces costs no more than its size.
        last = self._pieces[-1] if self._pieces else b""
        if b"\n\n" not in chunk and not (last.endswith(b"\n") and chunk.startswith(b"\n")):
            self._hold(chunk)
            return []
        self._pieces.append(chunk)
        *blocks, rest = b"".join(self._pieces).split(b"\n\n")
        self._pieces, self._held = [], 0
        found = [data for block in blocks if (data := self._data(block)) is not None]
        if rest:
            self._hold(rest)
        return found

    def _hold(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > self._max:
            self.overflowed = True
            self._pieces, self._held = [], 0

    def _data(self, block: bytes) -> bytes | None:
        if self._at_start:
            self._at_start = False
            block = block.removeprefix(_BOM)
        lines = []
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                lines.append(line[5:].removeprefix(b" "))
            elif line == b"data":
                lines.append(b"")
            elif line.startswith(b":"):
                self.comments += 1
        return b"\n".join(lines) if lines else None
