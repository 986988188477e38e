"""Recording inside the server: what is written down, how it is marked, and that mail goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from recorded import flows, reset, take

from mailsrv.policy.lookups import NoResolver
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.listener import bind
from mailsrv.server import Server, ServerBackends
from mailsrv.settings import Settings
from mailsrv.telemetry.event_log import EventLog
from mailsrv.transport.tls_context import server_context
from replay.capture.conversation import Conversation
from replay.capture.reader import read_capture
from replay.capture.tcp_packets import CLIENT
from replay.play.fakes.world import FakeCourier
from replay.play.mailsrv_harness import VirtualPoll
from replay.play.tls_client import CERTIFICATE, KEY, TlsClient
from replay.record.capture_ring import CaptureRing, RingLimits
from replay.record.recorder import CaptureRecorder, RecordedFlow
from replay.record.server_tap import ServerTap, TappedSession

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 60
BEGIN_S = 1_700_000_000
MESSAGE = (
    b"EHLO me\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n",
    b"Subject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n",
)


class Scene:
    """A server in virtual time with a recorder at its wires, and senders driven by hand."""

    def __init__(self, folder: Path, room: int = 1_000_000, *, implicit_tls: bool = False) -> None:
        self.folder = folder
        self.clock = FakeClock(BEGIN_S)
        self.poll = VirtualPoll()
        self.said: list[str] = []
        self.log: list[str] = []
        self.courier = FakeCourier(lambda delay_ns, act: None)
        self.recorder = ServerTap(
            CaptureRing(RingLimits(folder, 10, 10, room)), self.clock, self.said.append
        )
        self.server = Server(
            Settings(hostname="mx.example.test", idle_timeout_s=60),
            ServerBackends(
                resolver=NoResolver(), courier=self.courier, tls=server_context(CERTIFICATE, KEY)
            ),
            clock=self.clock,
            poll=self.poll,
            random=random.Random(1),
            event_log=EventLog(self.clock, self.log.append),
            tap=self.recorder,
        )
        listener = self.server.listen(bind("127.0.0.1", 0), implicit_tls=implicit_tls)
        self.address = listener.address

    def call(self) -> socket.socket:
        sender = socket.create_connection(self.address)
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sender.setblocking(False)
        self.settle()
        return sender

    def say(self, sender: socket.socket, octets: bytes) -> bytes:
        sender.sendall(octets)
        self.settle()
        return take(sender)

    def settle(self) -> None:
        self.server.loop.dispatch(None)
        while self.poll.found:
            self.server.loop.dispatch(None)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.server.loop.expire()
            self.settle()

    @property
    def names(self) -> list[str]:
        """The marks of what is there, oldest first."""
        return [path.name.partition("-0000")[2] for path in sorted(self.folder.iterdir())]

    def conversation(self, number: int = 1) -> Conversation:
        (path,) = self.folder.glob(f"*-{number:06d}*.pcap")
        (conversation,) = read_capture(path).conversations
        assert {oddity.kind for oddity in conversation.oddities} <= {"decrypted"}
        return conversation


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "d")
    yield made
    assert [line for line in made.log if "event=fault" in line] == []
    made.server.stop()
    made.server.end_all()
    made.poll.close()


def octets_of(conversation: Conversation) -> list[bytes]:
    return [act.octets for act in conversation.acts if act.kind == "send"]


def deliver(scene: Scene) -> None:
    sender = scene.call()
    take(sender)
    for octets in MESSAGE:
        scene.say(sender, octets)
    sender.close()
    scene.settle()


def test_a_session_is_written_down_as_it_was(scene: Scene) -> None:
    deliver(scene)
    conversation = scene.conversation()
    assert octets_of(conversation) == list(MESSAGE)
    assert [reply.code for reply in conversation.replies] == [220, 250, 250, 250, 354, 250, 221]
    assert [act.kind for act in conversation.acts] == ["send", "send", "close"]
    assert scene.names == ["01.pcap"]


def test_every_session_has_a_file_of_its_own_that_can_be_read_while_it_goes_on(
    scene: Scene,
) -> None:
    first, second = scene.call(), scene.call()
    scene.say(first, b"EHLO one\r\n")
    scene.say(second, b"EHLO two\r\n")
    assert octets_of(scene.conversation(1)) == [b"EHLO one\r\n"]
    assert octets_of(scene.conversation(2)) == [b"EHLO two\r\n"]
    first.close()
    second.close()
    scene.settle()


@pytest.mark.parametrize(
    ("said", "how", "mark"),
    [
        (b"", "close", ".pcap"),  # somebody looks if we are alive
        (b"QUIT\r\n", "close", ".pcap"),
        (b"FOO\r\nQUIT\r\n", "close", ".bad.pcap"),  # refused
        (b"EHLO me\r\n", "close", ".bad.pcap"),  # left in the middle
        (b"EHLO me\r\n", "reset", ".bad.pcap"),
        (b"QUIT\r\n", "reset", ".pcap"),
        (b"EHLO me\r\n", "wait", ".bad.pcap"),  # timed out
    ],
)
def test_sessions_that_end_badly_are_marked(scene: Scene, said: bytes, how: str, mark: str) -> None:
    sender = scene.call()
    take(sender)
    if said:
        scene.say(sender, said)
    if how == "wait":
        scene.wait(61)
        assert take(sender).startswith(b"421 ")
    if how == "reset":
        reset(sender)
    else:
        sender.close()
    scene.settle()
    assert scene.names == [f"01{mark}"]


def test_a_reset_is_written_down(scene: Scene) -> None:
    sender = scene.call()
    take(sender)
    scene.say(sender, b"EHLO me\r\n")
    reset(sender)
    scene.settle()
    assert [act.kind for act in scene.conversation().acts] == ["send", "reset"]


class Secure:
    """A sender's TLS over a socket."""

    def __init__(self, scene: Scene, sender: socket.socket) -> None:
        self._scene = scene
        self._sender = sender
        self.told: list[str] = []
        self._tls = TlsClient(sender.sendall, self.told.append)
        self._tls.begin()
        self.hear()

    def hear(self) -> bytes:
        self._scene.settle()
        octets = take(self._sender)
        plain = b""
        while octets not in (b"(nothing)", b""):
            plain += self._tls.feed(octets)
            self._scene.settle()
            octets = take(self._sender)
        return plain

    def say(self, octets: bytes) -> bytes:
        self._tls.send(octets)
        return self.hear()


