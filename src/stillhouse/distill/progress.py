"""What a long step tells its user while it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Receives what happens; the command line draws it, tests collect it."""

    def stage(self, name: str, state: str, seconds: float) -> None:
        """A stage was `skipped`, `started` or `finished`; seconds of its finished attempt."""

    def advance(
        self, what: str, done: int, total: int | None, facts: Mapping[str, str] | None = None
    ) -> None:
        """`done` of `total` units of `what` are finished; `facts` are shown beside rate and ETA."""

    def now(self, what: str) -> None:
        """A part of the stage begins whose length nobody can tell."""

    def say(self, text: str) -> None:
        """Tell the user one thing that matters."""


class Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, state: str, seconds: float) -> None:
        """Ignore it."""

    def advance(
        self, what: str, done: int, total: int | None, facts: Mapping[str, str] | None = None
    ) -> None:
        """Ignore it."""

    def now(self, what: str) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""
