"""From a captured frame to a TCP segment.

Ethernet carrying IPv4 without options carrying TCP is nearly everything there is, and is taken
apart with one ``struct`` call.  Link layers other than Ethernet are first rewritten as Ethernet, so
that there is one way from there.  Tags, options, extension headers, fragments and tunnels take the
slower way of ``FrameDecoder``.  What is not a whole TCP segment is counted, and told as an
``Oddity`` at the end, by its name.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

from replay.capture.link_layers import SIMPLE, UnknownLinkType, as_ethernet, linktype_name
from replay.capture.oddity import CaptureError, Oddity
from replay.capture.records import PacketRecord
from replay.capture.tunnels import over_ip, over_udp
from replay.capture.tunnels.ethernet import IPV4, IPV6, Declined, untagged
from replay.capture.tunnels.ip_fragments import Fragments

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

_TCP = struct.Struct("!HHIIBBH").unpack_from
_TCP_OCTETS = 20
_PORTS = struct.Struct("!HH").unpack_from
_PROTOCOL_TCP, _PROTOCOL_UDP = 6, 17
_TUNNELS_MAX = 4
"""Tunnels within one another."""
_FRAGMENT_HEADER = 44
_AUTHENTICATION_HEADER = 51
_OPTION_HEADERS = frozenset((0, 43, 60, 135, 139, 140))  # hop-by-hop, routing, destination, ...
_HEADERS_MAX = 16
"""Extension headers of one packet."""

_NOT_TCP = "not TCP over IP"
_CUT_OFF = "damaged or cut off within its headers"
_NAMES = {50: "IPsec ESP, which is encrypted", 132: "SCTP over IP, not TCP"}
_ETHERNET_NAMES = {
    b"\x88\x8e": "802.1X, which is not TCP over IP",
    b"\x88\xf7": "PTP, which is not TCP over IP",
}


def decode(records: Iterable[PacketRecord], oddities: list[Oddity]) -> Iterator[Segment]:
    """Yield the TCP segments of ``records``; what else there was goes to ``oddities`` at the end.

    Raises CaptureError if all there was is a link type that is not decoded.
    """
    unusual = FrameDecoder()
    found = False
    simple = SIMPLE
    new = tuple.__new__
    for record in records:
        number, ts_ns, linktype, captured, original, frame = record
        if linktype != 1:
            if (rewrite := simple.get(linktype)) is not None:
                frame = rewrite(frame)
            elif not (frame := unusual.as_ethernet(number, linktype, frame)):
                continue
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
                and protocol == 6  # TCP; a name costs time here
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
        segment = unusual.decode(number, ts_ns, frame, original - captured)
        if segment is not None:
            found = True
            yield segment
    reason = unusual.only_reason()
    if reason and not found:
        raise CaptureError(f"no packet can be read: {reason}")
    oddities.extend(unusual.oddities())


class _NoSegment(Exception):
    """A frame is to be left out: a kind of oddity, and why."""

    def __init__(self, kind: str, what: str) -> None:
        self.kind = kind
        self.what = what


class FrameDecoder:
    """Takes apart what is not the ordinary case, one frame at a time."""

    __slots__ = ("_cut_octets", "_fragments", "_number", "_skipped", "_ts_ns", "_tunnels")

    def __init__(self) -> None:
        self._skipped = _Skipped()
        self._fragments = Fragments()
        self._number = self._ts_ns = self._cut_octets = self._tunnels = 0

    def only_reason(self) -> str | None:
        """Why everything was left out, if it was the link type."""
        return self._skipped.only_reason()

    @property
    def parts(self) -> list[int]:
        """The packets of the datagram in fragments that became whole last."""
        return self._fragments.parts

    def oddities(self) -> Iterator[Oddity]:
        """What was left out, and what became of fragments."""
        yield from self._skipped.oddities()
        yield from self._fragments.finish()

    def as_ethernet(self, number: int, linktype: int, frame: bytes) -> bytes:
        """The frame as Ethernet; empty if it is left out."""
        try:
            return as_ethernet(linktype, frame)
        except UnknownLinkType as unknown:
            what = f"link type {linktype_name(unknown.linktype)} is not decoded"
            self._skipped.add("link-type", what, number)
        except Declined as declined:
            self._skipped.add("not-read", declined.what, number)
        except (struct.error, IndexError):
            self._skipped.add("malformed", _CUT_OFF, number)
        return b""

    def decode(self, number: int, ts_ns: int, frame: bytes, cut_octets: int) -> Segment | None:
        """The segment in an Ethernet frame of which ``cut_octets`` are not in the file."""
        self._number, self._ts_ns, self._cut_octets = number, ts_ns, cut_octets
        self._tunnels = 0
        try:
            return self._ethernet(frame)
        except _NoSegment as why:
            self._skipped.add(why.kind, why.what, number)
        except Declined as declined:
            self._skipped.add("not-read", declined.what, number)
        except (struct.error, IndexError):
            self._skipped.add("malformed", _CUT_OFF, number)
        return None

    def _ethernet(self, frame: bytes) -> Segment | None:
        frame = untagged(frame)
        kind = frame[12:14]
        if kind == IPV4:
            return self._ipv4(frame[14:])
        if kind == IPV6:
            return self._ipv6(frame[14:])
        if len(frame) < 14:
            raise _NoSegment("malformed", _CUT_OFF)
        raise _NoSegment("not-tcp", _ETHERNET_NAMES.get(kind, _NOT_TCP))

    def _ipv4(self, ip: bytes) -> Segment | None:
        """RFC 791 section 3.1."""
        version, octets, name, fragment, protocol, src, dst = struct.unpack_from(
            "!BxHHHxB2x4s4s", ip
        )
        head = (version & 15) * 4
        if version >> 4 != 4 or head < 20:
            raise _NoSegment("malformed", _CUT_OFF)
        # Segmentation offload leaves the length 0 on the way out.
        octets = octets or len(ip) + self._cut_octets
        content = ip[head:octets]
        missing = max(octets - max(len(ip), head), 0)
        if octets < head:
            raise _NoSegment("malformed", "its lengths contradict each other")
        if fragment & 0x3FFF:
            key = src, dst, name, protocol
            more = bool(fragment & 0x2000)
            whole = self._fragment(key, (fragment & 0x1FFF) * 8, content, missing, more, protocol)
            if whole is None:
                return None
            _, content = whole
            missing = 0
        return self._content(protocol, src, dst, content, missing)

    def _ipv6(self, ip: bytes) -> Segment | None:
        """RFC 8200 sections 3 and 4."""
        version, octets, following, src, dst = struct.unpack_from("!B3xHBx16s16s", ip)
        if version >> 4 != 6:
            raise _NoSegment("malformed", _CUT_OFF)
        octets = octets + 40 if octets else len(ip) + self._cut_octets
        missing = max(octets - max(len(ip), 40), 0)
        content = ip[40:octets]
        for _ in range(_HEADERS_MAX):
            if following in _OPTION_HEADERS:
                following, head = content[0], (content[1] + 1) * 8
            elif following == _AUTHENTICATION_HEADER:
                following, head = content[0], (content[1] + 2) * 4
            elif following == _FRAGMENT_HEADER:
                following, offset, name = struct.unpack_from("!BxHI", content)
                head = 8
                if offset & 0xFFF9:
                    key, start, more = (src, dst, name), offset & 0xFFF8, bool(offset & 1)
                    whole = self._fragment(key, start, content[8:], missing, more, following)
                    if whole is None:
                        return None
                    (following, content), head, missing = whole, 0, 0
            else:
                return self._content(following, src, dst, content, missing)
            if head > len(content):
                raise _NoSegment("malformed", _CUT_OFF)
            content = content[head:]
        raise _NoSegment("malformed", f"more than {_HEADERS_MAX} extension headers")

    def _fragment(
        self, key: Hashable, start: int, octets: bytes, missing: int, more: bool, head: int
    ) -> tuple[int, bytes] | None:
        """The whole datagram, if this is the fragment that it waited for."""
        if missing:
            raise _NoSegment("fragment", "an IP fragment whose end is cut off")
        return self._fragments.add(key, start, octets, more, head, self._number, self._ts_ns)

    def _content(
        self, protocol: int, src: bytes, dst: bytes, content: bytes, missing: int
    ) -> Segment | None:
        """What is in an IP packet, of whose end ``missing`` octets are not in the file."""
        if protocol != _PROTOCOL_TCP:
            return self._not_tcp(protocol, src, dst, content, missing)
        sport, dport, seq, ack, offset, flags, window = _TCP(content)
        head = (offset >> 4) * 4
        if head < _TCP_OCTETS:
            raise _NoSegment("malformed", _CUT_OFF)
        if head > len(content):
            missing -= head - len(content)
            if missing < 0:
                raise _NoSegment("malformed", "its lengths contradict each other")
        return Segment(
            self._number, self._ts_ns, src, sport, dst, dport, seq, ack, flags, window,
            content[head:], missing,
        )  # fmt: skip

    def _not_tcp(
        self, protocol: int, src: bytes, dst: bytes, content: bytes, missing: int
    ) -> Segment | None:
        """The segment in what is tunnelled."""
        frame: bytes | None = None
        if protocol in over_ip.TUNNELS:
            frame = over_ip.frame_within(protocol, content)
        elif protocol == _PROTOCOL_UDP:
            sport, dport = _PORTS(content)
            frame = over_udp.frame_within(sport, dport, content[8:])
        elif protocol == _AUTHENTICATION_HEADER:  # RFC 4302 section 2; it hides nothing
            following, octets = content[0], (content[1] + 2) * 4
            self._enter()
            return self._content(following, src, dst, content[octets:], missing)
        if frame is None:
            raise _NoSegment("not-tcp", _NAMES.get(protocol, _NOT_TCP))
        self._enter()
        self._cut_octets = missing
        return self._ethernet(frame)

    def _enter(self) -> None:
        """Count a tunnel that is entered."""
        self._tunnels += 1
        if self._tunnels > _TUNNELS_MAX:
            raise _NoSegment("malformed", f"more than {_TUNNELS_MAX} tunnels in one another")
