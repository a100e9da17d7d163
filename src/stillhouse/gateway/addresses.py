"""Who the client is on the network: the peer, or what trusted proxies in front vouch for."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from stillhouse.accounts import Origin
from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_COUNTRY = re.compile(r"[A-Za-z]{2}")
_ASN = re.compile(r"(?:[Aa][Ss])?[0-9]{1,10}")
_FINGERPRINT = re.compile(r"[0-9A-Za-z_.:-]{1,128}")


@dataclass(frozen=True, slots=True)
class TrustedHops:
    """How many proxies stand in front at most, and where they are.

    With `count` 0 (the default) X-Forwarded-For is never read.
    """

    count: int = 0
    networks: tuple[Network, ...] = ()
    country: bytes | None = None  # names of headers, in lower case
    asn: bytes | None = None
    fingerprint: bytes | None = None
    trace: bool = False  # their W3C trace context is gone on with

    @property
    def vouching(self) -> bool:
        """Whether more than the address is taken from the proxy."""
        return bool(self.country or self.asn or self.fingerprint)

    @classmethod
    def of(
        cls, count: int, networks: Iterable[str], *, trace: bool = False, **headers: str | None
    ) -> TrustedHops:
        """Parse CIDR texts and names of headers.

        Raises `InputError` for one that is none, or for half a setting.
        """
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
        names: dict[str, bytes] = {}
        for kind, name in headers.items():
            if name is None:
                continue
            if not count or _HEADER.fullmatch(name) is None:
                raise InputError(
                    f"{name!r} cannot be believed",
                    place=f"{kind}_header",
                    repair="name a header that a trusted proxy sets, with count and networks",
                )
            names[kind] = name.lower().encode()
        if trace and not count:
            raise InputError(
                "no proxy is trusted whose traces could be gone on with",
                place="trace_context",
                repair="give count and networks too",
            )
        return cls(count, tuple(parsed), trace=trace, **names)


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


def is_trusted(peer: str, trust: TrustedHops) -> bool:
    """Say whether the connection from `peer` is one of the trusted proxies'."""
    return _within(plain_address(peer) or peer, trust.networks)


def vouched(
    peer: str, headers: Iterable[tuple[bytes, bytes]], trust: TrustedHops, known: Origin
) -> tuple[Origin, str | None]:
    """Return the client's origin and its fingerprint, as the proxy at `peer` says.

    `known` is what the operator's file says; it stands where the proxy says nothing. A header that
    is there twice says nothing: one of the two may be the client's own.
    """
    if not is_trusted(peer, trust):
        return known, None
    told: dict[bytes, bytes | None] = {}
    wanted = (trust.country, trust.asn, trust.fingerprint)
    for name, value in headers:
        if name in wanted:
            told[name] = None if name in told else value
    country = _told(told, trust.country, _COUNTRY)
    asn = _told(told, trust.asn, _ASN)
    fingerprint = _told(told, trust.fingerprint, _FINGERPRINT)
    return (
        Origin(
            known.country if country is None else country.upper(),
            known.asn if asn is None else int(asn.upper().removeprefix("AS")),
        ),
        fingerprint,
    )


def _told(told: dict[bytes, bytes | None], name: bytes | None, form: re.Pattern[str]) -> str | None:
    value = told.get(name) if name else None
    if value is None:
        return None
    text = value.decode("latin-1").strip()
    return text if form.fullmatch(text) else None


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
