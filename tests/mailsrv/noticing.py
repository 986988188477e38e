"""What the tests of notices share: a way to make one, and a strict reader."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from typing import NamedTuple

from mailsrv.delivery.notices.notice import NoticeMessage, Origin, notice
from mailsrv.delivery.notices.returned import Original
from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind

SENDER = MailPath("sven", "sender.example")
CONTENT = b"From: sven@sender.example\r\nMessage-ID: <1@sender.example>\r\n\r\nHello.\r\n"
ORIGIN = Origin("mx.example.org", 1_000_000_000_000_000_000, "NOTICE1", 50_000)
FAILED = Outcome(0, OutcomeKind.FAILED, "5.1.1", "550 5.1.1 no such user", "next.example")


def envelope_to(
    *recipients: str,
    notices: Iterable[Notice] = (),
    reverse_path: MailPath = SENDER,
    ret: str = "",
    envid: str = "",
    smtputf8: bool = False,
) -> Envelope:
    paths = [MailPath(*one.partition("@")[::2]) for one in recipients]
    return Envelope(
        client="192.0.2.1",
        helo="sender.example",
        protocol="ESMTP",
        id="M1",
        reverse_path=reverse_path,
        forward_paths=paths,
        ret=ret,
        envid=envid,
        smtputf8=smtputf8,
        notices=dict(enumerate(notices)),
    )


def told(
    envelope: Envelope,
    *outcomes: Outcome,
    content: bytes = CONTENT,
    octets: int | None = None,
    origin: Origin = ORIGIN,
    retry_until_ns: int | None = None,
) -> NoticeMessage | None:
    original = Original(content, len(content) if octets is None else octets)
    return notice(envelope, outcomes, original, ORIGIN.now_ns - 10**12, origin, retry_until_ns)


class ReadPart(NamedTuple):
    """A body part: its Content-Type and its octets, decoded."""

    content_type: str
    octets: bytes


class ReadNotice(NamedTuple):
    """A notice as a strict reader finds it; ``groups`` are the fields of the status part."""

    header: dict[str, str]
    parts: list[ReadPart]
    groups: list[dict[str, str]]


_FIELD = re.compile(r"([A-Za-z][A-Za-z0-9-]*): ([^\r\n]*(?:\r\n[ \t]+[^\r\n]*\S[^\r\n]*)*)\r\n")


def read(made: NoticeMessage) -> ReadNotice:
    """Read a notice by the letter of RFC 2046, 3464, 5322 and 6522; asserts that it is one."""
    content = made.content
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\x00", content), "a bare CR, LF or NUL"
    assert max(map(len, content.split(b"\r\n"))) <= 998
    if not made.envelope.smtputf8 and made.envelope.body == "7BIT":
        assert content.isascii()
    head, _, body = content.partition(b"\r\n\r\n")
    if not made.envelope.smtputf8:
        assert head.isascii()
    header = fields(head.decode() + "\r\n")
    match = re.fullmatch(
        r'multipart/report; report-type=delivery-status;\s+boundary="([\w=.]{1,70})"',
        header["Content-Type"],
    )
    assert match, header["Content-Type"]
    boundary = match[1].encode()
    before, *pieces, end = (b"\r\n" + body).split(b"\r\n--" + boundary)
    assert (before, end) == (b"", b"--\r\n")
    parts = [_part(piece) for piece in pieces]
    assert len(parts) == 3
    return ReadNotice(header, parts, _groups(parts[1]))


def fields(text: str) -> dict[str, str]:
    """The fields of a header or a group, unfolded, by name; asserts that there is nothing else."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _FIELD.match(text, at)
        assert match, f"no field: {text[at : at + 80]!r}"
        assert match[1] not in found, f"{match[1]} stands there twice"
        found[match[1]] = re.sub(r"\r\n[ \t]+", " ", match[2])
        at = match.end()
    return found


def _part(piece: bytes) -> ReadPart:
    assert piece.startswith(b"\r\n")
    head, separator, octets = piece[2:].partition(b"\r\n\r\n")
    assert separator
    header = fields(head.decode() + "\r\n")
    assert header.keys() == {"Content-Type", "Content-Transfer-Encoding"}
    encoding = header["Content-Transfer-Encoding"]
    if encoding == "quoted-printable":
        assert max(map(len, octets.split(b"\r\n"))) <= 76
        octets = binascii.a2b_qp(octets)
    elif encoding == "7bit":
        assert octets.isascii()
    else:
        assert encoding == "8bit"
    return ReadPart(header["Content-Type"], octets)


def _groups(part: ReadPart) -> list[dict[str, str]]:
    assert part.content_type in (
        "message/delivery-status",
        "message/global-delivery-status",
    )
    groups = part.octets.decode().removesuffix("\r\n").split("\r\n\r\n")
    return [fields(f"{group}\r\n") for group in groups]
