"""A client cannot choose the address it is taken for."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.running import running

from stillhouse.accounts import Origin, acts, poll
from stillhouse.exchanges import InputError
from stillhouse.gateway.addresses import (
    TrustedHops,
    address_prefix,
    client_address,
    plain_address,
    vouched,
)

PROXIES = TrustedHops.of(2, ["10.0.0.0/8", "fd00::/8"])
ONE = TrustedHops.of(1, ["10.0.0.0/8"])
outside = st.ip_addresses().filter(
    lambda a: (
        not any(
            a in network
            for network in (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
        )
        and not (a.version == 6 and a.ipv4_mapped)
    )
)
junk = st.lists(
    st.one_of(
        st.ip_addresses().map(str),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.just("10.0.0.9"),
    ),
    max_size=5,
)


def test_without_trusted_hops_the_header_is_never_read() -> None:
    assert client_address("203.0.113.7", ["1.1.1.1"], TrustedHops()) == "203.0.113.7"


@given(claimed=junk, real=outside)
def test_what_the_client_writes_changes_nothing(
    claimed: list[str], real: ipaddress._BaseAddress
) -> None:
    # The outer proxy appends the client's address, the inner one the outer proxy's.
    seen = ", ".join([*claimed, str(real), "10.1.1.1"])
    assert client_address("10.2.2.2", [seen], PROXIES) == str(real)


@given(claimed=junk, peer=outside)
def test_an_untrusted_peer_is_the_client_whatever_it_sends(
    claimed: list[str], peer: ipaddress._BaseAddress
) -> None:
    assert client_address(str(peer), claimed, PROXIES) == str(peer)


@given(claimed=junk, real=outside)
def test_an_inner_proxy_reached_directly_still_names_its_peer(
    claimed: list[str], real: ipaddress._BaseAddress
) -> None:
    # Only one hop was passed: its entry is outside, so nothing to the left of it is believed.
    assert client_address("10.2.2.2", [*claimed, str(real)], PROXIES) == str(real)


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
        (["1.2.3.4:5555"], "1.2.3.4"),
        (["[2001:db8::1]:443"], "2001:db8::1"),
        (["::ffff:1.2.3.4"], "1.2.3.4"),
        (["unknown"], "10.2.2.2"),
        ([""], "10.2.2.2"),
        ([], "10.2.2.2"),
    ],
)
def test_forms_that_proxies_write(lines: list[str], client: str) -> None:
    assert client_address("10.2.2.2", lines, ONE) == client


def test_counting_from_the_left_would_be_caught() -> None:
    # The mutant of CVE-2025-59152: it takes the first entry.
    def leftmost(peer: str, forwarded: list[str], trust: TrustedHops) -> str:
        return ",".join(forwarded).split(",")[0].strip() or peer

    spoofed = ["9.9.9.9, 203.0.113.7"]
    assert client_address("10.2.2.2", spoofed, ONE) == "203.0.113.7"
    assert leftmost("10.2.2.2", spoofed, ONE) == "9.9.9.9"


@pytest.mark.parametrize(("count", "networks"), [(1, []), (0, ["10.0.0.0/8"]), (1, ["ten"])])
def test_half_a_setting_is_refused(count: int, networks: list[str]) -> None:
    with pytest.raises(InputError):
        TrustedHops.of(count, networks)


def test_prefixes_that_exchanges_keep() -> None:
    assert address_prefix("203.0.113.77") == "203.0.113.0/24"
    assert address_prefix("2001:db8:1:2::3") == "2001:db8:1::/48"
    assert address_prefix("unix") is None
    assert plain_address("1.2.3.4:http") is None


VOUCHING = TrustedHops.of(1, ["10.0.0.0/8"], country="X-Country", asn="X-ASN", fingerprint="X-JA4")
KNOWN = Origin("PT", 64500)
HEADERS = [(b"x-country", b"fr"), (b"x-asn", b"AS64501"), (b"x-ja4", b"t13d1516h2_8daaf6152771")]


def test_a_trusted_proxy_says_country_network_and_fingerprint() -> None:
    found = vouched("10.1.1.1", HEADERS, VOUCHING, KNOWN)
    assert found == (Origin("FR", 64501), "t13d1516h2_8daaf6152771")
    assert vouched("::ffff:10.1.1.1", HEADERS, VOUCHING, KNOWN) == found


def test_nobody_else_does() -> None:
    assert vouched("203.0.113.7", HEADERS, VOUCHING, KNOWN) == (KNOWN, None)
    assert vouched("no address", HEADERS, VOUCHING, Origin()) == (Origin(), None)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        HEADERS + HEADERS,  # one of the two is the client's own
        [(b"x-country", b"France"), (b"x-asn", b"-1"), (b"x-ja4", b'"><')],
        [(b"x-country", b""), (b"x-asn", b"12345678901"), (b"x-ja4", b"a" * 129)],
    ],
)
def test_what_says_nothing_leaves_what_was_known(headers: list[tuple[bytes, bytes]]) -> None:
    assert vouched("10.1.1.1", headers, VOUCHING, KNOWN) == (KNOWN, None)


def test_a_header_needs_a_trusted_proxy() -> None:
    for bad in ({"count": 0, "networks": [], "asn": "x-asn"}, {"asn": "x asn"}, {"asn": "Ä"}):
        settings: Any = {"count": 1, "networks": ["10.0.0.0/8"], **bad}
        with pytest.raises(InputError, match="asn_header"):
            TrustedHops.of(settings.pop("count"), settings.pop("networks"), **settings)


def test_the_operators_lists_decide_on_what_the_proxy_says(tmp_path: Path) -> None:
    hops = {"country_header": "x-country", "asn_header": "x-asn", "fingerprint_header": "x-ja4"}
    hops |= {"count": 1, "networks": ["127.0.0.0/8"]}  # type: ignore[dict-item]
    body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}

    async def scenario() -> None:
        async with (
            running(tmp_path, trusted_hops=hops) as gateway,
            aiohttp.ClientSession() as session,
        ):
            perform, operator = gateway.store.perform, gateway.furnished.operator
            for kind, value, verdict, level in (
                ("country", "XX", "refuse", 0),
                ("asn", "64999", "refuse", 0),
                ("hosting", "198.51.100.0/24", "verify", 1),
            ):
                act = acts.ListOrigin(
                    kind=kind, value=value, verdict=verdict, level=level, reason="a test"
                )
                await asyncio.to_thread(perform, operator, act)
            poll(gateway.store, gateway.service.app.snapshot)

            async def ask(address: str, country: str, asn: str) -> int:
                headers = {
                    "authorization": f"Bearer {gateway.key}",
                    "x-forwarded-for": address,
                    "x-country": country,
                    "x-asn": asn,
                    "x-ja4": "t13d",
                }
                url = f"{gateway.url}/v1/chat/completions"
                async with session.post(url, json=body, headers=headers) as reply:
                    return reply.status

            assert await ask("203.0.113.7", "PT", "AS64500") == 200
            assert await ask("203.0.113.7", "XX", "64500") == 403
            assert await ask("203.0.113.7", "PT", "64999") == 403
            assert await ask("198.51.100.9", "PT", "64500") == 403
            log = gateway.log.getvalue()
            for code in ("country_refused", "network_refused", "verification_required"):
                assert f'"{code}"' in log
            row = (await gateway.settled())[0]
            assert (row["asn"], row["client_fingerprint"]) == (64500, "t13d")
            assert row["address_prefix"] == "203.0.113.0/24"

    asyncio.run(scenario())
