"""A client cannot choose the address it is taken for."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.exchanges import InputError
from stillhouse.gateway.addresses import (
    TrustedHops,
    address_prefix,
    client_address,
    plain_address,
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
