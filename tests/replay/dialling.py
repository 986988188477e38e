"""A mail client in a few lines, on the loop of a server in virtual time: for tests of receivers."""

from __future__ import annotations

from collections.abc import Sequence

from mailsrv.runtime.poll import READ
from mailsrv.transport.transport import Transport
from replay.play.mailsrv_harness import MailsrvHarness
from replay.smtp.replies import ReplyReader


class ToyClient:
    """Connects to a receiver and sends the next of ``flights`` after each of its replies; closes
    when it has none left, or the receiver does."""

    number = -1
    reading = True

    def __init__(
        self, harness: MailsrvHarness, flights: Sequence[bytes], to: str = "192.0.2.25"
    ) -> None:
        self._harness = harness
        self._flights = list(flights)
        self._replies = ReplyReader()
        self.refused: OSError | None = None
        self.replies: list[bytes] = []
        self.closed = False
        try:
            self.sock = harness.receivers.dial(to, 25)
        except OSError as error:
            self.refused = error
            return
        poll = harness.server.loop.poll
        self._transport = Transport(self.sock, poll, self, harness)
        harness.opened(self, self.sock)

    @property
    def pending_octets(self) -> int:
        return self._transport.unsent_octets

    def ready(self, events: int) -> None:
        if not events & READ:
            self._transport.resume()
            self._transport.watch(True)
            return
        octets = self._transport.receive(65536)
        if octets is None:
            return
        replies = self._replies.feed(octets, 0)
        self.replies += [one.octets for one in replies]
        for _ in replies:
            if self._flights and not self.closed:
                self._transport.send([self._flights.pop(0)])
                self._transport.watch(True)
            elif not self.closed:
                self._close()
        if not octets and not self.closed:
            self._close()

    def _close(self) -> None:
        self.closed = True
        self._harness.server.loop.poll.forget(self.sock)
        self.sock.close()
        self._harness.closed(self)

    def lost(self, how: str) -> None:
        if not self.closed:
            self._close()

    def laborious(self) -> None:
        """Nothing: it is in no hurry."""
