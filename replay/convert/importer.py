"""From a capture to a scenario: departures on their anchors, the recorded replies as expectations.

    imported = import_capture("stall.pcap")
    text = transcript.write(imported.scenario, imported.remarks)

The steps of a connection stand in the order in which its sender experienced them: a reply comes
before the first act whose sender had seen it.

Of another server the reply codes are expected.  Of mailsrv it is the octets, except where they
carry a queue id; its instants only if asked for, since a live server took its time over each
reply and one in virtual time takes none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from replay.capture.conversation import Conversation, SenderAct
from replay.capture.oddity import CaptureError, Oddity
from replay.capture.reader import Capture, read_capture
from replay.convert.anchors import (
    Anchored,
    anchor_acts,
    by_own_clock,
    settle,
    why_another_sender,
)
from replay.convert.shown_settings import is_ehlo_reply, offers_tls, settings_shown
from replay.transcript import script
from replay.transcript.duration import DURATION_NS_MAX, format_ns
from replay.transcript.ehlo import with_word
from replay.transcript.header import MAILSRV
from replay.transcript.notation import CONNECTIONS_MAX
from replay.transcript.script import (
    HOSTNAME_DEFAULT,
    After,
    AfterArrival,
    Anchor,
    At,
    Departure,
    Expectation,
    Scenario,
    Step,
)

_NS_PER_DAY = 24 * 3600 * 1_000_000_000

PROMPT_CLOSE_NS = 1_000_000_000
"""Who closes this soon after the server has ended the connection merely follows suit."""

MAX_ODDITIES_REMARKED = 20
"""Oddities of a connection that its transcript tells one by one."""

_QUEUE_ID = re.compile(rb"250 2\.0\.0 Ok: (?:queued as|discarded)\b")
"""What mailsrv says to a final dot: the id is another one each time, and so is the delivery."""

_LABEL = rb"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_GREETING = re.compile(rb"220 (%b(?:\.%b){0,9}) ESMTP mailsrv\r\n" % (_LABEL, _LABEL))

MAX_REASONS = 5
"""How many reasons an error tells why a capture holds no SMTP."""


@dataclass(slots=True)
class ImportedConnection:
    """A connection's script and what it rests on."""

    conversation: Conversation
    script: script.ScriptedConnection
    evidence: dict[int, Anchored]
    """Why a departure has its anchor, by number of the step; not for open, until-closed and
    abandon, which are no acts of the sender."""
    oddities: list[Oddity]
    """The conversation's own, and what could not be carried into the script."""


@dataclass(slots=True)
class ImportedCapture:
    """What a capture became."""

    scenario: Scenario
    connections: list[ImportedConnection]
    oddities: list[Oddity]
    """What concerns no single connection."""
    remarks: dict[tuple[str, int], str] = field(default_factory=dict)
    """Comments for the transcript, by connection name and number of the step."""


def import_capture(
    path: str | Path,
    *,
    session: int | None = None,
    delayed: str | Path | None = None,
    recorded_times: bool = False,
    keys: Path | None = None,
) -> ImportedCapture:
    """Make a scenario of the capture at ``path``.

    ``session`` picks one SMTP conversation, counted from 1.  ``delayed`` is a second capture of
    the same senders, made with every reply held back.  ``recorded_times`` keeps absolute times
    instead of anchors, and expects those of mailsrv.  ``keys`` is a key log that opens TLS (see
    ``read_capture``).  Raises CaptureError if a file cannot be
    used, holds no such session, or is no second capture of the same senders.
    """
    capture = read_capture(path, keys=keys)
    conversations = chosen(capture, session)
    seconds = _second_take(capture, conversations, delayed, session) if delayed else []
    start_ns = min(conversation.opened_ns for conversation in conversations)
    connections = []
    for number, conversation in enumerate(conversations, 1):
        anchored = anchor_acts(conversation)
        if conversation.mid_stream:
            anchored = by_own_clock(anchored, conversation)
        if seconds:
            anchored = settle(anchored, conversation, seconds[number - 1])
        if recorded_times:
            anchored = [
                one._replace(anchor=At(min(one.act.ts_ns - start_ns, DURATION_NS_MAX)))
                for one in anchored
            ]
        writer = _Writer(str(number), conversation, anchored, start_ns, exact_times=recorded_times)
        connections.append(writer.write())
    scripts = tuple(connection.script for connection in connections)
    scenario = with_word(
        Scenario(
            _story(conversations, scripts),
            scripts,
            source_of(capture, conversations, session),
            _settings(conversations),
            _world(conversations),
            target=MAILSRV,
        )
    )
    imported = ImportedCapture(scenario, connections, capture.oddities)
    for connection in connections:
        imported.remarks.update(_remarks(connection, start_ns))
    return imported


