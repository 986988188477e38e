"""Writes IP packets into every link layer and tunnel that is read.  No test itself."""

from __future__ import annotations

import struct
from collections.abc import Callable

from capture_builder import ethernet, ipv4, ipv6

SNAP = b"\xaa\xaa\x03\x00\x00\x00"
MACS = b"\x02" * 12
Wrap = Callable[[bytes], bytes]


def udp(dport: int, payload: bytes, sport: int = 50_000) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def outer(protocol: int, payload: bytes) -> bytes:
    """An Ethernet frame of the network that carries the tunnel."""
    return ethernet(ipv4("203.0.113.1", "203.0.113.2", payload, protocol=protocol))


def outer6(protocol: int, payload: bytes) -> bytes:
    return ethernet(ipv6("2001:db8::1", "2001:db8::2", payload, following=protocol), 0x86DD)


def gre(flags: int, kind: int, options: bytes, payload: bytes) -> bytes:
    return outer(47, struct.pack("!HH", flags, kind) + options + payload)


def u16(number: int) -> bytes:
    return struct.pack("!H", number)


def label(value: int, *, last: bool = True) -> bytes:
    return struct.pack("!I", value << 12 | last << 8 | 64)


def wifi(packet: bytes, kind: int = 0x08, flags: int = 0x01, qos: bytes = b"") -> bytes:
    four = b"\x02" * 6 if flags & 3 == 3 else b""
    return (
        bytes((kind, flags))
        + bytes(2)
        + b"\x02" * 18
        + bytes(2)
        + four
        + qos
        + (SNAP + b"\x08\x00" + packet)
    )


def radiotap(frame: bytes, fields: bytes = b"", present: int = 0) -> bytes:
    return struct.pack("<BxHI", 0, 8 + len(fields), present) + fields + frame


def nflog(packet: bytes, order: str = "<") -> bytes:
    head = b"\x02\x00\x00\x1e" + struct.pack(order + "HH4s", 8, 1, b"\x08\x00\x01\x00")
    return head + struct.pack(order + "HH", 4 + len(packet), 9) + packet + bytes(-len(packet) % 4)


