"""The shipped server in virtual time, with everything around it that a run needs."""

from __future__ import annotations

import os
import random
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self, cast

from mailsrv.policy.greylist import Greylist
from mailsrv.policy.recipients import Directory
from mailsrv.runtime.clock import FakeClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.memory_budget import MemoryBudget
from mailsrv.runtime.poll import READ, Handler, Ready, SystemPoll
from mailsrv.server import Server, ServerBackends, ServerParts, parts_of
from mailsrv.settings import Settings
from mailsrv.smtp.envelope import Envelope
from mailsrv.smtp.trace import trace_fields
from mailsrv.telemetry.metrics import Metrics
from mailsrv.transport.tls_context import server_context
from mailsrv.transport.transport import TransportOwner
from mailsrv.units import NS_PER_MS
from replay.play import sockets
from replay.play.fakes.tables import WorldError
from replay.play.fakes.world import (
    DeliveredMessage,
    World,
    delivery_from,
    settings_from,
    world_from,
)
from replay.play.kept_log import KeptLog, LogLines
from replay.play.receivers import Receivers
from replay.play.tls_client import CERTIFICATE, KEY
from replay.play.virtual_link import ServerEnd, VirtualLink
from replay.play.virtual_time import Harness

if TYPE_CHECKING:
    from mailsrv.config.file import Config
    from mailsrv.daemon.outgoing import Outgoing

SETTINGS_KEPT, SETTINGS_CHARACTERS_MAX = 64, 4096
"""Different settings that are made once for all runs, with their parts, and how long their text may
be: a megabyte of it makes four."""
_GUARD_WAIT_NS = 20 * NS_PER_MS


class VirtualPoll(SystemPoll):
    """Says what is ready now; never waits, since time does not pass by itself."""

    def __init__(self) -> None:
        super().__init__(FakeClock())  # which stands still
        self.answers: list[Handler] = []
        self.watched = 0
        self.found = 0

    def watch(self, sock: socket.socket, events: int, handler: Handler) -> None:
        super().watch(sock, events, handler)
        self.watched += 1

    def forget(self, sock: socket.socket) -> None:
        super().forget(sock)
        self.watched -= 1

    def wait(self, until_ns: int | None) -> Ready:
        ready = super().wait(0)
        if self.answers:
            ready = [*((answer.number, answer, READ) for answer in self.answers), *ready]
            self.answers.clear()
        self.found = len(ready)
        return ready

    def wait_really(self) -> None:
        """Leave the kernel a moment of real time; only on the way to ``Stalled``."""
        super().wait(_GUARD_WAIT_NS)


