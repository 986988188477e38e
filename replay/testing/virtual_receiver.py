"""A scripted receiver in virtual time: the next hop, to which the server under test delivers.

server = mail_server(delivery="relay=192.0.2.25")
hop = server.receiver("192.0.2.25")
...
hop.expect_open()
hop.send("220 mx.example.org ESMTP")
hop.expect("EHLO")
"""

from __future__ import annotations

import re
from collections import deque

from replay.play.tls_client import DONE
from replay.play.virtual_link import VirtualLink
from replay.play.virtual_time import Harness
from replay.smtp.commands import CONTENT, CommandReader, ReceivedCommand
from replay.testing.sender import Unexpected, line_octets, wait_ns
from replay.transcript.duration import format_ns
from replay.transcript.script import SMTP_PORT

_VERB = re.compile(rf"[A-Z]{{1,16}}|{CONTENT}")


class VirtualReceiver:
    """Takes the next connection that the server opens to ``address`` and that no receiver before
    it takes.  All instants count from the server's start, in nanoseconds.

    ``commands`` keeps all that has come whole.  ``opened_at_ns`` is None until the server has
    connected, ``end`` "eof" or "reset" once it has ended the connection.
    """

    def __init__(self, harness: Harness, address: str, port: int = SMTP_PORT) -> None:
        self._name = f"receiver at {address}"
        self._harness = harness
        self._link: VirtualLink | None = None
        self._reader = CommandReader()
        self._unread: deque[ReceivedCommand] = deque()
        self._held: bytes | None = None
        self._handshake = ""
        self.commands: list[ReceivedCommand] = []
        self.opened_at_ns: int | None = None
        self.end = ""
        self.end_at_ns = 0
        harness.receive(address, port, self._opened)

    # -- what a test says -------------------------------------------------------------------------

    def expect_open(self) -> int:
        """Wait for the server to connect, and return when it did.  Raises Unexpected."""
        __tracebackhide__ = True
        while self.opened_at_ns is None:
            self._await("the server to connect")
        return self.opened_at_ns

    def expect(self, verb: str) -> ReceivedCommand:
        """Wait for one whole command with this verb, or for "content", and return it.

        Raises Unexpected for another one, and when none can come any more.
        """
        __tracebackhide__ = True
        if not isinstance(verb, str) or not _VERB.fullmatch(verb):
            raise ValueError(f'expect takes a verb, such as "MAIL", or "{CONTENT}", not {verb!r}')
        while not self._unread:
            if self.end:
                raise Unexpected(f"{self} expected {verb}, but {self._how_it_ended}")
            self._await(verb)
        command = self._unread.popleft()
        if command.verb != verb:
            came = f"came at {format_ns(command.at_ns)}: {_shown(command)}"
            raise Unexpected(f"{self._name} expected {verb}, {came}")
        return command

    def send(self, line: str | bytes, pause: float = 0) -> None:
        """Send ``line``, text with a CRLF behind it or octets exactly as given; then let ``pause``
        seconds pass."""
        __tracebackhide__ = True
        octets, pause_ns = line_octets(line), wait_ns(pause)
        link = self._connected()
        self._reader.replied(octets)
        self._harness.send(link, octets)
        self._pass(pause_ns)

    def starttls(self, line: str | bytes = "220 2.0.0 Ready to start TLS") -> None:
        """Send ``line``, nothing if it is empty, and shake hands as the server.

        Raises Unexpected if the client does not."""
        __tracebackhide__ = True
        link = self._connected()
        if self._handshake or self._held is not None:
            raise ValueError("a connection has one TLS handshake")
        self._held = b""
        if line:
            self._harness.send(link, line_octets(line))
        held, self._held = self._held, None
        link.serve_tls(held)
        self._settle()
        while not self._handshake and not self.end:
            self._await("the TLS handshake")
        if self._handshake != DONE:
            raise Unexpected(f"{self} expected a TLS handshake, but it was refused")

    def wait(self, seconds: float) -> None:
        """Let so many seconds pass."""
        __tracebackhide__ = True
        self._pass(wait_ns(seconds))

    def expect_close(self) -> int:
        """Wait for the server to end the connection, and return when it did.

        Raises Unexpected if a command comes before, or it resets the connection.
        """
        __tracebackhide__ = True
        while not self.end and not self._unread:
            self._await("the server to close")
        if self._unread:
            raise Unexpected(f"{self} expected the server to close, came {_shown(self._unread[0])}")
        if self.end != "eof":
            raise Unexpected(f"{self} expected the server to close, but {self._how_it_ended}")
        return self.end_at_ns

    def half_close(self) -> None:
        """Shut down writing and go on reading."""
        self._connected().half_close()
        self._settle()

    def close(self) -> None:
        """Close both directions."""
        self._connected().close()
        self._settle()

    def reset(self) -> None:
        """Abort with a TCP reset."""
        self._connected().reset()
        self._settle()

    def stop_reading(self) -> None:
        """Leave what the server sends in the kernel."""
        self._connected().reading = False

    def resume_reading(self) -> None:
        """Read again."""
        self._connected().reading = True
        self._settle()

    def release(self) -> None:
        """Close, without waiting for what comes of it; harmless where nothing is open."""
        if self._link is not None:
            self._link.close()
            self._harness.touch(self._link)

    # -- what comes -------------------------------------------------------------------------------

    def _opened(self, link: VirtualLink) -> None:
        self._link = link
        link.on_octets, link.on_end, link.on_handshake = self._received, self._ended, self._shook
        self.opened_at_ns = self._harness.now_ns

    def _received(self, octets: bytes) -> None:
        if self._held is not None:
            self._held += octets
            return
        commands = self._reader.feed(octets, self._harness.now_ns)
        self.commands += commands
        self._unread += commands

    def _ended(self, how: str) -> None:
        self.end, self.end_at_ns = how, self._harness.now_ns

    def _shook(self, outcome: str) -> None:
        self._handshake = outcome

    # -- inside -----------------------------------------------------------------------------------

    def _connected(self) -> VirtualLink:
        __tracebackhide__ = True
        if self._link is None:
            raise Unexpected(f"{self}: the server has not connected; expect_open waits for it")
        return self._link

    def _pass(self, ns: int) -> None:
        self._harness.run_until(self._harness.now_ns + ns)

    def _settle(self) -> None:
        self._harness.touch(self._connected())
        self._harness.settle()

    def _await(self, what: str) -> None:
        __tracebackhide__ = True
        if self._link is not None and self._link.played_gone:
            raise Unexpected(f"{self} waits for {what}, but has itself closed the connection")
        if self._link is not None and not self._link.reading:
            raise Unexpected(f"{self} waits for {what}, but does not read")
        if self._harness.is_over:
            raise Unexpected(f"{self} waits for {what}, but nothing can ever happen again")
        self._harness.step()

    @property
    def _how_it_ended(self) -> str:
        did = "reset" if self.end == "reset" else "ended"
        return f"the server {did} the connection at {format_ns(self.end_at_ns)}"

    def __str__(self) -> str:
        return f"{self._name} at {format_ns(self._harness.now_ns)}"


def _shown(command: ReceivedCommand) -> str:
    return command.octets[:200].decode("utf-8", "backslashreplace").rstrip("\r\n")
