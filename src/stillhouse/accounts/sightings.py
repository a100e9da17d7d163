"""Who was seen where: accounts by keyed address prefix, so that a block shows whom it would hit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillhouse.accounts.measures import DAY_US
from stillhouse.accounts.networks import SCOPE_LENGTHS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillhouse.accounts.networks import Address, Network
    from stillhouse.exchanges import KeyedDigests

_PREFIX_BYTES = 16


@dataclass(frozen=True, slots=True)
class Sighting:
    """An account was seen at an address on a day (days since 1970)."""

    address: Address
    account: str
    day: int


class Sightings:
    """Collects sightings between two writes; the same one is written once a day.

    At most `capacity` are waiting (more are dropped: drain sooner) and as many are remembered as
    written.
    """

    def __init__(self, capacity: int = 200_000) -> None:
        self._capacity = capacity
        self._waiting: dict[tuple[int, int, str], Sighting] = {}
        self._written: set[tuple[int, int, str]] = set()
        self._day = 0

    def note(self, address: Address, account: str, now_us: int) -> None:
        """Note that a request of `account` from `address` was admitted."""
        key = (*address.canonical, account)
        day = now_us // DAY_US
        if day != self._day:
            self._day = day
            self._written.clear()
        if key not in self._written and len(self._waiting) < self._capacity:
            self._waiting[key] = Sighting(address, account, day)
            if len(self._written) >= self._capacity:
                self._written.clear()
            self._written.add(key)

    def drain(self) -> list[Sighting]:
        """Return what `Store.record_sightings` has to write, and forget it here."""
        waiting, self._waiting = list(self._waiting.values()), {}
        return waiting

    def give_back(self, batch: Sequence[Sighting]) -> None:
        """Take again what could not be written."""
        room = self._capacity - len(self._waiting)
        for one in batch[: max(0, room)]:
            self._waiting.setdefault((*one.address.canonical, one.account), one)


def prefix_digest(digests: KeyedDigests, network: Network) -> bytes:
    """Return 17 bytes for a network: its rank among its scopes (0 the narrowest), then a digest."""
    rank = SCOPE_LENGTHS[network.version].index(network.length)
    return bytes((rank,)) + digests.digest("address-prefix", network.packed)[:_PREFIX_BYTES]
