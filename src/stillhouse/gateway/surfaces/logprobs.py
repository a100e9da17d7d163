"""Log-probabilities, where they are sold: of served text only, few, and coarse."""

from __future__ import annotations

import math
from typing import Any

# How much may wait for the rest of a character that is several tokens long.
_MOST_ENTRIES = 64
_MOST_BYTES = 4096
_LOWEST = -9999.0
_PART = "\ufffd"  # what stands for bytes that are no whole character

Entry = dict[str, Any]


class LogprobAligner:
    """Gives the entries whose tokens are exactly the text that was served, and no others.

    A server with a reasoning parser lists the tokens of the reasoning too. So entries are matched
    with the text itself: those of the last pieces that spell it are given, those before dropped.
    """

    __slots__ = ("_entries", "_size", "_step", "_text", "_top")

    def __init__(self, top: int, step_milli: int):
        self._top = top
        self._step = step_milli / 1000
        self._entries: list[tuple[bytes, Entry]] = []
        self._text = b""
        self._size = 0

    def add(self, text: str, entries: Any) -> list[Entry]:
        """Take served text and what the upstream says of its tokens; return entries to serve."""
        self._text += text.encode("utf-8", "replace")
        if type(entries) is list:
            for raw in entries:
                entry = self._entry(raw)
                if entry is not None:
                    self._entries.append(entry)
        if not self._text:
            self._entries = self._entries[-_MOST_ENTRIES:]
            return []
        found = self._matching()
        if found is not None or len(self._text) > _MOST_BYTES:
            self._entries, self._text = [], b""
        return found or []

    def _matching(self) -> list[Entry] | None:
        left = len(self._text)
        at = len(self._entries)
        while left > 0 and at > 0:
            at -= 1
            left -= len(self._entries[at][0])
        if left == 0 and b"".join([token for token, _ in self._entries[at:]]) == self._text:
            return [entry for _, entry in self._entries[at:]]
        return None

    def _entry(self, raw: Any) -> tuple[bytes, Entry] | None:
        kept = self._one(raw)
        if kept is None:
            return None
        top = raw.get("top_logprobs")
        alternatives = []
        if type(top) is list:
            for given in top[: self._top]:
                one = self._one(given)
                if one is not None:
                    alternatives.append(one)
        kept["top_logprobs"] = alternatives
        return bytes(kept["bytes"]), kept

    def _one(self, raw: Any) -> Entry | None:
        if type(raw) is not dict:
            return None
        token: Any = raw.get("token")
        value: Any = raw.get("logprob")
        if type(token) is not str or type(value) not in (int, float) or not math.isfinite(value):
            return None
        encoded = token.encode("utf-8", "replace")
        given = raw.get("bytes")
        if type(given) is list and all(type(byte) is int and 0 <= byte < 256 for byte in given):
            # Part of a character: its bytes say more than its text, which servers write in
            # several ways; ours is served. Bytes that say something else are not believed.
            shown = bytes(given).decode("utf-8", "replace")
            if shown == token or _PART in shown:
                encoded, token = bytes(given), shown
        return {"token": token, "logprob": self._coarse(value), "bytes": list(encoded)}

    def _coarse(self, value: float) -> float:
        return round(max(_LOWEST, min(0.0, round(value / self._step) * self._step)), 3) + 0.0
