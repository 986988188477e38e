"""The PROXY protocol's header in any segmentation: what is taken, and what is said of the rest."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.transport.proxy_protocol import (
    V1_OCTETS_MAX,
    V2_LENGTH_MAX,
    V2_SIGNATURE,
    ProxiedClient,
    ProxyFault,
    ProxyHeader,
)

CLIENT, SERVER = "192.0.2.1", "198.51.100.25"
V1 = f"PROXY TCP4 {CLIENT} {SERVER} 40000 25\r\n".encode()
REST = b"EHLO client.example\r\n"

ports = st.integers(0, 65535)
ipv4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
ipv6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)


def v2(
    family: int = 0x11, body: bytes = b"", *, command: int = 0x21, length: int | None = None
) -> bytes:
    said = len(body) if length is None else length
    return V2_SIGNATURE + struct.pack("!BBH", command, family, said) + body


def addresses(source: str, destination: str, source_port: int = 40000) -> bytes:
    return (
        ipaddress.ip_address(source).packed
        + ipaddress.ip_address(destination).packed
        + struct.pack("!HH", source_port, 25)
    )


V2 = v2(0x11, addresses(CLIENT, SERVER))


def read(*chunks: bytes) -> ProxiedClient | str:
    """The outcome; chunks that are left over when the header is whole join its rest."""
    header = ProxyHeader()
    proxied: ProxiedClient | None = None
    for chunk in chunks:
        if proxied is not None:
            proxied = ProxiedClient(proxied.client, proxied.rest + chunk)
            continue
        try:
            proxied = header.feed(chunk)
        except ProxyFault as fault:
            return str(fault)
    assert proxied is not None, "the header never ended"
    return proxied


def in_every_cut(octets: bytes) -> ProxiedClient | str:
    """Read ``octets`` whole, octet by octet, and with every single cut: always the same."""
    whole = read(octets)
    assert read(*[octets[at : at + 1] for at in range(len(octets))]) == whole
    for at in range(len(octets) + 1):
        assert read(octets[:at], octets[at:]) == whole
    return whole


# -- good headers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (V1, CLIENT),
        (b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", "0.0.0.0"),
        (b"PROXY TCP6 2001:DB8::1 ::1 40000 25\r\n", "2001:db8::1"),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 40000 25\r\n", CLIENT),
        (b"PROXY TCP6 ::ffff:c000:201 ::1 40000 25\r\n", CLIENT),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 whatever \x00\xff comes\r\n", None),
        (b"PROXY UNKNOWN " + b"x" * (V1_OCTETS_MAX - 16) + b"\r\n", None),
        (V2, CLIENT),
        (v2(0x21, addresses("2001:db8::1", "::1")), "2001:db8::1"),
        (v2(0x21, addresses("::ffff:192.0.2.1", "::1")), CLIENT),
        (v2(0x31, b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")), None),
        (v2(0x00), None),
        (v2(0x00, b"\x03\x00\x04abcd"), None),
        (v2(0x01), None),
        (v2(0x12, addresses(CLIENT, SERVER)), None),
        (v2(0x10, addresses(CLIENT, SERVER)), None),
        (v2(0x00, command=0x20), None),
        (v2(0x11, addresses(CLIENT, SERVER), command=0x20), None),
        (v2(0xFF, b"junk", command=0x20), None),
        (v2(0x11, addresses(CLIENT, SERVER) + b"\x20\x00\x05\x01\0\0\0\0"), CLIENT),
    ],
)
@pytest.mark.parametrize("rest", [b"", REST, V1, V2])
def test_a_good_header_gives_the_client_and_what_came_behind(
    header: bytes, client: str | None, rest: bytes
) -> None:
    assert in_every_cut(header + rest) == ProxiedClient(client, rest)


@given(st.tuples(ipv4, ipv4) | st.tuples(ipv6, ipv6), ports, ports, st.binary(max_size=40))
def test_what_a_proxy_writes_is_read_back_in_both_versions(
    pair: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...],
    source_port: int,
    port: int,
    rest: bytes,
) -> None:
    source, destination = pair
    client = str(getattr(source, "ipv4_mapped", None) or source)
    text = f"PROXY TCP{source.version} {source} {destination} {source_port} {port}\r\n".encode()
    body = source.packed + destination.packed + struct.pack("!HH", source_port, port)
    binary = v2(0x11 if source.version == 4 else 0x21, body)
    assert len(text) <= V1_OCTETS_MAX
    assert in_every_cut(text + rest) == ProxiedClient(client, rest)
    assert in_every_cut(binary + rest) == ProxiedClient(client, rest)


def test_the_longest_header_of_version_2_is_taken() -> None:
    tlvs = b"\x00" * (V2_LENGTH_MAX - 12)
    assert read(v2(0x11, addresses(CLIENT, SERVER) + tlvs) + REST) == ProxiedClient(CLIENT, REST)


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"PROXY TCP4 127.0.0.1 127.0.0.1 37016 27526\r\n", "127.0.0.1"),
        (b"PROXY TCP6 ::1 ::1 46486 27526\r\n", "::1"),
        (V2_SIGNATURE + b" \x00\x00\x07\x03\x00\x04\xa9\xb8~\x8f", None),  # a health check
        (
            V2_SIGNATURE + b"!\x11\x00#\x7f\x00\x00\x01\x7f\x00\x00\x01\xbc\x82k\x87"
            b"\x03\x00\x04\x13c\x9a{\x05\x00\r7F000001:BC82",
            "127.0.0.1",
        ),
        (
            V2_SIGNATURE + b"!!\x00S" + 2 * (bytes(15) + b"\x01") + b"\xdd`k\x87"
            b"\x03\x00\x04E4\xd0E\x05\x00%00000000000000000000000000000001:DD60",
            "::1",
        ),
    ],
)
def test_what_haproxy_2_6_12_was_seen_to_send_is_understood(
    header: bytes, client: str | None
) -> None:
    """With the TLVs of ``proxy-v2-options unique-id,crc32c``."""
    assert in_every_cut(header + REST) == ProxiedClient(client, REST)


# -- hostile ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"EHLO client.example\r\n", "no PROXY header: a connection from a proxy begins with"),
        (b"PROX TCP4 ", "no PROXY header"),
        (b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "no PROXY header"),
        (b"\x16\x03\x01", "no PROXY header"),
        (b"\x00", "no PROXY header"),
        (b"\n", "no PROXY header"),
        (b"\r\nEHLO", "no PROXY header: it begins like version 2"),
        (V2_SIGNATURE[:-1] + b"\r", "no PROXY header: it begins like version 2"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n" + REST, "a bare LF ends the line"),
        (b"PROXY \n", "a bare LF ends the line"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r\n", "port '2\\r'"),
        (b"PROXY UNKNOWN" + b"x" * 94 + b"x", "no CRLF within 107 octets"),
        (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "no CRLF within 107 octets"),
        (b"PROXY " + b"x" * 5000, "no CRLF within 107 octets"),
        (b"PROXY \r\n", "protocol ''; allowed are TCP4, TCP6 and UNKNOWN"),
        (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "protocol 'UDP4'; allowed are"),
        (b"PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", "protocol 'tcp4'; allowed are"),
        (b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "protocol ''; allowed are"),
        (b"PROXY TCP4\r\n", "0 words after TCP4"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", "3 words after TCP4; it takes four"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", "5 words after TCP4"),
        (b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n", "5 words after TCP4"),
        (b"PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n", "3 words after TCP4"),
        (b"PROXY TCP4 ::1 192.0.2.2 1 2\r\n", "TCP4 address '::1'; allowed is an IPv4"),
        (b"PROXY TCP4 192.0.2.1 ::1 1 2\r\n", "TCP4 address '::1'; allowed is an IPv4"),
        (b"PROXY TCP6 192.0.2.1 ::1 1 2\r\n", "TCP6 address '192.0.2.1'; allowed is an IPv6"),
        (b"PROXY TCP6 ::1 192.0.2.1 1 2\r\n", "TCP6 address '192.0.2.1'; allowed is an IPv6"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "'fe80::1%eth0'; allowed is an IPv6 address with"),
        (b"PROXY TCP6 ::1 fe80::1%1 1 2\r\n", "'fe80::1%1'; allowed is an IPv6 address without"),
        (b"PROXY TCP6 :::1 ::1 1 2\r\n", "TCP6 address ':::1'"),
        (b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", "'192.0.2.01'; allowed is an IPv4 address in"),
        (b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n", "address '192.0.2'"),
        (b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", "address '192.0.2.256'"),
        (b"PROXY TCP4 192.0.2.1/24 192.0.2.2 1 2\r\n", "address '192.0.2.1/24'"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", "port '65536'; allowed is a decimal"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 99999\r\n", "port '99999'"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 100000\r\n", "port '100000'"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", "port '01'"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n", "port '-1'"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", "port '+1'"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1_0 2\r\n", "port '1_0'"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 \xb2 2\r\n", "port '\\xb2'"),
        (b"PROXY TCP4 \x1b[2J\x00 192.0.2.2 1 2\r\n", "address '\\x1b[2J\\x00'"),
        (v2(0x11, addresses(CLIENT, SERVER), command=0x11), "version 1 in binary; allowed is 2"),
        (v2(0x11, addresses(CLIENT, SERVER), command=0x31), "version 3 in binary; allowed is 2"),
        (v2(0x11, addresses(CLIENT, SERVER), command=0x22), "command 2; allowed are 0 (LOCAL)"),
        (v2(0x11, length=11), "11 octets for the addresses of family 1, which take 12"),
        (v2(0x21, length=35), "35 octets for the addresses of family 2, which take 36"),
        (v2(0x31, length=215), "215 octets for the addresses of family 3, which take 216"),
        (v2(0x13, addresses(CLIENT, SERVER)), "family 1 over transport 3; allowed are families"),
        (v2(0x41, b"x" * 300), "family 4 over transport 1; allowed are families 0 to 3"),
        (v2(0x11, length=V2_LENGTH_MAX + 1), "4097 octets of addresses and TLVs; at most 4096"),
        (v2(0x00, command=0x20, length=65535), "65535 octets of addresses and TLVs"),
    ],
)
def test_a_fault_is_told_the_same_in_any_segmentation_and_says_what_is_allowed(
    octets: bytes, said: str
) -> None:
    told = in_every_cut(octets)
    assert isinstance(told, str)
    assert said in told
    assert told.isprintable()
    assert len(told) < 300


@given(st.binary(max_size=60), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", V2_SIGNATURE]))
def test_garbage_is_waited_for_or_faulted_and_nothing_else(garbage: bytes, begin: bytes) -> None:
    header = ProxyHeader()
    try:
        proxied = header.feed(begin + garbage)
    except ProxyFault as fault:
        assert str(fault).isprintable()
    else:
        assert proxied is None or (begin + garbage).endswith(proxied.rest)


def test_who_never_ends_the_header_is_faulted_within_the_bound() -> None:
    for begin, octets_max in ((b"PROXY ", V1_OCTETS_MAX), (V2_SIGNATURE, 16 + V2_LENGTH_MAX)):
        header = ProxyHeader()
        with pytest.raises(ProxyFault):
            for octet in (begin + b"\x21" * octets_max)[:octets_max]:
                assert header.feed(bytes([octet])) is None
