"""Group commit: what one pass of the event loop has to write down is written with one call a file.

What waits for its lines goes out afterwards, in order: requests to upstreams behind their intents,
last bytes to clients behind their outcomes. The order of the files is that of the promises: limits
reserved, then intents and outcomes, then limits settled, so that a crash between two of them can
only charge too much, and by no more than what was in hand.
"""

from __future__ import annotations

import asyncio
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
        self._due = False

    def before_upstream(self, held: Held, request: bytes) -> None:
        """Send a request once everything taken down so far is written."""
        self._requests.append((held, request))
        self.soon()

    def before_client(self, reply: Callable[[], None]) -> None:
        """Call `reply` once everything taken down so far is written, or held to be."""
        self._replies.append(reply)
        self.soon()

    def soon(self) -> None:
        """See that lines are written in this pass of the loop."""
        if len(self._turns) == 1 and not self._due:
            self.now()
        elif not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self.now)

    def now(self) -> None:
        """Write what was taken down, let go what waits for it."""
        self._due = False
        requests, self._requests = self._requests, []
        replies, self._replies = self._replies, []
        failure = None if self._memory is None else self._memory.write_reserved()
        if failure is not None:
            self._log.trouble("limits", failure)
        code = None if failure is None else "limits_unavailable"
        if not self._ledger.flush() and code is None:
            code = "journal_failing"
        for held, request in requests:
            if code is None:
                held.send(request)
            else:
                held.withhold(code)
        for reply in replies:
            reply()
        if self._memory is not None:
            failure = self._memory.write_settled()
            if failure is not None:
                self._log.trouble("limits", failure)
