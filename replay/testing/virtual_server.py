"""The scripted client in virtual time, and a server for it to talk to.

    with VirtualServer(idle_timeout_s=60) as server:
        sender = server.sender("192.0.2.1")
        sender.expect(220)
        assert sender.expect(421).at_ns == 60 * NS_PER_S

Time moves only while somebody waits: a sender for a reply or through a pause, or the test itself
in ``advance``.  Several senders are several objects, and all of them hear what comes meanwhile.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Mapping
from types import TracebackType

from mailsrv.runtime.clock import FakeClock
from replay.play.fakes.world import DeliveredMessage, World, settings_from
from replay.play.harness import Harness
from replay.play.mailsrv_harness import MailsrvHarness
from replay.play.tls_client import DONE
from replay.smtp.replies import ReceivedReply, ReplyReader
from replay.testing.sender import Script, Unexpected, check, check_code, wait_ns, wire_octets
from replay.transcript.duration import format_ns

CLIENT = "192.0.2.1"
"""The address that the server sees, unless a sender says otherwise."""


class Sender:
    """One connection; it is open when this is made.

    ``replies`` keeps everything that was heard.  All instants count from the opening, in
    nanoseconds of virtual time.
    """

    def __init__(self, harness: Harness, client: str = CLIENT, name: str = "") -> None:
        __tracebackhide__ = True
        _check_address(client)
        self._harness = harness
        self._name = f"sender {name or client}"
        self._began_ns = harness.now_ns
        self._reader = ReplyReader()
        self._unread: deque[ReceivedReply] = deque()
        self._end = ""
        self._end_at_ns = 0
        self.client = client
        self.replies: list[ReceivedReply] = []
        self._handshake = ""
        self._shaking = False
        self._link = harness.connect(client, self._hear, self._ended)
        self._link.on_handshake = self._shook_hands
        harness.settle()

    @property
    def elapsed_ns(self) -> int:
        """Nanoseconds since the connection was opened."""
        return self._harness.now_ns - self._began_ns

    # -- a script's two words ---------------------------------------------------------------------

    def expect(self, code: int) -> ReceivedReply:
        """Wait for one whole reply, all of its lines, and give it.

        Raises Unexpected for another code, and as soon as no reply can come any more.
        """
        __tracebackhide__ = True
        check_code(code)
        while not self._unread:
            if self._end:
                raise Unexpected(f"{self} expected {code}, but {self._how_it_ended()}")
            self._wait(f"a reply {code}")
        return check(code, self._unread.popleft(), f"{self._name} ")

    def send(self, line: str | bytes, pause: float = 0) -> None:
        """Let ``pause`` seconds go by, then write ``line``: text with a CRLF behind it, octets
        exactly as given.

        A server that has ended the connection is no error here: the next ``expect`` tells.
        """
        __tracebackhide__ = True
        octets = wire_octets(line)
        self._pause(pause)
        self._harness.send(self._link, octets)

    def play(self, script: Script) -> None:
        """Play the steps of ``script`` one after another."""
        __tracebackhide__ = True
        for step in script:
            step(self.expect, self.send)

    # -- what else a sender does ------------------------------------------------------------------

    def silence(self, seconds: float) -> None:
        """Say nothing for so long.  Raises Unexpected if the server says anything or leaves."""
        __tracebackhide__ = True
        self._pause(seconds)
        if self._unread:
            heard = self._unread[0]
            raise Unexpected(
                f"{self} expected silence, came at {format_ns(heard.at_ns)}: {heard.text}"
            )
        if self._end:
            raise Unexpected(f"{self} expected silence, but {self._how_it_ended()}")

    def expect_close(self) -> int:
        """Wait for the server to end its direction, and give the instant at which it did.

        Raises Unexpected if it says something before, or resets the connection.
        """
        __tracebackhide__ = True
        while not self._end and not self._unread:
            self._wait("the server to close")
        if self._unread:
            heard = self._unread[0]
            raise Unexpected(
                f"{self} expected the server to close, "
                f"came at {format_ns(heard.at_ns)}: {heard.text}"
            )
        if self._end != "eof":
            raise Unexpected(f"{self} expected the server to close, but {self._how_it_ended()}")
        return self._end_at_ns

    def starttls(self, pause: float = 0) -> None:
        """Shake hands, and from here on speak under TLS.

        Raises Unexpected if the server refuses, ends the connection, or never answers.
        """
        __tracebackhide__ = True
        self._pause(pause)
        if self._shaking:
            raise ValueError("a connection has one TLS handshake")
        self._shaking = True
        self._link.start_tls()
        self._settle()
        while not self._handshake:
            self._wait("the TLS handshake")
        if self._handshake != DONE:
            end = f", {self._how_it_ended()}" if self._end else ""
            raise Unexpected(f"{self} expected a TLS handshake, but it was refused{end}")

    def half_close(self, pause: float = 0) -> None:
        """Shut down writing and go on listening."""
        __tracebackhide__ = True
        self._pause(pause)
        self._link.half_close()
        self._settle()

    def close(self, pause: float = 0) -> None:
        """Close both directions."""
        __tracebackhide__ = True
        self._pause(pause)
        self.let_go()
        self._harness.settle()

    def reset(self, pause: float = 0) -> None:
        """Abort with a TCP reset."""
        __tracebackhide__ = True
        self._pause(pause)
        self._link.reset()
        self._settle()

    def stop_reading(self) -> None:
        """Leave what the server says in the kernel."""
        self._link.reading = False

    def resume_reading(self) -> None:
        """Read again."""
        self._link.reading = True
        self._settle()

    def let_go(self) -> None:
        """Close, without waiting for what comes of it."""
        self._link.close()
        self._harness.touch(self._link)

    # -- time, and what arrives -------------------------------------------------------------------

    def _pause(self, seconds: float) -> None:
        __tracebackhide__ = True
        self._harness.run_until(self._harness.now_ns + wait_ns(seconds))

    def _settle(self) -> None:
        self._harness.touch(self._link)
        self._harness.settle()

    def _wait(self, what: str) -> None:
        __tracebackhide__ = True
        if self._link.client_gone:
            raise Unexpected(f"{self} waits for {what}, but has itself closed the connection")
        if not self._link.reading:
            raise Unexpected(f"{self} waits for {what}, but does not read")
        if self._harness.next_ns() is None:
            raise Unexpected(f"{self} waits for {what}, but nothing can ever happen again")
        self._harness.step()

    def _hear(self, octets: bytes) -> None:
        replies = self._reader.feed(octets, self.elapsed_ns)
        self._unread += replies
        self.replies += replies

    def _shook_hands(self, outcome: str) -> None:
        self._handshake = outcome

    def _ended(self, how: str) -> None:
        self._end, self._end_at_ns = how, self.elapsed_ns

    def _how_it_ended(self) -> str:
        did = "reset" if self._end == "reset" else "ended"
        return f"the server {did} the connection at {format_ns(self._end_at_ns)}"

    def __str__(self) -> str:
        return f"{self._name} at {format_ns(self.elapsed_ns)}"


def _check_address(client: object) -> None:
    __tracebackhide__ = True
    try:
        ipaddress.ip_address(client if isinstance(client, str) else "")
    except ValueError:
        message = f"a sender comes from an IPv4 or IPv6 address, such as {CLIENT}, not {client!r}"
        raise ValueError(message) from None


class VirtualServer:
    """The shipped server with a fake clock and a fake world around it.

    ``settings`` are those of ``mailsrv.settings.Settings``; ``world`` is a transcript header's
    [world] table, and ``world`` of the object takes more of it at any time.  Use it as a context
    manager: leaving it shuts the server down and raises Leaked if anything is left, ServerFault
    if the server met a defect of its own.  Raises WorldError for settings or a world that cannot
    be.
    """

    def __init__(self, world: Mapping[str, object] | None = None, **settings: object) -> None:
        self.harness = MailsrvHarness(settings_from(settings), world)
        self._senders: list[Sender] = []

    def __enter__(self) -> VirtualServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for sender in self._senders:
            sender.let_go()
        self.harness.__exit__(kind, error, trace)

    def sender(self, client: str = CLIENT) -> Sender:
        """Open a connection that the server sees coming from ``client``."""
        __tracebackhide__ = True
        same = sum(sender.client == client for sender in self._senders)
        name = f"{client} (number {same + 1})" if same else client
        self._senders.append(Sender(self.harness, client, name))
        return self._senders[-1]

    def advance(self, seconds: float) -> None:
        """Let time pass: all that happens before its end, not the timers due at its end."""
        __tracebackhide__ = True
        self.harness.run_until(self.harness.now_ns + wait_ns(seconds, "an advance"))

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the server began."""
        return self.harness.now_ns

    @property
    def clock(self) -> FakeClock:
        """The server's clock; to move it, use ``advance``."""
        return self.harness.clock

    @property
    def world(self) -> World:
        """The fakes: ``world.dns``, ``world.reputation``, ``world.delivery``."""
        return self.harness.world

    @property
    def messages(self) -> list[DeliveredMessage]:
        """The messages that got their 250."""
        return self.harness.world.delivery.accepted

    @property
    def log(self) -> list[str]:
        """The server's log lines."""
        return self.harness.log
