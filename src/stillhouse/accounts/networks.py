"""Client addresses and networks: one canonical form, so that a block cannot be stepped around.

An IPv4 client may arrive as IPv4, as IPv4-mapped IPv6, through NAT64 (64:ff9b::/96), 6to4
(2002::/16) or Teredo (2001::/32). `Address.embedded` is the IPv4 address inside such a form; it is
matched beside the address itself. RFC 4291, 6052, 3056, 4380.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAPPED = 0xFFFF
_NAT64 = 0x0064FF9B_00000000_00000000
_IPV4_FORMS = ((_MAPPED, 96), (_NAT64, 96), (0x2002, 16), (0x20010000, 32))
_BITS = {4: 32, 6: 128}
SCOPE_LENGTHS = {4: (32, 24), 6: (64, 56, 48)}
"""Prefix lengths that stand for "one client" and its surroundings, narrowest first."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Network:
    """The addresses of IP version `version` (4 or 6) whose first `length` bits are `prefix`."""

    version: int
    prefix: int
    length: int

    def __str__(self) -> str:
        address = self.prefix << (_BITS[self.version] - self.length)
        kind = ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address
        return f"{kind(address)}/{self.length}"

    @property
    def span(self) -> tuple[bytes, bytes]:
        """Its first and last address, as bytes that sort like addresses."""
        shift = _BITS[self.version] - self.length
        low, high = self.prefix << shift, ((self.prefix + 1) << shift) - 1
        head = bytes((self.version,))
        return head + low.to_bytes(16, "big"), head + high.to_bytes(16, "big")

    @property
    def around(self) -> tuple[str, ...]:
        """Every network that holds it, itself included, as text."""
        return tuple(
            str(Network(self.version, self.prefix >> (self.length - n), n))
            for n in range(self.length + 1)
        )

    @property
    def holds_ipv4(self) -> bool:
        """Whether clients that are counted by an IPv4 address may come from it in an IPv6 form."""
        return self.version == 6 and any(
            self.prefix >> max(self.length - length, 0) == prefix >> max(length - self.length, 0)
            for prefix, length in _IPV4_FORMS
        )

    @property
    def packed(self) -> bytes:
        """Version, length and prefix as bytes that differ between any two networks."""
        return bytes((self.version, self.length)) + self.prefix.to_bytes(16, "big")


@dataclass(frozen=True, slots=True)
class Address:
    """A client address; `embedded` is the IPv4 address inside an IPv6 form of one."""

    version: int
    value: int
    embedded: int | None = None

    def __str__(self) -> str:
        return str(Network(self.version, self.value, _BITS[self.version])).split("/")[0]

    @property
    def canonical(self) -> tuple[int, int]:
        """Version and value after unpacking: what limits and sightings count."""
        return (4, self.embedded) if self.embedded is not None else (self.version, self.value)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The nested networks around it, narrowest first (`SCOPE_LENGTHS`)."""
        version, value = self.canonical
        bits = _BITS[version]
        return tuple(Network(version, value >> (bits - n), n) for n in SCOPE_LENGTHS[version])

    @property
    def scopes(self) -> tuple[str, ...]:
        """`networks` as text."""
        return tuple(str(network) for network in self.networks)


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address:
    """Read an address. Raises `InputError` for anything else (ports, zones, names, blanks)."""
    try:
        if ":" not in text:
            return Address(4, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big"))
        value = int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
    except (OSError, ValueError):
        raise InputError("this is not an IP address", place=text[:64]) from None
    return Address(6, value, _embedded(value))


def parse_network(text: str) -> Network:
    """Read a CIDR network, or an address as the network of it alone, in canonical form.

    A network inside IPv4-mapped or NAT64 space becomes the IPv4 network, a 6to4 network between /16
    and /48 too; a single Teredo address becomes its client's. Raises `InputError`.
    """
    try:
        if "%" in text:
            raise ValueError("a zone means nothing beyond one machine")
        given = ipaddress.ip_network(text, strict=True)
    except ValueError as error:
        raise InputError(
            f"this is not a network: {error}",
            place=text[:64],
            repair="write it as 203.0.113.0/24 or 2001:db8::/48, with no bits beyond the prefix",
        ) from None
    value, length = int(given.network_address), given.prefixlen
    if given.version == 4:
        return Network(4, value >> (32 - length), length)
    if length >= 96 and (value >> 32 == _MAPPED or value >> 32 == _NAT64):
        length -= 96
        return Network(4, (value & 0xFFFFFFFF) >> (32 - length), length)
    if value >> 112 == 0x2002 and 16 <= length <= 48:
        length -= 16
        return Network(4, ((value >> 80) & 0xFFFFFFFF) >> (32 - length), length)
    if length == 128 and (embedded := _embedded(value)) is not None:
        return Network(4, embedded, 32)
    return Network(6, value >> (128 - length), length)


def subnetworks(network: Network, length: int) -> Iterator[Network]:
    """Yield the networks of `length` inside `network`; none when it is narrower than that."""
    for number in range(1 << max(length - network.length, 0) if length >= network.length else 0):
        yield Network(
            network.version, (network.prefix << (length - network.length)) | number, length
        )


class PrefixTable(Generic[Item]):
    """Items by network: a match costs one dictionary look-up for each prefix length in use."""

    def __init__(self) -> None:
        self._tables: dict[int, dict[int, dict[int, list[Item]]]] = {4: {}, 6: {}}
        # (bits to shift away, table) for each length in use, longest prefix first.
        self._order: dict[int, list[tuple[int, dict[int, list[Item]]]]] = {4: [], 6: []}

    def __len__(self) -> int:
        return sum(
            len(items)
            for tables in self._tables.values()
            for table in tables.values()
            for items in table.values()
        )

    def add(self, network: Network, item: Item) -> None:
        """Put `item` at `network`, after those that are there already."""
        tables = self._tables[network.version]
        if network.length not in tables:
            tables[network.length] = {}
            self._rank(network.version)
        tables[network.length].setdefault(network.prefix, []).append(item)

    def discard(self, network: Network, item: Any) -> None:
        """Take one `item` away from `network`, if it is there."""
        tables = self._tables[network.version]
        table = tables.get(network.length, {})
        items = table.get(network.prefix, [])
        if item in items:
            items.remove(item)
            if not items:
                del table[network.prefix]
            if not table:
                del tables[network.length]
                self._rank(network.version)

    def find(self, address: Address) -> list[Item]:
        """Return the items of every network around `address`, longest prefix first.

        An address that embeds an IPv4 address also finds the items of that one.
        """
        found: list[Item] = []
        value = address.value
        for shift, table in self._order[address.version]:
            items = table.get(value >> shift)
            if items is not None:
                found += items
        if address.embedded is not None:
            for shift, table in self._order[4]:
                items = table.get(address.embedded >> shift)
                if items is not None:
                    found += items
        return found

    def _rank(self, version: int) -> None:
        tables = self._tables[version]
        self._order[version] = [
            (_BITS[version] - length, tables[length]) for length in sorted(tables, reverse=True)
        ]


def _embedded(value: int) -> int | None:
    high = value >> 32
    if high in (_MAPPED, _NAT64):
        return value & 0xFFFFFFFF
    top = value >> 96
    if top == 0x20010000:  # Teredo keeps the client's address inverted
        return (value & 0xFFFFFFFF) ^ 0xFFFFFFFF
    if top >> 16 == 0x2002:
        return (value >> 80) & 0xFFFFFFFF
    return None
