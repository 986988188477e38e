"""What a sender asks of notifications (RFC 3461), and names beyond ASCII in it (RFC 6533)."""

from __future__ import annotations

import pytest
from conversing import HELLO, Talk, greeted, talk_in_every_cut
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.smtp import command, reply
from mailsrv.smtp.command import (
    ENVID_CHARACTERS_MAX,
    ORCPT_CHARACTERS_MAX,
    MailParameters,
    RcptParameters,
)
from mailsrv.smtp.envelope import Notice
from mailsrv.smtp.events import ProtocolNote
from mailsrv.smtp.reply import Reply

LONGEST = "x" * (ORCPT_CHARACTERS_MAX - len("rfc822;"))


def dropped(*parameters: str) -> MailParameters:
    return MailParameters(dropped=parameters)


def test_what_was_asked_is_kept_with_the_envelope() -> None:
    talk = talk_in_every_cut(
        HELLO
        + b"MAIL FROM:<a@example.org> RET=hdrs ENVID=QQ+2B314159 SIZE=10\r\n"
        + b"RCPT TO:<b@example.test>\r\n"
        + b"RCPT TO:<c@example.test> NOTIFY=success,DELAY ORCPT=rfc822;C+2Bx@example.test\r\n"
        + b"RCPT TO:<d@example.test> notify=NEVER\r\n"
        + b"DATA\r\n.\r\n"
    )
    assert talk.codes == [250, 250, 250, 250, 250, 354, 250]
    envelope = talk.messages[0].envelope
    assert (envelope.ret, envelope.envid, envelope.size_declared_octets) == (
        *("HDRS", "QQ+2B314159"),
        10,
    )
    assert envelope.notices == {
        1: Notice(("SUCCESS", "DELAY"), "rfc822;C+2Bx@example.test"),
        2: Notice(("NEVER",)),
    }


def test_places_count_the_accepted_recipients_only() -> None:
    talk = Talk(lambda question: reply.GREYLISTED if "x@" in str(question.forward_path) else None)
    talk.feed(HELLO + b"MAIL FROM:<>\r\n")
    talk.feed(b"RCPT TO:<x@example.test> NOTIFY=NEVER\r\nRCPT TO:<b@example.test> NOTIFY=DELAY\r\n")
    assert talk.session.envelope is not None
    assert talk.session.envelope.notices == {0: Notice(("DELAY",))}


def test_nothing_is_kept_for_the_next_transaction() -> None:
    talk = greeted().feed(b"MAIL FROM:<> RET=FULL ENVID=x\r\nRSET\r\nMAIL FROM:<>\r\n")
    envelope = talk.session.envelope
    assert envelope is not None
    assert (envelope.ret, envelope.envid, envelope.notices) == ("", "", {})


@pytest.mark.parametrize(
    ("rest", "answer"),
    [
        ("RET=FULL", MailParameters(ret="FULL")),
        ("ret=hdrs", MailParameters(ret="HDRS")),
        ("RET=BODY", reply.BAD_RET),
        ("RET=", reply.BAD_RET),
        ("RET", reply.BAD_RET),
        ("RET=FULL RET=FULL", reply.REPEATED_PARAMETER),
        ("ENVID=a", MailParameters(envid="a")),
        ("ENVID=" + "x" * ENVID_CHARACTERS_MAX, MailParameters(envid="x" * ENVID_CHARACTERS_MAX)),
        (f"ENVID={'x' * (ENVID_CHARACTERS_MAX + 1)}", dropped(f"ENVID={'x' * 101}")),
        ("ENVID=", dropped("ENVID=")),
        ("ENVID", dropped("ENVID=")),
        ("ENVID=a=b", dropped("ENVID=a=b")),
        ("ENVID=a+", dropped("ENVID=a+")),
        ("ENVID=a+2", dropped("ENVID=a+2")),
        ("ENVID=a+2b", dropped("ENVID=a+2b")),
        ("ENVID=a+0Ab", dropped("ENVID=a+0Ab")),
        ("ENVID=a+7F", dropped("ENVID=a+7F")),
        ("ENVID=a+80", dropped("ENVID=a+80")),
        ("ENVID=grün", dropped("ENVID=grün")),
        ("ENVID=a+20b+7E", MailParameters(envid="a+20b+7E")),
        ("AUTH=<> SIZE=5", MailParameters(size_octets=5, dropped=("AUTH=<>",))),
        ("AUTH=a+0Ab ENVID=+", dropped("AUTH=a+0Ab", "ENVID=+")),
        ("AUTH", dropped("AUTH=")),
        ("AUTH=<> AUTH=<>", reply.REPEATED_PARAMETER),
    ],
)
def test_parameters_of_mail(rest: str, answer: MailParameters | Reply) -> None:
    assert command.mail(rest) == answer


