"""TLS opened with recorded keys: the plaintext, its records and their times, as tshark opens them.

The TLS is the standard library's, between two engines without a socket; how its octets are cut
into segments is each test's own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import ssl
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from capture_builder import (
    BEGIN_NS,
    NS_PER_MS,
    Wire,
    block,
    enhanced,
    interface,
    section,
    write_frames,
)
from running import environment, replay
from tshark import PROGRAM

from replay.capture.conversation import Conversation
from replay.capture.oddity import CaptureError
from replay.capture.reader import Capture, read_capture
from replay.capture.tls.opened_flow import open_flows
from replay.capture.tls.tshark import MISSING, holds_secrets
from replay.convert.importer import import_capture
from replay.play.tls_client import CERTIFICATE, KEY
from replay.transcript import script
from replay.verify import suite

needs_tshark = pytest.mark.skipif(PROGRAM is None, reason="tshark is not installed")

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
GREETING, EHLO, READY = b"220 mx ESMTP\r\n", b"EHLO me\r\n", b"220 go\r\n"


class Tls:
    """A client and a server with a handshake to make; their keys go to ``keys``."""

    def __init__(self, keys: Path, version: ssl.TLSVersion) -> None:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        client.minimum_version = client.maximum_version = version
        client.keylog_filename = str(keys)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(CERTIFICATE, KEY)
        self._bios = [(ssl.MemoryBIO(), ssl.MemoryBIO()) for _ in range(2)]
        self._ends = [
            client.wrap_bio(*self._bios[0]),
            server.wrap_bio(*self._bios[1], server_side=True),
        ]

    def flights(self) -> list[tuple[int, bytes]]:
        """The handshake, flight by flight, with the server's tickets at its end."""
        found = []
        for side in itertools.islice(itertools.cycle((0, 1)), 6):
            with contextlib.suppress(ssl.SSLWantReadError):
                self._ends[side].do_handshake()
            octets = self._bios[side][1].read()
            if octets:
                self._bios[1 - side][0].write(octets)
                found.append((side, octets))
        return found

    def records(self, side: int, *texts: bytes) -> bytes:
        """Each text in a record of its own."""
        for text in texts:
            self._ends[side].write(text)
        return self._bios[side][1].read()


class Stage:
    """A session on a wire up to the end of its handshake, and how it goes on."""

    def __init__(self, folder: Path, version: ssl.TLSVersion = TLS13, port: int = 25) -> None:
        self.path, self.keys = folder / "x.pcap", folder / "x.keys"
        self.tls = Tls(self.keys, version)
        self.wire = Wire(ports=(40_000, port)).handshake()
        self.ms = 0.0
        if port != 465:
            for side, octets in ((1, GREETING), (0, EHLO), (1, b"250 mx\r\n")):
                self.say(side, octets)
            self.say(0, b"STARTTLS\r\n")
            self.say(1, READY)
        self.hello_ms = self.ms + 1
        for side, octets in self.tls.flights():
            self.say(side, octets)

    def say(
        self, side: int, octets: bytes, cuts: Sequence[int] = (), ack: int | None = None
    ) -> None:
        """Send octets a millisecond later, and what is behind each cut another one later."""
        for begin, end in itertools.pairwise([0, *cuts, len(octets)]):
            self.ms += 1
            self.wire.packet(side, octets[begin:end], ms=self.ms, ack=ack)

    def secret(self, side: int, *texts: bytes, cuts: Sequence[int] = ()) -> None:
        self.say(side, self.tls.records(side, *texts), cuts)

    def read(self) -> Capture:
        return read_capture(self.wire.write(self.path))

    def conversation(self) -> Conversation:
        capture = self.read()
        assert [one.sentence for one in capture.oddities] == []
        (one,) = capture.conversations
        return one


def sent(one: Conversation) -> list[tuple[str, bytes, float]]:
    """Kind, octets and millisecond of each act."""
    return [(act.kind, act.octets, (act.ts_ns - BEGIN_NS) / NS_PER_MS) for act in one.acts]