def chosen(capture: Capture, session: int | None) -> list[Conversation]:
    """The conversations that make the scenario: all, or the one.  Raises CaptureError."""
    found = capture.conversations
    if not found:
        reasons = [f"{left.flow.ends[1]}: {left.reason}" for left in capture.left_out]
        more = f"; and {len(reasons) - MAX_REASONS} more" if len(reasons) > MAX_REASONS else ""
        why = f" ({'; '.join(reasons[:MAX_REASONS])}{more})" if reasons else ""
        raise CaptureError(f"{capture.name}: no SMTP conversation is in it{why}")
    if session is None:
        if len(found) > CONNECTIONS_MAX:
            raise CaptureError(
                f"{capture.name}: {len(found)} SMTP conversations are in it; a scenario holds "
                f"{CONNECTIONS_MAX}, so pick one with --session"
            )
        opened_ns = [one.opened_ns for one in found]
        if (apart_ns := max(opened_ns) - min(opened_ns)) >= DURATION_NS_MAX:
            raise CaptureError(
                f"{capture.name}: its {len(found)} SMTP conversations lie "
                f"{apart_ns // _NS_PER_DAY} days apart; a scenario lasts "
                f"{DURATION_NS_MAX // _NS_PER_DAY} days at most, so pick one with --session"
            )
        return found
    if not 1 <= session <= len(found):
        raise CaptureError(
            f"{capture.name}: there is no session {session}; it has 1 to {len(found)}"
        )
    return [found[session - 1]]


def _second_take(
    capture: Capture, conversations: list[Conversation], delayed: str | Path, session: int | None
) -> list[Conversation]:
    """The same senders in their second capture.  Raises CaptureError."""
    second = read_capture(delayed)
    seconds = chosen(second, session if len(second.conversations) > 1 else None)
    if len(seconds) != len(conversations):
        raise CaptureError(
            f"{second.name}: has {len(seconds)} SMTP conversations where {capture.name} has "
            f"{len(conversations)}, so it cannot be the same senders again"
        )
    for number, (one, again) in enumerate(zip(conversations, seconds, strict=True), 1):
        if why := why_another_sender(one, again):
            raise CaptureError(
                f"{second.name}: cannot be the senders of {capture.name} again: in conversation "
                f"{number} {why}"
            )
    return seconds


def _settings(conversations: list[Conversation]) -> dict[str, object]:
    """What the server under test needs to return the replies of a recorded mailsrv: its name, and
    what its replies to EHLO show, as far as they agree."""
    shown = [
        settings_shown(reply.octets)
        for one in conversations
        if one.is_mailsrv
        for reply in one.replies
        if is_ehlo_reply(reply.octets)
    ]
    agreed: dict[str, object] = {
        key: value
        for key, value in (shown[0].items() if shown else ())
        if all(settings.get(key) == value for settings in shown)
    }
    greetings = [_GREETING.fullmatch(one.replies[0].octets) for one in conversations if one.replies]
    names = {greeting[1].decode("ascii") for greeting in greetings if greeting}
    if len(names) != 1 or names == {HOSTNAME_DEFAULT}:
        return agreed
    return {"hostname": names.pop()} | agreed


def _world(conversations: list[Conversation]) -> dict[str, object]:
    """What the world under test needs to offer or take a recorded STARTTLS: a certificate."""
    kinds = {one.tls for one in conversations}
    if kinds == {"implicit"}:
        return {"tls": "implicit"}
    offered = any(
        one.is_mailsrv and offers_tls(reply.octets)
        for one in conversations
        for reply in one.replies
    )
    return {"tls": True} if offered or "starttls" in kinds else {}


def _story(
    conversations: list[Conversation], scripts: tuple[script.ScriptedConnection, ...]
) -> str:
    """A first line to be made better by who knows what the capture shows."""
    senders = sorted({one.client.host() for one in conversations})
    who = senders[0] if len(senders) == 1 else f"{senders[0]} and {len(senders) - 1} more"
    count = len(conversations)
    connections = f"{count} connections" if count > 1 else "one connection"
    expected = any(True for one in scripts for _ in one.expectations())
    alone = "" if expected else ", without anything from the server: nothing is expected"
    is_cut = any(one.cut_short == "encrypted" for one in conversations)
    hidden = ", without what was encrypted" if is_cut else ""
    return f"Not yet described: {connections} from {who}{hidden}{alone}."


