"""A connection as a list of moments: what is sent by either side, and when.

``expected`` takes it from the script alone, ``observed`` from a run.  Where a script leaves a
reply's instant open, it is that of what stands above it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from replay.play.observed import ObservedConnection
from replay.transcript import script
from replay.transcript.octets import to_text
from replay.transcript.script import (
    After,
    AfterArrival,
    At,
    Departure,
    Expectation,
    ScriptedConnection,
    Step,
)
from replay.verify.comparison import Difference

NEVER_NS = 1 << 62
"""Later than any scenario lasts."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that one side does at one instant, ``at_ns`` after the scenario began.

    ``kind`` is open, listen, send, half-close, close, reset, until-closed, abandon or note of the
    played end's; peer-open, reply, eof or peer-reset of its peer's, where a command counts as a
    reply.  ``replies_seen`` and ``end_seen`` say what of the peer's the played end knew of then.
    ``number`` counts the replies from 1.
    """

    kind: str
    octets: bytes = b""
    at_ns: int = 0
    replies_seen: int = 0
    end_seen: bool = False
    number: int = 0
    comments: tuple[str, ...] = ()
    is_early: bool = False
    """Its instant is open, and what follows must not have seen it."""
    did_not_wait: bool = False
    """It went by the sender's own clock, though a reply had come since the act before."""

    @property
    def is_peers(self) -> bool:
        return self.kind in ("peer-open", "reply", "eof", "peer-reset")


_KINDS = {
    script.Open: "open",
    script.Listen: "listen",
    script.SendOctets: "send",
    script.HalfClose: "half-close",
    script.HalfCloseAtOnce: "half-close",
    script.Close: "close",
    script.Reset: "reset",
    script.UntilClosed: "until-closed",
    script.Abandon: "abandon",
}
_NOTES: dict[type, str] = {
    script.StartTls: "TLS begins here; what follows is shown in plaintext",
    script.StopReading: "from here on the sender leaves the server's octets in its kernel",
    script.ResumeReading: "from here on the sender reads again",
}


def expected(connection: ScriptedConnection) -> list[Moment]:
    """What ``connection`` says, in order of time."""
    steps: list[tuple[Step, Moment]] = []
    replies = new = 0
    ended = False
    for step in connection.steps:
        if isinstance(step, Expectation):
            moment = _expectation(step, replies + 1)
            is_reply = moment.kind == "reply"
            replies, new = replies + is_reply, new + is_reply
            ended = ended or moment.kind in ("eof", "peer-reset")
        else:
            did_not_wait = bool(new) and isinstance(step.anchor, After)
            moment = dataclasses.replace(
                _departure(step),
                replies_seen=replies,
                end_seen=ended,
                did_not_wait=did_not_wait,
            )
            new = new if moment.kind == "note" else 0
        steps.append((step, moment))
    return sorted(_timed(_with_early_replies(steps)), key=lambda moment: moment.at_ns)


def _timed(steps: list[tuple[Step, Moment]]) -> Iterator[Moment]:
    latest_ns = previous_ns = 0
    replies_ns = [0]
    for (step, moment), (following, _) in zip(steps, [*steps[1:], steps[-1]], strict=True):
        if isinstance(step, Expectation):
            if step.at_ns is not None:
                at_ns = step.at_ns
            elif moment.is_early and isinstance(following, Departure):
                at_ns = max(latest_ns, _due_ns(following, previous_ns, 0))
            else:
                at_ns = latest_ns
            if moment.kind == "reply":
                replies_ns.append(at_ns)
            elif moment.kind == "peer-open":
                replies_ns[0] = previous_ns = at_ns
        else:
            due_ns = _due_ns(step, previous_ns, replies_ns[moment.replies_seen])
            at_ns = previous_ns = max(due_ns, previous_ns)
        latest_ns = max(latest_ns, at_ns)
        yield dataclasses.replace(moment, at_ns=at_ns)


def _due_ns(step: Departure, previous_ns: int, reply_ns: int) -> int:
    match step.anchor:
        case At(ns):
            return ns
        case After(ns):
            return previous_ns + ns
        case AfterArrival(ns):
            return reply_ns + ns


def _departure(step: Departure) -> Moment:
    kind = _KINDS.get(type(step.action))
    if kind is None:
        return Moment("note", comments=(_NOTES[type(step.action)],))
    return Moment(kind, step.action.octets if isinstance(step.action, script.SendOctets) else b"")


