"""``replay show`` as its users meet it: the list, the ladder, the JSON, and what is odd."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from capture_builder import Wire, ethernet, ipv6
from running import CAPTURES, TO_POSTFIX, replay

from replay.capture.reader import read_capture
from replay.capture.smtp_flows import client_side

RECORDED = sorted(CAPTURES.glob("*/*.pcap"))


def shown(*arguments: str | Path, **terminal: str) -> str:
    ran = replay("show", *arguments, **terminal)
    assert (ran.status, ran.err) == (0, "")
    return ran.out


def rungs(*arguments: str | Path) -> list[str]:
    """The ladder's lines, without the margin that holds time and packet."""
    return [line[24:] for line in shown(*arguments).splitlines()[1:]]


# -- the list -------------------------------------------------------------------------------------


def test_a_line_a_session_says_who_it_is_and_what_came_of_it() -> None:
    header, session, _, total = shown(TO_POSTFIX).splitlines()
    assert re.split("  +", header.strip()) == [
        *("session", "sender", "says it is", "commands", "mails", "replies", "duration", "odd")
    ]
    assert re.split("  +", session.strip()) == [
        "1",
        "127.0.0.1:36286",
        "client.example, swaks v20201014.0 jetmore.org/john/code/swaks/",
        "EHLO MAIL RCPT*2 DATA QUIT",
        *("1", "8", "27.8 ms"),
    ]
    assert total == (
        "swaks-to-postfix.pcap: 23 packets, 1 SMTP session with 127.0.0.2:25, "
        "which says it is mx.example.test ESMTP Postfix"
    )


def test_no_line_of_the_list_ends_in_blanks_in_a_pipe(tmp_path: Path) -> None:
    lines = shown(TO_POSTFIX).splitlines()
    assert lines == [line.rstrip() for line in lines]


def test_servers_have_a_column_where_there_are_several(tmp_path: Path) -> None:
    wire = two_sessions(server="198.51.100.26")
    lines = shown(wire.write(tmp_path / "x.pcap")).splitlines()
    assert "server" in lines[0].split()
    assert "198.51.100.26:25" in lines[2]
    assert lines[-1] == "x.pcap: 8 packets, 2 SMTP sessions"


def two_sessions(server: str = "198.51.100.25") -> Wire:
    first = Wire().handshake()
    second = Wire(ports=(40_001, 25), server=server).handshake(5)
    for wire in (first, second):
        wire.server_says(b"220 mx\r\n", 10)
    first.frames += second.frames
    return first


def test_what_is_left_out_and_what_is_odd_is_told_by_packet(tmp_path: Path) -> None:
    wire = Wire(ports=(40_000, 80)).handshake()
    wire.client_says(b"GET / HTTP/1.1\r\n\r\n", 1)
    wire.server_says(b"HTTP/1.1 200 OK\r\n\r\n", 2)
    smtp = two_sessions()
    smtp.frames += wire.frames
    smtp.frames.append((smtp.frames[-1][0], ethernet(b"who has 192.0.2.1?", 0x0806), None))
    lines = shown(smtp.write(tmp_path / "x.pcap")).splitlines()
    assert "  odd: packet 14 is left out: not TCP over IP" in lines
    assert "  left out: 192.0.2.10:40000 and 198.51.100.25:80: the server speaks HTTP" in lines


