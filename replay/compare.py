"""Sets what was observed beside what was expected, and tells each difference in full."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from replay import script
from replay.duration import format_ns
from replay.observed import ObservedConnection
from replay.octets import to_text
from replay.replies import Reply
from replay.script import Abandon, Connection, Departure, ExactReply, Expectation, ReplyCode

SHOWN_MAX_CHARACTERS = 4_000
"""Of one reply; the longest that mailsrv itself gives has a tenth of that."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that was not as expected.

    ``what`` names it in a few words ("reply 3: other code"); ``expected`` and ``observed`` show
    both sides, None where there was nothing; instants count from the scenario's begin, None
    where any would do or none was seen.  ``line`` and ``packet`` are the expectation's, 0 for
    unknown.
    """

    connection: str
    what: str
    expected: str | None
    observed: str | None
    expected_at_ns: int | None
    observed_at_ns: int | None
    line: int = 0
    packet: int = 0

    def __str__(self) -> str:
        where = [f"line {self.line}"] if self.line else []
        where += [f"packet {self.packet}"] if self.packet else []
        place = f" ({', '.join(where)})" if where else ""
        return (
            f"{self.what}{place}\n"
            f"{_side('  expected ', self.expected_at_ns, self.expected)}\n"
            f"{_side('  observed ', self.observed_at_ns, self.observed)}"
        )


def compare(
    connection: Connection, observed: ObservedConnection, *, tolerance_ns: int = 0
) -> list[Difference]:
    """All differences of one connection, in the order of the script.

    An expected instant may be missed by ``tolerance_ns``.
    """
    return _Comparison(connection.name, observed, tolerance_ns).run(connection)


class _Comparison:
    def __init__(self, name: str, observed: ObservedConnection, tolerance_ns: int) -> None:
        self._name = name
        self._observed = observed
        self._tolerance_ns = tolerance_ns
        self._differences: list[Difference] = []

    def run(self, connection: Connection) -> list[Difference]:
        expectations = list(connection.expectations())
        replies = [one for one in expectations if isinstance(one.outcome, script.REPLIES)]
        ends = [one for one in expectations if isinstance(one.outcome, script.ENDS)]
        handshakes = [one for one in expectations if isinstance(one.outcome, script.HANDSHAKES)]
        observed = self._observed
        abandoned = any(isinstance(one.action, Abandon) for one in connection.departures())
        heard = observed.replies[: len(replies)] if abandoned else observed.replies
        due = _replies_before_leaving(connection)
        for number, (expected, reply) in enumerate(zip_longest(replies, heard), 1):
            if reply is not None or number <= due:
                self._reply(number, expected, reply)
        self._handshake(handshakes[0] if handshakes else None)
        if observed.rest:
            self._tell("an unfinished reply", None, _show(observed.rest))
        self._end(ends[0] if ends else None, abandoned or _ended_by_sender(connection))
        if observed.waits_for:
            last = next(reversed(list(connection.departures())))
            self._tell(
                f"the script could not go on: it waited for {observed.waits_for}",
                "the whole script played",
                None,
                near=last,
            )
        return self._differences

    def _reply(self, number: int, expected: Expectation | None, reply: Reply | None) -> None:
        if expected is not None and reply is not None and self._holds(expected, reply):
            return
        name = f"reply {number}"
        observed = None if reply is None else _show(reply.octets)
        at_ns = None if reply is None else reply.at_ns
        if expected is None:
            self._tell(f"{name}: not expected", None, observed, observed_at_ns=at_ns)
            return
        wanted = _outcome(expected.outcome)
        if reply is None:
            self._tell(f"{name}: missing", wanted, None, expected=expected)
            return
        faults = [_other_words(expected.outcome, reply)]
        if self._is_late(expected.at_ns, reply.at_ns):
            faults.append(self._lateness(expected.at_ns, reply.at_ns))
        what = f"{name}: {', '.join(filter(None, faults))}"
        self._tell(what, wanted, observed, expected=expected, observed_at_ns=at_ns)

    def _holds(self, expected: Expectation, reply: Reply) -> bool:
        return not (
            _other_words(expected.outcome, reply) or self._is_late(expected.at_ns, reply.at_ns)
        )

    def _handshake(self, expected: Expectation | None) -> None:
        observed, at_ns = self._observed, None
        shown = {"done": "S tls", "refused": "S tls-refused"}.get(observed.handshake)
        if shown:
            at_ns = observed.handshake_at_ns
        wanted = None if expected is None else _outcome(expected.outcome)
        if wanted != shown:
            what = "the TLS handshake differs" if wanted and shown else "the TLS handshake"
            what += ": missing" if not shown else "" if wanted else ": not expected"
            self._tell(what, wanted, shown, expected=expected, observed_at_ns=at_ns)
        elif expected is not None and self._is_late(expected.at_ns, observed.handshake_at_ns):
            what = f"the TLS handshake: {self._lateness(expected.at_ns, observed.handshake_at_ns)}"
            self._tell(what, wanted, shown, expected=expected, observed_at_ns=at_ns)

    def _end(self, expected: Expectation | None, free: bool) -> None:
        observed = self._observed
        shown = {"eof": "S eof", "reset": "S reset"}.get(observed.end)
        at_ns = observed.end_at_ns if observed.end else None
        if expected is None:
            if observed.end and not free:
                self._tell("the server ended the connection", None, shown, observed_at_ns=at_ns)
            return
        wanted = _outcome(expected.outcome)
        if wanted != shown:
            what = "the server's end differs" if shown else "the server did not end the connection"
            self._tell(what, wanted, shown, expected=expected, observed_at_ns=at_ns)
        elif self._is_late(expected.at_ns, observed.end_at_ns):
            what = f"the server's end: {self._lateness(expected.at_ns, observed.end_at_ns)}"
            self._tell(what, wanted, shown, expected=expected, observed_at_ns=at_ns)

    def _is_late(self, expected_ns: int | None, observed_ns: int) -> bool:
        return expected_ns is not None and abs(observed_ns - expected_ns) > self._tolerance_ns

    def _lateness(self, expected_ns: int | None, observed_ns: int) -> str:
        gap_ns = observed_ns - (expected_ns or 0)
        return f"{format_ns(abs(gap_ns))} too {'late' if gap_ns > 0 else 'early'}"

    def _tell(
        self,
        what: str,
        wanted: str | None,
        shown: str | None,
        *,
        expected: Expectation | None = None,
        near: Departure | None = None,
        observed_at_ns: int | None = None,
    ) -> None:
        place = expected or near
        self._differences.append(
            Difference(
                self._name,
                what,
                wanted,
                shown,
                expected.at_ns if expected else None,
                observed_at_ns,
                place.line if place else 0,
                place.packet if place else 0,
            )
        )


def _replies_before_leaving(connection: Connection) -> int:
    """How many replies the sender was there to hear: one behind its close may come too late."""
    replies = 0
    for step in connection.steps:
        if isinstance(step, Expectation):
            replies += isinstance(step.outcome, script.REPLIES)
        elif isinstance(step.action, script.Close | script.Reset):
            break
    return replies


def _ended_by_sender(connection: Connection) -> bool:
    """True where the sender ends the connection: the server's own end need not be told."""
    return any(
        isinstance(one.action, script.Close | script.Reset) for one in connection.departures()
    )


