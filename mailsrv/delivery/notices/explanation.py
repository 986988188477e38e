"""The part of a notice that people read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mailsrv.delivery.notices.field_text import CUT, cut, lines, printable
from mailsrv.delivery.notices.status import Report, recipient_text, remote_text
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.smtp.trace import date

RECIPIENTS_SHOWN = 20
"""Of each kind; the part for programs has all of them."""
ADDRESS_SHOWN_OCTETS = 320

_SUBJECTS = {
    OutcomeKind.FAILED: "Your message could not be delivered",
    OutcomeKind.DEFERRED: "Your message is delayed",
    OutcomeKind.DELIVERED: "Your message was delivered",
    OutcomeKind.RELAYED: "Your message was sent on",
    OutcomeKind.EXPANDED: "Your message was sent on",
}
"""The gravest comes first."""
_SENTENCES = {
    OutcomeKind.FAILED: "It could not be delivered to:",
    OutcomeKind.DEFERRED: "It could not be delivered yet, and will be tried again, to:",
    OutcomeKind.DELIVERED: "It was delivered to:",
    OutcomeKind.RELAYED: (
        "It was sent on to a system that may say nothing of its further way, for:"
    ),
    OutcomeKind.EXPANDED: "It was sent on to everybody that these addresses stand for:",
}


def subject(outcomes: Iterable[Outcome]) -> str:
    """The subject of a notice about ``outcomes``."""
    kinds = {one.kind for one in outcomes}
    return next(text for kind, text in _SUBJECTS.items() if kind in kinds)


def explanation(report: Report, returned: str) -> bytes:
    """The text, in UTF-8 with CRLF after each line; ``returned`` says what is in the last part."""
    return "".join(f"{line}\r\n" for line in _lines(report, returned)).encode()


def _lines(report: Report, returned: str) -> Iterator[str]:
    yield from _paragraph(
        f"This is the mail server {report.hostname}, about your message that came here on "
        f"{date(report.received_ns)}."
    )
    for kind, sentence in _SENTENCES.items():
        concerned = [one for one in report.outcomes if one.kind is kind]
        if concerned:
            yield ""
            yield from _paragraph(sentence)
            yield ""
            for outcome in concerned[:RECIPIENTS_SHOWN]:
                yield from _recipient(report, outcome)
            if len(concerned) > RECIPIENTS_SHOWN:
                yield f"{CUT} and {len(concerned) - RECIPIENTS_SHOWN} more"
    is_tried = any(one.kind is OutcomeKind.DEFERRED for one in report.outcomes)
    if is_tried and report.retry_until_ns is not None:
        yield ""
        yield from _paragraph(f"It is tried until {date(report.retry_until_ns)}.")
    yield ""
    yield from _paragraph(f"The next part says the same for programs; the last one is {returned}.")


def _recipient(report: Report, outcome: Outcome) -> Iterator[str]:
    path = report.envelope.forward_paths[outcome.place]
    address = printable(recipient_text(path, report.hostname), utf8=True)
    yield f"<{cut(address, ADDRESS_SHOWN_OCTETS)}>"
    said = cut(printable(outcome.diagnostic, utf8=False), report.diagnostic_octets)
    if outcome.kind in (OutcomeKind.FAILED, OutcomeKind.DEFERRED) and said:
        remote = remote_text(outcome.remote)
        speaker = f"{remote} said: " if outcome.is_reply else f"{remote}: " if remote else ""
        yield from lines(speaker + said, first="    ", indent="    ")


def _paragraph(text: str) -> list[str]:
    return lines(printable(text, utf8=False), first="", indent="")
