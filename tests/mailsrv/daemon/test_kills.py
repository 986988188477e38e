"""Killed at any instant, and with a disk that fails: what was acknowledged is there, and logged."""

from __future__ import annotations

import errno
import os
import random
import re
import smtplib
import socket
import threading
from pathlib import Path

from process import PATIENCE_S, serving

from mailsrv.delivery.maildir import MaildirCourier, SystemFiles
from mailsrv.policy.lookups import NoResolver
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.poll import SelectorPoll
from mailsrv.server import Server, ServerBackends
from mailsrv.settings import Settings
from mailsrv.telemetry.event_log import EventLog

KILLS = 5
SENDERS = 4
SUBJECT = re.compile(r"^Subject: (\w+)$", re.MULTILINE)
ACKNOWLEDGED_MAX = 40
"""Messages of one run before which the kill comes."""


def stored(mail: Path) -> list[str]:
    """The subjects of all messages in a Maildir."""
    texts = [path.read_text() for path in (mail / "new").iterdir()]
    return [found[1] for text in texts if (found := SUBJECT.search(text))]


class Senders:
    """Several at once, each sending as fast as it is answered; ``acknowledged`` are the subjects
    that got their 250.  At the ``last``th of them ``kill`` is called, before anything else."""

    def __init__(self, port: int, last: int, run: int) -> None:
        self._port = port
        self._last = last
        self._run = run
        self._lock = threading.Lock()
        self.acknowledged: list[str] = []

    def until_killed(self, kill: object) -> None:
        assert callable(kill)
        threads = [threading.Thread(target=self._send, args=(n, kill)) for n in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def _send(self, sender: int, kill: object) -> None:
        assert callable(kill)
        number = 0
        try:
            with smtplib.SMTP("127.0.0.1", self._port, "a.example", timeout=PATIENCE_S) as client:
                while True:
                    subject = f"r{self._run}s{sender}n{number}"
                    to = [f"{subject}-{at}@example.org" for at in range(1 + number % 3)]
                    client.sendmail("a@example.org", to, f"Subject: {subject}\r\n\r\ntext\r\n")
                    with self._lock:
                        self.acknowledged.append(subject)
                        if len(self.acknowledged) == self._last:
                            kill()
                    number += 1
        except (smtplib.SMTPException, OSError):
            return


def test_whatever_was_acknowledged_before_a_kill_is_stored_and_has_its_line(
    tmp_path: Path,
) -> None:
    """The reply and the kill may be as close as one system call to the next."""
    chance = random.Random()
    mail, log = tmp_path / "mail", tmp_path / "log"
    options = ("--listen", "127.0.0.1:0", "--delivery", f"maildir={mail}")
    acknowledged: list[str] = []
    for run in range(KILLS):
        with serving(tmp_path, f'log_file = "{log}"\n', options) as server:
            senders = Senders(server.port, chance.randrange(1, ACKNOWLEDGED_MAX), run)
            senders.until_killed(server.process.kill)
            acknowledged += senders.acknowledged
    subjects = stored(mail)
    accepted = [line for line in log.read_text().splitlines() if "verdict=accepted" in line]
    assert acknowledged
    for subject in acknowledged:
        assert subject in subjects
        (line,) = (line for line in accepted if f"<{subject}-0@example.org>" in line)
        recipients = 1 + int(subject.rpartition("n")[2]) % 3
        assert line.count(f"<{subject}-") == recipients
        assert f"recipients={recipients} " in line


CALLS = ("create", "reopen", "write", "sync", "close", "link", "remove", "sync_directory")


class OneFault(SystemFiles):
    """Fails its ``nth`` call."""

    def __init__(self) -> None:
        self.nth = -1
        self.code = 0

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if name in (
            "create",
            "reopen",
            "write",
            "sync",
            "close",
            "link",
            "remove",
            "sync_directory",
        ):
            self.nth -= 1
            if self.nth == -1:
                if name == "close":  # it is gone even if this fails
                    return lambda descriptor: (os.close(descriptor), self._fail())
                return lambda *_: self._fail()
        return found

    def _fail(self) -> None:
        raise OSError(self.code, os.strerror(self.code))


FAULTS = 500
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EMFILE)
SIZES = (10, 70_000, 140_000)
ACCEPTED = re.compile(r'to="?<(f\d+)@.*verdict=accepted')


def test_five_hundred_faults_of_the_disk_and_nothing_acknowledged_is_missing(
    tmp_path: Path,
) -> None:
    chance = random.Random(11)
    clock, files, log = FakeClock(1), OneFault(), list[str]()
    server = Server(
        Settings(
            hostname="mx.example.test", transactions=10**6, errors_hard=10**6, errors_soft=10**6
        ),
        ServerBackends(
            resolver=NoResolver(),
            courier=MaildirCourier(tmp_path, "mx", clock, random.Random(1), files=files),
        ),
        clock=clock,
        poll=SelectorPoll(clock),
        random=random.Random(2),
        event_log=EventLog(clock, log.append),
    )
    listener = server.listen(bind("127.0.0.1", 0))
    acknowledged = []
    with socket.create_connection(listener.address, timeout=PATIENCE_S) as client:

        def said(octets: bytes) -> bytes:
            client.sendall(octets)
            for _ in range(20):
                server.loop.dispatch(server.loop.now_ns)
            return client.recv(65536)

        said(b"EHLO a.example\r\n")
        for number in range(FAULTS):
            files.nth = -1
            to = f"RCPT TO:<f{number}@example.org>\r\n".encode()
            said(b"MAIL FROM:<a@example.org>\r\n" + to + b"DATA\r\n")
            files.code = chance.choice(ERRORS)
            files.nth = chance.randrange(12)
            content = b"x" * chance.choice(SIZES)
            reply = said(f"Subject: f{number}\r\n\r\n".encode() + content + b"\r\n.\r\n")
            if reply.startswith(b"250"):
                acknowledged.append(f"f{number}")
            else:
                assert reply.startswith((b"451", b"452")), reply
    files.nth = -1
    listener.close()
    lines = "".join(log).splitlines()
    accepted = [found[1] for line in lines if (found := ACCEPTED.search(line))]
    assert 50 < len(acknowledged) < FAULTS
    assert sorted(stored(tmp_path)) == sorted(acknowledged) == sorted(accepted)
