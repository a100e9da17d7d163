"""Who the client is on the network: the peer, or what trusted proxies in front vouch for."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class TrustedHops:
    """How many proxies stand in front at most, and where they are.

    With `count` 0 (the default) X-Forwarded-For is never read.
    """

    count: int = 0
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, count: int, networks: Iterable[str]) -> TrustedHops:
        """Parse CIDR texts. Raises `InputError` for one that is none, or for half a setting."""
        parsed = []
        for text in networks:
            try:
                parsed.append(ipaddress.ip_network(text))
            except ValueError as error:
                raise InputError(
                    f"not a network: {error}", repair="write it as 10.0.0.0/8 or fd00::/8"
                ) from None
        if (count > 0) != bool(parsed) or count < 0:
            raise InputError(
                f"{count} trusted hops and {len(parsed)} trusted networks",
                repair="give both: how many proxies are in front, and the networks they are in",
            )
        return cls(count, tuple(parsed))


def client_address(peer: str, forwarded: Sequence[str], trust: TrustedHops) -> str:
    """Return the client's address in its canonical text.

    `peer` is the address of the connection, `forwarded` the values of all X-Forwarded-For lines in
    order. Entries are taken from the right, each only on the word of a trusted address and at most
    `trust.count` of them: what a client writes there itself is to the left of what is read.
    """
    address = plain_address(peer) or peer
    if not trust.count or not forwarded:
        return address
    entries = ",".join(forwarded).rsplit(",", trust.count)[-trust.count :]
    for entry in reversed(entries):
        if not _within(address, trust.networks):
            break
        named = plain_address(entry.strip())
        if named is None:
            break
        address = named
    return address


@lru_cache(maxsize=65_536)
def plain_address(text: str) -> str | None:
    """Return an address without port, zone, brackets or IPv4 mapping; None where it is none."""
    if text.startswith("["):
        text, _, rest = text[1:].partition("]")
        if rest and not (rest[0] == ":" and rest[1:].isdecimal()):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not port.isdecimal():
            return None
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if found.version == 6 else None
    return str(mapped or found)


@lru_cache(maxsize=65_536)
def address_prefix(address: str) -> str | None:
    """Return what an exchange keeps of an address: IPv4 /24, IPv6 /48; None where it is none."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    width = 24 if found.version == 4 else 48
    return str(ipaddress.ip_network((found, width), strict=False))


@lru_cache(maxsize=65_536)
def _within(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)
