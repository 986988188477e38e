"""From a capture of a receiver to a scenario that plays it: a test of the server's own sending.

    imported = import_receiver("strange-mx.pcap")

What the recorded server said is what is played, each piece hung on the command that it answered.
What the recorded client said is what is expected, by its verbs.  The messages that it delivered
come in through senders of their own, at the times of their first attempts, and the server under
test is told to relay them to the recorded address.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from replay.capture.conversation import CapturedEnd, CapturedReply, Conversation, SenderAct
from replay.capture.flow import Gap, Piece, StreamEnd
from replay.capture.oddity import CaptureError, Oddity
from replay.capture.reader import read_capture
from replay.convert.anchors import Anchored, anchor_acts
from replay.convert.delivered import DeliveredMessage, add_delivered
from replay.convert.importer import (
    ImportedCapture,
    ImportedConnection,
    action_of,
    chosen,
    mark_of,
    odd_remarks,
    source_of,
)
from replay.play.fakes.submissions import plain_sender
from replay.smtp.commands import CONTENT, CommandReader
from replay.transcript import script
from replay.transcript.duration import DURATION_NS_MAX, format_ns
from replay.transcript.script import (
    After,
    AfterArrival,
    At,
    Departure,
    Expectation,
    Scenario,
    Step,
)

CLIENT = "192.0.2.1"
"""Where the messages come from."""
ANY_ENVELOPE = b"<sender@example.org>", [b"<recipient@example.net>"]
"""Of the message that is delivered where the capture shows none."""
_VERB = re.compile(r"[A-Z]{1,16}")


def import_receiver(
    path: str | Path,
    *,
    session: int | None = None,
    recorded_times: bool = False,
    keys: Path | None = None,
) -> ImportedCapture:
    """Make a scenario of the servers in the capture at ``path``.

    The parameters are those of ``importer.import_capture``.  Raises CaptureError if the file cannot
    be used, or holds no such session whose server can be played.
    """
    capture = read_capture(path, keys=keys)
    conversations, oddities = _playable(capture.name, chosen(capture, session))
    servers = sorted({str(one.server) for one in conversations})
    if len(servers) > 1:
        raise CaptureError(
            f"{capture.name}: {len(servers)} servers are in it ({', '.join(servers[:3])}...); one "
            "is played, so pick a connection with --session"
        )
    start_ns = min(one.opened_ns for one in conversations)
    connections, messages = [], list[DeliveredMessage]()
    for number, conversation in enumerate(conversations, 1):
        mirror = _Mirror(conversation)
        anchored = anchor_acts(mirror.conversation)
        if recorded_times:
            anchored = [
                one._replace(anchor=At(min(one.act.ts_ns - start_ns, DURATION_NS_MAX)))
                for one in anchored
            ]
        connections.append(_Writer(str(number), mirror, anchored).write())
        add_delivered(conversation, mirror.conversation.replies, mirror.verbs, messages)
    messages = messages or [DeliveredMessage(start_ns, *ANY_ENVELOPE)]
    senders = [
        plain_sender(
            f"mail-{number}",
            min(one.at_ns - start_ns, DURATION_NS_MAX),
            CLIENT,
            one.reverse_path,
            one.forward_paths,
            one.octets,
        )
        for number, one in enumerate(messages, 1)
    ]
    scripts = [one.script for one in connections]
    scenario = Scenario(
        _story(conversations),
        (*senders, *scripts),
        source_of(capture, conversations, session),
        {"delivery": f"relay={servers[0]}"},
    )
    imported = ImportedCapture(scenario, connections, capture.oddities + oddities)
    for one in connections:
        imported.remarks.update(_remarks(one, start_ns))
    return imported


def _playable(
    name: str, conversations: list[Conversation]
) -> tuple[list[Conversation], list[Oddity]]:
    """Those whose server is known from its greeting on, and why others are left out."""
    found, left_out = [], []
    for one in conversations:
        if one.mid_stream or one.blind_from == 0:
            sentence = f"{one.server}: what this server said first is not in the capture"
            left_out.append(Oddity(one.flow.first_packet, "blind", sentence))
        else:
            found.append(one)
    if not found:
        raise CaptureError(
            f"{name}: no server in it can be played: what it said first is not in the capture"
        )
    return found, left_out


def _story(conversations: list[Conversation]) -> str:
    count = len(conversations)
    connections = f"{count} connections" if count > 1 else "one connection"
    is_cut = any(one.cut_short == "encrypted" for one in conversations)
    hidden = ", without what was encrypted" if is_cut else ""
    return f"Not yet described: {connections} to {conversations[0].server.host()}{hidden}."


class _Mirror:
    """Turns a conversation round: ``conversation`` has its server's acts, and its client's commands
    for replies, whose verbs stand in ``verbs``."""

    def __init__(self, recorded: Conversation) -> None:
        self._recorded = recorded
        self._client = 0 if recorded.flow.ends[0] == recorded.client else 1
        self._reader = CommandReader()
        self._said_octets = 0
        self.verbs: list[str] = []
        self.conversation = Conversation(
            recorded.flow,
            recorded.server,
            recorded.client,
            cut_short=recorded.cut_short,
            tls=recorded.tls,
            oddities=list(recorded.oddities),
        )
        self._walk()

    def _walk(self) -> None:
        result = self.conversation
        handshakes = [one for one in self._recorded.acts if one.kind == "starttls"]
        for order, event in enumerate(self._recorded.flow.events[: self._recorded.followed]):
            for act in [one for one in handshakes if one.order < order]:
                handshakes.remove(act)
                ts_ns = result.acts[-1].ts_ns if result.acts else result.opened_ns
                result.acts.append(act._replace(ts_ns=ts_ns, acknowledged=self._said_octets))
            if isinstance(event, Gap):
                result.cut_short = "missing octets"
                sentence = (
                    f"{event.missing_octets} of the server's octets are missing at packet "
                    f"{event.packet}: what it said from there on is not played"
                )
                result.oddities.append(Oddity(event.packet, "cut-short", sentence))
                return
            if event.side == self._client:
                self._client_event(order, event)
            else:
                self._server_event(order, event)

    def _client_event(self, order: int, event: Piece | StreamEnd) -> None:
        result = self.conversation
        if isinstance(event, StreamEnd):
            if result.server_end is None:
                result.server_end = CapturedEnd(event.ts_ns, event.packet, order, event.is_reset)
            return
        for command in self._reader.feed(event.octets, event.ts_ns):
            self._said_octets += len(command.octets)
            self.verbs.append(command.verb)
            result.replies.append(
                CapturedReply(
                    event.ts_ns, event.packet, command.octets, 0, self._said_octets, order
                )
            )
        result.server_octets = event.start + len(event.octets)

    def _server_event(self, order: int, event: Piece | StreamEnd) -> None:
        acts, octets, kind = self.conversation.acts, b"", "send"
        if acts and acts[-1].kind in ("close", "reset"):
            return  # what follows is its kernel's
        if isinstance(event, Piece):
            octets = event.octets
            self._reader.replied(octets)
        else:
            kind = "reset" if event.is_reset else self._how_it_finished(order)
        acts.append(SenderAct(kind, event.ts_ns, event.packet, octets, event.acknowledged, order))

    def _how_it_finished(self, order: int) -> str:
        """A server that sends its FIN has closed, unless what its client says then is taken."""
        behind = self._recorded.flow.events[order + 1 :]
        if not any(isinstance(one, Piece) and one.side == self._client for one in behind):
            return "close"
        resets = (isinstance(one, StreamEnd) and one.is_reset for one in behind)
        return "close" if any(resets) else "half-close"


class _Writer:
    """Writes one connection's steps, as its receiver experienced them."""

    def __init__(self, name: str, mirror: _Mirror, anchored: Sequence[Anchored]) -> None:
        self._name = name
        self._conversation = mirror.conversation
        self._verbs = mirror.verbs
        self._anchored = anchored
        self._steps: list[Step] = []
        self._evidence: dict[int, Anchored] = {}
        self._told = 0
        self._end_told = False

    def write(self) -> ImportedConnection:
        conversation = self._conversation
        receiver = conversation.client
        listen = script.Listen(receiver.host(), receiver.port)
        self._steps.append(Departure(At(0), listen))
        packet = conversation.flow.first_packet
        self._steps.append(Expectation(script.PeerOpens(), packet=packet))
        ended = False
        for one in self._anchored:
            self._expect(one.replies_seen)
            end = conversation.server_end
            if end is not None and end.order < one.act.order:
                self._expect_end()
            self._evidence[len(self._steps)] = one
            action = action_of(one.act)
            self._steps.append(Departure(one.anchor, action, 0, one.act.packet, mark_of(one)))
            if one.act.kind == "starttls":
                self._steps.append(Expectation(script.TlsDone()))
            ended = one.act.kind in ("close", "reset")
        self._expect(len(conversation.replies))
        if not ended:
            self._finish()
        made = script.ScriptedConnection(self._name, tuple(self._steps))
        return ImportedConnection(conversation, made, self._evidence, sorted(conversation.oddities))

    def _finish(self) -> None:
        """The client ends the connection, or the record just ends."""
        if self._conversation.server_end is not None and not self._conversation.cut_short:
            self._expect_end()
            self._steps.append(Departure(After(0), script.UntilClosed()))
        else:
            self._steps.append(Departure(AfterArrival(0), script.Abandon()))

    def _expect(self, upto: int) -> None:
        for place in range(self._told, upto):
            said, verb = self._conversation.replies[place], self._verbs[place]
            outcome: script.Outcome = script.ExactOctets(said.octets)
            if verb == CONTENT:
                outcome = script.CommandVerb(verb)
            elif _VERB.fullmatch(verb):
                outcome = script.CommandVerb(verb, b"" if verb == "BDAT" else said.octets)
            self._steps.append(Expectation(outcome, packet=said.packet))
        self._told = max(self._told, upto)

    def _expect_end(self) -> None:
        end = self._conversation.server_end
        if end is None or self._end_told:
            return
        self._expect(sum(said.order < end.order for said in self._conversation.replies))
        self._end_told = True
        outcome = script.PeerResets() if end.is_reset else script.PeerCloses()
        self._steps.append(Expectation(outcome, packet=end.packet))


def _remarks(connection: ImportedConnection, start_ns: int) -> dict[tuple[str, int], str]:
    """Comments: what is odd, and when the recorded client said what it did."""
    name = connection.script.name
    remarks = odd_remarks(connection)
    conversation = connection.conversation
    instants = chain([conversation.opened_ns], (one.ts_ns for one in conversation.replies))
    for number, step in enumerate(connection.script.steps):
        if isinstance(step, Expectation) and isinstance(step.outcome, script.ARRIVALS):
            remarks[name, number] = f"recorded at {format_ns(next(instants) - start_ns)}"
    return remarks
