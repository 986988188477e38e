"""A flow as a timed SMTP conversation: what the sender did, what the server replied, and when.

Which flows are SMTP is told by what is said in them (``replay.capture.smtp_flows``).  Who waited
for whom is judged in ``replay.convert.anchors``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from replay.capture.flow import Endpoint, Event, Flow, Gap, Piece, StreamEnd
from replay.capture.oddity import Oddity
from replay.capture.smtp_flows import begins_with_tls
from replay.smtp.replies import ReceivedReply, ReplyReader, begins_reply, is_well_formed

_GREETING = 220
GREETING_CODES = (220, 421, 554)
"""What a server may begin with (RFC 5321 section 4.3.2)."""

MAX_LINE_OCTETS = 1 << 16
"""The longest line of a reply; what goes on longer is not taken for one."""

_FIRST_COMMAND = re.compile(rb"(?i)(?:EHLO|HELO|LHLO)\b")
_STARTTLS = re.compile(rb"(?im)^STARTTLS[ \t]*\r?$")
_TLS_RECORDS = (b"\x16\x03", b"\x15\x03", b"\x14\x03", b"\x17\x03")  # RFC 8446 section 5.1


class CapturedReply(NamedTuple):
    """One whole reply.  ``ts_ns`` and ``packet`` are those of its last octet; ``end`` is the place
    after it in the server's stream; ``order`` its place among all that happened in the flow."""

    ts_ns: int
    packet: int
    octets: bytes
    code: int
    end: int
    order: int


class SenderAct(NamedTuple):
    """Something the sender did: ``kind`` is send, starttls, half-close, close or reset.

    ``acknowledged`` is how many of the server's octets it had acknowledged then; a FIN counts as
    one more.
    """

    kind: str
    ts_ns: int
    packet: int
    octets: bytes
    acknowledged: int
    order: int


class CapturedEnd(NamedTuple):
    """The server finished its direction, or aborted the connection."""

    ts_ns: int
    packet: int
    order: int
    is_reset: bool


@dataclass(slots=True)
class Conversation:
    """One SMTP connection as captured, up to where it can be followed."""

    flow: Flow
    client: Endpoint
    server: Endpoint
    acts: list[SenderAct] = field(default_factory=list)
    replies: list[CapturedReply] = field(default_factory=list)
    server_end: CapturedEnd | None = None
    cut_short: str = ""
    """Why nothing is followed any further; empty if all is followed to the end."""
    tls: str = ""
    """"starttls" where the server accepted it, "implicit" where TLS begins the connection."""
    blind_from: int | None = None
    """From this order on the server's replies are not known (lost, or never captured)."""
    server_octets: int = 0
    followed: int = 0
    """How many of the flow's events are followed."""
    mid_stream: bool = False
    """Whether what came before the capture is not in it, so that the replies in it answer what is
    not known."""
    oddities: list[Oddity] = field(default_factory=list)

    @property
    def opened_ns(self) -> int:
        """When the first packet of the flow was seen, since 1970 UTC."""
        return self.flow.first_ns

    @property
    def is_mailsrv(self) -> bool:
        """Whether the recorded server names itself as ours."""
        return bool(self.replies) and b" ESMTP mailsrv" in self.replies[0].octets


def conversation(flow: Flow, side: int) -> Conversation:
    """Follow ``flow``, whose client is ``side``, as an SMTP conversation."""
    return _Follower(flow, side).follow()