@pytest.mark.parametrize(
    ("rest", "smtputf8", "answer"),
    [
        ("NOTIFY=NEVER", False, Notice(("NEVER",))),
        ("NOTIFY=SUCCESS,FAILURE,DELAY", False, Notice(("SUCCESS", "FAILURE", "DELAY"))),
        ("NOTIFY=DELAY,DELAY", False, Notice(("DELAY",))),
        ("NOTIFY=NEVER,DELAY", False, reply.BAD_NOTIFY),
        ("NOTIFY=ALWAYS", False, reply.BAD_NOTIFY),
        ("NOTIFY=DELAY,", False, reply.BAD_NOTIFY),
        ("NOTIFY=", False, reply.BAD_NOTIFY),
        ("NOTIFY", False, reply.BAD_NOTIFY),
        ("NOTIFY=\u017fUCCESS", False, reply.BAD_NOTIFY),
        ("NOTIFY=DELAY NOTIFY=DELAY", False, reply.REPEATED_PARAMETER),
        ("ORCPT=rfc822;a@b.example", False, Notice(orcpt="rfc822;a@b.example")),
        ("ORCPT=X-local;a+20b", False, Notice(orcpt="X-local;a+20b")),
        ("ORCPT=rfc822;a+0D+0Ab", False, None),
        ("ORCPT=rfc822;a+0db", False, None),
        ("ORCPT=rfc822;a+C3+A4", False, None),
        ("ORCPT=rfc822;", False, None),
        ("ORCPT=;a", False, None),
        ("ORCPT=a@b.example", False, None),
        ("ORCPT", False, None),
        ("ORCPT=rfc822;" + LONGEST, False, Notice(orcpt="rfc822;" + LONGEST)),
        ("ORCPT=rfc822;x" + LONGEST, False, None),
        ("ORCPT=utf-8;a\\x{FC}@b.example", False, Notice(orcpt="utf-8;a\\x{FC}@b.example")),
        ("ORCPT=UTF-8;\\x{1F600}@b.example", False, Notice(orcpt="UTF-8;\\x{1F600}@b.example")),
        ("ORCPT=utf-8;a\\x{0A}b", False, None),
        ("ORCPT=utf-8;a\\x{7F}b", False, None),
        ("ORCPT=utf-8;a\\x{85}b", False, None),
        ("ORCPT=utf-8;a\\x{D800}b", False, None),
        ("ORCPT=utf-8;a\\x{FFFFFF}b", False, None),
        ("ORCPT=utf-8;a\\b", False, None),
        ("ORCPT=utf-8;ä@b.example", True, Notice(orcpt="utf-8;ä@b.example")),
        ("ORCPT=utf-8;ä@b.example", False, None),
        ("ORCPT=rfc822;ä@b.example", True, None),
        ("ORCPT=utf-8;a\u0085b", True, reply.UNKNOWN_PARAMETER),  # it is white space
        ("ORCPT=utf-8;a\u200eb", True, None),
        ("RET=FULL", False, reply.UNKNOWN_PARAMETER),
        ("X=1", False, reply.UNKNOWN_PARAMETER),
        ("NOTIFY=DELAY " * 17, False, reply.UNKNOWN_PARAMETER),
    ],
)
def test_parameters_of_rcpt(rest: str, smtputf8: bool, answer: Notice | Reply | None) -> None:
    """None: the parameter is dropped, and costs nothing."""
    asked = command.rcpt(rest, smtputf8)
    if isinstance(answer, Reply):
        assert asked == answer
    else:
        assert asked == RcptParameters(answer, () if answer else (rest + "=" * ("=" not in rest),))


@given(st.text(alphabet=st.characters(max_codepoint=0x7F), max_size=20))
def test_what_is_kept_never_holds_a_control_character(text: str) -> None:
    for kept in (
        command.rcpt(f"ORCPT=rfc822;{text}", False),
        command.rcpt(f"ORCPT=utf-8;{text}", True),
    ):
        if isinstance(kept, RcptParameters) and kept.notice is not None:
            assert kept.notice.orcpt.isascii()
            assert kept.notice.orcpt.isprintable()


def test_a_refused_parameter_leaves_the_transaction_as_it_was() -> None:
    talk = greeted().feed(
        b"MAIL FROM:<> RET=x\r\nMAIL FROM:<>\r\n",
        b"RCPT TO:<b@example.test> NOTIFY=x\r\nRCPT TO:<b@example.test>\r\n",
        b"DATA\r\n.\r\n",
    )
    assert talk.codes == [501, 250, 501, 250, 354, 250]
    assert talk.messages[0].envelope.notices == {}


def test_what_only_advises_is_dropped_with_a_line_in_the_log_and_costs_no_recipient() -> None:
    talk = greeted().feed(
        b"MAIL FROM:<> AUTH=<> ENVID=a+0A\r\n",
        b"RCPT TO:<b@example.test> NOTIFY=NEVER ORCPT=rfc822;a+0D+0Ab\r\n",
        b"DATA\r\n",
        b".\r\n",
    )
    assert talk.codes == [250, 250, 354, 250]
    envelope = talk.messages[0].envelope
    assert (envelope.envid, envelope.notices) == ("", {0: Notice(("NEVER",))})
    notes = [one for one in talk.session.events or () if isinstance(one, ProtocolNote)]
    assert notes == [
        ProtocolNote("parameter dropped", "AUTH=<>"),
        ProtocolNote("parameter dropped", "ENVID=a+0A"),
        ProtocolNote("parameter dropped", "ORCPT=rfc822;a+0D+0Ab"),
    ]
