"""Kills a server in the middle of its work, again and again, and looks for what it acknowledged.

As a command: ``python tests/mailsrv/killing.py RUNS [SEED]``.
"""

from __future__ import annotations

import random
import re
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from process import PATIENCE_S, Process, serving

CLIENTS = 4
LARGE_OCTETS = 100_000
"""Of a content that lies in a file."""
KILLED_AFTER_MAX = 60
CONFIG = 'log_file = "log"\n'
OPTIONS = ("--listen", "127.0.0.1:0", "--delivery", "maildir=mail")


@dataclass
class Found:
    """What a run showed: acknowledged messages, and how many of them are missing, differ, are
    there twice, or have no line in the log."""

    acknowledged: int = 0
    missing: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    unlogged: list[str] = field(default_factory=list)


class Sender:
    """Sends messages over one connection until the server is gone; ``sent`` is content by id."""

    def __init__(self, port: int, number: int, seed: int, acknowledged: Acknowledged) -> None:
        self._dice = random.Random(f"{seed} {number}")
        self._number = number
        self._port = port
        self._acknowledged = acknowledged
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as sock:
            sock.settimeout(PATIENCE_S)
            file = sock.makefile("rb")
            _expect(file.readline(), b"220")
            sock.sendall(b"HELO client.example\r\n")
            _expect(file.readline(), b"250")
            for count in range(KILLED_AFTER_MAX):
                self._send(sock, file, f"{self._number}.{count}")

    def _send(self, sock: socket.socket, file: object, key: str) -> None:
        octets = LARGE_OCTETS if self._dice.random() < 0.2 else self._dice.randrange(2000)
        text = "".join(self._dice.choices("abcdefgh", k=octets))
        lines = [f"Key: {key}", "", *(text[n : n + 70] for n in range(0, len(text), 70))]
        for line, code in (
            ("MAIL FROM:<a@example.org>", b"250"),
            ("RCPT TO:<b@example.test>", b"250"),
            ("DATA", b"354"),
        ):
            sock.sendall(f"{line}\r\n".encode())
            _expect(file.readline(), code)  # type: ignore[attr-defined]
        sock.sendall("\r\n".join([*lines, ".", ""]).encode())
        reply = file.readline()  # type: ignore[attr-defined]
        _expect(reply, b"250")
        found = re.search(rb"queued as (\w+)", reply)
        assert found is not None
        self._acknowledged.add(found[1].decode(), "\n".join([*lines, ""]).encode())


class Acknowledged:
    """What got its 250; kills the server at the ``killed_after``th."""

    def __init__(self, running: Process, killed_after: int) -> None:
        self.contents: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._running = running
        self._killed_after = killed_after

    def add(self, id_: str, content: bytes) -> None:
        with self._lock:
            self.contents[id_] = content
            if len(self.contents) == self._killed_after:
                self._running.ring(signal.SIGKILL)


def _expect(line: bytes, code: bytes) -> None:
    if not line.startswith(code):
        raise ConnectionError(line)


def killed(folder: Path, seed: int) -> Found:
    """One run: serve, kill, start again, let everything be delivered, and look."""
    dice = random.Random(seed)
    with serving(folder, CONFIG, OPTIONS) as running:
        acknowledged = Acknowledged(running, dice.randrange(1, KILLED_AFTER_MAX))
        senders = [Sender(running.port, n, seed, acknowledged) for n in range(CLIENTS)]
        for sender in senders:
            sender.thread.start()
        for sender in senders:
            sender.thread.join()
        assert running.process.wait(PATIENCE_S) == -signal.SIGKILL
    with serving(folder, CONFIG, OPTIONS) as running:
        running.end()
    return _found(folder, acknowledged.contents)


def _found(folder: Path, acknowledged: dict[str, bytes]) -> Found:
    found = Found(len(acknowledged))
    delivered: dict[str, bytes] = {}
    times: Counter[str] = Counter()
    for path in (folder / "mail" / "new").iterdir():
        id_ = path.name.partition("I")[2].partition(".")[0]
        times[id_] += 1
        delivered[id_] = path.read_bytes()
    log = (folder / "log").read_text()
    for id_, content in acknowledged.items():
        if id_ not in delivered:
            found.missing.append(id_)
        elif not delivered[id_].endswith(b"\n" + content):
            found.differing.append(id_)
        if times[id_] > 1:
            found.twice.append(id_)
        if not re.search(rf"event=message .* id={id_} .*verdict=accepted", log):
            found.unlogged.append(id_)
    return found


def main(runs: int, seed: int) -> int:
    total: Counter[str] = Counter()
    for number in range(seed, seed + runs):
        with tempfile.TemporaryDirectory() as folder:
            found = killed(Path(folder), number)
        total["acknowledged"] += found.acknowledged
        for name in ("missing", "differing", "twice", "unlogged"):
            ids = getattr(found, name)
            total[name] += len(ids)
            if ids:
                print(f"seed {number}: {name}: {ids}", flush=True)
    print(f"{runs} kills: {dict(total)}")
    return 1 if sum(total.values()) > total["acknowledged"] else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
