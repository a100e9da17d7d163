"""Active health checks: a dead server is found out before a client's request is lost on it.

They stand beside what replies tell (`Pool.failed`): a server is asked when both say it is well.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stillhouse.gateway.log import Log
    from stillhouse.gateway.offering import Offering
    from stillhouse.gateway.upstream import Pool

_FAILURES = 2  # one slow answer of a busy server is no death


class Checks:
    """Asks every server that has a `health_path`. `follow` an offering, again after a reload."""

    def __init__(self, log: Log):
        self._log = log
        self._tasks: list[asyncio.Task[None]] = []

    def follow(self, offering: Offering) -> None:
        """Check the servers of this offering, and no others."""
        self.stop()
        self._tasks = [
            asyncio.ensure_future(self._check(pool))
            for offered in offering.models.values()
            for pool in offered.relay.route.pools
            if pool.upstream.health_path is not None
        ]

    def stop(self) -> None:
        """Check nothing any more."""
        for task in self._tasks:
            task.cancel()

    async def _check(self, pool: Pool) -> None:
        path, failures = pool.upstream.health_path or "", 0
        while True:
            failures = 0 if await pool.answers(path) else failures + 1
            well = failures == 0 or (pool.well and failures < _FAILURES)
            if well != pool.well:
                pool.well = well
                state = "upstream_well" if well else "upstream_ill"
                self._log.event(state, upstream=pool.upstream.url)
            await asyncio.sleep(pool.upstream.health_every_s)
