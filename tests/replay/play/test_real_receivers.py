"""Receivers in real time: whatever client connects is played to, and watched."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailsrv.runtime.clock import SystemClock
from replay.play.realtime_player import RealtimeOptions
from replay.play.target import resolve
from replay.verify.comparison import Tolerance
from replay.verify.suite import AS_EXPECTED, DIFFERS, ScenarioResult
from replay.verify.target_suite import ClientRun, TargetOptions

S = 1_000_000_000
HEADER = '+++\nstory = "A client delivers."\n+++\n'
TAKES = r"""@0         listen at 192.0.2.25
*          C open
command+0  S: 220 hop ESMTP\r\n
*          C? EHLO
command+0  S: 250 hop\r\n
*          C? MAIL
command+0  S: 250 ok\r\n
*          C? RCPT
command+0  S: 250 ok\r\n
*          C? DATA
command+0  S: 354 go\r\n
*          C? content
command+0  S: 250 taken\r\n
*          C? QUIT
command+0  S: 221 bye\r\n
+0         close
"""
SECURED = r"""@0         listen at 192.0.2.25
*          C open
command+0  S: 220 hop ESMTP\r\n
*          C? EHLO
command+0  S: 250-hop\r\n
           S: 250 STARTTLS\r\n
*          C? STARTTLS
command+0  S: 220 go\r\n
+0         starttls
*          C tls
*          C? EHLO
command+0  S: 250 hop\r\n
*          C? QUIT
command+0  S: 221 bye\r\n
+0         close
"""
Deliver = Callable[[int], object]


@pytest.fixture
def receive(tmp_path: Path) -> Iterator[Callable[[str, Deliver], ScenarioResult]]:
    """Plays a transcript while a client delivers in a thread of its own."""
    threads: list[threading.Thread] = []

    def run(body: str, deliver: Deliver) -> ScenarioResult:
        path = tmp_path / "hop.smtp"
        path.write_text(HEADER + body)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            how = TargetOptions(RealtimeOptions(patience_ns=5 * S), Tolerance(5 * S))
            client = ClientRun(resolve(f"127.0.0.1:{port}"), listener, how, SystemClock())
            threads.append(threading.Thread(target=deliver, args=(port,)))
            threads[-1].start()
            (result,) = client.run_all([path])
        return result

    yield run
    for thread in threads:
        thread.join(10)


def send(port: int) -> None:
    with contextlib.suppress(OSError), smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
        client.sendmail("a@example.org", ["b@example.net"], "Subject: x\r\n\r\nText.\r\n")


def test_smtplib_delivers_to_a_receiver(
    receive: Callable[[str, Deliver], ScenarioResult],
) -> None:
    result = receive(TAKES, send)
    assert (result.verdict, list(map(str, result.differences))) == (AS_EXPECTED, [])
    assert b"Text." in result.observed[0].commands[4].octets


def test_what_a_client_does_otherwise_is_told(
    receive: Callable[[str, Deliver], ScenarioResult],
) -> None:
    result = receive(TAKES.replace("C? RCPT", r"C: RCPT TO:<c@example.net>\r\n"), send)
    assert result.verdict == DIFFERS
    assert str(result.differences[0]).startswith("command 3: text differs (line 11)")


def test_a_receiver_shakes_hands_as_the_server(
    receive: Callable[[str, Deliver], ScenarioResult],
) -> None:
    def secure(port: int) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client.starttls(context=context)
            client.ehlo()

    result = receive(SECURED, secure)
    assert (result.verdict, list(map(str, result.differences))) == (AS_EXPECTED, [])


def test_senders_of_the_file_are_left_out_and_a_file_without_receivers_is_not_played(
    receive: Callable[[str, Deliver], ScenarioResult], tmp_path: Path
) -> None:
    sender = "@0 mail| open from 192.0.2.1\n* mail| S? 220\nreply+0 mail| close\n\n"
    named = "".join(f"{line[:11]}hop| {line[11:]}" for line in TAKES.splitlines(keepends=True))
    result = receive(sender + named, send)
    assert (result.verdict, result.sessions) == (AS_EXPECTED, 1)
    alone = tmp_path / "alone.smtp"
    alone.write_text(HEADER + sender)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        run = ClientRun(resolve("127.0.0.1:25"), listener, TargetOptions(), SystemClock())
        assert list(run.run_all([alone])) == []
    assert run.left_out == [f"{alone}: it plays no receiver of mail"]
