"""The sending session: what it sends in which flight, what it waits for, and how it ends."""

from __future__ import annotations

import pytest
from next_hop import BODY, CHUNKS, FULL, HANGS, OPTIONS, PLAIN, REMOTE, Exchange, Hop, message

from mailsrv.smtp.sending.message import OutgoingMessage
from mailsrv.smtp.sending.options import Dialect, SendingOptions, TlsPolicy
from mailsrv.smtp.sending.outcome import OutcomeKind
from mailsrv.smtp.sending.session import SendingSession, Want
from mailsrv.smtp.sending.timeouts import SENDING_TIMEOUTS_NS, SendingTimeout

LMTP = OPTIONS._replace(dialect=Dialect.LMTP)
EHLO = b"EHLO gw.example.test\r\n"
NO = b"550 no\r\n"
TWO = message("b@example.test", "c@example.test")


class Wire:
    """A session whose next hop is the test itself."""

    def __init__(self, ehlo: bytes = FULL, lmtp: bool = False) -> None:
        self.session = SendingSession(LMTP if lmtp else OPTIONS, REMOTE)
        self.reply(b"220 hop\r\n")
        self.reply(ehlo)

    def reply(self, octets: bytes) -> bytes:
        """What the session sends upon a reply."""
        self.session.receive(octets)
        return self.sent

    def send(self, outgoing: OutgoingMessage, *pieces: bytes) -> bytes:
        """What the session sends upon a message and its content."""
        self.session.start(outgoing)
        for piece in pieces:
            self.session.feed(piece)
        self.session.end_content()
        return self.sent

    @property
    def sent(self) -> bytes:
        octets = b"".join(self.session.output)
        self.session.output.clear()
        return octets


# -- flights --------------------------------------------------------------------------------------


def test_without_pipelining_each_command_waits_for_the_reply_to_the_one_before() -> None:
    hop = Hop()
    exchange = Exchange(hop, TWO)
    assert [one.status for one in exchange.only] == ["2.0.0", "2.0.0"]
    wire = Wire(PLAIN)
    assert wire.send(TWO, BODY) == b"MAIL FROM:<a@example.org>\r\n"
    assert wire.reply(b"250 ok\r\n") == b"RCPT TO:<b@example.test>\r\n"
    assert wire.reply(b"250 ok\r\n") == b"RCPT TO:<c@example.test>\r\n"
    assert wire.reply(b"250 ok\r\n") == b"DATA\r\n"
    assert wire.reply(b"354 go\r\n") == BODY + b".\r\n"
    assert wire.reply(b"250 ok\r\n") == b""
    assert wire.session.want is Want.MESSAGE


def test_with_pipelining_the_envelope_and_data_are_one_flight() -> None:
    wire = Wire()
    assert wire.send(TWO, BODY) == (
        b"MAIL FROM:<a@example.org> SIZE=21\r\n"
        b"RCPT TO:<b@example.test>\r\n"
        b"RCPT TO:<c@example.test>\r\n"
        b"DATA\r\n"
    )
    assert wire.reply(b"250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n") == BODY + b".\r\n"
    wire.reply(b"250 ok\r\n")
    outcomes = wire.session.take_outcomes()
    assert outcomes is not None
    assert [one.kind for one in outcomes] == [OutcomeKind.RELAYED, OutcomeKind.FAILED]


def test_with_chunking_too_a_small_message_is_one_flight() -> None:
    wire = Wire(CHUNKS)
    assert wire.send(message(), BODY) == (
        b"MAIL FROM:<a@example.org> SIZE=21\r\nRCPT TO:<b@example.test>\r\nBDAT 21 LAST\r\n" + BODY
    )


def test_lmtp_does_not_send_chunks_before_it_knows_how_many_replies_are_due() -> None:
    wire = Wire(CHUNKS, lmtp=True)
    assert wire.send(TWO, BODY).endswith(b"RCPT TO:<c@example.test>\r\n")
    assert wire.reply(b"250 ok\r\n550 no\r\n250 ok\r\n") == b"BDAT 21 LAST\r\n" + BODY


