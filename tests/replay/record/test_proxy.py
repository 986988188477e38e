"""``replay record`` as a proxy: its bounds, its end, its words; and as a process that is killed."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import smtplib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from recorded import events, stage, take
from running import replay

from replay.capture.pcap import read_records
from replay.capture.reader import read_capture

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 60
GREETING = b"220 mx.example ESMTP\r\n"


# -- bounds, in virtual time ----------------------------------------------------------------------


def test_who_comes_when_all_places_are_taken_waits_to_be_accepted(tmp_path: Path) -> None:
    with stage(tmp_path, connections_max=1) as on:
        first, server = on.connect()
        second = on.call()
        on.settle()
        with pytest.raises(BlockingIOError):
            on.accept()
        for sock in (server, first):
            sock.close()
            on.settle()
        on.wait(10_000)
        on.accept().sendall(GREETING)
        on.settle()
        assert take(second) == GREETING


def test_it_ends_after_the_sessions_that_were_wanted(tmp_path: Path) -> None:
    with stage(tmp_path, sessions=1) as on:
        sender, server = on.connect()
        for sock in (server, sender):
            sock.close()
            on.settle()
        assert not on.proxy.connections
        assert on.proxy.done


def test_a_stopped_proxy_lets_who_is_there_finish(tmp_path: Path) -> None:
    with stage(tmp_path) as on:
        sender, server = on.connect()
        on.proxy.stop()
        with pytest.raises(ConnectionRefusedError):
            on.call()
        server.sendall(GREETING)
        on.settle()
        assert (take(sender), on.proxy.done) == (GREETING, False)
        for sock in (server, sender):
            sock.close()
            on.settle()
        assert on.proxy.done


def test_who_is_cut_off_is_reset_and_recorded_as_cut_off_by_us(tmp_path: Path) -> None:
    with stage(tmp_path) as on:
        sender, server = on.connect()
        on.proxy.drop_all()
        for sock in (sender, server):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert events(on.recorders[0].file.path) == [(1, "RST")]
        assert on.said[0].endswith("cut off by us")


def test_mail_goes_on_when_a_file_is_full_and_it_is_said_once(tmp_path: Path) -> None:
    with stage(tmp_path, octets_max=500) as on:
        sender, server = on.connect()
        for _ in range(20):
            sender.sendall(b"NOOP\r\n")
            on.settle()
            assert take(server) == b"NOOP\r\n"
            server.sendall(b"250 2.0.0 Ok\r\n")
            on.settle()
            assert take(sender) == b"250 2.0.0 Ok\r\n"
        full = [line for line in on.said if "nothing more is recorded; mail goes on" in line]
        assert len(full) == 2, "once for each file"
        assert len(on.proxy.outcome.incomplete) == 2
        assert on.recorders[0].file.path.stat().st_size <= 500
        assert len(list(read_records(on.recorders[0].file.path, []))) > 4


def test_a_defect_costs_the_connection_that_it_struck_alone(tmp_path: Path) -> None:
    with stage(tmp_path) as on:
        struck, _ = on.connect()
        other, server = on.connect()
        on.proxy.fault(on.proxy.connections[1].client, RuntimeError("oh"))
        with pytest.raises(ConnectionResetError):
            struck.recv(1)
        server.sendall(GREETING)
        on.settle()
        assert take(other) == GREETING
        assert "RuntimeError('oh')" in on.said[0]


# -- as a process ---------------------------------------------------------------------------------


class Upstream:
    """A server that greets, says 250 to each line and 354 to DATA, in a thread of its own."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.sock.accept()
                threading.Thread(target=self._talk, args=(sock,), daemon=True).start()

    def _talk(self, sock: socket.socket) -> None:
        content = False
        with sock, sock.makefile("rwb", buffering=0) as file, contextlib.suppress(OSError):
            file.write(GREETING)
            for line in file:
                content = content and line != b".\r\n"
                if content:
                    continue
                content = line.upper() == b"DATA\r\n"
                file.write(b"354 go on\r\n" if content else b"250 ok\r\n")


