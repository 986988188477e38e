"""The virtual driver: plays a scenario against a server in virtual time, in no time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from replay.play.conditions import Patience
from replay.play.fakes.world import DeliveredMessage
from replay.play.mailsrv_harness import MailsrvHarness, SharedByRuns
from replay.play.observed import ObservedConnection, Trace
from replay.play.player import RECEIVED_OCTETS_MAX, Link, Player
from replay.play.receivers import Dialled
from replay.play.tls_client import DONE
from replay.play.virtual_link import VirtualLink
from replay.play.virtual_time import Harness
from replay.transcript import script
from replay.transcript.claims.claim import Then
from replay.transcript.script import Scenario, ScriptedConnection

VIRTUAL_NS_MAX = 1000 * 24 * 3600 * 1_000_000_000
"""A scenario may last a thousand days."""

_TRACED_AS: dict[type[script.Action], str] = {
    script.Open: "Open",
    script.Listen: "Listen",
    script.SendOctets: "Send",
    script.StartTls: "StartTls",
    script.HalfClose: "HalfClose",
    script.HalfCloseAtOnce: "HalfCloseAtOnce",
    script.Close: "Close",
    script.Reset: "Reset",
    script.StopReading: "StopReading",
    script.ResumeReading: "ResumeReading",
    script.UntilClosed: "UntilClosed",
    script.Abandon: "Abandon",
}
"""What the trace hash calls each action: words of its own, so that hashes outlive a renaming."""


@dataclass(frozen=True, slots=True)
class VirtualRun:
    """What a run showed.  ``log`` holds the server's lines, ``messages`` what it replied 250 to
    (None where that cannot be seen), ``metrics`` returns the page of what it counted.
    ``submissions`` are the senders of the world's own messages and what became of them, ``dialled``
    the connections that no receiver took.
    """

    connections: tuple[ObservedConnection, ...]
    virtual_ns: int
    trace_hash: str
    log: Sequence[str]
    messages: tuple[DeliveredMessage, ...] | None
    metrics: Callable[[], str] = field(default=str, compare=False, repr=False)
    submissions: tuple[tuple[ScriptedConnection, ObservedConnection], ...] = ()
    dialled: tuple[Dialled, ...] = ()


Play = Callable[[Scenario], VirtualRun]
"""Plays a scenario; ``play`` is the one that there is, and tests have their own."""


class VirtualDriver:
    """Plays scenarios against the shipped server, one run after another.

    Nothing of a run reaches the next one: each has a server, a clock and a world of its own.  What
    never changes is shared, and made once for equal settings.  Use it as a context manager.
    """

    def __init__(self) -> None:
        self._shared = SharedByRuns()

    def __call__(self, scenario: Scenario, *, seed: int = 0) -> VirtualRun:
        """Run ``scenario``.

        Raises WorldError for a header that cannot be, and what ``play_at`` raises.
        """
        settings, delivery = self._shared.settings_of(scenario.server)
        harness = MailsrvHarness(
            settings, scenario.world, seed=seed, delivery=delivery, shared=self._shared
        )
        run = play_at(harness, scenario, harness.world.submissions)
        harness.take_apart()
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shared.close()


def play(scenario: Scenario, *, seed: int = 0) -> VirtualRun:
    """Run ``scenario`` alone; see ``VirtualDriver``."""
    with VirtualDriver() as driver:
        return driver(scenario, seed=seed)


def play_at(
    harness: Harness,
    scenario: Scenario,
    submissions: Sequence[ScriptedConnection] = (),
    by_claims: Patience | None = None,
) -> VirtualRun:
    """Run ``scenario``, and ``submissions`` beside it, against the server of ``harness``, and shut
    that down.

    ``by_claims``: at a server that may answer anything, the senders go on, wait and leave as their
    claims say; else they wait for whatever may yet come.

    Raises Stalled, Leaked or ServerFault when the run itself went wrong; a server that answers
    something else is no exception but a result.
    """
    trace = Trace()
    written = scenario.connections
    with harness:
        players = [
            VirtualPlayer(harness, trace, number, connection, by_claims)
            for number, connection in enumerate((*written, *submissions))
        ]
        for player in players:
            player.schedule()
        harness.settle()
        _play_out(harness, players, by_claims)
        for player in players:
            player.conclude()
        virtual_ns = harness.now_ns
    seen = [player.observed for player in players]
    return VirtualRun(
        tuple(seen[: len(written)]),
        virtual_ns,
        trace.hexdigest(),
        harness.log,
        None if harness.accepted is None else tuple(harness.accepted),
        harness.page,
        submissions=tuple(zip(submissions, seen[len(written) :], strict=True)),
        dialled=() if harness.receivers is None else tuple(harness.receivers.unexpected),
    )


def _play_out(
    harness: Harness, players: Sequence[VirtualPlayer], by_claims: Patience | None
) -> None:
    """Let everything happen until all players are done, or nothing more will come."""
    for player in players:
        while not player.done:
            if harness.is_over or harness.now_ns >= VIRTUAL_NS_MAX:
                return
            if by_claims and _waited_enough(harness, players):
                return
            harness.step()


def _waited_enough(harness: Harness, players: Sequence[VirtualPlayer]) -> bool:
    """Whether nothing will happen for as long as the claims make the senders wait; then that time
    has passed."""
    next_ns = harness.next_ns()
    if harness.departs or next_ns is None:
        return False
    until_ns = harness.moved_ns + max(player.wait_ns for player in players if not player.done)
    if next_ns <= until_ns:
        return False
    harness.run_until(until_ns)
    return True


class VirtualPlayer(Player):
    """Plays one connection on a link of the harness."""

    def __init__(
        self,
        harness: Harness,
        trace: Trace,
        number: int,
        connection: ScriptedConnection,
        by_claims: Patience | None = None,
    ) -> None:
        super().__init__(connection, by_claims)
        self._harness = harness
        self._trace = trace
        self._number = number
        self._link: VirtualLink | None = None
        self._abandoned = False
        self._is_traced = True
        self.done = False

    def schedule(self) -> None:
        """Put the next departure on the harness's agenda, if it is known when it goes."""
        if self.done or self._scheduled or self._schedule.over:
            return
        if self._conditions is not None and self._schedule.is_stopped:
            self._leave()
            return
        due_ns = self._schedule.due_ns()
        if due_ns is None:
            self._give_up_if_over()
            return
        self._scheduled = True
        self._harness.at(due_ns, self._depart)

    def _leave(self) -> None:
        """The sender does not go on, and closes, for what comes from then on is no part of the
        session; but where the server is to end the connection, it waits for that."""
        assert self._conditions is not None
        replies = self.observed.replies
        then = self._conditions.stop(replies, len(replies))
        if self.observed.end or then is not Then.END:
            self._abandoned = self.done = True
            self._close()

    def conclude(self) -> None:
        """The run is over: say what a script that is not finished was waiting for."""
        self._close()
        self._link = None
        if not self.done:
            self.observed.waits_for = self._schedule.waits_for

    def _give_up_if_over(self) -> None:
        """The server has ended the connection: the reply that is waited for will never come."""
        if self.observed.end:
            self.conclude()
            self.done = True

    # -- departures -------------------------------------------------------------------------------

    def _depart(self) -> None:
        harness, link, schedule = self._harness, self._link, self._schedule
        self.observed.departed_ns[schedule.gone] = harness.now_ns
        action = schedule.depart().action
        self._scheduled = False
        sends = isinstance(action, script.SendOctets)
        octets = action.octets if isinstance(action, script.SendOctets) else b""
        if self._is_traced:
            self._trace.departure(self._number, harness.now_ns, _TRACED_AS[type(action)], octets)
        is_held = _half_closes_at_once(schedule.next)
        if sends:
            if link is not None:
                self._listener.sent(octets)
                harness.send(link, octets, hold=is_held)
        elif isinstance(action, script.Open):
            self._open(action.client)
        elif isinstance(action, script.Listen):
            harness.receive(action.address, action.port, self._opened)
        elif link is not None:
            self._act(action, link)
            harness.touch(link)
        if is_held:
            self._depart()
            return
        harness.settle()
        if self._abandoned or (not sends and self._is_last(action)):
            self.done = True
        self.schedule()

    def _is_last(self, action: script.Action) -> bool:
        """Whether nothing follows ``action``, which has left."""
        if isinstance(action, script.UntilClosed):
            return bool(self.observed.end)
        return isinstance(action, (script.Close, script.Reset))

    def _open(self, client: str) -> None:
        try:
            self._link = self._harness.connect(client, self._received, self._ended)
        except OSError as error:
            self._give_up(f"a connection: {error.strerror or error}")
        else:
            self._link.on_handshake = self._shook_hands

    def _give_up(self, waits_for: str) -> None:
        """The script cannot go on."""
        self._abandoned = self.done = True
        self.observed.waits_for = waits_for
        self._close()

    def _act(self, action: script.Action, link: Link) -> None:
        if isinstance(action, script.Abandon):
            self._abandoned = self._conditions is None
        elif isinstance(action, script.StartTls) and not self._receives:
            self._is_traced = self._is_traced and self._harness.knows_client_hello
        super()._act(action, link)

    # -- arrivals ---------------------------------------------------------------------------------

    def _opened(self, link: VirtualLink) -> None:
        """A client has connected."""
        now_ns = self._harness.now_ns
        self._link = link
        link.on_octets, link.on_end = self._received, self._ended
        link.on_handshake = self._shook_hands
        self.observed.opened_at_ns = now_ns
        self._trace.opened(self._number, now_ns)
        self._schedule.came(1, now_ns)
        self.schedule()

    def _received(self, octets: bytes) -> None:
        if self._abandoned:
            return
        if self._holds(octets):
            return
        now_ns = self._harness.now_ns
        if self._is_traced:
            self._trace.arrival(self._number, now_ns, octets)
        self._schedule.came(self._listener.received(octets, now_ns), now_ns)
        self.schedule()
        self._received_octets += len(octets)
        if self._received_octets > RECEIVED_OCTETS_MAX:
            self._give_up(f"an end of what the server says, for {RECEIVED_OCTETS_MAX} octets")

    def _shook_hands(self, outcome: str) -> None:
        if self._abandoned:
            return
        now_ns = self._harness.now_ns
        self._is_traced = self._is_traced or outcome == DONE
        if self._is_traced:
            self._trace.handshake(self._number, now_ns, outcome)
        self._listener.shook_hands(outcome, now_ns)

    def _ended(self, how: str) -> None:
        if self._abandoned:
            return
        now_ns = self._harness.now_ns
        if self._is_traced:
            self._trace.end(self._number, now_ns, how)
        self._listener.ended(how, now_ns)
        if self._schedule.over:
            self.done = True
            self._close()
        else:
            self.schedule()

    def _close(self) -> None:
        if self._link is not None and not self._link.played_gone:
            self._link.close()
            self._harness.touch(self._link)


def _half_closes_at_once(following: script.Departure | None) -> bool:
    """Whether ``following`` leaves in one flight with what leaves now."""
    if following is None or not isinstance(following.action, script.HalfCloseAtOnce):
        return False
    return following.anchor == script.After(0)
