"""One played end in real time: leaves when its schedule says, and listens to what comes."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import Protocol

from mailsrv.units import NS_PER_S
from replay.play import sockets
from replay.play.conditions import Patience
from replay.play.player import RECEIVED_OCTETS_MAX, Player
from replay.play.real_link import RealLink
from replay.play.target import Target, bind_client, loopback_address
from replay.play.tls_client import Verify
from replay.smtp.proxy_header import proxy_header
from replay.transcript import script
from replay.transcript.claims.claim import Then
from replay.transcript.script import ScriptedConnection

PATIENCE_NS = 30 * NS_PER_S
"""How much longer than the transcript says the server may take for what is waited for."""
REPLIES_MAX = 10_000
"""More than are expected: the server that sends more is disconnected from, too."""
FAREWELL_NS = NS_PER_S
"""How long a sender that does not go on waits for the answer to its QUIT."""

_QUIT = b"QUIT\r\n"
_START_MAIL_INPUT = 354


@dataclass(frozen=True, slots=True)
class RealtimeOptions:
    """How to play.

    ``speed`` divides every wait of the senders'; where nothing happens for ``wait_max_ns`` but a
    sender's waiting, its next departure leaves.  ``proxy`` is a version of the PROXY protocol, 0
    for none.  ``verify`` says which certificates are good; left out: all.  ``by_claims`` plays at a
    server that may answer anything: a sender goes on after what the claims let it go on after, and
    the times of the transcript's expectations say nothing about how long to wait.
    """

    speed: float = 1
    wait_max_ns: int | None = None
    patience_ns: int = PATIENCE_NS
    proxy: int = 0
    verify: Verify | None = None
    by_claims: Patience | None = None


class PlayersRun(Protocol):
    """What a player needs of the run that it is in."""

    @property
    def target(self) -> Target | None:
        """None where receivers are played."""

    @property
    def options(self) -> RealtimeOptions: ...

    @property
    def now_ns(self) -> int:
        """Real nanoseconds since the run began."""

    @property
    def skipped_ns(self) -> int:
        """How much further script time is."""

    def at(self, due_ns: int, player: RealtimePlayer) -> None:
        """Let ``player`` depart at ``due_ns`` of script time."""

    def listen(self, player: RealtimePlayer) -> None:
        """``player`` takes the next connection that none before it takes."""

    def came(self, now_ns: int) -> None:
        """Something has come that the script waits for."""

    def look_at(self, player: RealtimePlayer) -> None:
        """Something happened to ``player``: wait for what its link wants from here on."""


class RealtimePlayer(Player):
    """Plays one connection on a socket of its own.

    ``watched`` is what the run waits for on the link; ``failure`` says why there is none.
    """

    def __init__(self, run: PlayersRun, connection: ScriptedConnection) -> None:
        super().__init__(connection, run.options.by_claims, run.options.speed)
        self.run = run
        self._replies = sum(
            isinstance(one.outcome, script.UTTERANCES) for one in connection.expectations()
        )
        self._ending: script.Action | None = None
        self._given_up = self._is_leaving = False
        self.link: RealLink | None = None
        self.watched = 0
        self.failure = ""

    @property
    def done(self) -> bool:
        """True when there is nothing left to do or to wait for."""
        if self._given_up:
            return True
        match self._ending:
            case script.Close():
                return self.link is None or self.link.gone
            case script.Abandon():  # it goes when the record ended; here replies may take longer
                return bool(self.observed.end) or len(self.observed.utterances) >= self._replies
            case script.UntilClosed():
                return bool(self.observed.end)
        return self._ending is not None

    @property
    def next_line(self) -> int:
        """Where the next departure stands."""
        return 0 if self._schedule.next is None else self._schedule.next.line

    def schedule(self) -> None:
        """Put the next departure on the agenda, if it is known when it goes."""
        if self._given_up or self._scheduled or self._schedule.over:
            return
        if self._schedule.is_stopped:
            self._leave()
            return
        due_ns = self._schedule.due_ns()
        if due_ns is not None:
            self._scheduled = True
            self.run.at(due_ns, self)
        elif self.observed.end:  # the reply that is waited for will never come
            self._give_up(self._schedule.waits_for)

    def conclude(self) -> None:
        """The run is over: say what a script that is not finished was waiting for."""
        if not self.done:
            ending = isinstance(self._ending, script.Close)
            self._give_up("the server to read" if ending else self._schedule.waits_for)

    def release(self) -> None:
        """Close the socket, whatever the script says."""
        if self.link is not None:
            self.link.release()

    def _leave(self) -> None:
        """The sender does not go on: it takes its leave, and what comes from then on is no part of
        the session; but where the server is to end the connection, it waits for that."""
        assert self._conditions is not None
        replies, link = self.observed.replies, self.link
        then = self._conditions.stop(replies, len(replies))
        if self.observed.end or link is None or link.gone:
            self._give_up("")
        elif then is Then.END or self._is_leaving:
            return
        elif replies[-1].code == _START_MAIL_INPUT:
            self._give_up("")  # a QUIT would be content
        else:
            self._is_leaving = True
            link.send(_QUIT)
            self.run.at(self.run.now_ns + self.run.skipped_ns + FAREWELL_NS, self)

    def _give_up(self, waits_for: str) -> None:
        self._given_up = True
        self.observed.waits_for = waits_for
        self.release()

    # -- departures -------------------------------------------------------------------------------

    def depart(self, now_ns: int) -> int | None:
        """Let what is due leave; returns by how much it was late, None if it did not leave."""
        due_ns = self._schedule.due_ns()
        self._scheduled = False
        if self._is_leaving:
            self._give_up("")
        if self._given_up or due_ns is None:
            return None
        late_ns = now_ns + self.run.skipped_ns - due_ns
        self.observed.departed_ns[self._schedule.gone] = now_ns
        action = self._schedule.depart().action
        if isinstance(action, script.Open):
            self._open(action.client)
        elif isinstance(action, script.Listen):
            self.run.listen(self)
        elif isinstance(action, script.SendOctets):
            self._send(action.octets)
        elif self.link is not None:
            self._act(action, self.link)
        if isinstance(action, script.ENDINGS):
            self._ending = action
        if isinstance(action, script.UntilClosed) and self.observed.end:
            self.release()
        self.schedule()
        return late_ns

    def _open(self, client: str) -> None:
        target, options = self.run.target, self.run.options
        assert target is not None, "senders are played at a server"
        try:
            sock = sockets.sender_socket(target.family)
            sock.setblocking(False)
        except OSError as error:
            self.failed(error)
            return
        self.link = RealLink(sock, self, options.verify)
        if target.on_loopback and not options.proxy:
            with contextlib.suppress(OSError):  # a kernel that has 127.0.0.1 and no other
                bind_client(sock, loopback_address(client))
        self.link.connect(target.address)
        if options.proxy and not self.link.gone:
            port = sock.getsockname()[1]
            self.link.send(proxy_header(options.proxy, client, port, target.address))

    def _send(self, octets: bytes) -> None:
        if self.link is None:
            return
        following = self._schedule.next
        if following and isinstance(following.action, script.HalfCloseAtOnce):
            self.link.hold_back()
        self._listener.sent(octets)
        self.link.send(octets)

    # -- what comes -------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        """The link's socket is ready."""
        if self.link is not None:
            self.link.ready(events)

    def accepted(self, sock: socket.socket) -> None:
        """A client has connected."""
        now_ns = self.run.now_ns
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.link = RealLink(sock, self)
        self.link.connected = True
        self.observed.opened_at_ns = now_ns
        self.run.came(now_ns)
        self._schedule.came(1, now_ns + self.run.skipped_ns)
        self.schedule()

    def received(self, octets: bytes) -> None:
        if self._is_leaving:
            self._give_up("")
            return
        now_ns = self.run.now_ns
        self._received_octets += len(octets)
        if self._holds(octets):
            return
        came = self._listener.received(octets, now_ns)
        if came and len(self.observed.utterances) - came < self._replies:
            self.run.came(now_ns)
        self._schedule.came(came, now_ns + self.run.skipped_ns)
        self.schedule()
        if len(self.observed.replies) > REPLIES_MAX + self._replies:
            self._give_up(f"an end of what the server says, for {REPLIES_MAX} replies")
        elif self._received_octets > RECEIVED_OCTETS_MAX:
            self._give_up(f"an end of what the server says, for {RECEIVED_OCTETS_MAX} octets")

    def shook_hands(self, outcome: str) -> None:
        now_ns = self.run.now_ns
        self.run.came(now_ns)
        self._listener.shook_hands(outcome, now_ns)

    def ended(self, how: str) -> None:
        if self._is_leaving:
            self._give_up("")
            return
        now_ns = self.run.now_ns
        self.run.came(now_ns)
        self._listener.ended(how, now_ns)
        if self._schedule.over:
            self.release()
        else:
            self.schedule()

    def failed(self, error: OSError) -> None:
        self.failure = error.strerror or str(error)
        self._give_up(f"a connection: {self.failure}")