@needs_tshark
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_starttls_is_followed_into_the_session_with_records_and_times(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    stage = Stage(tmp_path, version)
    began_ms = stage.ms
    stage.secret(0, EHLO)
    stage.secret(1, b"250 mx\r\n")
    stage.secret(0, b"MAIL FROM:<a@b.example>\r\n", b"RCPT TO:<c@d.example>\r\n")
    stage.secret(1, b"250 one\r\n", b"250 two\r\n")
    one = stage.conversation()
    assert (one.tls, one.cut_short) == ("starttls", "")
    assert sent(one)[2:] == [
        ("starttls", b"", stage.hello_ms),
        ("send", EHLO, began_ms + 1),
        ("send", b"MAIL FROM:<a@b.example>\r\n", began_ms + 3),
        ("send", b"RCPT TO:<c@d.example>\r\n", began_ms + 3),
    ]
    assert [reply.octets for reply in one.replies[3:]] == [
        b"250 mx\r\n",
        b"250 one\r\n",
        b"250 two\r\n",
    ]


@needs_tshark
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_record_counts_from_the_segment_that_made_it_whole(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    stage = Stage(tmp_path, version)
    began_ms = stage.ms
    stage.secret(0, EHLO, b"NOOP\r\n", cuts=[3, 20])
    assert [act[2] for act in sent(stage.conversation())[3:]] == [began_ms + 3, began_ms + 3]


@needs_tshark
def test_what_was_acknowledged_of_a_record_in_part_was_not_seen(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.secret(0, EHLO)
    before = stage.wire.sent[1]
    reply = stage.tls.records(1, b"250 mx\r\n")
    stage.say(1, reply)
    stage.say(0, stage.tls.records(0, b"NOOP\r\n"), ack=before + len(reply) - 1)
    stage.say(0, stage.tls.records(0, b"QUIT\r\n"), ack=before + len(reply))
    one = stage.conversation()
    seen = [act.acknowledged for act in one.acts[-2:]]
    assert seen == [one.replies[-1].end - len(b"250 mx\r\n"), one.replies[-1].end]


@needs_tshark
@pytest.mark.parametrize("port", [465, 4465])
def test_tls_from_the_first_octet_is_followed_on_any_port(port: int, tmp_path: Path) -> None:
    stage = Stage(tmp_path, port=465)
    stage.wire = Wire(ports=(40_000, port))
    stage.wire.handshake()
    stage.tls, stage.ms = Tls(stage.keys, TLS13), 0
    for side, octets in stage.tls.flights():
        stage.say(side, octets)
    stage.secret(1, GREETING)
    stage.secret(0, EHLO)
    one = stage.conversation()
    assert (one.tls, [act.kind for act in one.acts]) == ("implicit", ["starttls", "send"])
    assert one.replies[0].octets == GREETING
    imported = import_capture(stage.path).scenario
    assert imported.world == {"tls": "implicit"}


@needs_tshark
def test_a_script_shakes_hands_where_the_sender_did_and_replays_in_virtual_time(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path)
    stage.secret(0, EHLO)
    stage.secret(1, b"250 mx\r\n")
    stage.secret(0, b"NO", b"OP\r\n")
    stage.secret(1, b"250 ok\r\n")
    stage.secret(0, b"QUIT\r\n")
    stage.secret(1, b"221 bye\r\n")
    stage.read()
    scenario = import_capture(stage.path).scenario
    actions = [departure.action for departure in scenario.connections[0].departures()]
    assert actions[2:7] == [
        script.SendOctets(b"STARTTLS\r\n"),
        script.StartTls(),
        script.SendOctets(EHLO),
        script.SendOctets(b"NO"),
        script.SendOctets(b"OP\r\n"),
    ]
    ran = suite.run_scenario(scenario, stage.path)
    assert [str(one) for one in ran.differences] == []


@needs_tshark
def test_sanitised_it_stands_in_the_clear_and_its_keys_stay_behind(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.secret(0, EHLO)
    stage.secret(1, b"250 mx\r\n")
    stage.read()
    ran = replay("import", stage.path, "--sanitize", "-o", tmp_path / "clean")
    assert (ran.status, ran.err) == (0, "")
    assert sorted(one.name for one in tmp_path.glob("clean*")) == ["clean.pcap", "clean.smtp"]
    scenario = import_capture(tmp_path / "clean.pcap").scenario
    actions = [type(one.action) for one in scenario.connections[0].departures()]
    assert actions[2:5] == [script.SendOctets, script.StartTls, script.SendOctets]


@needs_tshark
def test_imported_it_is_on_file_with_its_keys(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.secret(0, EHLO)
    stage.read()
    log = stage.keys.rename(tmp_path / "session-keys.log")
    ran = replay("import", stage.path, "--tls-keys", log, "-o", tmp_path / "filed")
    assert (ran.status, ran.err) == (0, "")
    assert (tmp_path / "filed.keys").read_bytes() == log.read_bytes()
    (one,) = read_capture(tmp_path / "filed.pcap").conversations
    assert one.acts[-1].octets == EHLO


# -- where it stays closed ------------------------------------------------------------------------


def locked(capture: Capture) -> str:
    (oddity,) = capture.oddities
    assert oddity.kind == "locked"
    (one,) = capture.conversations
    assert one.cut_short == "encrypted"
    return oddity.sentence


@needs_tshark
def test_with_the_keys_of_another_connection_it_stays_closed_and_says_so(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.secret(0, EHLO)
    stage.keys.unlink()
    Tls(stage.keys, TLS13).flights()
    assert "none of the keys is that of this connection" in locked(stage.read())


def test_without_tshark_it_stays_closed_and_says_what_is_missing(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.secret(0, EHLO)
    with environment({"PATH": str(tmp_path)}):
        assert MISSING in locked(stage.read())


def test_without_keys_nothing_is_said_of_them(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.secret(0, EHLO)
    stage.keys.unlink()
    capture = stage.read()
    assert (capture.oddities, capture.conversations[0].cut_short) == ([], "encrypted")


def test_a_key_log_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.secret(0, EHLO)
    stage.read()
    with pytest.raises(CaptureError, match="nowhere: no such key log"):
        read_capture(stage.path, keys=tmp_path / "nowhere")
    shown = replay("show", stage.path, "--tls-keys", tmp_path / "nowhere")
    assert (shown.status, shown.err.count("\n")) == (2, 1)


@needs_tshark
def test_the_secrets_of_a_pcapng_open_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.secret(0, EHLO)
    log = stage.keys.read_bytes()
    stage.keys.unlink()
    secrets = block(10, (0x544C534B).to_bytes(4, "little") + len(log).to_bytes(4, "little") + log)
    packets = [enhanced(0, ns // 1000, frame) for ns, frame, _ in stage.wire.frames]
    path = tmp_path / "x.pcapng"
    path.write_bytes(b"".join([section(), secrets, interface(), *packets]))
    assert holds_secrets(path)
    (one,) = read_capture(path).conversations
    assert (one.cut_short, one.acts[-1].octets) == ("", EHLO)


_PACKER = zlib.compressobj(wbits=31)
DAMAGED = _PACKER.compress(section()) + _PACKER.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 99


def test_a_pipe_is_not_looked_into_for_keys_of_its_own(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pcapng")
    flow = read_capture(Stage(tmp_path).wire.write(tmp_path / "x.pcap")).conversations[0].flow
    assert open_flows(tmp_path / "pipe.pcapng", None, [flow], []) == {}


@needs_tshark
@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("port", [25, 465])
def test_one_session_of_several_is_imported_with_its_keys(
    tmp_path: Path, port: int, beside: bool
) -> None:
    stage = Stage(tmp_path, port=port)
    stage.secret(1, GREETING)
    stage.secret(0, EHLO)
    other = Wire(client="192.0.2.99", ports=(50_000, 25)).handshake()
    other.server_says(GREETING, 1000)
    other.client_says(b"EHLO other\r\n", 1001)
    whole = write_frames(stage.path, [*stage.wire.frames, *other.frames])
    number = [bool(one.tls) for one in read_capture(whole).conversations].index(True) + 1
    log = stage.keys if beside else stage.keys.rename(tmp_path / "session-keys.log")
    options = [] if beside else ["--tls-keys", log]
    ran = replay("import", whole, "--session", number, *options, "-o", tmp_path / "filed")
    assert (ran.status, ran.err) == (0, "")
    (one,) = read_capture(tmp_path / "filed.pcap").conversations
    assert one.acts[-1].octets == EHLO


@pytest.mark.parametrize(
    "octets", [DAMAGED, b"", b"\x1f\x8b", b"\x0a\x0d\x0d\x0a", bytes(400), b"\x0a" * 99]
)
def test_what_is_no_pcapng_brings_no_secrets(octets: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(octets)
    assert not holds_secrets(path)
