"""What each act of a sender hangs on: a reply it waited for, or its own clock.

The acknowledgement that a segment carries bounds what its sender can have seen.  A reply that was
on its way but not acknowledged was surely not seen: the act is *proven early*.  An acknowledged
one may have been waited for: *presumed* causal.  A second recording of the same sender, made with
every reply held back, settles it: a wait that moves with the reply is causal (*confirmed*), one
that does not is the sender's *own clock*.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from replay.capture.conversation import CapturedReply, Conversation, SenderAct
from replay.smtp.commands import command_at
from replay.smtp.proxy_header import after_header
from replay.transcript.duration import DURATION_NS_MAX, format_ns
from replay.transcript.script import After, AfterArrival, Anchor, Evidence

SETTLING_SHIFT_NS = 20_000_000
"""How much later a reply must come in the second recording for it to settle anything: well over
what a busy machine adds by itself."""


COMMANDS_COMPARED_MAX = 100
OCTETS_COMPARED_MAX = 64 * 1024
"""Of each of two recordings, to tell whether they are of the same sender."""

_LINE_SHOWN_MAX = 100
_IS_TEXT = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\r?\n?")
_VARIES_AFTER = ("MAIL", "DATA", "BDAT", "AUTH", "STARTTLS")


class Anchored(NamedTuple):
    """An act with what it hangs on.

    ``replies_seen`` is how many replies come before it for its sender; ``because`` is a sentence
    for people.  ``is_settled`` says that a second recording decided.
    """

    act: SenderAct
    anchor: Anchor
    replies_seen: int
    evidence: Evidence
    because: str
    is_settled: bool = False


_order = attrgetter("order")
_end = attrgetter("end")


def anchor_acts(conversation: Conversation) -> list[Anchored]:
    """Anchor every act of ``conversation``, in order."""
    replies = conversation.replies
    anchored: list[Anchored] = []
    previous_ns, seen_before = conversation.opened_ns, 0
    for act in conversation.acts:
        sent = bisect_right(replies, act.order, key=_order)
        seen = max(bisect_right(replies, act.acknowledged, key=_end), seen_before)
        own = After(_bounded(act.ts_ns - previous_ns))
        anchor: Anchor = own
        if seen < sent:
            evidence = Evidence.PROVEN_EARLY
            because = f"packet {act.packet} had not acknowledged {_named(replies, seen, sent)}"
        elif seen > seen_before:
            evidence = Evidence.PRESUMED
            because = f"packet {act.packet} had acknowledged reply {seen}"
            anchor = AfterArrival(_bounded(act.ts_ns - replies[seen - 1].ts_ns))
        else:
            evidence = Evidence.OWN_CLOCK
            because = "no reply had come since the act before"
            if conversation.blind_from is not None and act.order >= conversation.blind_from:
                because = "the server's replies are not known here"
        anchored.append(Anchored(act, anchor, seen, evidence, because))
        previous_ns, seen_before = act.ts_ns, seen
    return anchored


def by_own_clock(anchored: Sequence[Anchored], conversation: Conversation) -> list[Anchored]:
    """The same acts, each hung on the one before: where no reply is expected."""
    found: list[Anchored] = []
    previous_ns = conversation.opened_ns
    for one in anchored:
        anchor = After(_bounded(one.act.ts_ns - previous_ns))
        because = "what was said before is not in the capture"
        found.append(one._replace(anchor=anchor, evidence=Evidence.OWN_CLOCK, because=because))
        previous_ns = one.act.ts_ns
    return found


def _bounded(ns: int) -> int:
    return min(max(ns, 0), DURATION_NS_MAX)


def _named(replies: Sequence[CapturedReply], seen: int, sent: int) -> str:
    """The replies after the first ``seen`` up to ``sent``, by number and packet."""
    if sent == seen + 1:
        return f"reply {sent} (packet {replies[seen].packet})"
    return f"replies {seen + 1} to {sent}"


def settle(
    anchored: Sequence[Anchored], conversation: Conversation, delayed: Conversation
) -> list[Anchored]:
    """Settle what is presumed with ``delayed``, the same sender recorded with replies held back.

    An act that is not in both recordings, or whose reply came no later, stays presumed.
    """
    by_place = {place: number for number, place in enumerate(_places(delayed.acts))}
    by_reply: dict[tuple[bool, int], int] = {}
    if len(delayed.replies) == len(conversation.replies):
        # Contents that vary (dates, boundaries) move the places but not what follows which reply.
        by_reply = {
            (one.act.kind == "send", one.replies_seen): number
            for number, one in enumerate(anchor_acts(delayed))
            if one.evidence is Evidence.PRESUMED
        }
    settled: list[Anchored] = []
    for number, (place, one) in enumerate(zip(_places(conversation.acts), anchored, strict=True)):
        again = by_place.get(place)
        if again is None:
            again = by_reply.get((one.act.kind == "send", one.replies_seen))
        if one.evidence is Evidence.PRESUMED and again is not None:
            one = _settle_one(one, number, again, conversation, delayed)
        settled.append(one)
    return settled


def _places(acts: Sequence[SenderAct]) -> list[tuple[bool, int]]:
    """What makes an act the same in both recordings: whether it sends or ends, and its place in
    the stream.  How it ends depends on what was on its way."""
    places, offset = [], 0
    for act in acts:
        places.append((act.kind == "send", offset))
        offset += len(act.octets)
    return places


def _settle_one(
    one: Anchored, number: int, again: int, conversation: Conversation, delayed: Conversation
) -> Anchored:
    if len(delayed.replies) < one.replies_seen:
        return one
    gap_ns, reply_ns = _waits(conversation, number, one.replies_seen)
    later_gap_ns, later_reply_ns = _waits(delayed, again, one.replies_seen)
    shift_ns, moved_ns = later_reply_ns - reply_ns, later_gap_ns - gap_ns
    if shift_ns < SETTLING_SHIFT_NS:
        return one
    by = f"with reply {one.replies_seen} {format_ns(shift_ns)} later it came"
    by += f" {format_ns(abs(moved_ns))} {'later' if moved_ns >= 0 else 'earlier'}"
    if 2 * moved_ns >= shift_ns:
        return one._replace(evidence=Evidence.CONFIRMED, because=by, is_settled=True)
    return one._replace(
        anchor=After(_bounded(gap_ns)), evidence=Evidence.OWN_CLOCK, because=by, is_settled=True
    )


def _waits(conversation: Conversation, number: int, reply: int) -> tuple[int, int]:
    """How long after the act before act ``number`` this act came, and how long after it the
    reply."""
    before_ns = conversation.acts[number - 1].ts_ns if number else conversation.opened_ns
    act_ns = conversation.acts[number].ts_ns
    return act_ns - before_ns, conversation.replies[reply - 1].ts_ns - before_ns


def why_another_sender(conversation: Conversation, again: Conversation) -> str:
    """Why ``again`` cannot be the sender of ``conversation`` recorded a second time; empty if it
    may be.

    The same sender begins in the same way, says the same first line and then gives the same
    commands up to the first transaction, unless one of the recordings ends before.  What comes
    then varies: dates, ids, and which of several messages goes first.
    """
    kinds = [one.acts[0].kind == "send" if one.acts else False for one in (conversation, again)]
    if kinds[0] != kinds[1]:
        return "one sends something and the other nothing"
    (line, verbs), (other_line, other_verbs) = _first_words(conversation), _first_words(again)
    if line != other_line:
        return f"the first line is {other_line!r} instead of {line!r}"
    for number, (verb, other) in enumerate(zip(verbs, other_verbs, strict=False), 1):
        if verb != other:
            return f"command {number} is {other} instead of {verb}"
    return ""


def _first_words(conversation: Conversation) -> tuple[str, list[str]]:
    """The first line that a sender says, if it is a command, and its verbs up to MAIL.

    A PROXY header does not count.
    """
    octets = b""
    for act in conversation.acts:
        octets += act.octets[: OCTETS_COMPARED_MAX - len(octets)]
    sent, at, verbs, first = after_header(octets), 0, list[str](), ""
    while at < len(sent) and len(verbs) < COMMANDS_COMPARED_MAX:
        command = command_at(sent, at)
        if command.verb == "?" or not _IS_TEXT.fullmatch(command.line):
            break
        verbs.append(command.verb)
        first = first or command.line.decode("latin-1").rstrip("\r\n")[:_LINE_SHOWN_MAX]
        if command.verb in _VARIES_AFTER:
            break
        at = command.end
    return first, verbs
