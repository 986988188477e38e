"""Where a server is, and whom it takes a sender for."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailsrv.transport.proxy_protocol import ProxyHeader
from replay.play.target import TargetError, loopback_address, resolve
from replay.smtp.proxy_header import proxy_header

ADDRESSES = st.ip_addresses()


def test_an_address_is_resolved_as_it_is_typed() -> None:
    target = resolve("127.0.0.1:2525")
    assert (target.family, target.address[:2]) == (socket.AF_INET, ("127.0.0.1", 2525))
    assert (target.on_loopback, target.host) == (True, "127.0.0.1")
    target = resolve("[::1]:25")
    assert (target.family, target.on_loopback, target.host) == (socket.AF_INET6, False, "::1")


@pytest.mark.parametrize("text", ["", "host", "host:", ":25", "host:0", "host:65536", "::1:25"])
def test_what_is_no_host_and_port_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(TargetError, match=r"HOST:PORT, such as 127\.0\.0\.1:2525"):
        resolve(text)


@settings(deadline=None)
@given(ADDRESSES)
def test_an_address_of_another_network_has_one_of_127_in_its_place(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    mapped = ipaddress.IPv4Address(loopback_address(str(address)))
    assert mapped.is_loopback
    assert loopback_address(str(address)) == str(mapped)


def test_an_address_keeps_its_last_half_and_its_place_for_ever() -> None:
    assert loopback_address("192.0.2.10") == "127.234.2.10"
    assert loopback_address("2001:db8::10") == "127.244.217.16"
    assert loopback_address("::ffff:192.0.2.10") == "127.234.2.10"
    assert loopback_address("127.0.0.9") == "127.0.0.9"


@settings(deadline=None)
@given(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_neighbours_stay_neighbours(network: int, one: int, other: int) -> None:
    a, b = (
        loopback_address(str(ipaddress.IPv6Address(network << 64 | host))) for host in (one, other)
    )
    assert a.rpartition(".")[0] == b.rpartition(".")[0]


@settings(deadline=None)
@given(
    st.sampled_from([1, 2]),
    ADDRESSES,
    ADDRESSES,
    st.integers(1, 65535),
    st.integers(1, 65535),
)
def test_mailsrv_understands_the_header_and_sees_the_captured_address(
    version: int,
    client: ipaddress.IPv4Address | ipaddress.IPv6Address,
    server: ipaddress.IPv4Address | ipaddress.IPv6Address,
    source_port: int,
    port: int,
) -> None:
    header = proxy_header(version, str(client), source_port, (str(server), port))
    proxied = ProxyHeader().feed(header + b"EHLO me\r\n")
    assert proxied is not None
    assert proxied.client is not None
    seen = ipaddress.ip_address(proxied.client)
    mapped = client.ipv4_mapped if isinstance(client, ipaddress.IPv6Address) else None
    assert seen in (client, mapped)
    assert proxied.rest == b"EHLO me\r\n"


def test_a_header_of_version_1_is_one_line() -> None:
    assert proxy_header(1, "192.0.2.10", 40000, ("127.0.0.1", 25)) == (
        b"PROXY TCP4 192.0.2.10 127.0.0.1 40000 25\r\n"
    )
    assert proxy_header(1, "2001:db8::1", 40000, ("::1", 25, 0, 0)) == (
        b"PROXY TCP6 2001:db8::1 ::1 40000 25\r\n"
    )