def test_a_session_of_years_leaves_room_for_what_stands_beside_it(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    wire.client_says(b"QUIT\r\n", 86_400_000 * 5000)
    wire.packet(0, b"QUIT\r\n", seq=0, ms=86_400_000 * 5000 + 1)
    header, session, *_ = shown(wire.write(tmp_path / "x.pcap"), COLUMNS="60").splitlines()
    assert header.split()[-1] == "odd"
    assert session.split()[-3:] == ["5,000", "days", "1"]


def six(frame: bytes) -> bytes:
    """The packet with long addresses that go with its own."""
    src, dst = (f"2001:db8:e5bf:dead:4957:2174:e82c:{4000 + frame[at]}" for at in (29, 33))
    unpadded = 14 + int.from_bytes(frame[16:18], "big")
    return ethernet(ipv6(src, dst, frame[34:unpadded]), 0x86DD)


@pytest.mark.parametrize("columns", ["80", "100", "120", "160"])
def test_long_addresses_push_nothing_out_of_the_terminal(tmp_path: Path, columns: str) -> None:
    wire = two_sessions(server="198.51.100.26")
    wire.frames = [(ts_ns, six(frame), None) for ts_ns, frame, _ in wire.frames]
    path = wire.write(tmp_path / "x.pcap")
    header, *lines = shown(path, COLUMNS=columns).splitlines()
    assert "server" in header.split()
    assert header.split()[-2:] == ["duration", "odd"]
    assert max(len(line) for line in (header, *lines[:2])) <= int(columns)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_list_fits_the_terminal(columns: int) -> None:
    table = shown(TO_POSTFIX, COLUMNS=str(columns)).split("\n\n")[0].splitlines()
    assert all(len(line) <= columns for line in table)
    assert columns < 80 or "127.0.0.1:36286" in table[1]


# -- the ladder -----------------------------------------------------------------------------------


def test_the_ladder_has_the_sender_on_the_left_and_the_server_indented() -> None:
    lines = shown(TO_POSTFIX, "--session", "1").splitlines()
    assert lines[0] == "         time   packet  127.0.0.1:36286 → 127.0.0.2:25"
    assert lines[1] == r"   0.016456 s       #4    ← 220 mx.example.test ESMTP Postfix\r\n"
    assert lines[2] == r"   0.016739 s       #6  → EHLO client.example\r\n"
    assert lines[-1] == "   0.027801 s      #22    ← closes (FIN)"


def test_the_lines_of_a_reply_or_a_segment_stand_under_its_first() -> None:
    ladder = rungs(TO_POSTFIX, "--session", "1")
    at = ladder.index(r"  ← 250-mx.example.test\r\n")
    assert ladder[at + 1] == r"    250-PIPELINING\r\n"
    at = ladder.index(r"→ Date: Sun, 22 Nov 2026 19:58:29 +0000\r\n")
    assert ladder[at + 1] == r"  To: bob@example.test,carol@example.test\r\n"


def test_replies_of_one_packet_bear_its_time_once() -> None:
    lines = shown(CAPTURES / "mta" / "exim.pcap", "--session", "1").splitlines()
    at = next(number for number, line in enumerate(lines) if "← 250 2.1.0 Ok" in line)
    assert [bool(line[:24].strip()) for line in lines[at : at + 5]] == [True, *[False] * 4]


def test_replies_of_one_packet_stand_in_the_order_in_which_they_were_said(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    wire.client_says(b"EHLO me\r\nDATA\r\nQUIT\r\n", 2)
    wire.server_says(b"250 mx\r\n354 go on\r\n250 2.0.0 Ok\r\n221 Bye\r\n", 3)
    ladder = rungs(wire.write(tmp_path / "x.pcap"), "--session", "1")
    codes = [line.split()[1] for line in ladder if "← " in line]
    assert codes == ["220", "250", "354", "250", "221"]


def test_who_talks_before_the_greeting_is_marked(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.client_says(b"EHLO me\r\n", 1)
    wire.server_says(b"220 mx\r\n250 mx\r\n", 1000)
    wire.client_says(b"QUIT\r\n", 1001)
    ladder = rungs(wire.write(tmp_path / "x.pcap"), "--session", "1")
    at = ladder.index(r"→ EHLO me\r\n")
    assert ladder[at + 1] == "  ↑ before the greeting (packet 5)"
    assert sum("↑" in line for line in ladder) == 1


def test_silences_are_drawn_by_their_length(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 400)
    wire.client_says(b"EHLO me\r\n", 1000)
    wire.server_says(b"250 mx\r\n", 91_000)
    ladder = [
        line.strip()
        for line in shown(wire.write(tmp_path / "x.pcap"), "--session", "1").splitlines()
    ]
    assert ladder[1:] == [
        r"0.400000 s       #4    ← 220 mx\r\n",
        "┊ 600.0 ms",
        r"1.000000 s       #5  → EHLO me\r\n",
        "┊",
        "┊ 1 min 30 s of silence",
        "┊",
        r"91.000000 s       #6    ← 250 mx\r\n",
    ]


def test_an_early_departure_is_marked_as_proven(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    wire.client_says(b"EHLO me\r\n", 2, ack=0)
    ladder = rungs(wire.write(tmp_path / "x.pcap"), "--session", "1")
    at = ladder.index(r"→ EHLO me\r\n")
    assert ladder[at + 1] == ("  ↑ proven early: packet 5 had not acknowledged reply 1 (packet 4)")


def test_what_is_odd_stands_below_the_ladder_by_packet(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    wire.client_says(b"EHLO me\r\n", 2)
    wire.packet(0, b"EHLO me\r\n", seq=0, ms=3)
    last = shown(wire.write(tmp_path / "x.pcap"), "--session", "1").splitlines()[-1]
    assert last == "  odd: packet 6 repeats octets 0 to 8"


def test_a_long_line_wraps_under_itself_on_a_terminal_and_is_whole_in_a_pipe() -> None:
    long = r"  ← 550 5.1.1 <carol@example.test>: Recipient address rejected: User unknown in relay"
    assert any(line.startswith(long) for line in rungs(TO_POSTFIX, "--session", "1"))
    terminal = {"COLUMNS": "60", "FORCE_COLOR": "1", "NO_COLOR": "1"}
    lines = shown(TO_POSTFIX, "--session", "1", **terminal).splitlines()
    at = next(number for number, line in enumerate(lines) if "← 550" in line)
    assert lines[at + 1].startswith(" " * 28 + "Recipient address rejected")
    assert all(len(line) <= 60 for line in lines)


def test_a_line_longer_than_any_paper_is_whole_in_a_pipe(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    wire.client_says(b"EHLO " + b"word " * 38 + b"end\r\n", 2)
    ladder = rungs(wire.write(tmp_path / "x.pcap"), "--session", "1")
    assert any(line.startswith("→ EHLO word") and r"end\r\n" in line for line in ladder)


def test_octets_that_could_steer_the_terminal_are_spelled_out(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 \x1b[2J\r\n", 1)
    wire.client_says(b"EHLO \x1b]0;x\x07\r\n", 2)
    path = wire.write(tmp_path / "x.pcap")
    for out in (shown(path), shown(path, "--session", "1")):
        assert "\x1b" not in out
        assert "\x07" not in out


def test_much_content_is_shown_by_its_ends(tmp_path: Path) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 mx\r\n", 1)
    wire.client_says(b"".join(b"EHLO %d\r\n" % number for number in range(100)), 2)
    ladder = rungs(wire.write(tmp_path / "x.pcap"), "--session", "1")
    assert "  … 84 lines left out …" in ladder
    assert ladder[-1] == r"  EHLO 99\r\n"


# -- JSON -----------------------------------------------------------------------------------------


def sides(connection: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bytes]]:
    for name in ("client", "server"):
        yield connection[name], base64.b64decode(connection[name]["octets_base64"])


@pytest.mark.parametrize("path", RECORDED[::9], ids=lambda path: path.stem)
def test_json_holds_the_octets_of_each_flow(path: Path) -> None:
    told = json.loads(shown(path, "--json", "-"))
    capture = read_capture(path)
    flows = {one.flow.number: one.flow for one in capture.conversations}
    flows |= {one.flow.number: one.flow for one in capture.left_out}
    assert told["sessions"] == len(capture.conversations)
    assert len(told["connections"]) == len(flows)
    for connection in told["connections"]:
        flow = flows[connection["connection"]]
        client = client_side(flow)
        for number, (side, octets) in zip((client, 1 - client), sides(connection), strict=True):
            assert octets == flow.octets(number)
            assert sum(one["octets"] for one in side["segments"]) == len(octets)
            assert side["address"] == flow.ends[number].host()


def test_json_goes_to_a_file_beside_the_list(tmp_path: Path) -> None:
    target = tmp_path / "all.json"
    assert "1 SMTP session" in shown(TO_POSTFIX, "--json", target)
    (connection,) = json.loads(target.read_text(encoding="utf-8"))["connections"]
    (_, client), (_, server) = sides(connection)
    assert client.startswith(b"EHLO client.example\r\n")
    assert server.endswith(b"221 2.0.0 Bye\r\n")


def test_results_replace_results_but_no_capture_whatever_it_is_called(tmp_path: Path) -> None:
    target = tmp_path / "all.json"
    for _ in range(2):
        assert replay("show", TO_POSTFIX, "--json", target).status == 0
    ours = tmp_path / "ours.json"
    ours.write_bytes(TO_POSTFIX.read_bytes())
    ran = replay("show", ours, "--json", ours)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == f"replay: {ours}: is a capture; results do not replace it\n"
    assert ours.read_bytes() == TO_POSTFIX.read_bytes()


# -- bad input ------------------------------------------------------------------------------------


def test_what_is_no_capture_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    dangling = tmp_path / "dangling.pcap"
    dangling.symlink_to("gone")
    text = tmp_path / "x.pcap"
    text.write_text("nothing of the kind")
    empty = tmp_path / "empty.pcap"
    empty.touch()
    for path in (tmp_path, dangling, text, empty):
        ran = replay("show", path)
        assert (ran.status, ran.out) == (2, "")
        assert re.fullmatch(rf"replay: {re.escape(str(path))}: [^\n]+\n", ran.err)


@pytest.mark.parametrize("number", ["0", "2", "x"])
def test_a_session_that_is_not_there_is_refused(number: str) -> None:
    ran = replay("show", TO_POSTFIX, "--session", number)
    assert (ran.status, ran.out) == (2, "")
    assert "Traceback" not in ran.err


def test_a_capture_without_smtp_tells_what_was_left_out_and_why(tmp_path: Path) -> None:
    wire = Wire(ports=(40_000, 80)).handshake()
    wire.client_says(b"GET / HTTP/1.1\r\n\r\n", 1)
    wire.server_says(b"HTTP/1.1 200 OK\r\n\r\n", 2)
    path = wire.write(tmp_path / "web.pcap")
    ran = replay("show", path)
    assert (ran.status, ran.err) == (2, f"replay: {path}: no SMTP session is in it\n")
    assert "the server speaks HTTP" in ran.out


def test_a_capture_of_headers_alone_says_that_it_was_cut(tmp_path: Path) -> None:
    wire = Wire(ports=(40_000, 12525)).handshake()
    wire.packet(1, b"220 mx\r\n", ms=1, cut=54)
    wire.packet(0, b"EHLO me\r\n", ms=2, cut=54)
    ran = replay("show", wire.write(tmp_path / "x.pcap"))
    assert ran.status == 2
    assert "snapshot length cut off all that is said" in ran.out


def test_a_capture_cut_anywhere_is_shown_so_far_or_refused_in_a_sentence(tmp_path: Path) -> None:
    whole = TO_POSTFIX.read_bytes()
    cut = tmp_path / "cut.pcap"
    for octets in range(0, len(whole), 13):
        cut.write_bytes(whole[:octets])
        ran = replay("show", cut, "--session", "1")
        assert ran.status in (0, 2)
        assert ran.err.count("\n") == (ran.status == 2)


def test_each_capture_of_the_public_corpus_is_shown_without_a_traceback() -> None:
    folder = os.environ.get("SMTP_CORPUS")
    if not folder:
        pytest.skip("SMTP_CORPUS does not say where the public corpus is")
    for path in sorted(Path(folder).glob("*.pcap*")):
        if path.stat().st_size > 200_000:
            continue
        listed = replay("show", path)
        assert listed.status in (0, 2)
        if listed.status == 0:
            assert shown(path, "--session", "1")


def test_what_a_server_says_it_is_is_shown_harmless_and_cut(
    tmp_path: Path,
) -> None:
    wire = Wire().handshake()
    wire.server_says(b"220 \x1b[31mmx\x00 " + b"x" * 500 + b"\r\n", 1)
    wire.client_says(b"EHLO me\r\n", 2)
    (*_, total) = replay("show", wire.write(tmp_path / "x.pcap")).out.strip().splitlines()
    assert "\x1b" not in total
    assert "which says it is ?[31mmx? xxx" in total
    assert len(total) < 250