def _outcome(outcome: script.Outcome) -> str:
    match outcome:
        case ExactReply(octets):
            return _show(octets)
        case ReplyCode(code, recorded):
            said = f", recorded as {_show(recorded)}" if recorded else ""
            return f"a reply {code}{said}"
        case script.ServerCloses():
            return "S eof"
        case script.ServerResets():
            return "S reset"
        case script.TlsDone():
            return "S tls"
        case script.TlsRefused():
            return "S tls-refused"


def _other_words(outcome: script.Outcome, reply: Reply) -> str:
    """What is not as expected about the reply's octets; empty if nothing is."""
    match outcome:
        case ExactReply(octets) if octets != reply.octets:
            wanted = Reply(0, octets).code
            same = "text differs"
        case ReplyCode(code) if code != reply.code:
            wanted, same = code, ""
        case _:
            return ""
    return same if reply.code == wanted else f"code {reply.code} instead of {wanted}"


def _show(octets: bytes) -> str:
    text = to_text(octets)
    return text if len(text) <= SHOWN_MAX_CHARACTERS else text[: SHOWN_MAX_CHARACTERS - 1] + "…"


def _side(label: str, at_ns: int | None, shown: str | None) -> str:
    """One side of a difference, the further lines of a reply under its first."""
    label += "" if at_ns is None else f"@{format_ns(at_ns)} "
    lines = (shown or "nothing").replace(r"\r\n", "\\r\\n\n").splitlines()
    return label + f"\n{' ' * len(label)}".join(lines)