def source_of(capture: Capture, conversations: list[Conversation], session: int | None) -> str:
    """Where a scenario came from: the file, which connection of it, and what its server began
    with."""
    source = capture.name if session is None else f"{capture.name}, connection {session}"
    greetings = {one.replies[0].octets for one in conversations if one.replies}
    if len(greetings) == 1:
        text = greetings.pop().split(b"\n")[0].decode("utf-8", "replace").strip()
        source += ": " + "".join(c if c.isprintable() else "?" for c in text)[:200]
    return source


class _Writer:
    """Writes one connection's steps."""

    def __init__(
        self,
        name: str,
        conversation: Conversation,
        anchored: list[Anchored],
        start_ns: int,
        *,
        exact_times: bool,
    ) -> None:
        self._name = name
        self._conversation = conversation
        self._anchored = anchored
        self._start_ns = start_ns
        self._exact_times = exact_times and conversation.is_mailsrv
        self._steps: list[Step] = []
        self._evidence: dict[int, Anchored] = {}
        self._replies = conversation.replies
        self._told = 0  # replies expected so far
        self._end_told = False
        self._oddities = list(conversation.oddities)
        self._is_unknown = conversation.mid_stream or conversation.blind_from is not None
        """Whether the server said more than is known: then nothing that is not known is compared,
        whatever the ending."""

    def write(self) -> ImportedConnection:
        conversation = self._conversation
        opened = At(min(conversation.opened_ns - self._start_ns, DURATION_NS_MAX))
        client = script.Open(conversation.client.host())
        self._depart(opened, client, conversation.flow.first_packet)
        if not self._acts():
            self._end_without_the_sender()
        return ImportedConnection(
            conversation,
            script.ScriptedConnection(self._name, tuple(self._steps)),
            self._evidence,
            sorted(self._oddities),
        )

    def _acts(self) -> bool:
        """Write the sender's acts; True if they bring the connection to its end."""
        half_closed = False
        for one in self._anchored:
            act = one.act
            self._expect_replies(one.replies_seen)
            if self._had_seen_the_end(act):
                self._expect_end()
            if self._is_unknown and act.kind == "reset":
                sentence = f"the reset of packet {act.packet} is not played: replies are not known"
                self._odd(act.packet, "blind", sentence)
                return False
            if self._is_unknown and act.kind == "close":
                one = one._replace(act=act._replace(kind="half-close"))
                act = one.act
            if act.kind == "send" and half_closed:
                sentence = f"packet {act.packet} sends after its side had finished; it is left out"
                self._odd(act.packet, "after-fin", sentence)
            elif act.kind == "close" and self._follows_suit(act):
                return False
            else:
                self._evidence[len(self._steps)] = one
                self._depart(one.anchor, action_of(act), act.packet, mark_of(one))
                if act.kind == "starttls":
                    self._steps.append(Expectation(script.TlsDone()))
                half_closed = half_closed or act.kind == "half-close"
                if act.kind in ("close", "reset"):
                    # The server did send the rest, though the sender no longer read it; that of a
                    # faster server is read.
                    self._expect_replies(len(self._replies))
                    return True
        return False

    def _had_seen_the_end(self, act: SenderAct) -> bool:
        """Whether the server had ended the connection as far as the sender knew."""
        end = self._conversation.server_end
        if end is None:
            return False
        if end.is_reset:
            return end.order < act.order
        return act.acknowledged > self._conversation.server_octets

    def _follows_suit(self, act: SenderAct) -> bool:
        end = self._conversation.server_end
        return self._end_told and end is not None and act.ts_ns - end.ts_ns <= PROMPT_CLOSE_NS

    def _end_without_the_sender(self) -> None:
        """The sender brings nothing to an end: the server does, or the record just ends."""
        conversation = self._conversation
        heard_before = self._told
        self._expect_replies(len(self._replies))
        last = self._replies[-1] if self._told > heard_before else None
        unknown = self._is_unknown or conversation.cut_short
        if conversation.server_end is not None and not unknown:
            self._expect_end()
            self._depart(After(0), script.UntilClosed(), 0)
            return
        # What is still to come is waited for, as long as the record went on.
        until_ns = conversation.flow.last_ns
        if conversation.cut_short:
            until_ns = last.ts_ns if last else self._latest_ns()
        since_ns = last.ts_ns if last else self._latest_ns()
        wait_ns = min(max(until_ns - since_ns, 0), DURATION_NS_MAX)
        anchor = AfterArrival(wait_ns) if last else After(wait_ns)
        self._depart(anchor, script.Abandon(), 0)

    def _latest_ns(self) -> int:
        """When the last act was."""
        acts = self._conversation.acts
        return acts[-1].ts_ns if acts else self._conversation.opened_ns

    # -- steps ----------------------------------------------------------------------------------

    def _depart(
        self,
        anchor: Anchor,
        action: script.Action,
        packet: int,
        evidence: script.Evidence | None = None,
    ) -> None:
        if anchor.ns >= DURATION_NS_MAX:
            sentence = f"packet {packet} waits for longer than a script can; the wait is shortened"
            self._odd(packet, "too-long", sentence)
        self._steps.append(Departure(anchor, action, packet=packet, evidence=evidence))

    def _expect_replies(self, upto: int) -> None:
        """Expect the replies up to number ``upto`` that are not expected yet."""
        if self._conversation.mid_stream:
            return  # a server that is there from the beginning says other things before
        for reply in self._replies[self._told : upto]:
            outcome: script.Outcome = script.ReplyCode(reply.code, reply.octets)
            varies = _QUEUE_ID.match(reply.octets) and not self._exact_times
            if self._conversation.is_mailsrv and not varies:
                outcome = script.ExactOctets(reply.octets)
            self._expect(outcome, reply.ts_ns, reply.packet)
        self._told = max(self._told, min(upto, len(self._replies)))

    def _expect_end(self) -> None:
        end = self._conversation.server_end
        if end is None or self._end_told or self._is_unknown:
            return
        self._expect_replies(sum(reply.order < end.order for reply in self._replies))
        self._end_told = True
        outcome = script.PeerResets() if end.is_reset else script.PeerCloses()
        self._expect(outcome, end.ts_ns, end.packet)

    def _expect(self, outcome: script.Outcome, ts_ns: int, packet: int) -> None:
        at_ns = ts_ns - self._start_ns if self._exact_times else None
        if at_ns is not None and at_ns > DURATION_NS_MAX:
            at_ns = None
        self._steps.append(Expectation(outcome, at_ns, packet=packet))

    def _odd(self, packet: int, kind: str, sentence: str) -> None:
        self._oddities.append(Oddity(packet, kind, sentence))