LAYERS: dict[str, tuple[int, Wrap]] = {
    "plain": (1, ethernet),
    "vxlan": (1, lambda p: outer(17, udp(4789, b"\x08" + bytes(7) + ethernet(p)))),
    "vxlan of linux": (1, lambda p: outer(17, udp(8472, b"\x08" + bytes(7) + ethernet(p)))),
    "vxlan over ipv6": (1, lambda p: outer6(17, udp(4789, b"\x08" + bytes(7) + ethernet(p)))),
    "vxlan gpe": (1, lambda p: outer(17, udp(4790, b"\x0c\0\0\x01" + bytes(4) + p))),
    "geneve": (1, lambda p: outer(17, udp(6081, b"\0\0\x65\x58" + bytes(4) + ethernet(p)))),
    "geneve with options": (
        1, lambda p: outer(17, udp(6081, b"\x02\0\x65\x58" + bytes(12) + ethernet(p)))
    ),
    "gre": (1, lambda p: gre(0, 0x0800, b"", p)),
    "gre teb": (1, lambda p: gre(0, 0x6558, b"", ethernet(p))),
    "nvgre": (1, lambda p: gre(0x2000, 0x6558, b"\0\x12\x34\x05", ethernet(p))),
    "gre with everything": (1, lambda p: gre(0xB000, 0x0800, bytes(12), p)),
    "erspan 1": (1, lambda p: gre(0, 0x88BE, b"", ethernet(p))),
    "erspan 2": (1, lambda p: gre(0x1000, 0x88BE, bytes(4) + b"\x10" + bytes(7), ethernet(p))),
    "erspan 3": (1, lambda p: gre(0x1000, 0x22EB, bytes(4) + b"\x20" + bytes(11), ethernet(p))),
    "erspan 3 with platform": (
        1, lambda p: gre(0x1000, 0x22EB, bytes(4) + b"\x20" + bytes(10) + b"\x01" + bytes(8),
                         ethernet(p))
    ),
    "gtp-u": (1, lambda p: outer(17, udp(2152, b"\x30\xff" + u16(len(p)) + bytes(4) + p))),
    "gtp-u with sequence": (
        1, lambda p: outer(17, udp(2152, b"\x32\xff" + u16(len(p) + 4) + bytes(8) + p))
    ),
    "gtp-u with extension": (
        1, lambda p: outer(17, udp(2152, b"\x34\xff" + bytes(9) + b"\x85\x01\0\0\0" + p))
    ),
    "nflog": (239, nflog),
    "nflog of a big-endian host": (239, lambda p: nflog(p, ">")),
    "802.11": (105, wifi),
    "802.11 qos": (105, lambda p: wifi(p, 0x88, 0x01, bytes(2))),
    "802.11 qos and high throughput": (105, lambda p: wifi(p, 0x88, 0x82, bytes(6))),
    "802.11 between access points": (105, lambda p: wifi(p, 0x08, 0x03)),
    "802.11 with check sequence": (105, lambda p: wifi(p) + b"\x12\x34\x56\x78"),
    "radiotap": (127, lambda p: radiotap(wifi(p))),
    "radiotap with time and padding": (
        127,
        lambda p: radiotap(wifi(p, 0x88, 0x01, bytes(4)), bytes(8) + b"\x20", 3),
    ),
    "ppi": (192, lambda p: struct.pack("<xxHI", 8, 105) + wifi(p)),
    "prism": (119, lambda p: bytes(144) + wifi(p)),
    "avs": (163, lambda p: struct.pack("!II", 0x80211001, 64) + bytes(56) + wifi(p)),
    "ethernet over mpls": (
        1, lambda p: MACS + b"\x88\x47" + label(7, last=False) + label(9) + bytes(4) + ethernet(p)
    ),
    "ethernet over mpls without a control word": (
        1, lambda p: MACS + b"\x88\x47" + label(9) + ethernet(p)
    ),
    "mpls": (1, lambda p: MACS + b"\x88\x47" + label(9) + p),
    "mpls in ip": (1, lambda p: outer(137, label(9) + p)),
    "mpls over udp": (1, lambda p: outer(17, udp(6635, label(9) + p))),
    "ppp": (9, lambda p: b"\xff\x03\x00\x21" + p),
    "ppp without address": (9, lambda p: b"\x00\x21" + p),
    "ppp compressed": (9, lambda p: b"\x21" + p),
    "ppp with direction": (204, lambda p: b"\x01\xff\x03\x00\x21" + p),
    "pppd": (166, lambda p: b"\x01\x03\x00\x21" + p),
    "pppoe": (1, lambda p: MACS + b"\x88\x64\x11\0\0\x01" + u16(len(p) + 2) + b"\x00\x21" + p),
    "pptp": (
        1, lambda p: gre(0x3081, 0x880B, struct.pack("!HHII", 4 + len(p), 1, 2, 3),
                         b"\xff\x03\x00\x21" + p)
    ),
    "vntag": (1, lambda p: MACS + b"\x89\x26\x80\0\0\x01\x08\x00" + p),
    "e-tag": (1, lambda p: MACS + b"\x89\x3f" + bytes(6) + b"\x08\x00" + p),
    "backbone bridge": (1, lambda p: MACS + b"\x88\xe7\0\0\0\x01" + ethernet(p)),
    "qinq": (1, lambda p: MACS + b"\x88\xa8\0\x01\x81\x00\0\x02\x08\x00" + p),
    "ah": (1, lambda p: ethernet(with_ah(p))),
    "frame relay": (107, lambda p: b"\x18\x41\x03\xcc" + p),
    "frame relay bridged": (107, lambda p: b"\x18\x41\x03\0\x80\0\x80\xc2\0\x07" + ethernet(p)),
    "frame relay of cisco": (107, lambda p: b"\x18\x41\x08\x00" + p),
    "l2tp": (1, lambda p: outer(17, udp(1701, b"\x40\x02\0\0\0\x01\0\x02\xff\x03\0\x21" + p))),
    "ethernet in ip": (1, lambda p: outer(97, b"\x30\0" + ethernet(p))),
    "pktap": (258, lambda p: struct.pack("<I4xI", 108, 1) + bytes(96) + ethernet(p)),
    "pflog": (117, lambda p: b"\x3d\x02" + bytes(62) + p),
    "cisco hdlc with direction": (205, lambda p: b"\0\x0f\0\x08\x00" + p),
    "vxlan in gre": (
        1, lambda p: gre(0, 0x0800, b"", LAYERS["vxlan"][1](p)[14:])
    ),
}  # fmt: skip


def with_ah(packet: bytes) -> bytes:
    """The IPv4 packet with an authentication header (RFC 4302) in it."""
    ah = bytes((packet[9], 4)) + bytes(22)
    length = struct.pack("!H", len(packet) + len(ah))
    return packet[:2] + length + packet[4:9] + b"\x33" + packet[10:20] + ah + packet[20:]