def test_a_long_message_goes_in_chunks_two_of_which_may_be_unanswered() -> None:
    wire = Wire(CHUNKS)
    session = wire.session
    session.start(message())
    session.feed(b"x" * 70_000)
    assert wire.sent.endswith(b"RCPT TO:<b@example.test>\r\n")
    assert wire.reply(b"250 ok\r\n250 ok\r\n") == b"BDAT 70000\r\n" + b"x" * 70_000
    assert session.want is Want.CONTENT
    session.feed(b"y\r")
    assert wire.sent == b"BDAT 1\r\ny"
    assert session.want is Want.REPLY
    wire.reply(b"250 ok\r\n")
    session.feed(b"\n")
    assert wire.sent == b"BDAT 2\r\n\r\n"
    wire.reply(b"250 ok\r\n")
    session.end_content()
    assert wire.sent == b"BDAT 0 LAST\r\n"
    wire.reply(b"250 ok\r\n250 2.0.0 taken\r\n")
    outcomes = session.take_outcomes()
    assert outcomes is not None
    assert outcomes[0].diagnostic == "250 2.0.0 taken"


@pytest.mark.parametrize("lmtp", [False, True])
def test_without_pipelining_and_with_lmtp_each_chunk_is_waited_for(lmtp: bool) -> None:
    wire = Wire(CHUNKS if lmtp else CHUNKS.replace(b"PIPELINING", b"X"), lmtp)
    wire.session.start(message())
    wire.session.feed(b"x" * 70_000)
    for _ in range(2):
        wire.reply(b"250 ok\r\n")
    assert wire.session.want is Want.REPLY
    wire.reply(b"250 ok\r\n")
    assert wire.session.want is Want.CONTENT
    wire.session.feed(b"\r")
    assert wire.sent == b""
    wire.session.feed(b"\n")
    assert wire.sent == b"BDAT 2\r\n\r\n"
    assert wire.session.want is Want.REPLY


def test_a_reply_where_each_chunk_was_answered_ends_the_connection() -> None:
    wire = Wire(CHUNKS)
    wire.session.start(message())
    wire.session.feed(b"x" * 70_000)
    wire.reply(b"250 ok\r\n250 ok\r\n")
    wire.reply(b"250 ok\r\n")
    assert wire.session.want is Want.CONTENT
    wire.reply(b"250 once too often\r\n")
    assert wire.session.want is Want.CLOSE


def test_a_route_may_do_without_chunks() -> None:
    hop = Hop(EHLO=CHUNKS)
    Exchange(hop, message(), options=OPTIONS._replace(chunking=False))
    assert hop.lines[-1] == "DATA"


