"""One message on its way to a next hop: what is sent of it, and what became of each recipient.

Theory of operation.  The beginning of the content is looked at before MAIL is sent: all of it, for
most messages.  So what this next hop cannot take is known for nearly every message before anything
is sent, and the MAIL command says what is true.  The rest of a long message is checked as it goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mailsrv.smtp.envelope import Notice
from mailsrv.smtp.path import needs_smtputf8
from mailsrv.smtp.sending import envelope_commands
from mailsrv.smtp.sending.content_writer import ContentFault, ContentWriter
from mailsrv.smtp.sending.extensions import Extensions
from mailsrv.smtp.sending.message import OutgoingMessage
from mailsrv.smtp.sending.options import SendingOptions
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.smtp.sending.verdict import TOO_MANY_RECIPIENTS, Verdict, deferred, failed

PREVIEW_OCTETS = 65_536
"""Of the content, looked at before MAIL is sent, if it has so many."""
_END_OF_HEADER = b"\r\n\r\n"
_NO_NOTICE = Notice()


class SendingTransaction:
    """See the module.

    ``unasked`` are the recipients to be sent with RCPT, ``asked`` those whose replies are due,
    ``taken`` those that the next hop took; all are places.  ``block`` is content ready to be sent;
    ``whole`` says that there is no more, ``ended`` that its end was sent.  ``content_asked``: DATA
    or BDAT was sent; ``taken_regardless``: a recipient was taken though MAIL was refused.
    """

    __slots__ = (
        *("_eight_bit", "_extensions", "_notices", "_preview", "_preview_octets", "_utf8"),
        *("_verdicts", "_writer", "asked", "block", "chunked", "content_asked", "ended"),
        *("message", "taken", "taken_regardless", "unasked", "whole"),
    )

    def __init__(
        self,
        message: OutgoingMessage,
        extensions: Extensions,
        options: SendingOptions,
        recipients_max: int,
    ) -> None:
        self.message = message
        self.chunked = options.chunking and extensions.chunking
        self._extensions = extensions
        self._verdicts: dict[int, Verdict] = {}
        self._writer = ContentWriter(stuffed=not self.chunked, eight_bit=extensions.eight_bit)
        self._preview: list[bytes] = []
        self._preview_octets = 0
        self._eight_bit = self._utf8 = False
        self.unasked = deque(message.places[:recipients_max])
        self.asked: deque[int] = deque()
        self.taken: deque[int] = deque()
        self.block = b""
        self.whole = self.ended = self.content_asked = self.taken_regardless = False
        self._decide(
            message.places[recipients_max:],
            deferred(TOO_MANY_RECIPIENTS, f"not in one transaction with {recipients_max} others"),
        )

    # -- before MAIL ------------------------------------------------------------------------------

    def look_at(self, piece: bytes) -> bool:
        """Take the next piece of the beginning; return whether it is enough."""
        self._preview.append(piece)
        self._preview_octets += len(piece)
        return self._preview_octets >= PREVIEW_OCTETS

    def prepare(self) -> bool:
        """Decide how the message is sent; return whether there is any recipient to send it to."""
        beginning = b"".join(self._preview)
        self._preview.clear()
        self._judge_envelope()
        if self.unasked and not self.message.probe:
            self._judge_header(beginning)
        if self.unasked and not self.message.probe:
            declared = self.message.envelope.body == "8BITMIME"
            self._eight_bit = declared or not (self.whole and beginning.isascii())
            fault = self.take(beginning)
            if fault is not None:
                self._decide(self._pop_all(self.unasked), fault)
        return bool(self.unasked)

    def _judge_envelope(self) -> None:
        envelope, offered = self.message.envelope, self._extensions
        paths = envelope.forward_paths
        limit = offered.size_octets_max
        needy = needs_smtputf8(envelope.reverse_path)
        fault = None
        if limit and self.message.size_octets > limit:
            fault = failed(
                "5.3.4",
                f"the message has {self.message.size_octets} octets, the next hop takes {limit}",
            )
        elif not envelope_commands.is_reverse_path(envelope.reverse_path):
            fault = failed("5.1.7", "the reverse-path is malformed")
        elif needy and not offered.smtputf8:
            fault = failed("5.6.7", "the reverse-path is not ASCII, the next hop lacks SMTPUTF8")
        if fault is not None:
            self._decide(self._pop_all(self.unasked), fault)
            return
        for place in self._pop_all(self.unasked):
            if not envelope_commands.is_forward_path(paths[place]):
                self._verdicts[place] = failed("5.1.3", "the recipient's address is malformed")
            elif needs_smtputf8(paths[place]) and not offered.smtputf8:
                self._verdicts[place] = failed(
                    "5.6.7", "the recipient's address is not ASCII, the next hop lacks SMTPUTF8"
                )
            else:
                needy = needy or needs_smtputf8(paths[place])
                self.unasked.append(place)
        self._utf8 = offered.smtputf8 and (needy or envelope.smtputf8)

    def _judge_header(self, beginning: bytes) -> None:
        """A header in UTF-8 needs SMTPUTF8 (RFC 6531 section 3.2); many that were declared so have
        none."""
        if not self.message.envelope.smtputf8 or self._utf8:
            return
        header, end, _ = beginning.partition(_END_OF_HEADER)
        if not header.isascii() or not (end or self.whole):
            self._decide(
                self._pop_all(self.unasked),
                failed("5.6.9", "the header may not be ASCII, the next hop lacks SMTPUTF8"),
            )

    # -- commands and content ---------------------------------------------------------------------

    def mail(self) -> bytes:
        return envelope_commands.mail(
            self.message.envelope,
            self._extensions,
            self.message.size_octets,
            eight_bit=self._eight_bit,
            utf8=self._utf8,
        )

    def next_rcpt(self) -> bytes:
        """The RCPT of the next unasked recipient, whose reply is due from now on."""
        place = self.unasked.popleft()
        self.asked.append(place)
        envelope = self.message.envelope
        return envelope_commands.rcpt(
            envelope.forward_paths[place],
            envelope.notices.get(place, _NO_NOTICE),
            self._extensions,
            utf8=self._utf8,
        )

    def take(self, piece: bytes) -> Verdict | None:
        """Make ``piece`` the next block, with the end of the content if this is the last
        (``whole``); return why it may not be sent."""
        try:
            self.block = self._writer.take(piece)
            if self.whole:
                self.block += self._writer.end()
        except ContentFault as fault:
            self.block = b""
            return failed(fault.status, str(fault))
        return None

    # -- what became of it ------------------------------------------------------------------------

    def answer_rcpt(self, refusal: Verdict | None) -> None:
        """The reply to the first RCPT whose reply is due."""
        place = self.asked.popleft()
        if refusal is None:
            self.taken.append(place)
        else:
            self._verdicts[place] = refusal

    def answer_one(self, verdict: Verdict) -> None:
        """LMTP's reply for the first of those who were taken (RFC 2033 section 4.2)."""
        self._verdicts[self.taken.popleft()] = verdict

    def decide_rest(self, verdict: Verdict) -> None:
        """``verdict`` holds for every recipient that has none yet."""
        for places in (self.unasked, self.asked, self.taken):
            self._decide(self._pop_all(places), verdict)

    def outcomes(self, remote: str, *, dsn: bool) -> tuple[Outcome, ...]:
        """The outcomes, in the order of the message's places; each recipient has its verdict.

        ``dsn``: the next hop's notices are its own duty.
        """
        found = []
        for place in self.message.places:
            verdict = self._verdicts[place]
            relayed = verdict.kind is OutcomeKind.RELAYED
            found.append(Outcome(place, *verdict, remote, dsn and relayed))
        return tuple(found)

    def _decide(self, places: Iterable[int], verdict: Verdict) -> None:
        for place in places:
            self._verdicts[place] = verdict

    @staticmethod
    def _pop_all(places: deque[int]) -> tuple[int, ...]:
        popped = tuple(places)
        places.clear()
        return popped
