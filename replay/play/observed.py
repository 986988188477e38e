"""What one run of a scenario showed: departures, replies, ends, and the hash over all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from replay.smtp.commands import CommandReader, ReceivedCommand
from replay.smtp.replies import ReceivedReply, ReplyReader


@dataclass(slots=True)
class ObservedConnection:
    """One connection's history; instants are nanoseconds since the run began.

    ``departed_ns`` holds, for each departure of the script in order, when it went, or None.
    ``end`` is "eof", "reset" or "" while the peer has not ended the connection; ``handshake``
    is "done", "refused" or "" while there is no outcome of a TLS handshake.  ``waits_for`` says
    in words what a script that could not go on was waiting for.  Where a receiver is played there
    are ``commands`` instead of replies, and ``opened_at_ns``, None while no client has connected.
    """

    name: str
    departed_ns: list[int | None] = field(default_factory=list)
    replies: list[ReceivedReply] = field(default_factory=list)
    rest: bytes = b""
    end: str = ""
    end_at_ns: int = 0
    handshake: str = ""
    handshake_at_ns: int = 0
    waits_for: str = ""
    commands: list[ReceivedCommand] = field(default_factory=list)
    opened_at_ns: int | None = None

    @property
    def utterances(self) -> Sequence[ReceivedReply | ReceivedCommand]:
        """What the peer said whole."""
        return self.commands or self.replies


class Trace:
    """Hashes every departure, arrival, virtual time and octet, in the order they happened.

    What arrives at one sender at one instant, with no departure of its own in between, counts as
    one arrival: how the kernel divided it is no part of the conversation.  Under TLS the octets
    are those before encryption and behind decryption, for records vary in length.
    """

    __slots__ = ("_arrival", "_hash")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._arrival: tuple[int, int] | None = None

    def departure(self, connection: int, at_ns: int, what: str, octets: bytes = b"") -> None:
        self._arrival = None
        self._hash.update(b"\nD %d %d %s %d " % (connection, at_ns, what.encode(), len(octets)))
        self._hash.update(octets)

    def opened(self, connection: int, at_ns: int) -> None:
        """A client has connected to a played receiver."""
        self._arrival = None
        self._hash.update(b"\nO %d %d" % (connection, at_ns))

    def arrival(self, connection: int, at_ns: int, octets: bytes) -> None:
        if self._arrival != (connection, at_ns):
            self._arrival = connection, at_ns
            octets = b"\nA %d %d %s" % (connection, at_ns, octets)
        self._hash.update(octets)

    def end(self, connection: int, at_ns: int, how: str) -> None:
        self._arrival = None
        self._hash.update(b"\nE %d %d %s" % (connection, at_ns, how.encode()))

    def handshake(self, connection: int, at_ns: int, outcome: str) -> None:
        self._arrival = None
        self._hash.update(b"\nH %d %d %s" % (connection, at_ns, outcome.encode()))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class ReplyListener:
    """Turns what arrives at one sender into an ``ObservedConnection``."""

    __slots__ = ("_reader", "observed")

    def __init__(self, observed: ObservedConnection) -> None:
        self.observed = observed
        self._reader = ReplyReader()

    def received(self, octets: bytes, at_ns: int) -> int:
        """Take what arrived; returns how many replies it made whole."""
        reader, observed = self._reader, self.observed
        replies = reader.feed(octets, at_ns)
        observed.replies += replies
        observed.rest = reader.rest
        return len(replies)

    def sent(self, octets: bytes) -> None:
        """The played end sends these octets."""

    def ended(self, how: str, at_ns: int) -> None:
        self.observed.end, self.observed.end_at_ns = how, at_ns

    def shook_hands(self, outcome: str, at_ns: int) -> None:
        self.observed.handshake, self.observed.handshake_at_ns = outcome, at_ns


class CommandListener(ReplyListener):
    """The same for a receiver."""

    __slots__ = ("_commands",)

    def __init__(self, observed: ObservedConnection) -> None:
        super().__init__(observed)
        self._commands = CommandReader()

    def received(self, octets: bytes, at_ns: int) -> int:
        """Take what arrived; returns how many commands it made whole."""
        commands = self._commands.feed(octets, at_ns)
        self.observed.commands += commands
        self.observed.rest = self._commands.rest
        return len(commands)

    def sent(self, octets: bytes) -> None:
        self._commands.replied(octets)


def listener_of(observed: ObservedConnection, *, receiver: bool) -> ReplyListener:
    """What listens for the played end."""
    return CommandListener(observed) if receiver else ReplyListener(observed)
