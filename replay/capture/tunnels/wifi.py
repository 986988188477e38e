"""IEEE 802.11 frames, with what capturing programs put before them, as Ethernet.

A check sequence at the end does no harm: IP knows its own length.
"""

from __future__ import annotations

import struct

from replay.capture.tunnels.ethernet import NO_ADDRESSES, Declined

_DATA = 2
_NO_DATA, _QOS = 0x40, 0x80  # of a data frame's first octet
_TO_AND_FROM, _PROTECTED, _ORDER = 0x03, 0x40, 0x80  # of its second
_A_MSDU = 0x80  # of its QoS control
_SNAP = b"\xaa\xaa\x03\x00\x00\x00"
_SNAP_BRIDGE = b"\xaa\xaa\x03\x00\x00\xf8"  # RFC 1042 as IEEE 802.1H has it

_PRESENCE_WORDS_MAX = 8
"""Of a radiotap header; cards with many antennas have three or four."""
_HEADER_PADDED = 0x20  # radiotap flags: the 802.11 header is padded to four octets


def from_80211(frame: bytes, *, padded: bool = False) -> bytes:
    """A frame of IEEE 802.11-2020 section 9.2.4, as Ethernet.  Raises Declined and IndexError."""
    kind, flags = frame[0], frame[1]
    if kind >> 2 & 3 != _DATA or kind & _NO_DATA:
        raise Declined("802.11 frames without data")
    if flags & _PROTECTED:
        raise Declined("encrypted 802.11 frames: capture behind the access point")
    head = 30 if flags & _TO_AND_FROM == _TO_AND_FROM else 24
    is_bundle = False
    if kind & _QOS:
        is_bundle = bool(frame[head] & _A_MSDU)
        head += 2 + (4 if flags & _ORDER else 0)
    if padded:
        head = (head + 3) & ~3
    content = frame[head:]
    if is_bundle:  # of several frames; one alone is read
        octets = int.from_bytes(content[12:14])
        if len(content) - (14 + octets) > 7:
            raise Declined("802.11 frames bundled in one (A-MSDU)")
        content = content[14:]
    if content[:6] not in (_SNAP, _SNAP_BRIDGE):
        raise Declined("802.11 frames that carry no IP")
    return NO_ADDRESSES + content[6:]


def from_radiotap(frame: bytes) -> bytes:
    """Radiotap (radiotap.org).  Raises Declined, struct.error and IndexError."""
    octets, present = struct.unpack_from("<xxHI", frame)
    place, more = 8, present
    for _ in range(_PRESENCE_WORDS_MAX):
        if not more & 0x8000_0000:
            break
        (more,) = struct.unpack_from("<I", frame, place)
        place += 4
    if present & 1:  # a time, aligned
        place = ((place + 7) & ~7) + 8
    padded = bool(present & 2 and place < octets and frame[place] & _HEADER_PADDED)
    return from_80211(frame[octets:], padded=padded)


def from_prism(frame: bytes) -> bytes:
    """The Prism header, which says its length.  Raises Declined, struct.error and IndexError."""
    if frame[:4] in (b"\x80\x21\x10\x01", b"\x80\x21\x10\x02"):  # or an AVS header in its place
        return from_avs(frame)
    octets = 144
    return from_80211(frame[octets:])


def from_avs(frame: bytes) -> bytes:
    """The AVS header.  Raises Declined, struct.error and IndexError."""
    (octets,) = struct.unpack_from("!4xI", frame)
    return from_80211(frame[octets:])
