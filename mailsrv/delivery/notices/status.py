"""The part of a notice that programs read (RFC 3464, RFC 6533): fields for the message, then a
group of fields for each recipient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mailsrv.delivery.notices.field_text import cut, lines, printable
from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.path import MailPath, is_domain
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.smtp.trace import date
from mailsrv.smtp.xtext import ASCII_TYPE, UTF8_TYPE, TypedAddress, decode, decode_orcpt, embed

DIAGNOSTIC_OCTETS_MAX = 500
DIAGNOSTIC_OCTETS_MIN = 60
DIAGNOSTICS_OCTETS = 32 * 1024
"""Of all diagnostics together, as far as each keeps its least: a notice about a thousand
recipients to a forged sender is not worth more."""
ADDRESS_OCTETS_MAX = 900

ACTIONS = {
    OutcomeKind.FAILED: "failed",
    OutcomeKind.DEFERRED: "delayed",
    OutcomeKind.DELIVERED: "delivered",
    OutcomeKind.RELAYED: "relayed",
    OutcomeKind.EXPANDED: "expanded",
}
"""RFC 3464 section 2.3.3."""
_OWN_WORDS = "x-mailsrv"
"""The type of a diagnostic that is no reply of a next hop."""


class Report(NamedTuple):
    """What a notice is about: ``outcomes`` for recipients of ``envelope``, whose message came at
    ``received_ns``; what is deferred is tried until ``retry_until_ns``."""

    envelope: Envelope
    outcomes: Sequence[Outcome]
    hostname: str
    received_ns: int
    now_ns: int
    retry_until_ns: int | None

    @property
    def diagnostic_octets(self) -> int:
        """How long each diagnostic may be."""
        share = DIAGNOSTICS_OCTETS // max(len(self.outcomes), 1)
        return min(max(share, DIAGNOSTIC_OCTETS_MIN), DIAGNOSTIC_OCTETS_MAX)


def status_part(report: Report, *, utf8: bool) -> bytes:
    """The fields, as message/delivery-status, or, if ``utf8``, message/global-delivery-status."""
    groups = [_of_message(report)]
    groups += [_of_recipient(report, one, utf8=utf8) for one in report.outcomes]
    text = "\r\n".join("".join(f"{line}\r\n" for line in group) for group in groups)
    return text.encode()


def recipient_text(path: MailPath, hostname: str) -> str:
    """The address of a recipient; the postmaster without a domain is ours."""
    return f"{path.local}@{path.domain or hostname}"


def _of_message(report: Report) -> Iterable[str]:
    envid = printable(decode(report.envelope.envid), utf8=False)
    if envid.strip():  # in one line, for the blanks within
        yield f"Original-Envelope-Id: {cut(envid, ADDRESS_OCTETS_MAX)}"
    yield from _field("Reporting-MTA", f"dns; {report.hostname}")
    yield from _field("Arrival-Date", date(report.received_ns))


def _of_recipient(report: Report, outcome: Outcome, *, utf8: bool) -> Iterable[str]:
    envelope = report.envelope
    orcpt = envelope.notices.get(outcome.place, Notice()).orcpt
    if orcpt:
        yield _address_field("Original-Recipient", decode_orcpt(orcpt), utf8=utf8)
    address = recipient_text(envelope.forward_paths[outcome.place], report.hostname)
    kind = ASCII_TYPE if address.isascii() else UTF8_TYPE
    yield _address_field("Final-Recipient", TypedAddress(kind, address), utf8=utf8)
    yield from _field("Action", ACTIONS[outcome.kind])
    yield from _field("Status", outcome.status)
    if outcome.remote:
        yield from _field("Remote-MTA", f"dns; {remote_text(outcome.remote)}")
    if outcome.diagnostic:
        kind = "smtp" if outcome.is_reply else _OWN_WORDS
        said = cut(printable(outcome.diagnostic, utf8=False), report.diagnostic_octets)
        yield from _field("Diagnostic-Code", f"{kind}; {said}")
    yield from _field("Last-Attempt-Date", date(report.now_ns))
    if outcome.kind is OutcomeKind.DEFERRED and report.retry_until_ns is not None:
        yield from _field("Will-Retry-Until", date(report.retry_until_ns))


def remote_text(remote: str) -> str:
    """The name of a next hop; what is no name is made visible."""
    return remote if is_domain(remote) else cut(printable(remote, utf8=False), 255)


def _field(name: str, text: str) -> Iterable[str]:
    return lines(printable(text, utf8=False), first=f"{name}: ", indent="    ")


def _address_field(name: str, address: TypedAddress, *, utf8: bool) -> str:
    """In one line: an address may hold blanks, which folding would lose."""
    if address.kind == UTF8_TYPE:
        text = embed(printable(address.text, utf8=True), utf8=utf8)
    else:
        text = printable(address.text, utf8=False)
    typed = f"{printable(address.kind, utf8=False)}; {text}"
    return f"{name}: {cut(typed, ADDRESS_OCTETS_MAX)}"
