"""``replay export``: a pcapng that others can open, with what a run showed beside the packets."""

from __future__ import annotations

import contextlib
import io
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from running import CAPTURES, GOODBYE, HELLO, replay, write

from replay.capture.oddity import Oddity
from replay.capture.pcap import read_records
from replay.capture.pcap_writer import COMMENT_MAX_OCTETS, PcapngWriter
from replay.capture.segments import decode
from replay.convert.exporter import BEGIN_NS, export, made_up
from replay.convert.importer import import_capture
from replay.transcript import transcript

needs_tshark = pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")


class Block(NamedTuple):
    kind: int
    comments: list[str]


def blocks(octets: bytes) -> list[Block]:
    """Each block with its comments, read as the draft says."""
    found, at = [], 0
    while at < len(octets):
        kind, length = struct.unpack_from("<II", octets, at)
        body = octets[at + 8 : at + length - 4]
        assert octets[at + length - 4 : at + length] == struct.pack("<I", length)
        begin = {0x0A0D0D0A: 16, 1: 8}.get(kind, 20)
        if kind == 6:
            (captured,) = struct.unpack_from("<I", body, 12)
            begin += captured + -captured % 4
        comments = []
        while begin < len(body):
            code, size = struct.unpack_from("<HH", body, begin)
            if code == 1:
                comments.append(body[begin + 4 : begin + 4 + size].decode())
            begin += 4 + size + -size % 4
        found.append(Block(kind, comments))
        at += length
    assert at == len(octets)
    return found


def comments_of(path: Path) -> list[str]:
    """All comments on packets."""
    packets = [one for one in blocks(path.read_bytes()) if one.kind == 6]
    return [comment for packet in packets for comment in packet.comments]


