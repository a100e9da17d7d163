"""A clock that follows no step of the machine's."""

from __future__ import annotations

import time


class SteadyClock:
    """Microseconds since 1970: the wall clock when made, the monotonic clock from then on."""

    def __init__(self) -> None:
        self._base_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def now_us(self) -> int:
        """The time now; it never goes back."""
        return self._base_us + time.monotonic_ns() // 1000
