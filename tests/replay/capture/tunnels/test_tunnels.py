"""Every link layer and tunnel holds the session that the plain capture holds, octet for octet."""

from __future__ import annotations

import os
import random
from pathlib import Path

import dpkt
import pytest
import tshark
from layers import LAYERS, ethernet, gre, outer, udp, wifi

from replay.capture.conversation import Conversation
from replay.capture.oddity import Oddity
from replay.capture.pcap_writer import PcapWriter
from replay.capture.reader import read_capture
from replay.capture.records import PacketRecord
from replay.capture.segments import decode
from replay.capture.tcp_packets import CLIENT, SERVER, PacketFlow

BEGIN_NS = 1_700_000_000_000_000_000
MUTATED_FRAMES = int(os.environ.get("MUTATED_FRAMES", "20000"))
"""The full run is of a million: MUTATED_FRAMES=1000000."""

UNREAD_BY_TSHARK = {
    "prism",  # it wants the fields of the header
    "ppp compressed", "vxlan gpe", "e-tag", "erspan 1", "pktap", "pflog", "mpls over udp",
    "802.11 qos and high throughput", "frame relay of cisco", "l2tp",
    "radiotap with time and padding", "ethernet over mpls without a control word",
    "gtp-u with extension", "nflog of a big-endian host", "vxlan of linux", "pppd",
    "cisco hdlc with direction",
}  # fmt: skip
"""Where tshark needs a preference, or reads something else in what has no mark."""


def packets() -> list[bytes]:
    """A session in IPv4 packets."""
    wire = PacketFlow(("192.0.2.10", 40_000), ("198.51.100.25", 25), first_sequence=(7, 70_000))
    found = wire.open()
    for side, octets in (
        (SERVER, b"220 mx.example ESMTP\r\n"), (CLIENT, b"EHLO client.example\r\n"),
        (SERVER, b"250-mx.example\r\n250 SIZE\r\n"), (CLIENT, b"MAIL FROM:<a@client.example>\r\n"),
        (SERVER, b"250 ok\r\n"), (CLIENT, b"RCPT TO:<b@mx.example>\r\n"), (SERVER, b"250 ok\r\n"),
        (CLIENT, b"DATA\r\n"), (SERVER, b"354 go\r\n"), (CLIENT, b"x" * 1200 + b"\r\n"),
        (CLIENT, b"hello\r\n.\r\n"), (SERVER, b"250 ok\r\n"), (CLIENT, b"QUIT\r\n"),
        (SERVER, b"221 bye\r\n"),
    ):  # fmt: skip
        found += wire.data(side, octets, wire.sent(1 - side))
    found += wire.finish(CLIENT, wire.sent(SERVER)) + wire.finish(SERVER, wire.sent(CLIENT))
    return found + wire.acknowledge(CLIENT)


def written(path: Path, layer: str) -> Path:
    linktype, wrap = LAYERS[layer]
    with path.open("wb") as file:
        writer = PcapWriter(file, linktype)
        for number, packet in enumerate(packets()):
            writer.write(BEGIN_NS + number * 1_000_000, wrap(packet))
    return path


def session(path: Path) -> Conversation:
    capture = read_capture(path)
    assert [oddity.sentence for oddity in capture.oddities] == []
    (found,) = capture.conversations
    assert found.oddities == []
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_a_session_in_every_layer_is_the_plain_session(layer: str, tmp_path: Path) -> None:
    plain = session(written(tmp_path / "plain.pcap", "plain"))
    found = session(written(tmp_path / "layer.pcap", layer))
    assert (found.client, found.server) == (plain.client, plain.server)
    assert found.acts == plain.acts
    assert found.replies == plain.replies
    assert found.server_end == plain.server_end
    assert len(plain.replies) == 7