def tshark(path: Path, *arguments: str) -> list[str]:
    checks = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
    command = ["tshark", "-r", str(path), *checks, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_what_is_expected_becomes_packets_at_their_virtual_instants(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", HELLO + GOODBYE)
    ran = replay("export", path, "-o", tmp_path / "x.pcapng")
    assert (ran.status, ran.out) == (0, f"wrote {tmp_path / 'x.pcapng'}: 12 packets\n")
    oddities: list[Oddity] = []
    segments = list(decode(read_records(tmp_path / "x.pcapng", oddities), oddities))
    assert oddities == []
    said = [(one.ts_ns - BEGIN_NS, one.payload) for one in segments if one.payload]
    assert said == [
        (0, b"220 mx.example.test ESMTP mailsrv\r\n"),
        (1_000_000, b"HELO me\r\n"),
        (1_000_000, b"250 mx.example.test\r\n"),
        (2_000_000, b"QUIT\r\n"),
        (2_000_000, b"221 2.0.0 Bye\r\n"),
    ]


def test_the_section_says_what_it_is_about(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", HELLO + GOODBYE, 'source = "by hand"\n')
    replay("export", path, "-o", tmp_path / "x.pcapng")
    section, interface, *packets = blocks((tmp_path / "x.pcapng").read_bytes())
    assert section.comments == [
        "A test.\nSource: by hand\nMade up from what the transcript expects."
    ]
    assert (interface.kind, {one.kind for one in packets}) == (1, {6})


def test_a_difference_is_a_comment_on_the_reply_where_it_shows(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", HELLO.replace("S: 250 mx", "S: 250 my") + GOODBYE)
    ran = replay("export", path, "--observed", "-o", tmp_path / "x.pcapng")
    assert ran.status == 1
    assert ran.out.endswith(" packets, 1 difference\n")
    section, _, *packets = blocks((tmp_path / "x.pcapng").read_bytes())
    assert section.comments[0].endswith("Made up from what a run showed: 1 difference.")
    ((number, comment),) = [
        (number, one.comments[0]) for number, one in enumerate(packets, 1) if one.comments
    ]
    assert number == 6  # SYN, SYN-ACK, ACK, 220, HELO, 250
    assert comment.startswith("reply 2: text differs (line 7)\n  expected ")


def test_a_difference_in_what_was_accepted_is_in_the_comment_on_the_file(tmp_path: Path) -> None:
    digest = "0" * 64
    message = f"accepted from <>\n  to <b@c>\n  content 0 octets, sha256 {digest}\n"
    path = write(tmp_path / "x.smtp", accepted=message)
    assert replay("export", path, "--observed", "-o", tmp_path / "x.pcapng").status == 1
    section, _, *packets = blocks((tmp_path / "x.pcapng").read_bytes())
    line = path.read_text(encoding="utf-8").split("accepted")[0].count("\n") + 1
    told = f"\naccepted message 1: missing (line {line})\n  expected from <>\n"
    assert told in section.comments[0]
    assert not any(one.comments for one in packets)


@pytest.mark.parametrize(
    ("body", "comment"),
    [
        (HELLO + "* S? 250\n+1s close\n", "reply 3: missing"),
        (HELLO + "+9s close\n", "reply 3: not expected"),
        (HELLO + "* S? 421\n* S reset\n+0 until-closed\n", "the server's end differs"),
        (HELLO + "@4s S? 421\n@5.001s S eof\n+0 until-closed\n", "reply 3: 1.001s too late"),
    ],
)
def test_what_is_missing_or_too_much_or_ends_otherwise_is_told_too(
    tmp_path: Path, body: str, comment: str
) -> None:
    path = write(tmp_path / "x.smtp", body, "[server]\nidle_timeout_s = 5\n")
    assert replay("export", path, "--observed", "-o", tmp_path / "x.pcapng").status == 1
    assert [one for one in comments_of(tmp_path / "x.pcapng") if one.startswith(comment)]


def test_what_no_packet_can_say_is_a_comment(tmp_path: Path) -> None:
    body = HELLO + "+1ms stop-reading\n+1ms starttls\n* S tls-refused\n* S? 554\n+1ms close\n"
    replay("export", write(tmp_path / "x.smtp", body), "-o", tmp_path / "x.pcapng")
    assert [one.split(" ", 3)[:3] for one in comments_of(tmp_path / "x.pcapng")] == [
        ["from", "here", "on"],
        ["TLS", "begins", "here;"],
        ["the", "TLS", "handshake"],
        ["expected", "is", "a"],
    ]


def test_a_recorded_reply_stands_for_its_code_unless_it_has_another(tmp_path: Path) -> None:
    body = "@0 open from 192.0.2.1\n" + r"* S? 220 was: 220 hello\r\n" + "\n+1ms close\n"
    for text, octets in ((body, b"220 hello\r\n"), (body.replace("? 220", "? 554"), b"554 \r\n")):
        scenario = transcript.load(write(tmp_path / "x.smtp", text))
        _, _, _, reply, *_ = made_up(scenario)
        assert reply.frame[40:] == octets


def test_several_connections_stand_in_order_of_time_and_apart(tmp_path: Path) -> None:
    body = "".join(
        f"@{at} {name}| open from {client}\n"
        f"* {name}| S? 220 was: 220 \\r\\n\nreply+2s {name}| close\n"
        for at, name, client in (("0", "a", "192.0.2.1"), ("1s", "b", "2001:db8::1"))
    )
    scenario = transcript.load(write(tmp_path / "x.smtp", body))
    packets = list(made_up(scenario))
    assert [one.ts_ns for one in packets] == sorted(one.ts_ns for one in packets)
    path = tmp_path / "x.pcapng"
    with path.open("wb") as file:
        assert export(file, scenario) == len(packets)
    again = import_capture(path).scenario
    assert [one.steps for one in again.connections] == [one.steps for one in scenario.connections]


def test_a_file_in_the_way_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    path, target = write(tmp_path / "x.smtp"), tmp_path / "x.pcapng"
    target.write_bytes(b"mine")
    ran = replay("export", path, "-o", target)
    assert (ran.status, target.read_bytes()) == (2, b"mine")
    assert ran.err == f"replay: {target}: is there already; --force replaces it\n"
    assert replay("export", path, "-o", target, "--force").status == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["x.pcapng", "x.smtp"]


def test_without_an_output_it_is_named_after_the_transcript(tmp_path: Path) -> None:
    path = write(tmp_path / "captures" / "x.smtp")
    with contextlib.chdir(tmp_path):
        assert replay("export", path).out.startswith("wrote x.pcapng: ")
    assert (tmp_path / "x.pcapng").exists()


@pytest.mark.parametrize("observed", [[], ["--observed"]])
def test_what_cannot_be_exported_is_one_sentence(tmp_path: Path, observed: list[str]) -> None:
    write(tmp_path / "x.smtp", "nonsense")
    (tmp_path / "x.pcap").write_bytes(b"")
    for name, sentence in (
        ("x.smtp", "x.smtp:4:1: "),
        ("y.smtp", "y.smtp: no such file or folder"),
        ("x.pcap", "x.pcap: not a .smtp transcript"),
        ("", ": is a folder; "),
    ):
        ran = replay("export", tmp_path / name, *observed, "-o", tmp_path / "x.pcapng")
        assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
        assert sentence in ran.err
    assert not (tmp_path / "x.pcapng").exists()
    ran = replay("export", write(tmp_path / "x.smtp"), "-o", tmp_path / "none" / "x.pcapng")
    assert (ran.status, ran.err.count("\n")) == (2, 1)


def test_comments_are_bounded_and_what_the_format_cannot_hold_is_refused() -> None:
    file = io.BytesIO()
    writer = PcapngWriter(file, 101)
    writer.write(0, b"\x45" * 3, ["ä" * COMMENT_MAX_OCTETS, "\ud800"])
    (comment, odd) = blocks(file.getvalue())[-1].comments
    assert comment == "ä" * (COMMENT_MAX_OCTETS // 2) + "…"
    assert odd == "?"
    for ts_ns, frame in ((-1, b""), (1 << 64, b""), (0, bytes(262_145))):
        with pytest.raises(ValueError, match=r"a frame of|outside the years"):
            writer.write(ts_ns, frame)


SHOWN = sorted(CAPTURES.glob("mta/*.smtp"))[:4] + sorted(CAPTURES.glob("limits/*.smtp"))[:4]


@needs_tshark
@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.stem)
def test_wireshark_finds_nothing_wrong(path: Path, tmp_path: Path) -> None:
    for options in ([], ["--observed"]):
        target = tmp_path / f"x{len(options)}.pcapng"
        assert replay("export", path, *options, "-o", target).status == 0
        worse = "_ws.expert.severity >= 0x00600000 or _ws.malformed or tcp.analysis.flags"
        assert tshark(target, "-Y", f"({worse}) and not tcp.flags.reset == 1") == []
        assert tshark(target, "-Y", "smtp.req or smtp.rsp")


@needs_tshark
def test_wireshark_shows_the_differences(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", HELLO.replace("S: 250 mx", "S: 250 my") + GOODBYE)
    replay("export", path, "--observed", "-o", tmp_path / "x.pcapng")
    shown = tshark(
        tmp_path / "x.pcapng", "-Y", "pkt_comment", "-T", "fields", "-e", "frame.comment"
    )
    assert len(shown) == 1
    assert shown[0].startswith("reply 2: text differs")


def test_help_gives_an_example_and_the_exit_status() -> None:
    out = replay("export", "--help").out
    assert "\n  replay export " in out
    assert "\nExit status: 0 " in out
    assert all(len(line) < 80 for line in out.splitlines())
