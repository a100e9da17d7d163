"""A probe: a secret at one place of a reply or request, and the test of whether it came through."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillhouse.gateway.sse import EventReader
from stillhouse.gateway.strict_json import parse_lenient

if TYPE_CHECKING:
    from stillhouse.gateway.surfaces import Surface

ANSWER = "The answer is 42."


@dataclass(frozen=True, slots=True)
class Secret:
    """What must not come through: a word, and a number for the fields that hold none."""

    word: str
    number: int

    @classmethod
    def of(cls, name: str) -> Secret:
        """Return the secret of a probe, always the same."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        return cls(f"zQ{digest[:14]}", 10**9 + int(digest[:8], 16) % 10**9)

    def is_in(self, served: bytes) -> bool:
        """Return whether bytes hold it: as they are, or put together from a stream's pieces."""
        word, number = self.word.encode(), str(self.number).encode()
        if word in served or number in served:
            return True
        joined: dict[str, list[str]] = defaultdict(list)
        for event in events_of(served):
            _collect(event, "", joined)
        return any(self.word in "".join(pieces) for pieces in joined.values())


@dataclass(frozen=True, slots=True)
class ReplyProbe:
    """An upstream's reply with a secret. `whole` or `stream` is None where it has no such form.

    `surface` is the one the upstream is asked on. `model` names the reasoning the model is declared
    with (see `PROBE_FORMATS`).
    """

    name: str
    upstream: str
    surface: Surface
    whole: bytes | None
    stream: bytes | None
    model: str = "plain"

    @property
    def secret(self) -> Secret:
        """What must not come through."""
        return Secret.of(self.name)


@dataclass(frozen=True, slots=True)
class RequestProbe:
    """A client's request of which `mark` must not reach the upstream: refused, or left out."""

    name: str
    surface: Surface
    body: bytes
    mark: bytes


def events_of(served: bytes) -> list[Any]:
    """Return the JSON values of a reply: one, or each event's of a stream."""
    whole = parse_lenient(served)
    if whole is not None:
        return [whole]
    reader = EventReader()
    return [parse_lenient(data) for data in [*reader.feed(served), *reader.finish()]]


def _collect(value: Any, path: str, joined: dict[str, list[str]]) -> None:
    if type(value) is str:
        joined[path].append(value)
    elif type(value) is dict:
        for name, item in value.items():
            _collect(item, f"{path}.{name}", joined)
    elif type(value) is list:
        for item in value:
            _collect(item, path, joined)
