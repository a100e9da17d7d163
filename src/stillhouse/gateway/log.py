"""What the operator reads: one JSON object a line, never a secret, a body or a client's text.

Served requests are in the exchanges; here are refusals with their true code, failures and changes
of state. Refusals are thinned to `most_a_second`, and what was left out is told.
"""

from __future__ import annotations

import sys
import time
import traceback
from typing import IO, TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping


class Log:
    """Writes lines to `stream` (standard error unless told otherwise)."""

    def __init__(self, stream: IO[str] | None = None, *, most_a_second: int = 100):
        self._stream = sys.stderr if stream is None else stream
        self._most = most_a_second
        self._second = 0
        self._written = 0
        self._left_out = 0

    def event(self, name: str, **values: Any) -> None:
        """Write a change of state."""
        self._write({"event": name, **values})

    def refused(
        self, request_id: str, code: str, account: str | None, measure: str | None = None
    ) -> None:
        """Write a refusal with its true code."""
        self._thinned(
            {
                "event": "refused",
                "request": request_id,
                "code": code,
                "account": account,
                "measure": measure,
            }
        )

    def limited(self, request_id: str, code: str, scope: str, limit: str) -> None:
        """Write which limit refused; the client is not told."""
        self._thinned(
            {
                "event": "limited",
                "request": request_id,
                "code": code,
                "scope": scope,
                "limit": limit,
            }
        )

    def trouble(self, where: str, reason: str) -> None:
        """Write what keeps the gateway from serving."""
        self._thinned({"event": "trouble", "where": where, "reason": reason})

    def excess(self, request_id: str, excess: Mapping[str, int]) -> None:
        """Write that a request cost more than was reserved: a bound is wrong."""
        self._thinned({"event": "excess", "request": request_id, "excess": dict(excess)})

    def failure(self, request_id: str, error: BaseException) -> None:
        """Write where the code failed. Not the message: it could quote what a client sent."""
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        place = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames]
        self._thinned(
            {
                "event": "failure",
                "request": request_id,
                "error": type(error).__name__,
                "place": place,
            }
        )

    def _thinned(self, line: dict[str, Any]) -> None:
        second = int(time.monotonic())
        if second != self._second:
            left_out, self._left_out = self._left_out, 0
            self._second, self._written = second, 0
            if left_out:
                self._write({"event": "left_out", "lines": left_out})
        self._written += 1
        if self._written > self._most:
            self._left_out += 1
        else:
            self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        kept = {name: value for name, value in line.items() if value is not None}
        text = orjson.dumps({"time_us": time.time_ns() // 1000, **kept}, default=str).decode()
        self._stream.write(text + "\n")
        self._stream.flush()
