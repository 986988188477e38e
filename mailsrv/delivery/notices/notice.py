"""Delivery status notifications: what became of a message, as mail to its sender (RFC 3461, 3464).

Theory of operation.  ``occasions.due`` says which outcomes the sender is to be told of.  ``notice``
makes one message about all of them, of three parts: a text for people, fields for programs, and the
message or its header (RFC 6522).  It comes from the null reverse-path, so that nothing ever answers
it, and says that no person wrote it (RFC 3834).

It is plain ASCII, unless the sender's own address is not: only then is SMTPUTF8 needed to send it.
The boundary between its parts occurs in none of them, whatever a message or a next hop had in mind.
Its size is bounded whatever was sent: the sender may be forged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from mailsrv.delivery.notices.explanation import explanation, subject
from mailsrv.delivery.notices.field_text import cut, printable
from mailsrv.delivery.notices.occasions import due
from mailsrv.delivery.notices.returned import (
    Original,
    Part,
    quoted_printable,
    returned_part,
)
from mailsrv.delivery.notices.status import ADDRESS_OCTETS_MAX, Report, status_part
from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.path import NULL_PATH
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.smtp.trace import date


class Origin(NamedTuple):
    """Where and when a notice is made, and by which ``id``, which is new and its own.

    ``returned_octets_max`` bounds a message that comes back whole.
    """

    hostname: str
    now_ns: int
    id: str
    returned_octets_max: int


class NoticeMessage(NamedTuple):
    """A notice, to be sent like any other message: its envelope and its content."""

    envelope: Envelope
    content: bytes


def notice(
    envelope: Envelope,
    outcomes: Iterable[Outcome],
    original: Original,
    received_ns: int,
    origin: Origin,
    retry_until_ns: int | None = None,
) -> NoticeMessage | None:
    """Tell the sender of ``envelope`` what became of its message, which came at ``received_ns``.

    DEFERRED among ``outcomes`` stands for a delay that has become long enough; the recipients are
    tried until ``retry_until_ns``.  None: of nothing of that the sender is to be told.
    """
    told = due(envelope, outcomes)
    if not told:
        return None
    report = Report(envelope, told, origin.hostname, received_ns, origin.now_ns, retry_until_ns)
    utf8 = not str(envelope.reverse_path).isascii()
    failed = any(one.kind is OutcomeKind.FAILED for one in told)
    returned = returned_part(
        original,
        full=failed and envelope.ret == "FULL",
        smtputf8=envelope.smtputf8,
        octets_max=origin.returned_octets_max,
    )
    is_header = returned.content_type.endswith("headers")
    parts = [
        _text_part(explanation(report, "its header" if is_header else "the message itself")),
        _status_part(report, utf8),
        returned,
    ]
    return NoticeMessage(
        _envelope(envelope, origin, parts, utf8), _content(report, original, origin, parts)
    )


def _text_part(text: bytes) -> Part:
    if text.isascii():
        return Part("text/plain; charset=us-ascii", "7bit", text)
    return Part("text/plain; charset=utf-8", "quoted-printable", quoted_printable(text))


def _status_part(report: Report, utf8: bool) -> Part:
    fields = status_part(report, utf8=utf8)
    kind = "message/global-delivery-status" if utf8 else "message/delivery-status"
    return Part(kind, "7bit" if fields.isascii() else "8bit", fields)


def _envelope(answered: Envelope, origin: Origin, parts: Iterable[Part], utf8: bool) -> Envelope:
    return Envelope(
        client="",
        helo="",
        protocol="",
        id=origin.id,
        reverse_path=NULL_PATH,
        forward_paths=[answered.reverse_path],
        body="8BITMIME" if utf8 or any(one.encoding == "8bit" for one in parts) else "7BIT",
        smtputf8=utf8,
        notices={0: Notice(("NEVER",))},  # RFC 3461 section 6.1
    )


def _content(report: Report, original: Original, origin: Origin, parts: Iterable[Part]) -> bytes:
    parts = list(parts)
    boundary = _boundary(origin.id, [one.octets for one in parts])
    sender = cut(printable(str(report.envelope.reverse_path), utf8=True), ADDRESS_OCTETS_MAX)
    answered = original.message_id
    head = [
        f"From: Mail delivery <MAILER-DAEMON@{origin.hostname}>",
        f"To: <{sender}>",
        f"Subject: {subject(report.outcomes)}",
        f"Date: {date(origin.now_ns)}",
        f"Message-ID: <{origin.id}@{origin.hostname}>",
        *((f"In-Reply-To: {answered}", f"References: {answered}") if answered else ()),
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
        f'\tboundary="{boundary}"',
    ]
    pieces = ["".join(f"{line}\r\n" for line in head).encode()]
    for part in parts:
        pieces.append(
            f"\r\n--{boundary}\r\nContent-Type: {part.content_type}\r\n"
            f"Content-Transfer-Encoding: {part.encoding}\r\n\r\n".encode()
        )
        pieces.append(part.octets)
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    return b"".join(pieces)


def _boundary(id_: str, bodies: Iterable[bytes]) -> str:
    """A boundary that occurs in none of ``bodies``."""
    number = 0
    whole = b"".join(bodies)
    while (boundary := f"=_{id_}.{number}").encode() in whole:
        number += 1
    return boundary
