"""Group commit: what one pass of the event loop has to write down is written with one call a file.

What waits for its lines goes out afterwards, in order: requests to upstreams behind their intents,
last bytes to clients behind their outcomes. The order of the files is that of the promises: limits
reserved, then intents and outcomes, then limits settled, so that a crash between two of them can
only charge too much, and by no more than what was in hand.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from stillhouse.gateway.ledger import Ledger
    from stillhouse.gateway.log import Log
    from stillhouse.limits import Memory

# Refusal codes of requests that were never sent, as their intents could not be written.
WITHHELD = frozenset({"journal_failing", "limits_unavailable"})


class Held(Protocol):
    """A request that goes to its upstream once its intent is written."""

    def send(self, request: bytes) -> None:
        """Send it."""

    def withhold(self, code: str) -> None:
        """It could not be written: fail, with a refusal's code."""


class Commit:
    """`memory` is the limiter where it holds its lines back (`Memory(hold=True)`).

    `turns` are the open requests: one that is alone does not wait for others.
    """

    def __init__(self, ledger: Ledger, memory: Memory | None, turns: Sized, log: Log):
        self._ledger = ledger
        self._memory = memory
        self._turns = turns
        self._log = log
        self._requests: list[tuple[Held, bytes]] = []
        self._replies: list[Callable[[], None]] = []
        self._works: list[Callable[[], None]] = []
        self._due = False

    def before_upstream(self, held: Held, request: bytes) -> None:
        """Send a request once everything taken down so far is written."""
        self._requests.append((held, request))
        self._go()

    def before_client(self, reply: Callable[[], None]) -> None:
        """Call `reply` once everything taken down so far is written, or held to be."""
        self._replies.append(reply)
        self._go()

    def afterwards(self, work: Callable[[], None]) -> None:
        """Call `work` once everything taken down so far is written and let go."""
        self._works.append(work)
        self._soon()

    def now(self) -> None:
        """Write what was taken down, let go what waits for it."""
        self._due = False
        requests, self._requests = self._requests, []
        replies, self._replies = self._replies, []
        works, self._works = self._works, []
        failure = None if self._memory is None else self._memory.write_reserved()
        if failure is not None:
            self._log.trouble("limits", failure)
        code = None if failure is None else "limits_unavailable"
        if not self._ledger.flush(intents=code is None) and code is None:
            code = "journal_failing"
        if failure is not None:
            self._ledger.failing = True  # the same disk: nothing is admitted until it works again
        for held, request in requests:
            self._let_go(
                partial(held.send, request) if code is None else partial(held.withhold, code)
            )
        for call in (*replies, *works):
            self._let_go(call)
        if self._memory is not None:
            failure = self._memory.write_settled()
            if failure is not None:
                self._log.trouble("limits", failure)

    def _let_go(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 (what came with it must still go out)
            self._log.failure("commit", error)

    def _go(self) -> None:
        if len(self._turns) == 1:
            self.now()
        else:
            self._soon()

    def _soon(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._when_due)

    def _when_due(self) -> None:
        if self._due:
            self.now()
