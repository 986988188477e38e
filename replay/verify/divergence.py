"""Two runs of one scenario, A and B: for each sender, where they part, and the harm of it.

A scripted sender does not react to replies.  So a parting is judged where it happens, and what
follows one after which a real sender would have done something else does not count: a message
that was sent as commands since DATA was refused, and all after it, is *unproven*.  A reply of
another class (first digit) parts two conversations; another text or another instant does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

from replay.play.observed import ObservedConnection
from replay.smtp.replies import ReceivedReply
from replay.transcript.octets import to_text
from replay.transcript.script import (
    Abandon,
    Action,
    Close,
    HalfClose,
    Reset,
    Scenario,
    ScriptedConnection,
    SendOctets,
)
from replay.verify.exchanges import UNASKED, Accepted, Delivery, Exchange, Exchanges, dialogue

SHOWN_MAX_CHARACTERS = 1_000
"""Of one reply."""
CLOSING = 421
"""The code of a server that ends the conversation (RFC 5321 section 3.8)."""


class DiffVerdict(Enum):
    """What B does to a sender that A does not; the greatest harm first."""

    REFUSED = "refused"
    CUT_OFF = "cut off"
    UNANSWERED = "left without an answer"
    LOST = "message no longer accepted"
    DEFERRED = "deferred"
    CAME_AGAIN = "deferred, and came again"
    ONLY_B = "accepted only in B"
    ONLY_A_REFUSES = "refused or cut off only in A"
    OTHER_REPLY = "another reply"
    OTHER_END = "ends otherwise"
    CUT_OFF_SOONER = "cut off sooner"
    CUT_OFF_LATER = "cut off later"
    SLOWER = "slower"
    FASTER = "faster"
    OTHER_TEXT = "text differs"
    BROKEN = "could not be played"
    SAME = "the same"


class RunSide(NamedTuple):
    """One run at the parting: ``text`` shows a reply or an end, "" for nothing."""

    text: str = ""
    at_ns: int | None = None


NOTHING = RunSide()


@dataclass(frozen=True, slots=True)
class Divergence:
    """One sender (a connection of ``scenario``) in both runs, at the place where they part.

    ``why`` names the check or the limit behind B's reply, where it is known.  ``reply`` counts
    replies from 1, and answered ``asked``; 0 where it is an end that differs.  ``gap_ns`` is by
    how much B is later there (the greatest such gap, where time alone parts them).
    ``octets_before`` were sent and ``replies_before`` received in B up to there.  ``lost`` counts
    what A accepted and B never did, one for each recipient of a message, ``unproven`` the same
    where no real sender would have come so far, ``messages_a`` and ``messages_b`` all that were
    accepted.
    """

    scenario: str
    connection: str
    verdict: DiffVerdict
    why: str = ""
    reply: int = 0
    asked: str = ""
    a: RunSide = NOTHING
    b: RunSide = NOTHING
    gap_ns: int = 0
    octets_before: int = 0
    replies_before: int = 0
    lost: int = 0
    unproven: int = 0
    messages_a: int = 0
    messages_b: int = 0

    @property
    def loses_mail(self) -> bool:
        """Whether a message was accepted in A and is refused for good, or cut off, in B."""
        return self.lost > 0 and self.verdict is not DiffVerdict.DEFERRED

    @property
    def harm(self) -> tuple[bool, bool, int]:
        """For sorting: the greatest harm first."""
        rank = list(DiffVerdict).index(self.verdict)
        return not self.loses_mail, not self.lost, rank


Why = Callable[[int, ReceivedReply | None], str]
"""Names the check or limit behind a reply of B's connection (by place in the scenario), "" if
that is not known; None stands for an end without a reply."""


def no_reason(number: int, reply: ReceivedReply | None) -> str:
    """The ``Why`` of a server whose log is not at hand."""
    return ""


def compare_runs(
    name: str,
    scenario: Scenario,
    runs: tuple[Sequence[ObservedConnection], Sequence[ObservedConnection]],
    *,
    tolerance_ns: int = 0,
    why: Why = no_reason,
) -> list[Divergence]:
    """Compare two runs of ``scenario``, sender by sender.  Replies may lie ``tolerance_ns`` apart;
    what each server calls itself, queue ids and dates are not compared."""
    both = zip(scenario.connections, *runs, strict=True)
    pairs = {
        number: _Pair(connection, a, b, tolerance_ns)
        for number, (connection, a, b) in enumerate(both)
        if not connection.plays_receiver
    }
    several = len(pairs) > 1
    delivered: dict[Delivery, int] = {}
    for pair in pairs.values():
        for delivery, exchange in pair.b.accepted:
            latest_ns = delivered.get(delivery, 0)
            delivered[delivery] = max(latest_ns, exchange.reply.at_ns)
    return [
        replace(
            pair.parting(partial(why, number), delivered),
            scenario=name,
            connection=pair.connection.name if several else "",
        )
        for number, pair in pairs.items()
    ]


class _Pair:
    """One connection in both runs."""

    def __init__(
        self,
        connection: ScriptedConnection,
        a: ObservedConnection,
        b: ObservedConnection,
        tolerance: int,
    ) -> None:
        self.connection = connection
        self._observed_a, self._observed_b = a, b
        self.a: Exchanges = dialogue(connection, a)
        self.b: Exchanges = dialogue(connection, b)
        self._tolerance_ns = tolerance

    def parting(
        self, why: Callable[[ReceivedReply | None], str], delivered: Mapping[Delivery, int]
    ) -> Divergence:
        lost, unproven = self._lost(delivered)
        found = self._of_class() or self._of_end() or self._of_time() or self._of_text()
        parting = found or Divergence("", "", DiffVerdict.SAME)
        verdict = parting.verdict
        if verdict is DiffVerdict.DEFERRED and not lost + unproven and self._lost_here():
            verdict = DiffVerdict.CAME_AGAIN
        elif lost and verdict not in _HARMS:
            verdict = DiffVerdict.LOST
        number = parting.reply
        replies = self._observed_b.replies
        reply = replies[number - 1] if 0 < number <= len(replies) else None
        return replace(
            parting,
            verdict=verdict,
            why=why(reply) if verdict in _HARMS or verdict in _CUTS else "",
            lost=lost,
            unproven=unproven,
            messages_a=self.a.messages,
            messages_b=self.b.messages,
        )

    # -- messages ---------------------------------------------------------------------------------

    def _lost_here(self) -> list[Accepted]:
        """What A accepted on this connection and B did not."""
        left = [one.delivery for one in self.b.accepted]
        lost = []
        for one in self.a.accepted:
            if one.delivery in left:
                left.remove(one.delivery)
            else:
                lost.append(one)
        return lost

    def _lost(self, delivered: Mapping[Delivery, int]) -> tuple[int, int]:
        """How many messages are lost, proven and unproven; one that was accepted by B at a later
        attempt is not."""
        proven_to = self._proven_to()
        lost = [
            exchange.transaction
            for delivery, exchange in self._lost_here()
            if delivered.get(delivery, 0) <= exchange.reply.at_ns
        ]
        proven = sum(transaction <= proven_to for transaction in lost)
        return proven, len(lost) - proven

    def _proven_to(self) -> float:
        """The last transaction of which something is known."""
        awry = self._awry()
        return self.a.exchanges[awry - 1].transaction if awry else float("inf")

    def _awry(self) -> int | None:
        """The number of the first reply after which only one of the senders is still in step."""
        for number, (a, b) in enumerate(zip(self.a.exchanges, self.b.exchanges, strict=False), 1):
            if a.awry != b.awry:
                return number
        return None

    # -- where they part --------------------------------------------------------------------------

    def _of_class(self) -> Divergence | None:
        """The first reply of another class; of several, one that refuses before one that defers,
        and none that only follows from another."""
        partings: list[tuple[bool, Divergence]] = []
        awry = self._awry()
        for number, (a, b) in enumerate(zip_longest(self.a.exchanges, self.b.exchanges), 1):
            if a is None or b is None or a.reply.code // 100 != b.reply.code // 100:
                verdict = self._class_verdict(a, b)
                follows = b is not None and b.follows
                partings.append((follows, self._parting(verdict, number, a, b)))
                if verdict is DiffVerdict.CUT_OFF:
                    break
            elif a.reply.code != b.reply.code:
                verdict = (
                    DiffVerdict.CUT_OFF if b.reply.code == CLOSING else DiffVerdict.OTHER_REPLY
                )
                partings.append((b.follows, self._parting(verdict, number, a, b)))
            if number == awry or a is None or b is None:
                break
        own = [parting for follows, parting in partings if not follows]
        return min(own or [one for _, one in partings], key=_severity, default=None)

    def _class_verdict(self, a: Exchange | None, b: Exchange | None) -> DiffVerdict:
        if b is None:
            ended = self._end_of(self._observed_b).text
            return DiffVerdict.CUT_OFF if ended else DiffVerdict.UNANSWERED
        if b.reply.code == CLOSING:
            return DiffVerdict.CUT_OFF
        if a is None:
            return DiffVerdict.ONLY_A_REFUSES if self._observed_a.end else DiffVerdict.OTHER_REPLY
        if 400 <= b.reply.code < 500:
            return DiffVerdict.DEFERRED
        if b.reply.code >= 500 or not b.reply.code:
            return DiffVerdict.REFUSED
        if a.reply.code < 400:
            return DiffVerdict.OTHER_REPLY
        gained = {one.delivery for one in self.b.accepted} - {
            one.delivery for one in self.a.accepted
        }
        return DiffVerdict.ONLY_B if gained else DiffVerdict.ONLY_A_REFUSES

    def _left(self, observed: ObservedConnection, *acts: type[Action]) -> bool:
        """Whether the sender did one of ``acts`` before the server ended the connection, or as
        it did: then the order is chance."""
        latest_ns = observed.end_at_ns + self._tolerance_ns
        return any(
            isinstance(one.action, acts) and departed_ns is not None and departed_ns <= latest_ns
            for one, departed_ns in zip(
                self.connection.departures(), observed.departed_ns, strict=True
            )
        )

    def _end_of(self, observed: ObservedConnection) -> RunSide:
        """The server's end, where the sender has not left by then."""
        return NOTHING if self._left(observed, Close, Reset, Abandon) else _end_of(observed)

    def _of_end(self) -> Divergence | None:
        """The same replies, and another end of the connection, or of a TLS handshake."""
        a, b = _handshake_of(self._observed_a), _handshake_of(self._observed_b)
        if a.text == b.text:
            a, b = self._end_of(self._observed_a), self._end_of(self._observed_b)
            if a.text == b.text:
                return None
        verdict = DiffVerdict.OTHER_END
        if self._observed_b.end and not a.text and not self._left(self._observed_b, HalfClose):
            verdict = DiffVerdict.CUT_OFF
        return self._how_far(Divergence("", "", verdict, a=a, b=b), b.at_ns or a.at_ns or 0)

    def _of_time(self) -> Divergence | None:
        """The same codes at other instants: the first of these replies, with the greatest gap."""
        gaps = [
            b.reply.at_ns - a.reply.at_ns
            for a, b in zip(self.a.exchanges, self.b.exchanges, strict=False)
        ]
        apart = [number for number, gap in enumerate(gaps) if abs(gap) > self._tolerance_ns]
        if not apart:
            return self._of_end_time()
        first = apart[0]
        a, b = self.a.exchanges[first], self.b.exchanges[first]
        gap_ns = max((gaps[number] for number in apart), key=abs)
        verdict = DiffVerdict.SLOWER if gap_ns > 0 else DiffVerdict.FASTER
        if b.reply.code == CLOSING and b.asked == UNASKED:
            verdict = DiffVerdict.CUT_OFF_LATER if gap_ns > 0 else DiffVerdict.CUT_OFF_SOONER
        return replace(self._parting(verdict, first + 1, a, b), gap_ns=gap_ns)

    def _of_end_time(self) -> Divergence | None:
        """The same replies at the same instants, and an end at another one."""
        a, b = self._end_of(self._observed_a), self._end_of(self._observed_b)
        gap_ns = (b.at_ns or 0) - (a.at_ns or 0)
        if abs(gap_ns) <= self._tolerance_ns:
            return None
        verdict = DiffVerdict.CUT_OFF_LATER if gap_ns > 0 else DiffVerdict.CUT_OFF_SOONER
        if self._left(self._observed_b, HalfClose):
            verdict = DiffVerdict.SLOWER if gap_ns > 0 else DiffVerdict.FASTER
        parting = Divergence("", "", verdict, a=a, b=b, gap_ns=gap_ns)
        return self._how_far(parting, b.at_ns or 0)

    def _of_text(self) -> Divergence | None:
        masks = _masks_of(self._observed_a), _masks_of(self._observed_b)
        for number, (a, b) in enumerate(zip(self.a.exchanges, self.b.exchanges, strict=False), 1):
            if masks[0](a.reply.octets) != masks[1](b.reply.octets):
                return self._parting(DiffVerdict.OTHER_TEXT, number, a, b)
        return None

    def _parting(
        self, verdict: DiffVerdict, number: int, a: Exchange | None, b: Exchange | None
    ) -> Divergence:
        asked = a or b
        side_a = _side_of(a) if a else self._end_of(self._observed_a)
        side_b = _side_of(b) if b else self._end_of(self._observed_b)
        at_ns = side_a.at_ns if side_b.at_ns is None else side_b.at_ns
        gap_ns = b.reply.at_ns - a.reply.at_ns if a and b else 0
        parting = Divergence(
            "",
            "",
            verdict,
            reply=number,
            asked=asked.asked if asked else "",
            a=side_a,
            b=side_b,
            gap_ns=gap_ns,
        )
        return self._how_far(parting, at_ns or 0)

    def _how_far(self, parting: Divergence, at_ns: int) -> Divergence:
        """``parting`` with the octets sent and the replies received in B by then."""
        octets = sum(
            len(one.action.octets)
            for one, departed_ns in zip(
                self.connection.departures(), self._observed_b.departed_ns, strict=True
            )
            if isinstance(one.action, SendOctets)
            and departed_ns is not None
            and departed_ns <= at_ns
        )
        received = len(self._observed_b.replies)
        before = parting.reply - 1 if parting.reply else received
        return replace(parting, octets_before=octets, replies_before=min(before, received))


