"""The scripted sender in virtual time, and a server for it to talk to.

    with VirtualServer(idle_timeout_s=60) as server:
        sender = server.sender("192.0.2.1")
        sender.expect(220)
        assert sender.expect(421).at_ns == 60 * NS_PER_S

Time moves only while a sender waits for a reply or through a pause, and in ``advance``.  Several
senders are several objects, and each of them receives what comes meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from mailsrv.runtime.clock import FakeClock
from replay.play.fakes.tables import WorldError
from replay.play.fakes.world import DeliveredMessage, World, delivery_from, settings_from
from replay.play.mailsrv_harness import MailsrvHarness
from replay.play.virtual_time import Harness
from replay.smtp.replies import ReceivedReply
from replay.testing.sender import (
    CLIENT,
    Script,
    Sender,
    Unexpected,
    check_address,
    wait_ns,
)
from replay.testing.virtual_receiver import VirtualReceiver
from replay.transcript.script import SMTP_PORT


class VirtualSender(Sender):
    """A sender on a link of a harness; time passes only while it waits."""

    def __init__(self, harness: Harness, client: str = CLIENT, name: str = "") -> None:
        __tracebackhide__ = True
        check_address(client)
        super().__init__(f"sender {name or client}")
        self._harness = harness
        self._began_ns = harness.now_ns
        self.client = client
        self._link = harness.connect(client, self._inbox.received, self._inbox.ended)
        self._link.on_handshake = self._inbox.shook_hands
        harness.settle()

    @property
    def elapsed_ns(self) -> int:
        return self._harness.now_ns - self._began_ns

    def half_close(self) -> None:
        self._link.half_close()
        self._settle()

    def close(self) -> None:
        self.release()
        self._harness.settle()

    def reset(self) -> None:
        self._link.reset()
        self._settle()

    def stop_reading(self) -> None:
        self._link.reading = False

    def resume_reading(self) -> None:
        self._link.reading = True
        self._settle()

    def release(self) -> None:
        """Close, without waiting for what comes of it."""
        self._link.close()
        self._harness.touch(self._link)

    # -- time and octets --------------------------------------------------------------------------

    def _send(self, octets: bytes) -> None:
        self._harness.send(self._link, octets)

    def _start_tls(self) -> None:
        self._link.start_tls()
        self._settle()

    def _pass(self, ns: int) -> None:
        self._harness.run_until(self._harness.now_ns + ns)

    def _settle(self) -> None:
        self._harness.touch(self._link)
        self._harness.settle()

    def _await(self, what: str, since_ns: int) -> None:
        __tracebackhide__ = True
        if self._link.played_gone:
            raise Unexpected(f"{self} waits for {what}, but has itself closed the connection")
        if not self._link.reading:
            raise Unexpected(f"{self} waits for {what}, but does not read")
        if self._harness.is_over:
            raise Unexpected(f"{self} waits for {what}, but nothing can ever happen again")
        self._harness.step()


class ServerInVirtualTime:
    """A server in virtual time, and the senders that talk to it.  Use it as a context manager."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self._senders: list[VirtualSender] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for sender in self._senders:
            sender.release()
        self.harness.__exit__(kind, error, trace)

    def sender(self, client: str = CLIENT) -> VirtualSender:
        """Open a connection that the server sees coming from ``client``."""
        __tracebackhide__ = True
        same = sum(sender.client == client for sender in self._senders)
        name = f"{client} (number {same + 1})" if same else client
        self._senders.append(VirtualSender(self.harness, client, name))
        return self._senders[-1]

    def session(self, script: Script, client: str = CLIENT) -> list[ReceivedReply]:
        """Play ``script`` from a connection of its own; returns all of its replies.

        Raises Unexpected.
        """
        __tracebackhide__ = True
        sender = self.sender(client)
        sender.play(script)
        return sender.replies

    def advance(self, seconds: float) -> None:
        """Let time pass: all that happens before its end, not the timers due at its end."""
        __tracebackhide__ = True
        self.harness.run_until(self.harness.now_ns + wait_ns(seconds, "an advance"))

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the server began."""
        return self.harness.now_ns

    @property
    def log(self) -> list[str]:
        """The server's log lines."""
        return list(self.harness.log)


class VirtualServer(ServerInVirtualTime):
    """The shipped server with a fake clock and a fake world around it.

    ``settings`` are those of ``mailsrv.settings.Settings``; ``world`` is a transcript header's
    [world] table, and ``world`` of the object takes more of it at any time.  Leaving it shuts the
    server down and raises Leaked if anything is left, ServerFault if the server met a defect of its
    own.  Raises WorldError for settings or a world that cannot be.
    """

    harness: MailsrvHarness

    def __init__(self, world: Mapping[str, object] | None = None, **settings: object) -> None:
        if world and "messages" in world:
            raise WorldError("world.messages", "stands in transcripts; a test has senders")
        delivery = delivery_from(settings)
        super().__init__(MailsrvHarness(settings_from(settings), world, delivery=delivery))
        self._receivers: list[VirtualReceiver] = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for receiver in self._receivers:
            receiver.release()
        super().__exit__(kind, error, trace)

    def receiver(self, address: str, port: int = SMTP_PORT) -> VirtualReceiver:
        """Take the next connection that the server opens to ``address``, where no receiver made
        before takes it.  Raises ValueError for what is no IP address."""
        __tracebackhide__ = True
        self._receivers.append(VirtualReceiver(self.harness, address, port))
        return self._receivers[-1]

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
