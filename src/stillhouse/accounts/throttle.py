"""Failed authentications are slowed down, per address and in bounded memory (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stillhouse.accounts.networks import Address


class FailureThrottle:
    """Counts failed authentications of an address and of the networks around it.

    `failures` a `window_us` are allowed to the narrowest network (an IPv4 address, an IPv6 /64),
    four times as many to each wider one. Beyond that `fail` says how long to wait. A right key is
    never refused here: a neighbour behind the same address must not be a lever against honest
    users, and 192 random bits are not guessed. At most `capacity` networks are remembered, those
    heard of least recently are forgotten first.
    """

    def __init__(
        self, *, failures: int = 20, window_us: int = 60_000_000, capacity: int = 65_536
    ) -> None:
        self._window_us = window_us
        self._steps_us = (max(window_us // failures, 1), max(window_us // (4 * failures), 1))
        self._half = max(capacity // 2, 8)
        # Two generations: a full young one becomes the old one, so dropping costs O(1).
        self._young: dict[object, int] = {}
        self._old: dict[object, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def waiting_us(self, address: Address, now_us: int) -> int:
        """Return how long failures from here must wait; 0 when they may be answered as usual."""
        wait_us = 0
        for network in address.networks:
            due_us = self._young.get(network) or self._old.get(network) or 0
            wait_us = max(wait_us, due_us - self._window_us - now_us)
        return wait_us

    def fail(self, address: Address, now_us: int) -> int:
        """Note a failure and return how long the next ones from here must wait (0: not yet)."""
        wait_us = 0
        for index, network in enumerate(address.networks):
            step_us = self._steps_us[min(index, 1)]
            known_us = self._young.get(network) or self._old.pop(network, 0)
            # The theoretical arrival time of a GCRA cell, held at two windows ahead so that a flood
            # is over one window after it ends.
            due_us = min(max(known_us, now_us) + step_us, now_us + 2 * self._window_us)
            self._young[network] = due_us
            wait_us = max(wait_us, due_us - self._window_us - now_us)
            if len(self._young) >= self._half:
                self._old, self._young = self._young, {}
        return wait_us