def _expectation(step: Expectation, number: int) -> Moment:
    match step.outcome:
        case script.ExactOctets(octets):
            return Moment("reply", octets, number=number)
        case script.ReplyCode(code, recorded):
            octets, comment = recorded, f"expected is a reply {code}, whatever its text"
            if recorded[:3] != b"%d" % code:
                octets = b"%d \r\n" % code
                comment += f"; recorded was {to_text(recorded)}" if recorded else ""
            return Moment("reply", octets, number=number, comments=(comment,))
        case script.CommandVerb(verb, recorded):
            comment = f"expected is a command {verb}, whatever stands behind it"
            octets = recorded or f"{verb}\r\n".encode()
            if verb == script.CONTENT:
                comment, octets = "expected is a content, whatever it is", recorded or b".\r\n"
            return Moment("reply", octets, number=number, comments=(comment,))
        case script.PeerOpens():
            return Moment("peer-open")
        case script.MaskedOctets(pieces):
            comment = "what stands between < and > is masked: it may vary"
            octets = b"".join(
                piece if isinstance(piece, bytes) else str(piece).encode() for piece in pieces
            )
            return Moment("reply", octets, number=number, comments=(comment,))
        case script.PeerCloses():
            return Moment("eof")
        case script.PeerResets():
            return Moment("peer-reset")
        case script.TlsDone():
            return Moment("note", comments=("the TLS handshake is done",))
        case _:
            return Moment("note", comments=("the TLS handshake fails",))


def _with_early_replies(steps: list[tuple[Step, Moment]]) -> list[tuple[Step, Moment]]:
    """A sender that had seen a reply and still went by its own clock did not wait for it: the next
    reply was on its way by then.  Where its instant is open, and lines enough were sent to be
    answered, it is put there."""
    ordered = list(steps)
    lines = 0
    for place, (_, moment) in enumerate(steps):
        if moment.did_not_wait and moment.kind in ("send", "half-close", "close", "reset"):
            # What was put early before keeps the places behind it as they were.
            behind = range(place, len(ordered))
            at = next((at for at in behind if ordered[at][1].kind == "reply"), 0)
            if at and _is_open(ordered[at][0]) and ordered[at][1].number <= lines + 1:
                reply_step, reply = ordered.pop(at)
                reply = dataclasses.replace(reply, is_early=True)
                ordered.insert(place, (reply_step, reply))
        lines += moment.octets.count(b"\n") if moment.kind == "send" else 0
    return ordered


def _is_open(step: Step) -> bool:
    return isinstance(step, Expectation) and step.at_ns is None


# -- a run ----------------------------------------------------------------------------------------


def observed(connection: ScriptedConnection, seen: ObservedConnection) -> list[Moment]:
    """What came of ``connection`` in a run, in order of time.  Of two things at one instant a
    reply comes first where the script has it so."""
    said = [
        Moment("reply", one.octets, one.at_ns, number=number)
        for number, one in enumerate(seen.utterances, 1)
    ]
    if seen.opened_at_ns is not None:
        said.insert(0, Moment("peer-open", at_ns=seen.opened_at_ns))
    if seen.rest:
        at_ns = seen.end_at_ns if seen.end else said[-1].at_ns if said else 0
        said.append(Moment("reply", seen.rest, at_ns, comments=("an unfinished reply",)))
    if seen.handshake:
        outcome = "is done" if seen.handshake == "done" else "fails"
        comment = f"the TLS handshake {outcome}"
        said.append(Moment("note", at_ns=seen.handshake_at_ns, comments=(comment,)))
        said.sort(key=lambda moment: moment.at_ns)
    if seen.end:
        kind = "eof" if seen.end == "eof" else "peer-reset"
        said.append(Moment(kind, at_ns=seen.end_at_ns))
    moments: list[Moment] = []
    read, ended, reading, above = 0, False, True, 0
    departed = iter(seen.departed_ns)
    for step in connection.steps:
        if isinstance(step, Expectation):
            above += isinstance(step.outcome, script.UTTERANCES)
            continue
        departed_ns = next(departed)
        if departed_ns is None:
            continue
        while said and (
            said[0].at_ns < departed_ns
            or (said[0].at_ns == departed_ns and (read < above or said[0].kind == "peer-open"))
        ):
            moments.append(said.pop(0))
            if reading:
                read += moments[-1].kind == "reply"
                ended = moments[-1].kind in ("eof", "peer-reset")
        moment = dataclasses.replace(
            _departure(step), at_ns=departed_ns, replies_seen=read, end_seen=ended
        )
        moments.append(moment)
        if isinstance(step.action, script.StopReading | script.ResumeReading):
            reading = isinstance(step.action, script.ResumeReading)
    return moments + said


def with_differences(moments: list[Moment], differences: list[Difference]) -> list[Moment]:
    """Put each difference of the connection on the moment where it shows; where nothing came, on
    the last before it was due."""
    moments = list(moments)
    for difference in differences:
        at = _place(moments, difference)
        comments = (*moments[at].comments, str(difference))
        moments[at] = dataclasses.replace(moments[at], comments=comments)
    return moments


def _place(moments: list[Moment], difference: Difference) -> int:
    what, _, _ = difference.what.partition(":")
    for at, moment in enumerate(moments):
        if moment.number and what in (f"reply {moment.number}", f"command {moment.number}"):
            return at
    if difference.observed in ("S eof", "S reset", "C eof", "C reset"):
        ends = [at for at, one in enumerate(moments) if one.kind in ("eof", "peer-reset")]
        if ends:
            return ends[-1]
    due_ns = difference.observed_at_ns
    due_ns = difference.expected_at_ns if due_ns is None else due_ns
    due_ns = NEVER_NS if due_ns is None else due_ns
    return max((at for at, one in enumerate(moments) if one.at_ns <= due_ns), default=0)