@pytest.mark.skipif(not tshark.PROGRAM, reason="tshark is not installed")
@pytest.mark.parametrize("layer", [one for one in LAYERS if one not in UNREAD_BY_TSHARK])
def test_tshark_finds_the_same_octets_in_every_layer(layer: str, tmp_path: Path) -> None:
    path = written(tmp_path / "layer.pcap", layer)
    flow = session(path).flow
    (stream,) = tshark.streams(path, 1)
    ours = {str(end): flow.octets(side) for side, end in enumerate(flow.ends)}
    assert stream.octets == ours


def test_dpkt_finds_the_same_packet_where_it_knows_the_layer() -> None:
    packet = packets()[-3]
    for layer in ("gre", "qinq", "mpls", "pppoe"):
        found: object = dpkt.ethernet.Ethernet(LAYERS[layer][1](packet))
        while not isinstance(found, dpkt.tcp.TCP):
            assert isinstance(found, dpkt.Packet)
            found = found.data
        assert bytes(found)[:20] == packet[20:40]


@pytest.mark.parametrize(
    ("linktype", "frame", "name"),
    [
        (105, wifi(b"", 0x08, 0x41), "encrypted 802.11 frames"),
        (105, b"\x80" + bytes(60), "802.11 frames without data"),
        (1, outer(17, udp(4789, bytes(60))), "VXLAN without a network"),
        (1, outer(17, udp(2152, b"\x30\x01" + bytes(40))), "GTP messages without a packet"),
        (1, outer(17, udp(1701, b"\xc8\x02" + bytes(40))), "L2TP messages without a packet"),
        (1, outer(17, udp(53, bytes(40))), "not TCP over IP"),
        (1, outer(50, bytes(40)), "IPsec ESP, which is encrypted"),
        (1, gre(0, 0x0806, b"", bytes(40)), "GRE that carries neither IP nor Ethernet"),
        (1, bytes(12) + b"\x88\xe5" + bytes(60), "MACsec"),
        (9, b"\x00\x3d" + bytes(40), "a part of a multilink PPP packet"),
        (239, b"\x02\x00\x00\x1e" + b"\x08\0\x01\0\x08\0\x01\0", "damaged or cut off"),
    ],
)
def test_what_is_not_read_is_declined_by_its_name(linktype: int, frame: bytes, name: str) -> None:
    oddities: list[Oddity] = []
    record = PacketRecord(1, BEGIN_NS, linktype, len(frame), len(frame), frame)
    assert list(decode([record], oddities)) == []
    assert name in oddities[0].sentence


def test_tunnels_in_one_another_are_bounded() -> None:
    frame = packets()[3]
    for _ in range(20):
        frame = outer(4, frame)[14:]
    oddities: list[Oddity] = []
    frame = ethernet(frame)
    assert not list(decode([PacketRecord(1, BEGIN_NS, 1, len(frame), len(frame), frame)], oddities))
    assert "more than 4 tunnels in one another" in oddities[0].sentence


def test_mutated_frames_of_every_layer_raise_nothing() -> None:
    """A full run of a million takes minutes."""
    rng = random.Random(7)
    frames = [
        (linktype, wrap(packet))
        for linktype, wrap in LAYERS.values()
        for packet in (packets()[0], packets()[4])
    ]

    def mutated() -> PacketRecord:
        linktype, frame = rng.choice(frames)
        octets = bytearray(frame)
        for _ in range(rng.randrange(1, 5)):
            octets[rng.randrange(min(len(octets), 120))] = rng.choice((0, 255, rng.randrange(256)))
        if rng.random() < 0.3:
            del octets[rng.randrange(len(octets)) :]
        if rng.random() < 0.05:
            octets[20:20] = octets * 3
        return PacketRecord(1, BEGIN_NS, linktype, len(octets), len(frame), bytes(octets))

    oddities: list[Oddity] = []
    seen = sum(1 for _ in decode((mutated() for _ in range(MUTATED_FRAMES)), oddities))
    assert 0 < seen < MUTATED_FRAMES
    assert {one.kind for one in oddities} >= {"malformed", "not-tcp", "not-read"}
