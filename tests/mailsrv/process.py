"""Runs ``mailsrv serve`` as a process, for tests of what only a process can show.

Nothing here waits for time to pass: each wait is for a line, an answer or an end, and ends with
an error when a busy machine's patience is over.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30
_PROGRAM = "import sys; from mailsrv.cli import main; sys.exit(main())"


def high_descriptor(sock: socket.socket) -> int:
    """A duplicate with a free number from 100 on.  ``dup2`` to a number of one's own choice would
    close whatever this process has there."""
    return fcntl.fcntl(sock, fcntl.F_DUPFD, 100)


class Lines:
    """The lines of a stream, as they come."""

    def __init__(self, stream: IO[str]) -> None:
        self.seen: list[str] = []
        self._queue: Queue[str | None] = Queue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def until(self, *parts: str, or_begins: str | None = None) -> str:
        """The next line that contains ``parts``, or begins with ``or_begins``."""
        while True:
            try:
                line = self._queue.get(timeout=PATIENCE_S)
            except Empty:
                line = None
            assert line is not None, f"nothing with {parts} after {self.seen}"
            self.seen.append(line)
            if all(part in line for part in parts) or (or_begins and line.startswith(or_begins)):
                return line

    def rest(self) -> list[str]:
        """Everything up to the end of the stream."""
        while (line := self._queue.get(timeout=PATIENCE_S)) is not None:
            self.seen.append(line)
        return self.seen


class Process:
    """A running server.  ``port`` is that of its first listener."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None and process.stderr is not None
        self.process = process
        self.said = Lines(process.stdout)
        self.log = Lines(process.stderr)
        self.port = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def listening(self) -> int:
        """The port of the next listener that it speaks of."""
        line = self.said.until(": listening on ")
        found = re.search(r":(\d+)( with TLS)?$", line)
        assert found is not None, line
        return int(found[1])

    def metrics_port(self) -> int:
        found = re.search(r":(\d+)/metrics$", self.said.until("metrics at "))
        assert found is not None
        return int(found[1])

    def ring(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def client(self, port: int | None = None) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", port or self.port, timeout=PATIENCE_S)

    def deliver(self, port: int | None = None) -> None:
        """Send a small message."""
        with self.client(port) as client:
            client.sendmail("a@example.org", ["b@example.test"], "Subject: x\r\n\r\nhello\r\n")

    def end(self) -> list[str]:
        """Stop it in order; everything it ever logged."""
        self.ring(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0
        return self.log.rest()


@contextmanager
def serving(
    directory: Path,
    config: str | None = None,
    options: Sequence[str] = ("--listen", "127.0.0.1:0", "--delivery", "discard"),
    *,
    environment: Mapping[str, str] = {},
    pass_fds: Sequence[int] = (),
    listens: bool = True,
    before: str = "",
) -> Iterator[Process]:
    """A server with ``config`` as its mailsrv.toml in ``directory``; it is ended with the block.

    ``before`` is Python that runs in the new process before the program.
    """
    arguments = [*options]
    if config is not None:
        (directory / "mailsrv.toml").write_text(config)
        arguments += ["--config", str(directory / "mailsrv.toml")]
    process = subprocess.Popen(
        [sys.executable, "-c", f"{before}\n{_PROGRAM}", "serve", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )
    running = Process(process)
    try:
        if listens:
            running.port = running.listening()
        yield running
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def http(port: int, path: str) -> tuple[int, str]:
    """Status and body of a GET."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


def fields(line: str) -> dict[str, str]:
    """The values of a line of the log."""
    words = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)', line)
    return {key: json.loads(value) if value.startswith('"') else value for key, value in words}
