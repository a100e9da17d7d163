"""Which upstream answers: the least busy one that is well; another only before its first byte."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stillhouse.gateway.commit import WITHHELD
from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.upstream import Pool, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillhouse.gateway.commit import Commit
    from stillhouse.gateway.config import Config, Model
    from stillhouse.gateway.upstream import Connection

_ATTEMPTS = 3
# Statuses by which a server says that it cannot answer now, though another may.
_BUSY = frozenset({429, 500, 502, 503, 504, 529})


class Route:
    """The servers of one model."""

    def __init__(self, model: Model, config: Config, keys: Mapping[int, str | None]):
        self._timeouts = config.timeouts
        self.pools = [
            Pool(upstream, config.timeouts, config.bounds.buffer_bytes, keys[index])
            for index, upstream in enumerate(model.upstreams)
        ]

    async def ask(
        self, path: str, body: bytes, headers: bytes = b"", commit: Commit | None = None
    ) -> Connection:
        """Send the request and return the connection whose reply begins with status 200.

        With `commit` it is sent once what was taken down so far is written. Raises `RefusedError`.
        A reused connection that was just closed by the other side, and a server that fails before
        its first byte or is busy, is followed by another try.
        """
        last = "overloaded"
        for _ in range(_ATTEMPTS):
            now = time.monotonic()
            pool = self._choose(now)
            if pool is None:
                break
            try:
                connection = await pool.open()
            except UpstreamError as error:
                pool.failed(time.monotonic())
                last = error.code
                continue
            try:
                request = pool.request(path, body, headers)
                connection.begin(request, now + self._timeouts.first_byte_s, commit)
                status = await connection.head()
            except UpstreamError as error:
                reused = connection.reused and error.untouched
                connection.close()
                last = error.code
                if last in WITHHELD:
                    break
                if error.code == "upstream_timeout":
                    pool.failed(now)
                    break  # it may have worked all that time: asking again would double the work
                if not reused:
                    pool.failed(now)
                    if not error.untouched:
                        break
                continue
            except BaseException:
                connection.close()
                raise
            if status == 200:
                pool.worked()
                return connection
            connection.close()
            if status not in _BUSY:
                raise RefusedError("upstream_refused", f"HTTP {status}")
            last = "overloaded" if status in (429, 503, 529) else "upstream_failed"
            pool.failed(now, 0.25)
        raise RefusedError(last)

    def is_open(self, now: float) -> bool:
        """Say whether any server may be asked now."""
        return any(pool.is_open(now) for pool in self.pools)

    def watch(self, now: float) -> None:
        """Fail what has waited too long."""
        for pool in self.pools:
            pool.watch(now)

    def close(self) -> None:
        """Close every connection."""
        for pool in self.pools:
            pool.close()

    def _choose(self, now: float) -> Pool | None:
        pools = self.pools
        if len(pools) == 1:
            # With nothing to choose from, a resting server is still the best chance there is.
            return pools[0] if pools[0].in_flight < pools[0].upstream.most_in_flight else None
        able = [pool for pool in pools if pool.is_open(now)]
        return min(able, key=lambda pool: pool.in_flight) if able else None