def test_after_a_refused_envelope_rset_comes_before_the_next_message() -> None:
    hop = Hop(EHLO=FULL, RCPT=[NO, NO, b"250 ok\r\n"], DATA=[NO, b"354 go\r\n"])
    Exchange(hop, TWO, message())
    assert [line.partition(" ")[0] for line in hop.lines] == [
        *("EHLO", "MAIL", "RCPT", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA"),
    ]


def test_nothing_but_a_lone_dot_is_sent_when_data_is_granted_for_nobody() -> None:
    hop = Hop(EHLO=FULL, RCPT=NO)
    Exchange(hop, TWO)
    assert hop.contents == [b".\r\n"]


def test_no_empty_message_is_made_where_a_recipient_was_taken_behind_a_refused_mail() -> None:
    hop = Hop(EHLO=FULL, MAIL=NO)
    exchange = Exchange(hop, TWO)
    assert hop.contents == []
    assert exchange.session.want is Want.CLOSE


def test_a_message_may_wait_for_the_greeting_and_after_another() -> None:
    session = SendingSession(OPTIONS, REMOTE)
    session.start(message())
    assert session.busy
    with pytest.raises(RuntimeError):
        session.start(message())
    session.receive(b"220 hop\r\n")
    session.receive(PLAIN)
    assert session.want is Want.CONTENT


# -- what a next hop offers -----------------------------------------------------------------------


def test_ehlo_again_under_tls_and_what_was_offered_in_the_clear_is_forgotten() -> None:
    hop = Hop(EHLO=[FULL.replace(b"DSN", b"STARTTLS"), PLAIN])
    Exchange(hop, message())
    assert hop.lines == [
        *("EHLO gw.example.test", "STARTTLS", "EHLO gw.example.test"),
        *("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.test>", "DATA"),
    ]


def test_starttls_is_not_used_where_the_policy_is_never() -> None:
    hop = Hop(EHLO=FULL.replace(b"DSN", b"STARTTLS"))
    Exchange(hop, message(), options=OPTIONS._replace(tls=TlsPolicy.NEVER))
    assert "STARTTLS" not in hop.lines


def test_a_session_under_tls_from_the_first_octet_does_not_ask_for_it() -> None:
    session = SendingSession(OPTIONS._replace(tls=TlsPolicy.VERIFIED), REMOTE, "TLSv1.3")
    session.receive(b"220 hop\r\n250-hop\r\n250 STARTTLS\r\n"[:9])
    session.receive(b"250-hop\r\n250 STARTTLS\r\n")
    assert session.want is Want.MESSAGE
    assert session.output == [EHLO]


def test_no_more_recipients_are_sent_than_the_next_hop_takes() -> None:
    hop = Hop(EHLO=b"250-hop\r\n250 LIMITS RCPTMAX=2 MAILMAX=7\r\n")
    exchange = Exchange(hop, message("b@example.test", "c@example.test", "d@example.test"))
    assert exchange.session.recipients_max == 2
    assert exchange.session.transactions_max == 7
    assert exchange.summary == [("relayed", "2.0.0")] * 2 + [("deferred", "4.5.3")]
    assert len(hop.lines) == 5


def test_a_connection_that_is_lost_in_the_handshake_is_a_failed_handshake() -> None:
    wire = Wire(FULL.replace(b"DSN", b"STARTTLS"))
    wire.session.start(message())
    wire.reply(b"220 go\r\n")
    assert wire.session.want is Want.HANDSHAKE
    wire.session.lost("reset")
    assert wire.session.trouble is not None
    assert wire.session.trouble.status == "4.7.5"
    assert wire.session.trouble.in_the_clear


# -- what is waited for ---------------------------------------------------------------------------


def test_each_wait_has_its_name_and_its_time() -> None:
    wire = Wire(PLAIN)
    session = wire.session
    waits = []

    def note() -> None:
        waits.append((session.timeout, session.waits))

    note()
    session.start(TWO)
    note()
    session.feed(b"x" * 70_000)
    for reply in (b"250 ok\r\n", b"250 ok\r\n", NO, b"354 go\r\n"):
        note()
        wire.reply(reply)
    note()
    session.feed(b"x")
    note()
    session.end_content()
    note()
    wire.reply(b"250 ok\r\n")
    session.quit()
    note()
    names = [name for name, _ in waits]
    assert names == [
        None,
        SendingTimeout.CONTENT,
        SendingTimeout.MAIL,
        SendingTimeout.RCPT,
        SendingTimeout.RCPT,
        SendingTimeout.DATA,
        SendingTimeout.CONTENT,
        SendingTimeout.CONTENT,
        SendingTimeout.END,
        SendingTimeout.QUIT,
    ]
    numbers = [number for _, number in waits]
    assert sorted(set(numbers)) == numbers
    assert set(SENDING_TIMEOUTS_NS) == set(SendingTimeout)


def test_a_part_of_a_reply_does_not_make_the_wait_longer() -> None:
    session = SendingSession(OPTIONS, REMOTE)
    before = session.waits
    for octet in b"220-" + b"x" * 100 + b"\r\n220-more\r\n220":
        session.receive(bytes([octet]))
    assert session.waits == before


@pytest.mark.parametrize(
    ("silent", "words"),
    [
        ("greeting", "timed out, waiting for the greeting"),
        ("EHLO", "timed out, waiting for the reply to EHLO"),
        ("MAIL", "timed out, waiting for the reply to MAIL"),
        ("RCPT", "timed out, waiting for the reply to RCPT"),
        ("DATA", "timed out, waiting for the reply to DATA"),
        ("end", "timed out, waiting for the reply to the end of the content"),
    ],
)
def test_a_silent_next_hop_defers_the_message(silent: str, words: str) -> None:
    exchange = Exchange(Hop(**{silent: HANGS}), message())
    assert exchange.outcomes == []
    exchange.session.timed_out()
    exchange.run()
    (outcome,) = exchange.only
    assert outcome[1:4] == (OutcomeKind.DEFERRED, "4.4.2", words)
    assert exchange.session.want is Want.CLOSE
    assert exchange.session.trouble is not None
    assert exchange.session.trouble.elsewhere == (silent != "end")


# -- how it ends ----------------------------------------------------------------------------------


def idle() -> SendingSession:
    return Exchange(Hop()).session


def test_quit_is_answered_and_the_connection_closed() -> None:
    for reply in (b"221 bye\r\n", b"500 what\r\n", b"421 x\r\n", b"354 x\r\n"):
        session = idle()
        session.quit()
        assert session.output == [b"QUIT\r\n"]
        session.receive(reply)
        assert session.want is Want.CLOSE
        assert session.trouble is None


def test_quit_is_not_waited_for_long_and_may_be_answered_by_a_fin() -> None:
    for end in (SendingSession.timed_out, lambda session: session.lost("closed")):
        session = idle()
        session.quit()
        end(session)
        assert session.want is Want.CLOSE
        assert session.trouble is None


def test_quit_amid_a_message_defers_it() -> None:
    exchange = Exchange(Hop(RCPT=HANGS), TWO)
    exchange.session.output.clear()
    exchange.session.quit()
    assert exchange.session.output == []
    assert exchange.run().summary == [("deferred", "4.3.2")] * 2
    assert exchange.session.want is Want.CLOSE


@pytest.mark.parametrize(
    ("replies", "options", "takes_leave"),
    [
        ({"greeting": b"554 no\r\n"}, OPTIONS, True),
        ({"EHLO": b"450 later\r\n"}, OPTIONS, True),
        ({"EHLO": NO, "HELO": NO}, OPTIONS, True),
        ({"EHLO": FULL}, OPTIONS._replace(tls=TlsPolicy.REQUIRED), True),
        ({"RCPT": NO, "RSET": NO}, OPTIONS, True),
        ({"greeting": b"421 going\r\n"}, OPTIONS, False),
        ({"greeting": b"what\r\n"}, OPTIONS, False),
        ({"MAIL": b"354 go\r\n"}, OPTIONS, False),
    ],
)
def test_quit_is_sent_where_the_next_hop_is_understood_and_goes_on(
    replies: dict[str, bytes], options: SendingOptions, takes_leave: bool
) -> None:
    hop = Hop().script(**replies)
    exchange = Exchange(hop, message(), options=options)
    assert exchange.session.want is Want.CLOSE
    assert (hop.lines[-1:] == ["QUIT"]) is takes_leave


def test_a_next_hop_that_closes_an_idle_connection_is_no_trouble() -> None:
    session = idle()
    session.lost("closed")
    assert session.want is Want.CLOSE
    assert session.trouble is None
    assert session.take_outcomes() is None


def test_a_421_on_an_idle_connection_is_its_end() -> None:
    session = idle()
    session.receive(b"421 4.4.2 idle too long\r\n")
    assert session.want is Want.CLOSE
    assert session.trouble is not None
    assert session.trouble.diagnostic == "421 4.4.2 idle too long"


@pytest.mark.parametrize("octets", [b"250 ok\r\n", b"550 no\r\n", b"2", b"\r\n"])
def test_octets_on_an_idle_connection_are_never_taken_for_a_reply(octets: bytes) -> None:
    session = idle()
    session.receive(octets)
    assert session.want is Want.CLOSE
    assert session.trouble is not None
    assert session.trouble.status == "4.5.0"


def test_a_message_that_waits_for_rset_is_deferred_when_that_fails() -> None:
    exchange = Exchange(Hop(RCPT=NO, RSET=HANGS), message())
    assert exchange.summary == [("failed", "5.1.1")]
    exchange.give(message(), BODY)
    exchange.session.lost("reset")
    exchange.run()
    (outcome,) = exchange.outcomes[1]
    assert outcome.kind is OutcomeKind.DEFERRED
    assert exchange.session.trouble is not None
    assert exchange.session.trouble.elsewhere


@pytest.mark.parametrize("begun", [False, True])
def test_content_that_cannot_be_read_defers_the_message(begun: bool) -> None:
    wire = Wire(FULL)
    wire.session.start(TWO)
    if begun:
        wire.session.feed(b"x" * 70_000)
        wire.reply(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    wire.session.fail_content("the disk is broken")
    outcomes = wire.session.take_outcomes()
    assert outcomes is not None
    decided = (OutcomeKind.DEFERRED, "4.3.0", "the disk is broken")
    assert [one[1:4] for one in outcomes] == [decided] * 2
    assert wire.session.want is (Want.CLOSE if begun else Want.MESSAGE)
    assert wire.session.trouble is None


def test_what_is_done_after_the_end_does_nothing() -> None:
    session = idle()
    session.quit()
    session.lost("closed")
    session.receive(b"250 ok\r\n")
    session.lost("closed")
    session.timed_out()
    session.quit()
    session.fail_content("x")
    assert session.want is Want.CLOSE
    assert session.output == [b"QUIT\r\n"]