def test_what_is_said_under_tls_stands_there_as_plaintext_and_the_name_says_so(
    scene: Scene,
) -> None:
    sender = scene.call()
    take(sender)
    scene.say(sender, b"EHLO me\r\nSTARTTLS\r\n")
    assert scene.names == ["01.pcap"]
    secure = Secure(scene, sender)
    assert secure.told == ["done"]
    assert scene.names == ["01.plaintext.pcap"], "marked before the first secret is written"
    replies = [secure.say(octets)[:3] for octets in MESSAGE]
    assert replies == [b"250", b"250"]
    secure.say(b"NOOP\r\n")  # too late: the server has said its last word
    sender.close()
    scene.settle()
    conversation = scene.conversation()
    assert octets_of(conversation) == [b"EHLO me\r\nSTARTTLS\r\n", *MESSAGE]
    assert [reply.code for reply in conversation.replies] == [
        220, 250, 220, 250, 250, 250, 354, 250, 221
    ]  # fmt: skip
    assert conversation.cut_short == ""
    assert scene.names == ["01.plaintext.pcap"]
    assert len(scene.courier.messages) == 1


def test_implicit_tls_is_plaintext_from_the_greeting_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "d", implicit_tls=True)
    sender = scene.call()
    secure = Secure(scene, sender)
    assert secure.say(b"QUIT\r\n").startswith(b"221 ")
    sender.close()
    scene.settle()
    assert octets_of(scene.conversation()) == [b"QUIT\r\n"]
    assert scene.names == ["01.plaintext.pcap"]
    scene.server.stop()
    scene.poll.close()


