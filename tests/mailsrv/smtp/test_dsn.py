"""What a sender asks of notifications (RFC 3461), and names beyond ASCII in it (RFC 6533)."""

from __future__ import annotations

import pytest
from conversing import HELLO, Talk, greeted, talk_in_every_cut
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.smtp import command, reply
from mailsrv.smtp.command import ENVID_CHARACTERS_MAX, ORCPT_CHARACTERS_MAX, MailParameters
from mailsrv.smtp.envelope import Notice
from mailsrv.smtp.reply import Reply


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
        ("ENVID=" + "x" * (ENVID_CHARACTERS_MAX + 1), reply.BAD_ENVID),
        ("ENVID=", reply.BAD_ENVID),
        ("ENVID", reply.BAD_ENVID),
        ("ENVID=a=b", reply.BAD_ENVID),
        ("ENVID=a+", reply.BAD_ENVID),
        ("ENVID=a+2", reply.BAD_ENVID),
        ("ENVID=a+2b", reply.BAD_ENVID),
        ("ENVID=a+0Ab", reply.BAD_ENVID),
        ("ENVID=a+7F", reply.BAD_ENVID),
        ("ENVID=a+80", reply.BAD_ENVID),
        ("ENVID=grün", reply.BAD_ENVID),
        ("ENVID=a+20b+7E", MailParameters(envid="a+20b+7E")),
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
        ("ORCPT=rfc822;a+0D+0Ab", False, reply.BAD_ORCPT),
        ("ORCPT=rfc822;a+0db", False, reply.BAD_ORCPT),
        ("ORCPT=rfc822;a+C3+A4", False, reply.BAD_ORCPT),
        ("ORCPT=rfc822;", False, reply.BAD_ORCPT),
        ("ORCPT=;a", False, reply.BAD_ORCPT),
        ("ORCPT=a@b.example", False, reply.BAD_ORCPT),
        ("ORCPT", False, reply.BAD_ORCPT),
        ("ORCPT=rfc822;" + "x" * (ORCPT_CHARACTERS_MAX - 7), False, None),
        ("ORCPT=rfc822;" + "x" * (ORCPT_CHARACTERS_MAX - 6), False, reply.BAD_ORCPT),
        ("ORCPT=utf-8;a\\x{FC}@b.example", False, Notice(orcpt="utf-8;a\\x{FC}@b.example")),
        ("ORCPT=UTF-8;\\x{1F600}@b.example", False, Notice(orcpt="UTF-8;\\x{1F600}@b.example")),
        ("ORCPT=utf-8;a\\x{0A}b", False, reply.BAD_ORCPT),
        ("ORCPT=utf-8;a\\x{7F}b", False, reply.BAD_ORCPT),
        ("ORCPT=utf-8;a\\x{85}b", False, reply.BAD_ORCPT),
        ("ORCPT=utf-8;a\\x{D800}b", False, reply.BAD_ORCPT),
        ("ORCPT=utf-8;a\\x{FFFFFF}b", False, reply.BAD_ORCPT),
        ("ORCPT=utf-8;a\\b", False, reply.BAD_ORCPT),
        ("ORCPT=utf-8;ä@b.example", True, Notice(orcpt="utf-8;ä@b.example")),
        ("ORCPT=utf-8;ä@b.example", False, reply.BAD_ORCPT),
        ("ORCPT=rfc822;ä@b.example", True, reply.BAD_ORCPT),
        ("ORCPT=utf-8;a\u0085b", True, reply.UNKNOWN_PARAMETER),  # it is white space
        ("ORCPT=utf-8;a\u200eb", True, reply.BAD_ORCPT),
        ("RET=FULL", False, reply.UNKNOWN_PARAMETER),
        ("X=1", False, reply.UNKNOWN_PARAMETER),
        ("NOTIFY=DELAY " * 17, False, reply.UNKNOWN_PARAMETER),
    ],
)
def test_parameters_of_rcpt(rest: str, smtputf8: bool, answer: Notice | Reply | None) -> None:
    given = command.rcpt(rest, smtputf8)
    assert given == answer if answer is not None else isinstance(given, Notice)


@given(st.text(alphabet=st.characters(max_codepoint=0x7F), max_size=20))
def test_what_is_kept_never_holds_a_control_character(text: str) -> None:
    for kept in (
        command.rcpt(f"ORCPT=rfc822;{text}", False),
        command.rcpt(f"ORCPT=utf-8;{text}", True),
    ):
        if isinstance(kept, Notice):
            assert kept.orcpt.isascii()
            assert kept.orcpt.isprintable()


def test_a_refused_parameter_leaves_the_transaction_as_it_was() -> None:
    talk = greeted().feed(
        b"MAIL FROM:<> RET=x\r\nMAIL FROM:<>\r\n",
        b"RCPT TO:<b@example.test> ORCPT=rfc822;a+0D+0Ab\r\nRCPT TO:<b@example.test>\r\n",
        b"DATA\r\n.\r\n",
    )
    assert talk.codes == [501, 250, 501, 250, 354, 250]
    assert talk.messages[0].envelope.notices == {}


def test_auth_is_not_offered_and_takes_no_parameter() -> None:
    assert command.parse_mail("FROM:<a@b.example> AUTH=<>") == reply.UNKNOWN_PARAMETER