class _Follower:
    """Walks through a flow's events once."""

    def __init__(self, flow: Flow, side: int) -> None:
        self._side = side
        self._flow = flow
        self._result = Conversation(flow, flow.ends[side], flow.ends[1 - side])
        self._result.oddities.extend(flow.oddities)
        self._reader = ReplyReader()
        self._replies_end = 0  # the place after the last whole reply
        self._sender_tail = b""
        self._starttls = self._encrypted = False
        self._line_told = False
        self._upgraded: CapturedReply | None = None  # to STARTTLS, until the sender says something
        self._bad_lines = 0
        self._bare_line_feeds = 0
        self._hole_packet = 1 << 62  # showed that some are missing
        self._hole_from = 0  # the sender's octets from here on are not known

    def follow(self) -> Conversation:
        result = self._result
        if self._flow.opener is None:
            sentence = "the beginning is not in the capture; time counts from the first packet"
            self._odd(self._flow.first_packet, "mid-stream", sentence)
        if self._is_one_sided():
            result.blind_from = 0
            sentence = "the capture holds the sender's direction alone: no reply is known"
            self._odd(self._flow.first_packet, "one-sided", sentence)
        self._hole_from = self._sender_hole()
        if begins_with_tls(self._flow, self._side):
            self._encrypted, result.tls = True, "implicit"
        opened = self._flow.tls
        if opened is not None and opened.is_first:
            result.tls = "implicit"
            result.acts.append(
                SenderAct("starttls", opened.ts_ns, opened.packet, b"", opened.acknowledged, -1)
            )
        for order, event in enumerate(self._flow.events):
            if self._is_encrypted(event):
                self._cut_at_tls(order, event)
                break
            if self._is_behind_hole(event):
                self._cut_at_hole(event)
                break
            if event.side != self._side:
                self._server(order, event)
            else:
                assert not isinstance(event, Gap)
                self._client(order, event)
            result.followed = order + 1
        is_whole = self._flow.opener is not None and self._flow.accepted
        result.mid_stream = not is_whole and not self._begins_with_greeting()
        if result.mid_stream and result.replies:
            sentence = "the greeting is not in the capture: no reply is expected"
            self._odd(result.replies[0].packet, "blind", sentence)
        self._tell_unterminated()
        if self._bad_lines > 1:
            sentence = f"{self._bad_lines} of the server's lines are no replies"
            self._odd(0, "not-a-reply", sentence)
        result.oddities.sort()
        return result

    def _begins_with_greeting(self) -> bool:
        """Whether a session without its handshake is whole nevertheless, as far as can be seen: it
        begins with a greeting, and nothing is answered before the first command."""
        replies, acts = self._result.replies, self._result.acts
        if not replies or replies[0].code != _GREETING:
            return False
        if not acts:
            return len(replies) == 1
        is_answer = len(replies) > 1 and replies[1].order < acts[0].order
        is_first = not acts[0].octets or _FIRST_COMMAND.match(acts[0].octets)
        return acts[0].order > replies[0].order and not is_answer and bool(is_first)

    def _is_one_sided(self) -> bool:
        """Nothing from the server, or nothing but the acceptance of what went on unheard."""
        flow, server = self._flow, 1 - self._side
        if not flow.packets[server]:
            return True
        is_known = flow.acknowledged[server] or any(event.side == server for event in flow.events)
        return not is_known and bool(flow.octets(self._side))

    def _odd(self, packet: int, kind: str, sentence: str) -> None:
        self._result.oddities.append(Oddity(packet, kind, sentence))

    # -- where it can be followed no further ------------------------------------------------------

    def _is_encrypted(self, event: Event) -> bool:
        if not isinstance(event, Piece):
            return False
        blindly = self._starttls and self._result.blind_from is not None
        begins = event.octets.startswith(_TLS_RECORDS) or event.octets == _TLS_RECORDS[0][:1]
        return begins and (self._encrypted or blindly)

    def _cut_at_tls(self, order: int, event: Event) -> None:
        octets = [0, 0]
        for later in self._flow.events[order:]:
            if isinstance(later, Piece):
                octets[later.side] += len(later.octets)
        self._result.cut_short = "encrypted"
        self._result.tls = self._result.tls or "starttls"
        sentence = (
            f"from packet {event.packet} on the conversation is encrypted: {octets[self._side]} "
            f"octets of the sender and {octets[1 - self._side]} of the server are left out"
        )
        self._odd(event.packet, "encrypted", sentence)

    def _sender_hole(self) -> int:
        """The place in the sender's stream where the first octet is that the capture does not
        hold, its FIN counted as one: what was said in answer to that is no use."""
        end = 0
        for event in self._flow.events:
            if event.side != self._side:
                continue
            if isinstance(event, Gap):
                self._hole_packet = event.packet
                return event.start
            if isinstance(event, Piece):
                end = event.start + len(event.octets)
            elif not event.is_reset:
                end += 1
        return end

    def _is_behind_hole(self, event: Event) -> bool:
        """Whether an event is a hole of the sender's, or of a server that has seen what is in
        it."""
        if event.side == self._side:
            is_reset = isinstance(event, StreamEnd) and event.is_reset
            return isinstance(event, Gap) or (is_reset and event.packet >= self._hole_packet)
        return not isinstance(event, Gap) and event.acknowledged > self._hole_from

    def _cut_at_hole(self, event: Event) -> None:
        self._result.cut_short = "missing octets"
        gaps = [one for one in self._flow.events if isinstance(one, Gap) and one.side == self._side]
        if gaps and gaps[0].why == "cut":
            sentence = (
                f"the conversation is followed up to packet {gaps[0].packet} only: the capture's "
                f"snapshot length cut off {gaps[0].missing_octets} of the sender's octets there; "
                f"capture whole packets (-s 0)"
            )
        elif gaps:
            sentence = (
                f"the conversation is followed up to packet {event.packet} only: "
                f"{gaps[0].missing_octets} of the sender's octets that came before it are not in "
                f"the capture"
            )
        else:
            sentence = (
                f"the conversation is followed up to packet {event.packet} only: the server "
                f"answers an octet or the end of the sender's that is not in the capture"
            )
        self._odd(event.packet, "cut-short", sentence)

    # -- the sender -----------------------------------------------------------------------------

    def _client(self, order: int, event: Piece | StreamEnd) -> None:
        if self._upgraded is not None:
            self._upgrade(order, event, self._upgraded)
        if isinstance(event, Piece):
            self._tell_spoken_into_line(event)
            self._act("send", order, event, event.octets)
            self._sender_tail = (self._sender_tail + event.octets)[-64:]
            if _STARTTLS.search(event.octets) or _STARTTLS.search(self._sender_tail):
                self._starttls = True
        elif event.is_reset:
            # After a close the kernel answers late data with a reset; that is no act of its own.
            if not any(act.kind == "close" for act in self._result.acts):
                self._act("reset", order, event)
        else:
            self._act(self._how_it_finished(order, event), order, event)

    def _upgrade(self, order: int, event: Piece | StreamEnd, reply: CapturedReply) -> None:
        """The sender goes on in the clear after STARTTLS was accepted.  If the server understands
        it, the two were under TLS, and recorded where it had been taken off."""
        opened = self._flow.tls
        if opened is None and not isinstance(event, Piece):
            return
        self._upgraded = None
        if opened is not None:
            self._encrypted = self._starttls = False
            self._result.acts.append(
                SenderAct(
                    "starttls", opened.ts_ns, opened.packet, b"", opened.acknowledged, reply.order
                )
            )
            return
        events = self._flow.events[order:]
        said = (one for one in events if isinstance(one, Piece) and one.side != self._side)
        answer = next(said, None)
        if answer is None or not begins_reply(answer.octets):
            return
        act = SenderAct("starttls", reply.ts_ns, event.packet, b"", reply.end, reply.order)
        self._result.acts.append(act)
        self._encrypted = self._starttls = False
        sentence = (
            f"from packet {event.packet} on the capture holds in the clear what was sent under "
            f"TLS; the handshake is not in it, nor when it was"
        )
        self._odd(event.packet, "decrypted", sentence)

    def _tell_spoken_into_line(self, event: Piece) -> None:
        line = self._reader.line
        if not line or self._line_told or event.acknowledged < self._result.server_octets:
            return
        self._line_told = True
        sentence = (
            f"packet {event.packet} answers to the server's {line[:60]!r}, a line without an "
            f"end; what the server says next is taken as its rest"
        )
        self._odd(event.packet, "unterminated-reply", sentence)

    def _act(self, kind: str, order: int, event: Piece | StreamEnd, octets: bytes = b"") -> None:
        act = SenderAct(kind, event.ts_ns, event.packet, octets, event.acknowledged, order)
        self._result.acts.append(act)

    def _how_it_finished(self, order: int, fin: StreamEnd) -> str:
        """A FIN says that nothing more will be sent.  Whether its sender still reads shows only in
        what it does with what the server says afterwards: who takes it has half-closed, who
        resets has closed.  Where the server was not captured, all that is known is the FIN."""
        if self._result.blind_from == 0:
            return "half-close"
        server_octets = 0
        spoke_after = reset_after = server_ended = False
        for place, event in enumerate(self._flow.events):
            if event.side != self._side and isinstance(event, Piece):
                server_octets += len(event.octets)
                spoke_after = spoke_after or place > order
            elif event.side == self._side and isinstance(event, StreamEnd) and event.is_reset:
                reset_after = reset_after or place > order
            elif event.side != self._side and isinstance(event, StreamEnd):
                server_ended = True
        if not (server_ended or reset_after or spoke_after) and self._result.acts:
            return "half-close"  # the capture ends before it shows
        taken = min(self._flow.acknowledged[self._side], server_octets) > fin.acknowledged
        return "half-close" if taken or (spoke_after and not reset_after) else "close"

    # -- the server -----------------------------------------------------------------------------

    def _server(self, order: int, event: Event) -> None:
        if isinstance(event, StreamEnd):
            if self._result.server_end is None:
                self._result.server_end = CapturedEnd(
                    event.ts_ns, event.packet, order, event.is_reset
                )
        elif self._result.blind_from is not None:
            octets = event.missing_octets if isinstance(event, Gap) else len(event.octets)
            self._result.server_octets = event.start + octets
        elif isinstance(event, Gap):
            self._result.blind_from = order
            self._result.server_octets = event.start + event.missing_octets
            self._reader = ReplyReader()
            missing = f"{event.missing_octets} of the server's octets"
            what = f"{missing} are missing"
            if event.why == "cut":
                what = f"the capture's snapshot length cut off {missing}"
            sentence = f"at packet {event.packet} {what}: its replies are not known from here on"
            self._odd(event.packet, "blind", sentence)
        else:
            self._server_octets(order, event)

    def _server_octets(self, order: int, piece: Piece) -> None:
        for reply in self._reader.feed(piece.octets, piece.ts_ns):
            self._replies_end += len(reply.octets)
            self._reply(reply, order, piece)
        self._result.server_octets = piece.start + len(piece.octets)
        if len(self._reader.line) > MAX_LINE_OCTETS:
            self._result.blind_from = order
            sentence = f"a line of the server is over {MAX_LINE_OCTETS} octets: its replies end"
            self._odd(piece.packet, "not-a-reply", sentence)

    def _reply(self, reply: ReceivedReply, order: int, piece: Piece) -> None:
        octets = reply.octets
        if not is_well_formed(octets):
            self._bad_lines += 1
            if self._bad_lines == 1:
                line = octets[octets.rfind(b"\n", 0, -1) + 1 :]
                sentence = f"packet {piece.packet}: the server's line {line[:60]!r} is no reply"
                self._odd(piece.packet, "not-a-reply", sentence)
            return
        if octets.count(b"\n") > octets.count(b"\r\n"):
            self._bare_line_feeds += 1
            if self._bare_line_feeds == 1:
                sentence = f"packet {piece.packet}: a line of the server's ends in a bare LF"
                self._odd(piece.packet, "bare-lf-reply", sentence)
        code = int(octets[:3])
        self._result.replies.append(
            CapturedReply(piece.ts_ns, piece.packet, octets, code, self._replies_end, order)
        )
        if code == 220 and self._starttls and not self._encrypted:
            self._encrypted = True
            self._result.tls = "starttls"
            self._upgraded = self._result.replies[-1]

    def _tell_unterminated(self) -> None:
        rest = self._reader.rest
        if rest and not self._result.cut_short:
            sentence = f"the server's last octets are no whole reply: {rest[:60]!r}"
            self._odd(self._flow.last_packet, "unterminated-reply", sentence)
