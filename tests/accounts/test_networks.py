"""Addresses: no disguise steps around a block, and matching equals the plain definition."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.accounts import FailureThrottle, parse_address, parse_network
from stillhouse.accounts.networks import Network, PrefixTable, subnetworks
from stillhouse.exchanges import InputError

V4 = ipaddress.ip_address("203.0.113.7")
FORMS = [
    "203.0.113.7",
    "::ffff:203.0.113.7",
    "64:ff9b::203.0.113.7",
    "2002:cb00:7107::1",
    "2001:0:4136:e378:8000:63bf:34ff:8ef8",  # Teredo: the client's address inverted
]
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "block",
    [
        "203.0.113.7",
        "203.0.113.0/24",
        "::ffff:203.0.113.0/120",
        "64:ff9b::203.0.113.0/120",
        "2002:cb00:7100::/40",
    ],
)
def test_an_ipv4_block_holds_in_every_form(form: str, block: str) -> None:
    table: PrefixTable[str] = PrefixTable()
    table.add(parse_network(block), "blocked")
    assert table.find(parse_address(form)) == ["blocked"]
    assert parse_address(form).scopes == ("203.0.113.7/32", "203.0.113.0/24")


@pytest.mark.parametrize("form", ["::ffff:203.0.112.7", "2002:cb00:7207::1", "2001:db8::7"])
def test_other_addresses_are_not_blocked(form: str) -> None:
    table: PrefixTable[str] = PrefixTable()
    table.add(parse_network("203.0.113.0/24"), "blocked")
    assert table.find(parse_address(form)) == []


def test_a_tunnel_can_be_blocked_as_a_whole() -> None:
    table: PrefixTable[str] = PrefixTable()
    table.add(parse_network("2001::/32"), "teredo")
    assert table.find(parse_address(FORMS[-1])) == ["teredo"]
    assert table.find(parse_address("203.0.113.7")) == []


@pytest.mark.parametrize(
    ("network", "holds"),
    [
        ("64:ff9b::/64", True),
        ("::/0", True),
        ("::fffe:0:0/95", True),
        ("2002:cb00:7107:1::/64", True),
        ("2001::/32", True),
        ("2001:0:4136:e378::/64", True),
        ("2001:db8::/32", False),
        ("64:ff9b:1::/48", False),
        ("203.0.113.0/24", False),
    ],
)
def test_networks_that_hold_ipv4_clients_are_known(network: str, *, holds: bool) -> None:
    assert parse_network(network).holds_ipv4 is holds


def test_scopes_of_ipv6_are_nested() -> None:
    scopes = parse_address("2001:db8:1:2ff:1::9").scopes
    assert scopes == ("2001:db8:1:2ff::/64", "2001:db8:1:200::/56", "2001:db8:1::/48")


@given(addresses, st.lists(st.tuples(addresses, st.integers(0, 128)), max_size=12))
def test_matching_equals_the_plain_definition(client: str, blocks: list[tuple[str, int]]) -> None:
    table: PrefixTable[str] = PrefixTable()
    networks = []
    for number, (address, length) in enumerate(blocks):
        width = ipaddress.ip_address(address).max_prefixlen
        network = ipaddress.ip_network((address, length % (width + 1)), strict=False)
        parsed = parse_network(str(network))
        networks.append((ipaddress.ip_network(str(parsed)), str(number)))
        table.add(parsed, str(number))
    given_address = parse_address(client)
    forms = [ipaddress.ip_address(client)]
    if given_address.embedded is not None:
        forms.append(ipaddress.IPv4Address(given_address.embedded))
    expected = [n for network, n in networks if any(form in network for form in forms)]
    assert sorted(table.find(given_address)) == sorted(expected)
    for network, number in networks:
        table.discard(parse_network(str(network)), number)
    assert table.find(given_address) == []
    assert len(table) == 0


@given(st.text(max_size=50))
def test_what_is_no_address_is_refused(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        with pytest.raises(InputError):
            parse_address(text)


@pytest.mark.parametrize("text", ["203.0.113.7/24", "fe80::1%eth0", "203.0.113.0/33", "", "x/8"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_network(text)


def test_subnetworks_are_those_of_the_standard_library() -> None:
    parts = [str(part) for part in subnetworks(parse_network("203.0.112.0/22"), 24)]
    assert parts == [str(n) for n in ipaddress.ip_network("203.0.112.0/22").subnets(new_prefix=24)]
    assert list(subnetworks(Network(4, 1, 32), 24)) == []


def test_failures_are_slowed_down_and_forgiven_after_a_while() -> None:
    throttle = FailureThrottle(failures=5, window_us=60_000_000)
    address = parse_address("2001:db8::1")
    waits = [throttle.fail(address, 0) for _ in range(6)]
    assert waits[:5] == [0] * 5
    assert waits[5] > 0
    neighbour = parse_address("2001:db8::ffff")
    assert throttle.waiting_us(neighbour, 0) == waits[5], "one /64 is one client"
    assert throttle.waiting_us(parse_address("2001:db8:1::1"), 0) == 0
    assert throttle.waiting_us(address, waits[5]) == 0


def test_rotating_through_a_wide_network_does_not_escape_the_throttle() -> None:
    throttle = FailureThrottle(failures=5)
    waits = [throttle.fail(parse_address(f"2001:db8:0:{n:x}::1"), 0) for n in range(60)]
    assert waits[0] == 0
    assert waits[-1] > 0


def test_memory_of_failures_is_bounded() -> None:
    throttle = FailureThrottle(capacity=1000)
    for number in range(20_000):
        throttle.fail(parse_address(str(ipaddress.IPv4Address(number * 997))), number)
    assert len(throttle) <= 1000