def test_a_failed_handshake_is_a_bad_end_without_a_word_of_it(scene: Scene) -> None:
    sender = scene.call()
    take(sender)
    scene.say(sender, b"EHLO me\r\nSTARTTLS\r\n")
    scene.say(sender, b"this is no handshake\r\n")
    sender.close()
    scene.settle()
    assert scene.names == ["01.bad.pcap"]
    assert octets_of(scene.conversation()) == [b"EHLO me\r\nSTARTTLS\r\n"]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[TappedSession, socket.socket, Path]]:
    """A session being recorded, the server's socket of it, and the capture."""
    door = bind("127.0.0.1", 0)
    with door, socket.socket() as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sender.connect(door.getsockname())
        sock, _ = door.accept()
        with sock:
            sock.setblocking(False)
            path = tmp_path / "x.pcap"
            recorder = CaptureRecorder(path, FakeClock(BEGIN_S), 1_000_000)
            flow = RecordedFlow(recorder, sender.getsockname(), door.getsockname(), CLIENT, 1)
            flow.opened()
            yield TappedSession(recorder, flow, sock), sock, path
            recorder.file.close()


def test_under_tls_it_is_known_only_that_the_last_octet_is_missing(
    pair: tuple[TappedSession, socket.socket, Path],
) -> None:
    session, sock, path = pair
    session.secured()
    session.sent(b"250 ok\r\n")
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(bytes(65_536))
    session.received(b"NOOP\r\n")
    session.recorder.file.flush()
    (flow,), _ = flows(path.with_name("x.plaintext.pcap"))
    assert [event.acknowledged for event in flow.events] == [0, len(b"250 ok\r\n") - 1]


def test_a_reply_in_two_writes_is_not_taken_for_a_refusal(
    pair: tuple[TappedSession, socket.socket, Path],
) -> None:
    session, _, _ = pair
    session.sent(b"250 2.0.0 it had ")
    session.sent(b"450 octets\r\n")
    assert not session.is_bad
    session.sent(b"450 4.2.0 later\r\n")
    assert session.is_bad


def test_mail_goes_on_where_the_folder_has_gone_and_it_is_said_once(scene: Scene) -> None:
    sender = scene.call()
    take(sender)
    shutil.rmtree(scene.folder)
    for octets in MESSAGE:
        scene.say(sender, octets)
    sender.close()
    scene.settle()
    deliver(scene)
    deliver(scene)
    assert len(scene.courier.messages) == 3
    (sentence,) = scene.said
    assert sentence.endswith(" is incomplete: No such file or directory; mail goes on")


def test_a_large_message_takes_no_more_than_its_share_of_the_room(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "d", room=200_000)
    deliver(scene)
    sender = scene.call()
    take(sender)
    scene.say(sender, MESSAGE[0])
    for _ in range(100):
        sender.sendall(b"x" * 998 + b"\r\n")
        scene.settle()
    assert scene.say(sender, b".\r\nQUIT\r\n").startswith(b"250 ")
    sender.close()
    scene.settle()
    assert len(scene.courier.messages) == 2
    assert sum(path.stat().st_size for path in scene.folder.iterdir()) <= 60_000
    assert [line.partition(" is ")[2] for line in scene.said] == [
        "incomplete: its bound is reached; mail goes on"
    ]
    scene.server.stop()
    scene.poll.close()


def test_the_program_serves_records_and_ends_in_order(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('listen = ["127.0.0.1:0"]\ndelivery = "discard"\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "replay", "record", "--serve", tmp_path / "m.toml", "-o", "d"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE_S) as client:
            client.sendmail("a@example.org", ["b@example.test"], b"Subject: x\r\n\r\nhello\r\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    (path,) = (tmp_path / "d").iterdir()
    (conversation,) = read_capture(path).conversations
    assert conversation.replies[-1].code == 221