class SharedByRuns:
    """What the servers of many runs share, one run after another: parts that never change, and a
    listening socket.

    Each server has a descriptor of its own for the socket, which it closes.  What connected and was
    not accepted is no client of the next run's: then the socket is replaced, and its queue reset.
    Use it as a context manager.
    """

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        self._settings: dict[str, tuple[Settings, dict[str, object]]] = {}  # by a header's text
        self._parts_of = lru_cache(SETTINGS_KEPT)(parts_of)
        self._runs = 0

    def settings_of(self, server: Mapping[str, object]) -> tuple[Settings, dict[str, object]]:
        """The settings of a header's [server] table, and what it says of the mail's ways out.
        Raises WorldError."""
        text = repr(server)
        known = self._settings.get(text)
        if known is None:
            known = settings_from(server), delivery_from(server)
            if len(text) <= SETTINGS_CHARACTERS_MAX:
                if len(self._settings) >= SETTINGS_KEPT:
                    self._settings.clear()
                self._settings[text] = known
        return known

    def parts_of(self, settings: Settings, tls: bool, dsn: bool) -> ServerParts:
        """As ``mailsrv.server.parts_of``; kept for settings that are kept."""
        is_kept = any(one is settings for one, _ in self._settings.values())
        return (self._parts_of if is_kept else parts_of)(settings, tls, dsn)

    def begin(self) -> int:
        """A run begins, and has not counted its descriptors yet: see that nothing is connected to
        the socket.  Returns how many runs there were before.  Raises OSError."""
        if self._sock is None or _is_connected_to(self._sock):
            self.close()
            self._sock = bind(sockets.LISTEN_HOST, 0)
        self._runs += 1
        return self._runs - 1

    def listening_socket(self) -> socket.socket:
        """That of the server of a run that has begun.  Raises OSError."""
        assert self._sock is not None
        return self._sock.dup()

    def close(self) -> None:
        """Close the socket; harmless when closed."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_connected_to(listening: socket.socket) -> bool:
    try:
        listening.accept()[0].close()
    except BlockingIOError:
        return False
    except OSError:
        pass  # a client that has gone again
    return True


class _Answer:
    """An answer of a fake.  It reaches the server as a real one would: through the loop, in a
    pass of its own, with the clock read and faults caught."""

    number = 0

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def ready(self, events: int) -> None:
        self._act()


class MailsrvHarness(Harness):
    """One run against the shipped server.

    ``settings`` and ``world`` are a scenario's, ``delivery`` what its [server] says of where mail
    goes: without it the courier is faked.  ``stub`` is the server's own resolver where the world
    has name servers for it.  ``shared`` is what this run shares with others; without it the run
    shares nothing.
    """

    def __init__(
        self,
        settings: Settings,
        world: Mapping[str, object] | None = None,
        *,
        seed: int = 0,
        greylist: Callable[[FakeClock], Greylist] | None = None,
        delivery: Mapping[str, object] | None = None,
        shared: SharedByRuns | None = None,
    ) -> None:
        super().__init__(runs_before=shared.begin() if shared else 0)
        self._arriving: VirtualLink | None = None
        self._folder: TemporaryDirectory[str] | None = None
        self._hostname = settings.hostname
        self.world: World = world_from(world or {}, self._call_later, self._trace_of)
        self.receivers: Receivers = Receivers(self.world.hosts, lambda: self.now_ns, self._moved)
        self.metrics = Metrics()
        self.page = self.metrics.page
        journal = KeptLog(self.clock, self.metrics)
        self.log: LogLines = journal.kept
        nameserver = self.world.nameserver
        self.stub = nameserver.resolver(seed, journal.note) if nameserver else None
        directory = Directory.of(settings, self.world.recipients)
        memory = MemoryBudget(settings.memory_octets)
        self.outgoing: Outgoing | None = None
        backends = ServerBackends(
            resolver=self.stub or self.world.resolver,
            reputation=self.world.reputation,
            courier=self.world.courier,
            greylist=greylist(self.clock) if greylist else None,
            directory=directory,
            tls=_server_tls() if self.world.tls else None,
            dsn=True,  # the faked courier takes any promise on
        )
        if delivery:
            # With spool, queue and next hops, which most runs have no use for.
            from mailsrv.daemon.outgoing import Network, Outgoing

            outgoing = partial(
                Outgoing,
                clock=self.clock,
                journal=journal,
                memory=memory,
                dice=random.Random(f"delivery {seed}"),
                network=Network(self.receivers.dial, CERTIFICATE, self),
            )
            backends = self._with_ways_out(settings, delivery, outgoing, backends)
        self._poll = VirtualPoll()  # a descriptor: of no scenario that cannot be
        self.server = Server(
            settings,
            backends,
            clock=self.clock,
            poll=self._poll,
            random=random.Random(seed),
            event_log=journal,
            peer_name=self._client_of,
            tap=self,
            memory=memory,
            parts_of=shared.parts_of if shared else parts_of,
        )
        if self.outgoing is not None:
            self.outgoing.attach(self.server.loop)
        if self.stub is not None:
            self.stub.attach(self.server.loop)
        implicit_tls = self.world.tls == "implicit"
        listening = shared.listening_socket() if shared else bind(sockets.LISTEN_HOST, 0)
        self.address = self.server.listen(listening, implicit_tls=implicit_tls).address

    def _with_ways_out(
        self,
        settings: Settings,
        delivery: Mapping[str, object],
        make: Callable[[Config], Outgoing],
        backends: ServerBackends,
    ) -> ServerBackends:
        """``backends`` with the shipped spool and queue.  Raises WorldError."""
        from mailsrv.config.validation import ConfigError
        from mailsrv.daemon.backends import behind_aliases
        from replay.play.fakes.config import config_from
        from replay.play.fakes.watched_courier import WatchedCourier

        folder = self._folder = _temporary_folder()
        try:
            config = config_from(settings, delivery, Path(folder.name))
            if config.spool_folder is None:
                return backends  # what is thrown away is taken as by the faked courier
            outgoing = self.outgoing = make(config)
            assert backends.directory is not None
            outgoing.use(outgoing.prepare(config, backends.directory), backends.resolver)
        except ConfigError as error:
            folder.cleanup()
            raise WorldError("server", error.complaints[0]) from None
        except WorldError:
            folder.cleanup()
            raise
        courier = WatchedCourier(behind_aliases(outgoing, config), self._trace_of)
        self.world.courier = courier
        return replace(
            backends,
            courier=courier,
            dsn=config.keeps_dsn_promises,
            callout=outgoing.callouts,
        )

    @property
    def accepted(self) -> Sequence[DeliveredMessage]:
        return self.world.delivery.accepted

    def _trace_of(self, envelope: Envelope) -> bytes:
        return trace_fields(envelope, self._hostname, self.clock.realtime_ns())

    # -- time, and the server's passes ------------------------------------------------------------

    def _timer_ns(self) -> int | None:
        wake_ns = self.server.loop.timers.next_wake_ns
        return None if wake_ns is None else wake_ns - self._start_ns

    def _expire(self) -> None:
        self.server.loop.expire()
        self._work_off()

    def _serve(self) -> bool:
        loop = self.server.loop
        loop.dispatch(None)
        found = self._poll.found > 0
        if loop.backlog:
            self._work_off()
        return found

    def _work_off(self) -> None:
        """Let the server do all that it has put off; nothing of it belongs to a later instant."""
        while self.server.loop.backlog:
            self.server.loop.dispatch(None)

    def _wait_really(self) -> None:
        self._poll.wait_really()

    def _call_later(self, delay_ns: int, act: Callable[[], None]) -> None:
        self.at(self.now_ns + delay_ns, lambda: self._answer(act))

    def _answer(self, act: Callable[[], None]) -> None:
        self._poll.answers.append(_Answer(act))
        self.server.loop.dispatch(None)
        self._work_off()

    # -- its peers' names, and its tap ------------------------------------------------------------

    def _client_of(self, address: tuple[str, int]) -> str:
        self._arriving, client = self._arrived(address)
        return client

    plaintext = False

    def opened(self, connection: TransportOwner, sock: socket.socket) -> None:
        # An accepted socket may have been reset, and know its peer no more.
        link = self._dialled.pop(sock, None) or self._arriving
        self._arriving = None
        if link is not None:  # else nobody is at its other end
            link.server = cast(ServerEnd, connection)
            self._links[connection] = link

    def received(self, connection: TransportOwner, octets: bytes) -> None:
        link = self._links.get(connection)
        if link is None:
            return
        link.server_received += len(octets)
        if not octets:
            link.server_eof = True

    def sent(self, connection: TransportOwner, octets: bytes) -> None:
        link = self._links[connection]
        link.server_sent += len(octets)
        if not octets:
            link.server_fin = True
        self._unsettled.add(link)

    def secured(self, connection: TransportOwner, tls: str) -> None:
        """Nothing: octets are counted as they are on the wire."""

    def lost(self, connection: TransportOwner, how: str) -> None:
        """Nothing: it is closed next."""

    def closed(self, connection: TransportOwner) -> None:
        link = self._links.pop(connection, None)
        if link is not None:
            link.server_gone = True
            self._unsettled.add(link)

    # -- the end ----------------------------------------------------------------------------------

    def _stop(self) -> None:
        self.server.stop()
        if self.outgoing is not None:
            self.outgoing.stop()

    def _stopped(self) -> bool:
        return self.server.done and (self.outgoing is None or self.outgoing.done)

    def _release(self) -> None:
        self.server.loop.dispatch(None)
        if self.outgoing is not None:
            self.outgoing.close()
            self.server.loop.dispatch(None)
        if self.stub is not None:
            self.stub.close()

    def _faults(self) -> list[str]:
        return self.log.of("fault")

    def _left(self) -> list[str]:
        left = []
        if timers := len(self.server.loop.timers):
            left.append(f"{timers} timers")
        if self._poll.watched:
            left.append(f"{self._poll.watched} watched sockets")
        if self.server.connections:
            left.append(f"{len(self.server.connections)} connections")
        if held := self.server.memory.held_octets:
            left.append(f"{held} octets in the memory budget")
        courier = self.world.courier
        if open_sinks := courier.begun - courier.aborted - len(courier.messages):
            left.append(f"{open_sinks} messages neither finished nor aborted")
        return left

    def take_apart(self) -> None:
        """Forget everything, once the run is over.  Its parts refer to one another in circles, and
        would wait for the garbage collector, which took a twentieth of all time."""
        for part in (self.server.loop, self.server, self):
            vars(part).clear()

    def _close(self) -> None:
        self._poll.close()
        self.receivers.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _temporary_folder() -> TemporaryDirectory[str]:
    """For files that no scenario is about: in memory, where the system has a place."""
    in_memory = "/dev/shm"
    return TemporaryDirectory(
        prefix="mailsrv-", dir=in_memory if os.access(in_memory, os.W_OK) else None
    )


@cache
def _server_tls() -> ssl.SSLContext:
    """What every server under test that has a certificate shakes hands with."""
    return server_context(CERTIFICATE, KEY)
