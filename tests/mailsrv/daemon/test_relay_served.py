"""A server that relays: notices, retries, a next hop that is down or not found, and its own end."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from process import PATIENCE_S, Process, fields, http, serving

from mailsrv.cli import main

HOP = """
hostname = "hop.example.test"
domains = ["example.test"]
listen = ["127.0.0.1:0"]
delivery = "maildir=mail"
"""


def config(port: int, more: str = "") -> str:
    return (
        'hostname = "gateway.example.test"\nlisten = ["127.0.0.1:0"]\n'
        f'delivery = "relay=127.0.0.1:{port}"\n{more}'
    )


def send(running: Process, *to: str) -> None:
    with running.client() as client:
        client.sendmail("ann@example.test", to, "Subject: x\r\n\r\nhello\r\n")


def mail(folder: Path) -> list[str]:
    return sorted(path.read_text() for path in (folder / "mail" / "new").iterdir())


def test_mail_goes_on_and_the_sender_is_told_who_does_not_exist(tmp_path: Path) -> None:
    hop_folder, own = tmp_path / "hop", tmp_path / "gateway"
    hop_folder.mkdir()
    own.mkdir()
    with serving(hop_folder, HOP, ()) as hop, serving(own, config(hop.port), ()) as running:
        send(running, "bob@example.test", "carol@elsewhere.example")
        line = fields(running.log.until("event=relayed", "recipients="))
        assert line["recipients"] == "<bob@example.test>"
        assert fields(running.log.until("event=failed"))["status"] == "5.7.1"
        running.log.until("event=relayed")
        for _ in range(2):
            hop.log.until("event=delivered")
        running.end()
        hop.end()
    message, notice = sorted(mail(hop_folder), key=lambda text: "multipart/report" in text)
    assert "multipart/report" in notice and "carol@elsewhere.example" in notice
    assert message.count("Received: ") == 2 and message.endswith("\n\nhello\n")
    assert "carol" not in message


def test_connections_to_next_hops_are_counted(tmp_path: Path) -> None:
    hop_folder, own = tmp_path / "hop", tmp_path / "gateway"
    hop_folder.mkdir()
    own.mkdir()
    metrics = 'metrics_listen = "127.0.0.1:0"\n'
    with (
        serving(hop_folder, HOP, ()) as hop,
        serving(own, config(hop.port, metrics), ()) as running,
    ):
        for _ in range(3):
            send(running, "bob@example.test")
            running.log.until("event=relayed")
        status, page = http(running.metrics_port(), "/metrics")
        running.end()
    assert status == 200
    for name, number in (
        ("connections", 1),
        ("connections_kept", 1),
        ("connections_opened_total", 1),
        ("connections_reused_total", 2),
        ("connections_failed_total", 0),
    ):
        assert f"\nmailsrv_next_hop_{name} {number}\n" in page


class Peer:
    """A port of which connections are refused until ``open``; then they are taken, and never
    answered."""

    def __init__(self) -> None:
        self._sockets = [socket.socket()]
        self._sockets[0].bind(("127.0.0.1", 0))
        self._sockets[0].settimeout(PATIENCE_S)
        self.port = self._sockets[0].getsockname()[1]

    def open(self) -> None:
        self._sockets[0].listen()

    def accept(self) -> None:
        """Wait for a connection."""
        self._sockets.append(self._sockets[0].accept()[0])

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def queue(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["queue", *arguments]) == 0
    return capsys.readouterr().out


def test_what_a_next_hop_that_is_down_cannot_take_waits_and_is_retried_when_asked(
    tmp_path: Path, peer: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = str(tmp_path / "mailsrv.spool")
    with serving(tmp_path, config(peer.port, f'spool = "{spool}"\n'), ()) as running:
        send(running, "bob@example.test")
        assert "refused" in fields(running.log.until("event=deferred"))["reply"]
        [one] = json.loads(queue(capsys, "list", "--json", "--spool", spool))["messages"]
        assert one["attempts"] == 1 or one["state"] == "new", "its row may not be written yet"
        peer.open()
        queue(capsys, "retry", "--all", "--spool", spool)
        running.log.until('event="queue command"')
        peer.accept()  # at once, although it was to be left alone for a while


def test_the_end_of_the_server_waits_for_the_grace_time_and_keeps_what_has_no_outcome(
    tmp_path: Path, peer: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = str(tmp_path / "mailsrv.spool")
    more = f'spool = "{spool}"\ngrace_s = 0.2\n'
    peer.open()
    with serving(tmp_path, config(peer.port, more), ()) as running:
        send(running, "bob@example.test")
        peer.accept()
        running.ring(signal.SIGTERM)
        assert running.process.wait(PATIENCE_S) == 0
        assert fields(next(x for x in running.log.rest() if "left waiting" in x))["messages"] == "1"
    [one] = json.loads(queue(capsys, "list", "--json", "--spool", spool))["messages"]
    assert one["state"] in ("new", "due"), "it is tried at the next start"


def test_a_second_signal_waits_for_nothing(tmp_path: Path, peer: Peer) -> None:
    peer.open()
    with serving(tmp_path, config(peer.port, "grace_s = 1000\n"), ()) as running:
        send(running, "bob@example.test")
        peer.accept()
        running.ring(signal.SIGTERM)
        running.log.until("event=stopping")
        running.ring(signal.SIGTERM)
        assert running.process.wait(PATIENCE_S) == 0


def test_a_next_hop_that_is_not_found_is_told_at_the_start_and_mail_waits(tmp_path: Path) -> None:
    text = config(25).replace("relay=127.0.0.1:25", "relay=hop.invalid")
    text += 'resolvers = ["127.0.0.1:1"]\n'  # where nobody answers
    with serving(tmp_path, text, ()) as running:
        line = fields(running.log.until('event="next hop not found"'))
        assert line["to"] == "relay=hop.invalid:25"
        send(running, "bob@example.test")
        running.log.until("event=deferred")
        running.end()
