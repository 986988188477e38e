"""One played connection, whatever its time: when its sender goes on, and what its actions do.

What the drivers in virtual and in real time add is the link, the agenda, and what they are told of
arrivals.
"""

from __future__ import annotations

from typing import Protocol

from replay.play.conditions import Conditions, Patience
from replay.play.observed import ObservedConnection, listener_of
from replay.play.schedule import Schedule
from replay.transcript import script
from replay.transcript.claims.claim import Then
from replay.transcript.script import ScriptedConnection

RECEIVED_OCTETS_MAX = 8 * 1024 * 1024
"""From one server to one sender: the sender of more is disconnected from."""


class Link(Protocol):
    """The connection of a played end, as far as actions need it."""

    reading: bool
    """Whether it reads what comes, or leaves it in the kernel."""

    def start_tls(self) -> None:
        """Begin a TLS handshake."""

    def serve_tls(self, octets: bytes) -> None:
        """Wait for a TLS handshake, of which ``octets`` have arrived already."""

    def half_close(self) -> None:
        """Send a FIN and go on reading."""

    def close(self) -> None:
        """Close; harmless when closed."""

    def reset(self) -> None:
        """Abort with a reset segment."""


class Player:
    """Plays one connection's departures and listens to what comes from its peer.

    ``by_claims``: at a server that may answer anything, the sender goes on as its claims say.
    ``speed`` divides every wait of the sender's.
    """

    def __init__(
        self, connection: ScriptedConnection, by_claims: Patience | None, speed: float = 1
    ) -> None:
        self._conditions = Conditions(connection, by_claims) if by_claims else None
        self._schedule = Schedule(connection, speed, self._goes_on if by_claims else None)
        self._scheduled = False
        self._receives = connection.plays_receiver
        self._received_octets = 0
        self._held = b""  # arrived for a handshake that this end has yet to begin
        self.observed = ObservedConnection(connection.name, [None] * len(self._schedule))
        self._listener = listener_of(self.observed, receiver=self._receives)

    @property
    def wait_ns(self) -> int:
        """How long to wait for something to happen, from the last time that something did; for one
        that plays by its claims."""
        assert self._conditions is not None
        received, waits = len(self.observed.replies), self._schedule.waits
        return self._conditions.wait_ns(self._schedule.gone, received, waits=waits)

    def _goes_on(self, replies: int) -> bool:
        assert self._conditions is not None
        return self._conditions.stop(self.observed.replies, replies) is Then.GO_ON

    def _holds(self, octets: bytes) -> bool:
        """Keep what arrived, if it is for a handshake that this end has yet to begin."""
        if not self._receives:
            return False
        following = self._schedule.next
        if following is None or not isinstance(following.action, script.StartTls):
            return False
        self._held += octets
        return True

    def _act(self, action: script.Action, link: Link) -> None:
        """Do what is done with the link alone; sending is not."""
        match action:
            case script.StartTls() if self._receives:
                held, self._held = self._held, b""
                link.serve_tls(held)
            case script.StartTls():
                link.start_tls()
            case script.HalfClose():
                link.half_close()
            case script.Close():
                link.close()
            case script.Reset():
                link.reset()
            case script.StopReading():
                link.reading = False
            case script.ResumeReading():
                link.reading = True
