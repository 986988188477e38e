"""Five hundred faults of the disk: what is acknowledged is stored and logged."""

from __future__ import annotations

import errno
import os
import random
import re
import socket
from pathlib import Path

from conversing import HOSTNAME
from process import PATIENCE_S
from spooling import ROOMY, kept

from mailsrv.delivery.files import SystemFiles
from mailsrv.delivery.spool.spool import Spool
from mailsrv.policy.lookups import NoResolver
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.poll import SystemPoll
from mailsrv.server import Server, ServerBackends
from mailsrv.settings import Settings
from mailsrv.telemetry.event_log import EventLog

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
    spool = Spool(tmp_path / "spool", HOSTNAME, clock, ROOMY, files=files)
    server = Server(
        Settings(
            hostname="mx.example.test", transactions=10**6, errors_hard=10**6, errors_soft=10**6
        ),
        ServerBackends(
            resolver=NoResolver(),
            courier=spool,
        ),
        clock=clock,
        poll=SystemPoll(clock),
        random=random.Random(2),
        event_log=EventLog(clock, log.append),
    )
    spool.attach(server.loop)
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
    assert FAULTS // 10 < len(acknowledged) < FAULTS
    subjects = [
        found[1].decode()
        for content in kept(spool).values()
        if (found := re.match(rb"Subject: (f\d+)\r?\n", content))
    ]
    spool.close()
    assert sorted(subjects) == sorted(acknowledged) == sorted(accepted)
