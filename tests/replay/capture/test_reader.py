"""A capture of any length is walked in bounded memory, and what that costs is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from capture_builder import ACK, RST, SYN, Wire
from running import replay

from replay.capture import reader as bounds
from replay.capture.flow import Endpoint, Flow
from replay.capture.oddity import Oddity
from replay.capture.reader import Capture, FlowSorter, read_capture
from replay.capture.reassembly import BATCH_SEGMENTS, Reassembler
from replay.capture.segments import Segment
from replay.capture.smtp_flows import why_forget

MIB = bytes(1 << 20)


def flow(number: int, server: bytes, client: bytes, mebibytes: int) -> Flow:
    """A flow in which the two say that, and then the client so much; it shares its octets."""
    ends = Endpoint(b"\x0a\0\0\1", 40_000), Endpoint(b"\x0a\0\0\2", 9000)
    one = Flow(number, ends, 0, number)
    one.opener, one.accepted = 0, True
    one.happened = [(1, 0, 1, 0, server, 0), (0, 0, 2, 0, client, len(server))]
    one.happened += [(0, 0, 3, 0, MIB, 0) for _ in range(mebibytes)]
    one.packets = [mebibytes + 1, 1]
    return one


def test_octets_of_other_protocols_are_kept_only_as_far_as_there_is_room() -> None:
    capture = Capture("x")
    shelf = FlowSorter(capture)
    for number in range(3, 0, -1):
        shelf.put(flow(number, b"HTTP/1.1 200 OK\r\n", b"GET /", 20))
    shelf.close()
    assert [left.flow.number for left in capture.left_out] == [1, 2, 3]
    kept = [len(left.flow.octets(0)) for left in capture.left_out]
    assert kept == [0, 0, 20 * len(MIB) + len(b"GET /")]
    assert {left.reason for left in capture.left_out} == {"the server speaks HTTP"}
    (odd,) = capture.left_out[0].flow.oddities
    assert odd.kind == "not-kept"
    assert "20971525 and 17 of them" in odd.sentence


def test_sessions_for_which_there_is_no_room_are_left_out_and_said_to_be_smtp() -> None:
    capture = Capture("x")
    shelf = FlowSorter(capture)
    for number in range(1, 4):
        shelf.put(flow(number, b"220 mx\r\n", b"EHLO me\r\n", 100))
    assert [one.flow.number for one in capture.conversations] == [1, 2]
    (left,) = capture.left_out
    assert left.reason.startswith("SMTP, but more than 256 MiB of it came before")
    assert left.flow.octets(0) == b""


def test_of_too_many_other_connections_the_rest_is_counted_by_reason(tmp_path: Path) -> None:
    wire = Wire()
    for number in range(bounds.MAX_LEFT_OUT + 5):
        wire.ports = (1000 + number, 80)
        wire.packet(0, flags=SYN, seq=-1)
    capture = read_capture(wire.write(tmp_path / "x.pcap"))
    assert (capture.flows, len(capture.left_out)) == (10_005, 10_000)
    assert capture.more_left_out == {"nothing is said in it": 5}
    assert "left out besides, 5: nothing is said in it" in replay("show", tmp_path / "x.pcap").out


def test_what_is_surely_not_smtp_is_forgotten_in_mid_flow_and_smtp_is_not() -> None:
    def said(number: int, port: int, side: int, seq: int, octets: bytes, flags: int) -> Segment:
        ends = [(b"abcd", 40_000 + port), (b"efgh", port)]
        (src, sport), (dst, dport) = ends[side], ends[1 - side]
        return Segment(number, number, src, sport, dst, dport, seq, 0, flags, 0, octets, 0)

    payload = bytes(30_000)
    segments = []
    for port, greeting in ((80, b"HTTP/1.1 200\r\n"), (25, b"220 mx ESMTP\r\n")):
        segments.append(said(len(segments) + 1, port, 0, 0, b"", SYN))
        segments.append(said(len(segments) + 1, port, 1, 0, b"", SYN | ACK))
        segments.append(said(len(segments) + 1, port, 1, 1, greeting, ACK))
    for number in range(BATCH_SEGMENTS):
        for port, start in ((80, 1), (25, 1)):
            place = start + number * len(payload)
            segments.append(said(len(segments) + 1, port, 0, place, payload, ACK))
    segments += [said(len(segments) + 1, port, 0, 0, b"", RST) for port in (80, 25)]
    oddities: list[Oddity] = []
    http, smtp = Reassembler(oddities, why_forget).walk(segments)
    assert (http.forgotten, http.client) == ("the server speaks HTTP", 0)
    assert http.octets(0) == b""
    assert len(smtp.octets(0)) == BATCH_SEGMENTS * len(payload)
    assert oddities == []


def test_an_interrupt_meant_for_who_writes_the_pipe_ends_nothing(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    octets = wire.write(tmp_path / "a.pcap").read_bytes()
    read, write = os.pipe()
    ready, told = os.pipe()
    command = [
        *(sys.executable, "-c"),
        "import os, signal, sys\n"
        "from replay.capture import reader\n"
        "from replay.cli.main import main\n"
        "real = reader.read_capture\n"
        "def ready(*arguments, **options):\n"
        f"    os.write({told}, b'.')\n"
        "    return real(*arguments, **options)\n"
        "reader.read_capture = ready\n"
        "sys.exit(main(['show', '-']))\n",
    ]
    with subprocess.Popen(
        command, stdin=read, stdout=subprocess.PIPE, pass_fds=[told], text=True
    ) as process:
        os.close(read)
        os.close(told)  # only the child's end is left: its death ends the wait below
        os.write(write, octets[:100])
        assert os.read(ready, 1) == b"."
        process.send_signal(signal.SIGINT)
        os.write(write, octets[100:])
        os.close(write)
        out, _ = process.communicate()
    os.close(ready)
    assert process.returncode == 0
    assert "4 packets, 1 SMTP session" in out
