"""An SMTP server of a few lines that does what it is told to do wrong.  No test."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from replay.play.target import Target, resolve
from replay.play.tls_client import CERTIFICATE, KEY

HOST = "127.0.0.1"
GOOD = {
    "": b"220 mx.example.test\r\n",
    "EHLO": b"250-mx.example.test\r\n250-CHUNKING\r\n250 STARTTLS\r\n",
    "HELO": b"250 mx.example.test\r\n",
    "MAIL": b"250 Ok\r\n",
    "RCPT": b"250 Ok\r\n",
    "DATA": b"354 Go on\r\n",
    ".": b"250 Queued\r\n",
    "BDAT": b"250 Ok\r\n",
    "NOOP": b"250 Ok\r\n",
    "STAR": b"220 Go on\r\n",
    "AUTH": b"235 Welcome\r\n",
    "QUIT": b"221 Bye\r\n",
}
"""Replies by the first four letters of a command; "" is the greeting, "." the end of data."""


@dataclass
class Manners:
    """How a server behaves.  ``replies`` stand in place of the good ones; an empty one is silence.

    It closes behind what ``closes_behind`` names, and after ``idle_s`` of silence.  With
    ``keeps_buffer`` what came behind STARTTLS is a command under TLS.  ``commands`` and
    ``messages`` are what it was told and what it accepted.  More than ``connections_max`` at a time
    get the ``refusal`` alone.  With ``needs_whole_lines`` a line end that is cut in two is lost.
    """

    replies: dict[str, bytes] = field(default_factory=dict)
    closes_behind: str = "QUIT"
    ends_data: bytes = rb"(?:^|\r\n)\.\r\n"
    idle_s: float = 10
    implicit_tls: bool = False
    keeps_buffer: bool = False
    needs_whole_lines: bool = False
    connections_max: int = 1000
    refusal: bytes = b"421 Too many\r\n"
    present: list[str] = field(default_factory=list)
    commands: list[bytes] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def scripted(manners: Manners, *, connections: int = 1, waits: bool = True) -> Iterator[Target]:
    """The server, for so many connections, each in a thread of its own; at the end it ``waits`` for
    all of them, or closes its door."""
    listener = socket.create_server((HOST, 0))
    threads: list[threading.Thread] = []

    def serve() -> None:
        with listener:
            for _ in range(connections):
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return  # the door is closed
                thread = threading.Thread(target=_converse, args=(sock, manners), daemon=True)
                thread.start()
                threads.append(thread)

    accepting = threading.Thread(target=serve, daemon=True)
    accepting.start()
    yield resolve(f"{HOST}:{listener.getsockname()[1]}")
    if not waits:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    accepting.join(10)
    for thread in threads:
        thread.join(10)
    assert not accepting.is_alive()


def _converse(sock: socket.socket, manners: Manners) -> None:
    manners.present.append("one")
    with contextlib.suppress(OSError), _Session(sock, manners) as session:
        if len(manners.present) > manners.connections_max:
            sock.sendall(manners.refusal)
        else:
            session.run()
    manners.present.pop()


class _Session:
    def __init__(self, sock: socket.socket, manners: Manners) -> None:
        self._sock = sock
        self._manners = manners
        self._replies = GOOD | manners.replies
        self._buffer = b""

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def run(self) -> None:
        self._sock.settimeout(self._manners.idle_s)
        if self._manners.implicit_tls:
            self._secure()
        if not self._answer(""):
            return
        while (line := self._line()) is not None:
            self._manners.commands.append(line)
            verb = line[:4].upper().decode("latin-1")
            reply = self._replies.get(verb, b"500 What?\r\n")
            if not self._answer(verb):
                return
            if verb == "DATA" and reply.startswith(b"354"):
                if not self._content():
                    return
            elif verb == "STAR" and reply.startswith(b"220"):
                self._secure()
            elif verb == "BDAT":
                self._chunk(line)

    def _answer(self, verb: str) -> bool:
        reply = self._replies.get(verb, b"500 What?\r\n")
        if reply:
            self._sock.sendall(reply)
        return self._manners.closes_behind != verb

    def _more(self) -> bool:
        try:
            octets = self._sock.recv(64 * 1024)
        except (TimeoutError, ssl.SSLError):
            return False
        if self._manners.needs_whole_lines and octets.endswith(b"\r"):
            octets = octets[:-1]
        self._buffer += octets
        return bool(octets)

    def _line(self) -> bytes | None:
        while b"\n" not in self._buffer:
            if not self._more():
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"

    def _content(self) -> bool:
        while not (found := re.search(self._manners.ends_data, self._buffer)):
            if not self._more():
                return False
        content, self._buffer = self._buffer[: found.end()], self._buffer[found.end() :]
        if self._replies["."].startswith(b"2"):
            self._manners.messages.append(content)
        return self._answer(".")

    def _chunk(self, line: bytes) -> None:
        octets = int(line.split()[1])
        while len(self._buffer) < octets and self._more():
            pass
        self._buffer = self._buffer[octets:]

    def _secure(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, KEY)
        if not self._manners.keeps_buffer:
            self._buffer = b""
        self._sock = context.wrap_socket(self._sock, server_side=True)
