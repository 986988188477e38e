"""What happened in one part of a load run, and the observer of sessions that counts it.

Two durations belong to each step of a session.  Service time runs from the instant at which the
client really began it (its octets were with the kernel).  Response time runs from the instant at
which it was due by the run's schedule: a client that is late because of the generator, or of an
earlier session, counts as one that waited.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from replay.load.reply_labels import DOT
from replay.smtp.replies import ReceivedReply
from replay.transcript.octets import to_text

COMPLAINTS_MAX = 200
"""Different complaints that are kept; more of the same kind are only counted."""
OTHER_COMPLAINTS = "others"
SHOWN_MAX_CHARACTERS = 100
NS_PER_US = 1000

# -- kinds of errors: why a session was not as its transcript says ---------------------------------

UNEXPECTED = "unexpected reply"
NO_REPLY = "not a reply"
TOO_LONG = "reply too long"
CLOSED = "closed early"
RESET = "reset"
REFUSED = "refused"
TIMEOUT = "timeout"
NO_HANDSHAKE = "no handshake"


def _counts() -> defaultdict[int, int]:
    return defaultdict(int)


def _counts_by_step() -> defaultdict[str, defaultdict[int, int]]:
    return defaultdict(_counts)


@dataclass(slots=True)
class Interval:
    """What happened in one part of a run: the ``number``-th, from 0.

    ``begun``, ``good`` and ``failed`` count sessions, ``messages`` positive replies to whole
    messages, ``errors`` failed sessions by kind, ``complaints`` what exactly was wrong, in words,
    and ``examples`` the reply that was first seen with such a complaint.  ``service`` and
    ``response`` count durations in microseconds by step, ``late_us`` how late sessions began, and
    ``open`` is the most connections that were open at one time, the idle ones not counted.
    """

    number: int = 0
    begun: int = 0
    good: int = 0
    failed: int = 0
    messages: int = 0
    open: int = 0
    replies: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    service: defaultdict[str, defaultdict[int, int]] = field(default_factory=_counts_by_step)
    response: defaultdict[str, defaultdict[int, int]] = field(default_factory=_counts_by_step)
    late_us: defaultdict[int, int] = field(default_factory=_counts)

    def add(self, other: Interval) -> None:
        """Count what another process saw in the same interval."""
        self.begun += other.begun
        self.good += other.good
        self.failed += other.failed
        self.messages += other.messages
        self.open += other.open
        self.replies.update(other.replies)
        self.errors.update(other.errors)
        add_complaints(self.complaints, self.examples, other)
        for mine, theirs in ((self.service, other.service), (self.response, other.response)):
            for step, counts in theirs.items():
                _add_counts(mine[step], counts)
        _add_counts(self.late_us, other.late_us)


def _add_counts(mine: defaultdict[int, int], theirs: Mapping[int, int]) -> None:
    for us, times in theirs.items():
        mine[us] += times


def add_complaints(complaints: Counter[str], examples: dict[str, str], other: Interval) -> None:
    for complaint, times in other.complaints.items():
        kept = room_for(complaint, complaints)
        complaints[kept] += times
        if example := other.examples.get(complaint):
            examples.setdefault(kept, example)


def room_for(complaint: str, complaints: Counter[str]) -> str:
    full = len(complaints) >= COMPLAINTS_MAX and complaint not in complaints
    return OTHER_COMPLAINTS if full else complaint


class Recorder:
    """An observer of sessions that counts in ``part``, and some things from the beginning on."""

    __slots__ = ("failed", "good", "messages", "part")

    def __init__(self) -> None:
        self.part = Interval()
        self.good = self.failed = self.messages = 0

    def next_interval(self, later: int = 1) -> Interval:
        """Count in an interval so many later; returns the one that is over."""
        part, self.part = self.part, Interval(self.part.number + later)
        return part

    def begun(self, late_ns: int | None, active: int) -> None:
        """A session has begun, so late by its schedule if there is one; now so many are open."""
        part = self.part
        part.begun += 1
        part.open = max(part.open, active)
        if late_ns is not None:
            part.late_us[late_ns // NS_PER_US] += 1

    def timed(self, step: str, service_ns: int, response_ns: int) -> None:
        """A step of a session took so long."""
        part = self.part
        part.service[step][service_ns // NS_PER_US] += 1
        part.response[step][response_ns // NS_PER_US] += 1

    def replied(self, label: str, reply: ReceivedReply) -> None:
        """A reply has come."""
        code, part = reply.code, self.part
        part.replies[code] += 1
        if label == DOT and 200 <= code < 300:
            part.messages += 1
            self.messages += 1

    def ended(self, kind: str, complaint: str, reply: ReceivedReply | None) -> None:
        """A session is over; ``kind`` is empty where it was as its transcript says."""
        part = self.part
        if not kind:
            part.good += 1
            self.good += 1
            return
        part.failed += 1
        self.failed += 1
        part.errors[kind] += 1
        complaint = room_for(complaint, part.complaints)
        part.complaints[complaint] += 1
        if reply is not None:
            part.examples.setdefault(complaint, shown(reply))


def shown(reply: ReceivedReply) -> str:
    """A reply for people, cut where it is long."""
    text = to_text(reply.octets[: 4 * SHOWN_MAX_CHARACTERS].rstrip(b"\r\n"))
    return text if len(text) <= SHOWN_MAX_CHARACTERS else text[: SHOWN_MAX_CHARACTERS - 1] + "…"