@pytest.fixture
def upstream() -> Iterator[int]:
    server = Upstream()
    yield server.port
    server.sock.close()


@contextlib.contextmanager
def recording(
    path: Path, upstream: int, *options: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A recorder and its port."""
    to = ["--listen", "127.0.0.1:0", "--upstream", f"127.0.0.1:{upstream}", "-o", str(path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "replay", "record", *to, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        found = re.search(r"listening on 127\.0\.0\.1:(\d+) for", process.stderr.readline())
        assert found is not None
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def test_a_kill_leaves_all_that_was_said_by_then(tmp_path: Path, upstream: int) -> None:
    path = tmp_path / "x.pcap"
    with recording(path, upstream) as (process, port):
        client = smtplib.SMTP("127.0.0.1", port, "me", timeout=PATIENCE_S)
        client.sendmail("a@example.org", ["b@example.test"], b"Subject: x\r\n\r\nhello\r\n")
        client.noop()  # what came before it is written: a pass ends with that
        process.kill()
        process.wait(PATIENCE_S)
        client.close()
    (conversation,) = read_capture(path).conversations
    assert conversation.acts[4].octets.endswith(b"hello\r\n.\r\n")
    codes = [reply.code for reply in conversation.replies]
    assert codes[:6] == [220, 250, 250, 250, 354, 250]
    assert conversation.oddities == []
    assert len(read_capture(tmp_path / "x.upstream.pcap").conversations) == 1


def test_a_signal_ends_it_in_order_with_a_summary(tmp_path: Path, upstream: int) -> None:
    path = tmp_path / "x.pcap"
    with recording(path, upstream, "--json", "-") as (process, port):
        client = smtplib.SMTP("127.0.0.1", port, "me", timeout=PATIENCE_S)
        client.ehlo()
        client.close()
        assert process.stderr is not None
        assert "connection 1 from 127.0.0.1:" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert f"next: replay show {path}" in err
    summary = json.loads(out)
    assert summary["connections"] == 1
    assert [file["failure"] for file in summary["files"]] == ["", ""]
    (session,) = summary["sessions"]
    assert (session["client"], session["client_octets"]) == ("127.0.0.1", len(b"ehlo me\r\n"))


# -- wrong use ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-o", "x.pcap"], "one of the arguments --upstream --serve is required"),
        (["--upstream", "127.0.0.1:25", "-o", "x.pcap"], "--upstream goes with --listen"),
        (["--upstream", "here", "--listen", "127.0.0.1:0", "-o", "x.pcap"], "HOST:PORT"),
        (["--upstream", "127.0.0.1:25", "--listen", "here", "-o", "x.pcap"], "ADDRESS:PORT"),
        (["--upstream", "127.0.0.1:25", "--listen", "127.0.0.1:0", "-o", "x"], "ends in .pcap"),
        (["--upstream", "127.0.0.1:25", "--keep", "1", "-o", "x.pcap"], "--keep goes with --serve"),
        (["--serve", "c.toml", "--delay", "1s", "-o", "d"], "--delay goes with --upstream"),
        (["--serve", "missing.toml", "-o", "d"], "missing.toml"),
        (["--upstream", "a:1", "--max-size", "1", "-o", "x.pcap"], "takes a size from 4K"),
        (["--upstream", "a:1", "--delay", "soon", "-o", "x.pcap"], "'soon'"),
    ],
)
def test_wrong_use_is_refused_in_a_sentence(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    with contextlib.chdir(tmp_path), contextlib.suppress(SystemExit):
        ran = replay("record", *arguments)
        assert (ran.status, complaint in ran.err) == (2, True), ran.err
        assert "Traceback" not in ran.err
    assert not (tmp_path / "x.pcap").exists()


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_text("mine")
    to = ("--upstream", "127.0.0.1:25", "--listen", "127.0.0.1:0")
    ran = replay("record", *to, "-o", path)
    assert (ran.status, "is there already" in ran.err, path.read_text()) == (2, True, "mine")
