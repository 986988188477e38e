"""STARTTLS as the session sees it (RFC 3207): one 220, then silence until the handshake is done;
what was said before it is forgotten, what comes behind it is never read as commands."""

from __future__ import annotations

import pytest
from conversing import ENVELOPE, HELLO, MESSAGE, Talk, cuts

from mailsrv.smtp import reply
from mailsrv.smtp.state_machine import State

TLS = "TLSv1.3 TLS_AES_256_GCM_SHA384"


def with_tls() -> Talk:
    return Talk(tls=True)


def secured() -> Talk:
    talk = with_tls().feed(HELLO + b"STARTTLS\r\n")
    talk.session.take_rest()
    talk.session.secured(TLS)
    talk.flights.clear()
    return talk


def offered(talk: Talk) -> set[str]:
    return {line[4:] for line in talk.heard.decode().splitlines()}


def test_starttls_is_offered_where_there_is_a_certificate_and_not_within_tls() -> None:
    assert "STARTTLS" in offered(with_tls().feed(HELLO))
    assert "STARTTLS" not in offered(Talk().feed(HELLO))
    assert "STARTTLS" not in offered(secured().feed(HELLO))


def test_starttls_gets_one_220_and_nothing_behind_it_is_read() -> None:
    said = HELLO + b"STARTTLS\r\n" + b"NOOP\r\n" + MESSAGE
    for chunks in cuts(said):
        talk = with_tls().feed(*chunks)
        assert talk.heard.endswith(reply.START_TLS.wire)
        assert talk.codes == [250, 220]
        assert (talk.session.state, talk.session.closing) == (State.HANDSHAKE, False)
        assert talk.session.take_rest() == b"NOOP\r\n" + MESSAGE
        assert (talk.session.buffered_octets, talk.session.mid_command) == (0, False)


def test_half_a_command_behind_starttls_does_not_begin_the_first_one_within_tls() -> None:
    talk = with_tls().feed(HELLO + b"STARTTLS\r\nNOO")
    assert talk.session.take_rest() == b"NOO"
    talk.session.secured(TLS)
    talk.flights.clear()
    assert talk.feed(HELLO).codes == [250]


@pytest.mark.parametrize(
    ("argument", "tls", "again", "answer"),
    [
        (b" now", True, False, reply.NO_ARGUMENT),
        (b"", False, False, reply.NOT_IMPLEMENTED),
        (b" now", False, False, reply.NOT_IMPLEMENTED),
        (b"", True, True, reply.TLS_ALREADY),
    ],
)
def test_starttls_is_refused_and_the_session_goes_on(
    argument: bytes, tls: bool, again: bool, answer: reply.Reply
) -> None:
    talk = secured() if again else Talk(tls=tls)
    talk.feed(HELLO)
    talk.flights.clear()
    talk.feed(b"STARTTLS" + argument + b"\r\nNOOP\r\n")
    assert talk.heard == answer.wire + reply.OK.wire
    assert talk.session.state is not State.HANDSHAKE


def test_within_tls_everything_said_before_is_forgotten() -> None:
    talk = with_tls().feed(HELLO + ENVELOPE + b"STARTTLS\r\n")
    assert [one.verdict for one in talk.ended] == [None]
    session = talk.session
    assert session.envelope is None
    session.take_rest()
    session.secured(TLS)
    assert (session.state, session.helo, session.protocol) == (State.CONNECTED, "", "SMTP")
    talk.flights.clear()
    assert talk.feed(ENVELOPE + b"DATA\r\n").codes == [503, 503, 503]


def test_errors_and_transactions_are_not_forgotten() -> None:
    talk = Talk(tls=True, transactions=1).feed(HELLO + ENVELOPE + b"XYZZY\r\nSTARTTLS\r\n")
    talk.session.take_rest()
    talk.session.secured(TLS)
    assert talk.session.errors == 1
    assert talk.feed(HELLO + ENVELOPE).codes[-1] == 421


@pytest.mark.parametrize(
    ("hello", "parameter", "protocol"),
    [
        (b"EHLO x", b"", "ESMTPS"),
        (b"EHLO x", b" SMTPUTF8", "UTF8SMTPS"),
        (b"HELO x", b"", "SMTP"),
    ],
)
def test_the_envelope_names_protocol_and_cipher(
    hello: bytes, parameter: bytes, protocol: str
) -> None:
    talk = secured().feed(
        hello + b"\r\nMAIL FROM:<a@example.org>" + parameter + b"\r\n",
        b"RCPT TO:<b@example.test>\r\nDATA\r\n.\r\n",
    )
    envelope = talk.messages[0].envelope
    assert (envelope.protocol, envelope.tls) == (protocol, TLS)


def test_in_the_clear_no_cipher_is_named() -> None:
    assert with_tls().feed(HELLO + MESSAGE).messages[0].envelope.tls == ""


def test_implicit_tls_is_there_before_the_greeting() -> None:
    talk = with_tls()
    talk.session.secured(TLS)
    talk.session.greet()
    talk.feed(HELLO + MESSAGE)
    assert talk.codes == [220, 250, 250, 250, 354, 250]
    assert "STARTTLS" not in offered(talk)
    assert talk.messages[0].envelope.protocol == "ESMTPS"


def test_the_go_ahead_for_the_handshake_is_not_held_back_by_errors() -> None:
    talk = Talk(tls=True, errors_soft=1).feed(HELLO + b"X\r\nX\r\nX\r\n")
    asked = len(talk.asked)
    talk.feed(b"STARTTLS\r\n")
    assert (talk.codes[-1], len(talk.asked)) == (220, asked)


def test_a_session_that_ended_meanwhile_stays_closed() -> None:
    talk = with_tls().feed(HELLO + b"STARTTLS\r\n")
    talk.session.lose()
    talk.session.secured(TLS)
    talk.feed(HELLO)
    assert (talk.session.closing, talk.codes) == (True, [250, 220])


def test_starttls_before_ehlo_is_taken_too() -> None:
    assert with_tls().feed(b"STARTTLS\r\n").codes == [220]
