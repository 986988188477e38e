"""A next hop that tells of each stage that it reaches, so that its client can be killed there.

It takes what it is sent and keeps it all: recipients whose address begins with "nobody" alone are
refused.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import BinaryIO

from process import PATIENCE_S

STAGES = (
    *("connected", "EHLO", "MAIL", "RCPT", "refused", "DATA", "content", "dot", "replied"),
    *("notice MAIL", "notice dot", "notice replied"),
)
"""Commands came and have no reply yet; "content": some of it came; "dot": all of it; "refused" and
"replied": the reply is sent."""


@dataclass
class Taken:
    """A message that was taken from the ``server``th process.  ``is_known``: its client went on
    afterwards, and so has read the reply."""

    sender: str
    recipients: list[str]
    content: bytes
    server: int
    is_known: bool = False


class KillingHop:
    """Listens on ``port``.  ``on_stage`` is called in the thread of a connection."""

    def __init__(self) -> None:
        self.on_stage: Callable[[str], object] = lambda stage: None
        self.taken: list[Taken] = []
        self.senders: list[tuple[int, str]] = []
        """Of transactions that ended, each with the number of the server."""
        self.server = 0
        self._changes: SimpleQueue[None] = SimpleQueue()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def wait_for(self, what: Callable[[], bool]) -> bool:
        """Whether ``what`` holds before patience is over."""
        while not what():
            try:
                self._changes.get(timeout=PATIENCE_S)
            except Empty:
                return False
        return True

    def keep(self, taken: Taken) -> None:
        self.taken.append(taken)
        self._changes.put(None)

    def end(self, server: int, sender: str) -> None:
        """A transaction ended."""
        self.senders.append((server, sender))
        self._changes.put(None)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                talk = _Conversation(self, sock)
                threading.Thread(target=talk.run, daemon=True).start()


class _Conversation:
    def __init__(self, hop: KillingHop, sock: socket.socket) -> None:
        self._hop = hop
        self._sock = sock
        self._server = hop.server
        self._last: Taken | None = None
        self._sender = ""
        self._recipients: list[str] = []

    def run(self) -> None:
        with suppress(OSError), self._sock, self._sock.makefile("rb") as file:
            self._sock.settimeout(PATIENCE_S)
            self._hop.on_stage("connected")
            self._say("220 hop.example.test ESMTP")
            while line := file.readline():
                self._read(line)
                if not self._answer(line.decode().strip(), file):
                    return

    def _say(self, line: str) -> None:
        self._sock.sendall(f"{line}\r\n".encode())

    def _read(self, line: bytes) -> None:
        """A command came whole: the reply before it is known."""
        if self._last is not None and line.endswith(b"\n"):
            self._last.is_known = True

    def _answer(self, line: str, file: BinaryIO) -> bool:
        verb = line.upper().partition(" ")[0]
        address = line.partition("<")[2].partition(">")[0]
        is_notice = not self._sender
        if verb == "MAIL":
            self._sender, self._recipients = address, []
            is_notice = not address
        if verb in STAGES:
            self._hop.on_stage(f"notice {verb}" if is_notice and verb == "MAIL" else verb)
        if verb == "EHLO":
            self._say("250-hop.example.test\r\n250-PIPELINING\r\n250 8BITMIME")
        elif verb == "RCPT" and address.startswith("nobody"):
            self._say("550 5.1.1 no such user")
            self._hop.on_stage("refused")
        elif verb == "DATA" and not self._recipients:
            self._end_transaction()
            self._say("554 5.5.1 no recipients")
        elif verb == "DATA":
            self._say("354 go ahead")
            return self._take(file)
        elif verb == "QUIT":
            self._say("221 2.0.0 bye")
            return False
        else:
            if verb == "RCPT":
                self._recipients.append(address)
            if verb == "RSET":
                self._end_transaction()
            self._say("250 2.0.0 ok")
        return True

    def _take(self, file: BinaryIO) -> bool:
        lines: list[bytes] = []
        while (line := file.readline()) != b".\r\n":
            if not line.endswith(b"\n"):
                return False
            lines.append(line[1:] if line.startswith(b".") else line)
            if len(lines) == 3:
                self._hop.on_stage("content")
        kind = "" if self._sender else "notice "
        content = b"".join(lines)
        self._last = Taken(self._sender, self._recipients, content, self._server)
        self._hop.keep(self._last)
        self._hop.on_stage(f"{kind}dot")
        self._end_transaction()
        self._say("250 2.0.0 taken")
        self._hop.on_stage(f"{kind}replied")
        return True

    def _end_transaction(self) -> None:
        self._hop.end(self._server, self._sender)
