"""From a captured frame to a TCP segment.

Ethernet carrying IPv4 without options carrying TCP is nearly everything there is, and is taken
apart with one ``struct`` call.  All else (tags, tunnels, IPv6, options) goes through dpkt.  Link
layers other than Ethernet are first rewritten as Ethernet, so that there is one way from there.
What is not a whole TCP segment is counted, and told as an ``Oddity`` at the end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import dpkt

from replay.oddity import CaptureError, Oddity
from replay.records import Record

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


class Segment(NamedTuple):
    """One TCP segment (RFC 9293 section 3.1) as captured.

    ``src`` and ``dst`` are packed addresses, 4 or 16 octets.  ``missing_octets`` is how much of
    the payload's end was on the wire but is not in the file (a snapshot length cut it).
    """

    number: int
    ts_ns: int
    src: bytes
    sport: int
    dst: bytes
    dport: int
    seq: int
    ack: int
    flags: int
    window: int
    payload: bytes
    missing_octets: int


_NO_MACS = bytes(12)
_ETHERNET_IPV4 = _NO_MACS + b"\x08\x00"
_ETHERNET_IPV6 = _NO_MACS + b"\x86\xdd"


def _from_ip(frame: bytes) -> bytes:
    ethernet = _ETHERNET_IPV6 if frame[:1] and frame[0] >> 4 == 6 else _ETHERNET_IPV4
    return ethernet + frame


def _from_loopback(frame: bytes) -> bytes:
    # The address family is in the capturing host's byte order (NULL) or the network's (LOOP), and
    # IPv6's number differs by system; the version in the IP header tells as much.
    return _from_ip(frame[4:])


def _from_sll(frame: bytes) -> bytes:
    return _NO_MACS + frame[14:]


def _from_sll2(frame: bytes) -> bytes:
    return _NO_MACS + frame[:2] + frame[20:]


_AS_ETHERNET: dict[int, Callable[[bytes], bytes]] = {
    0: _from_loopback,  # NULL
    12: _from_ip,  # RAW as some systems number it in files
    14: _from_ip,  # RAW on OpenBSD
    101: _from_ip,  # RAW
    108: _from_loopback,  # LOOP
    113: _from_sll,  # LINUX_SLL
    228: _from_ip,  # IPV4
    229: _from_ip,  # IPV6
    276: _from_sll2,  # LINUX_SLL2
}

_LINKTYPE_NAMES = {
    6: "IEEE 802.5 token ring",
    9: "PPP",
    50: "PPP over HDLC",
    51: "PPPoE",
    105: "IEEE 802.11",
    119: "Prism and IEEE 802.11",
    127: "radiotap and IEEE 802.11",
    147: "USER0",
    187: "Bluetooth HCI",
    189: "USB",
    192: "PPI",
    195: "IEEE 802.15.4",
    220: "USB",
    239: "NFLOG",
    249: "USBPcap",
    253: "netlink",
}


class _Skipped:
    """Counts what was left out: how often each reason occurred, and first in which packet."""

    __slots__ = ("_reasons",)

    def __init__(self) -> None:
        self._reasons: dict[tuple[str, str], list[int]] = {}

    def add(self, kind: str, what: str, packet: int) -> None:
        entry = self._reasons.setdefault((kind, what), [0, packet])
        entry[0] += 1

    def oddities(self) -> Iterator[Oddity]:
        for (kind, what), (count, packet) in self._reasons.items():
            if count == 1:
                yield Oddity(packet, kind, f"packet {packet} is left out: {what}")
            else:
                sentence = f"{count} packets are left out, packet {packet} first: {what}"
                yield Oddity(packet, kind, sentence)

    def only_reason(self) -> str | None:
        """The one reason there was, if it was a link type."""
        if len(self._reasons) == 1:
            ((kind, what),) = self._reasons
            if kind == "link-type":
                return what
        return None


# Ethernet type; IPv4 version, length, fragment, protocol, addresses; ports, sequence and
# acknowledgement numbers, data offset, flags, window.
_FAST = struct.Struct("!12xHBxHxxHxB2x4s4sHHIIBBH").unpack_from
_FAST_OCTETS = 14 + 20 + 20


def decode(records: Iterable[Record], oddities: list[Oddity]) -> Iterator[Segment]:
    """Yield the TCP segments of ``records``; what else there was goes to ``oddities`` at the end.

    Raises CaptureError if all there was is a link type that is not decoded.
    """
    skipped = _Skipped()
    found = False
    new = tuple.__new__
    for record in records:
        number, ts_ns, linktype, captured, original, frame = record
        if linktype != 1:
            translate = _AS_ETHERNET.get(linktype)
            if translate is None:
                name = _LINKTYPE_NAMES.get(linktype, f"number {linktype}")
                skipped.add("link-type", f"link type {name} is not decoded", number)
                continue
            frame = translate(frame)
            original += len(frame) - captured
            captured = len(frame)
        if captured >= _FAST_OCTETS:
            (
                ethertype, version, ip_octets, fragment, protocol, src, dst,
                sport, dport, seq, ack, offset, flags, window,
            ) = _FAST(frame)  # fmt: skip
            if (
                ethertype == 0x0800
                and version == 0x45
                and protocol == 6
                and not fragment & 0x3FFF
                and offset >= 0x50
            ):
                start = 34 + (offset >> 4) * 4
                end = 14 + ip_octets
                missing = 0 if end <= captured else end - max(start, captured)
                if end >= start:
                    found = True
                    yield new(
                        Segment,
                        (
                            number, ts_ns, src, sport, dst, dport, seq, ack, flags, window,
                            frame[start:end], missing,
                        ),
                    )  # fmt: skip
                    continue
        segment = _decode_with_dpkt(number, ts_ns, frame, original, skipped)
        if segment is not None:
            found = True
            yield segment
    reason = skipped.only_reason()
    if reason and not found:
        raise CaptureError(f"no packet can be read: {reason}")
    oddities.extend(skipped.oddities())


def _decode_with_dpkt(
    number: int, ts_ns: int, frame: bytes, original: int, skipped: _Skipped
) -> Segment | None:
    """Take one frame apart the slow way; None if it is no whole TCP segment."""
    ip: Any = None
    try:
        layer: Any = dpkt.ethernet.Ethernet(frame)
        while isinstance(layer, dpkt.Packet) and not isinstance(layer, dpkt.tcp.TCP):
            if isinstance(layer, (dpkt.ip.IP, dpkt.ip6.IP6)):
                ip = layer
                if _is_fragment(ip):
                    skipped.add("fragment", "an IP fragment", number)
                    return None
            layer = layer.data
    # dpkt raises its own errors, but on hostile octets also IndexError, struct.error and others.
    except Exception:
        skipped.add("malformed", "damaged or cut off within its headers", number)
        return None
    if isinstance(layer, dpkt.tcp.TCP) and ip is not None:
        return _segment(number, ts_ns, ip, layer, original - len(frame), skipped)
    if ip is not None and getattr(ip, "p", None) == dpkt.ip.IP_PROTO_TCP:
        skipped.add("malformed", "damaged or cut off within its headers", number)
    else:
        skipped.add("not-tcp", "not TCP over IP", number)
    return None


def _is_fragment(ip: Any) -> bool:
    if isinstance(ip, dpkt.ip.IP):
        return bool(ip.mf or ip.offset)
    header = ip.extension_hdrs.get(dpkt.ip.IP_PROTO_FRAGMENT)
    return header is not None and bool(header.frag_off or header.m_flag)


def _segment(
    number: int, ts_ns: int, ip: Any, tcp: Any, cut_octets: int, skipped: _Skipped
) -> Segment | None:
    payload = bytes(tcp.data)
    header_octets = tcp.off * 4
    if isinstance(ip, dpkt.ip.IP):
        header_octets += ip.hl * 4
        total = ip.len
    else:
        header_octets += 40 + sum(header.length for header in ip.all_extension_headers)
        total = ip.plen + 40 if ip.plen else 0
    # Segmentation offload leaves the length 0 on the way out.
    missing = total - header_octets - len(payload) if total else cut_octets
    if total and total < header_octets:
        skipped.add("malformed", "its lengths contradict each other", number)
        return None
    return Segment(
        number, ts_ns, ip.src, tcp.sport, ip.dst, tcp.dport, tcp.seq, tcp.ack, tcp.flags,
        tcp.win, payload, max(missing, 0),
    )  # fmt: skip