def mark_of(one: Anchored) -> script.Evidence | None:
    """The evidence that a transcript marks; None for a sender's own clock that is only assumed."""
    is_assumed = one.evidence is script.Evidence.OWN_CLOCK and not one.is_settled
    return None if is_assumed else one.evidence


def action_of(act: SenderAct) -> script.Action:
    """What a script does where ``act`` was recorded."""
    match act.kind:
        case "send":
            return script.SendOctets(act.octets)
        case "starttls":
            return script.StartTls()
        case "half-close":
            return script.HalfClose()
        case "close":
            return script.Close()
        case _:
            return script.Reset()


def _remarks(connection: ImportedConnection, start_ns: int) -> dict[tuple[str, int], str]:
    """Comments: what is odd, and when foreign replies came."""
    name = connection.script.name
    remarks = odd_remarks(connection)
    reply_times = iter(connection.conversation.replies)
    for number, step in enumerate(connection.script.steps):
        if isinstance(step, Expectation) and isinstance(step.outcome, script.UTTERANCES):
            ts_ns = next(reply_times).ts_ns
            if step.at_ns is None:
                remarks[name, number] = f"recorded at {format_ns(ts_ns - start_ns)}"
    return remarks


def odd_remarks(connection: ImportedConnection) -> dict[tuple[str, int], str]:
    """A comment on what is odd about ``connection``, above its first step."""
    odd = [f"odd: {oddity.sentence}" for oddity in connection.oddities[:MAX_ODDITIES_REMARKED]]
    untold = len(connection.oddities) - len(odd)
    if untold:
        odd.append(f"odd: {untold} more, see replay show")
    return {(connection.script.name, 0): "\n".join(odd)} if odd else {}
