"""A second capture of the same sender, each reply held back: what it settles, who is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from capture_builder import ACK, FIN, NS_PER_MS, RST, Wire

from replay.capture.oddity import CaptureError
from replay.convert.anchors import Evidence
from replay.convert.evidence_files import FilingError, file_capture
from replay.convert.importer import ImportedCapture, import_capture
from replay.transcript.script import After, AfterArrival

GREETING = b"220 mx.example.test ESMTP\r\n"
EHLO, QUIT, OK = b"EHLO me\r\n", b"QUIT\r\n", b"250 mx\r\n"


def ms(milliseconds: float) -> int:
    return round(milliseconds * NS_PER_MS)


def evidence(result: ImportedCapture) -> list[Evidence]:
    return [one.evidence for one in result.connections[0].evidence.values()]


def greeted() -> Wire:
    wire = Wire().handshake()
    wire.server_says(GREETING, 10)
    return wire


def recording(delay_ms: float, *, waits: bool) -> Wire:
    """A sender that waits for the greeting, then says EHLO and 100 ms later QUIT, or who waits
    for the answer to EHLO before."""
    wire = Wire().handshake()
    greeting_ms = 10 + delay_ms
    wire.server_says(GREETING, greeting_ms)
    wire.client_says(EHLO, greeting_ms + 2)
    answer_ms = greeting_ms + 5 + delay_ms
    quit_ms = answer_ms + 97 if waits else greeting_ms + 102
    if answer_ms <= quit_ms:
        wire.server_says(OK, answer_ms)
        wire.client_says(QUIT, quit_ms)
    else:
        wire.client_says(QUIT, quit_ms)
        wire.server_says(OK, answer_ms)
    return wire


@pytest.mark.parametrize("waits", [True, False])
def test_a_wait_is_settled_by_whether_it_moves_with_the_reply(tmp_path: Path, waits: bool) -> None:
    first = recording(0, waits=waits).write(tmp_path / "first.pcap")
    second = recording(200, waits=waits).write(tmp_path / "second.pcap")
    result = import_capture(first, delayed=second)
    last = Evidence.CONFIRMED if waits else Evidence.OWN_CLOCK
    assert evidence(result) == [Evidence.CONFIRMED, last]
    departures = list(result.scenario.connections[0].departures())
    assert departures[1].anchor == AfterArrival(ms(2))
    assert departures[2].anchor == (AfterArrival(ms(97)) if waits else After(ms(100)))
    because = result.connections[0].evidence[4].because
    assert because == f"with reply 2 200ms later it came {200 if waits else 0}ms later".replace(
        " 0ms", " 0"
    )


def test_contents_of_another_length_and_another_end_do_not_hinder_settling(tmp_path: Path) -> None:
    paths = []
    for name, delay_ms, octets, end in (("first", 0, b"<>", RST), ("second", 200, b"<a@b>", FIN)):
        wire = Wire().handshake()
        at_ms = 0.0
        for reply, act in ((GREETING, EHLO), (OK, b"MAIL FROM:" + octets + b"\r\n"), (OK, b"")):
            at_ms += delay_ms + 5
            wire.server_says(reply, at_ms)
            at_ms += 5
            wire.packet(0, act, ACK | (0 if act else end), ms=at_ms)
        paths.append(wire.write(tmp_path / f"{name}.pcap"))
    assert evidence(import_capture(paths[0], delayed=paths[1])) == [Evidence.CONFIRMED] * 3


def test_a_second_recording_without_delay_settles_nothing(tmp_path: Path) -> None:
    first = recording(0, waits=True).write(tmp_path / "first.pcap")
    assert evidence(import_capture(first, delayed=first)) == [Evidence.PRESUMED] * 2


def test_a_second_recording_of_other_senders_is_refused(tmp_path: Path) -> None:
    first = recording(0, waits=True)
    other = Wire(ports=(40_001, 25)).handshake()
    other.frames += first.frames
    both = other.write(tmp_path / "second.pcap")
    with pytest.raises(CaptureError, match=r"has 2 SMTP conversations where first\.pcap has 1"):
        import_capture(first.write(tmp_path / "first.pcap"), delayed=both)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"EHLO you\r\n", "the first line is 'EHLO you' instead of 'EHLO me'"),
        (b"ehlo me\r\n", "the first line is 'ehlo me' instead of 'EHLO me'"),
        (b"\x16\x03\x01\x00\xcf\r\n", "the first line is '' instead of 'EHLO me'"),
        (EHLO + b"NOOP\r\n", "command 2 is NOOP instead of MAIL"),
        (b"", "one sends something and the other nothing"),
    ],
)
def test_a_second_recording_of_somebody_else_is_refused(
    tmp_path: Path, said: bytes, why: str
) -> None:
    paths = []
    for name, octets in (("first", EHLO + b"mail FROM:<>\r\nDATA\r\na\r\n"), ("second", said)):
        wire = greeted()
        wire.packet(0, octets, ACK | (0 if octets else FIN), ms=12)
        paths.append(wire.write(tmp_path / f"{name}.pcap"))
    with pytest.raises(CaptureError) as refused:
        import_capture(paths[0], delayed=paths[1])
    told = "second.pcap: cannot be the senders of first.pcap again: in conversation 1 "
    assert str(refused.value) == told + why


V1_HEADER = b"PROXY TCP4 192.0.2.1 192.0.2.2 %d 25\r\n"
V2_HEADER = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x09\x7f\x00\x00\x05"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (V1_HEADER % 40_000, V1_HEADER % 40_001),
        (V2_HEADER + b"\x9c\x40\x00\x19", V2_HEADER + b"\x9c\n\x00\x19"),
    ],
    ids=["version 1", "version 2"],
)
def test_a_proxy_header_with_another_port_makes_no_other_sender(
    tmp_path: Path, one: bytes, other: bytes
) -> None:
    paths = []
    for name, header, name_said in (
        ("first", one, b"me"),
        ("again", other, b"me"),
        ("second", other, b"you"),
    ):
        wire = greeted()
        wire.client_says(header + b"EHLO " + name_said + b"\r\n", 12)
        paths.append(wire.write(tmp_path / f"{name}.pcap"))
    first, again, second = paths
    assert import_capture(first, delayed=again).connections
    with pytest.raises(CaptureError, match="the first line is 'EHLO you' instead of 'EHLO me'"):
        import_capture(first, delayed=second)


@pytest.mark.parametrize(
    "said",
    [
        EHLO + b"MAIL FROM:<other@example.org> SIZE=9\r\nRCPT TO:<b>\r\nDATA\r\nX: other\r\n",
        EHLO + b"MAIL",
        EHLO,
    ],
)
def test_ids_dates_and_an_earlier_end_make_no_other_sender(tmp_path: Path, said: bytes) -> None:
    paths = []
    for name, octets in (("first", EHLO + b"MAIL FROM:<>\r\nDATA\r\na\r\n"), ("second", said)):
        wire = greeted()
        wire.client_says(octets, 12)
        paths.append(wire.write(tmp_path / f"{name}.pcap"))
    assert import_capture(paths[0], delayed=paths[1]).connections


PAIRS = sorted((Path(__file__).resolve().parents[3] / "captures").glob("*/*.delayed.pcap"))


@pytest.mark.parametrize("delayed", PAIRS, ids=lambda path: path.name.partition(".")[0])
def test_both_takes_of_each_sender_on_file_are_of_one_sender(delayed: Path) -> None:
    first = delayed.with_name(delayed.name.replace(".delayed", ""))
    if first.stem == "nmap":  # it probes in another way each time
        with pytest.raises(CaptureError, match="has 7 SMTP conversations where"):
            import_capture(first, delayed=delayed)
    else:
        import_capture(first, delayed=delayed)


def test_the_figures_of_what_was_settled_stand_in_the_note_whose_rest_stays(tmp_path: Path) -> None:
    first = recording(0, waits=True).write(tmp_path / "first.pcap")
    second = recording(200, waits=True).write(tmp_path / "second.pcap")
    imported = import_capture(first, delayed=second)
    stem, note = tmp_path / "filed" / "x", tmp_path / "filed" / "x.toml"
    assert note in file_capture(imported, stem, first, second)
    assert tomllib.loads(note.read_text(encoding="utf-8")) == {
        "evidence": {
            "5": "confirmed: with reply 1 200ms later it came 200ms later",
            "7": "confirmed: with reply 2 200ms later it came 200ms later",
        }
    }
    text = (tmp_path / "filed" / "x.smtp").read_text(encoding="utf-8")
    assert "reply+2ms!" in text and "reply+97ms!" in text
    assert "confirmed" not in text
    own = 'sender = "ours"\n[evidence]\n9 = "stale"\n\n[[capture]]\nfile = "x.pcap"\n'
    note.write_text(own, encoding="utf-8")
    file_capture(imported, stem, first, second, force=True)
    written = tomllib.loads(note.read_text(encoding="utf-8"))
    assert (written["sender"], written["capture"]) == ("ours", [{"file": "x.pcap"}])
    assert list(written["evidence"]) == ["5", "7"]


def test_figures_of_an_earlier_import_do_not_outlive_it(tmp_path: Path) -> None:
    first = recording(0, waits=True).write(tmp_path / "first.pcap")
    note = tmp_path / "x.toml"
    note.write_text('sender = "ours"\n\n[evidence]\n9 = "stale"', encoding="utf-8")
    assert note in file_capture(import_capture(first), tmp_path / "x", first)
    assert tomllib.loads(note.read_text(encoding="utf-8")) == {"sender": "ours"}


def test_a_note_that_is_no_text_is_declined_before_anything_is_written(tmp_path: Path) -> None:
    first = recording(0, waits=True).write(tmp_path / "first.pcap")
    (tmp_path / "x.toml").write_bytes(b"\xff")
    with pytest.raises(FilingError, match=r"x.toml: is not UTF-8"):
        file_capture(import_capture(first), tmp_path / "x", first)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["first.pcap", "x.toml"]