_HARMS = (
    DiffVerdict.REFUSED,
    DiffVerdict.CUT_OFF,
    DiffVerdict.UNANSWERED,
    DiffVerdict.LOST,
    DiffVerdict.DEFERRED,
    DiffVerdict.CAME_AGAIN,
)
_CUTS = (DiffVerdict.CUT_OFF_SOONER, DiffVerdict.CUT_OFF_LATER)


def _severity(parting: Divergence) -> tuple[int, int]:
    return list(DiffVerdict).index(parting.verdict), parting.reply


# -- sides ----------------------------------------------------------------------------------------


def _side_of(exchange: Exchange) -> RunSide:
    text = to_text(exchange.reply.octets)
    if len(text) > SHOWN_MAX_CHARACTERS:
        text = text[: SHOWN_MAX_CHARACTERS - 1] + "…"
    return RunSide(text, exchange.reply.at_ns)


def _end_of(observed: ObservedConnection) -> RunSide:
    if not observed.end:
        return RunSide()
    words = {"eof": "closes the connection", "reset": "resets the connection"}
    return RunSide(words.get(observed.end, observed.end), observed.end_at_ns)


def _handshake_of(observed: ObservedConnection) -> RunSide:
    if not observed.handshake:
        return RunSide()
    return RunSide(f"TLS handshake {observed.handshake}", observed.handshake_at_ns)


# -- what is not compared -------------------------------------------------------------------------

_HOST = re.compile(rb"220[ -]([A-Za-z0-9.-]+)")
_QUEUE_ID = re.compile(rb"(?<=queued as )\S+|(?<=\bid=)\S+", re.IGNORECASE)
_ID = re.compile(rb"\b(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{10,}\b")
"""Ten or more letters and digits, both of which occur: no word, so an id."""
_DATE = re.compile(
    rb"(?:[A-Z][a-z]{2}, ?)?\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d(?::\d\d)?"
    rb"(?: [+-]\d{4}| [A-Z]{2,5})?(?: \([A-Z]{2,5}\))?"
    rb"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"
)


def _masks_of(observed: ObservedConnection) -> Callable[[bytes], bytes]:
    """A function that takes out of a reply what differs between any two servers."""
    greeting = _HOST.match(observed.replies[0].octets) if observed.replies else None
    host = greeting[1] if greeting and (b"." in greeting[1] or greeting[1] == b"localhost") else b""

    def masked(octets: bytes) -> bytes:
        text = octets.replace(host, b"(host)") if host else octets
        return _ID.sub(b"(id)", _QUEUE_ID.sub(b"(id)", _DATE.sub(b"(date)", text)))

    return masked
