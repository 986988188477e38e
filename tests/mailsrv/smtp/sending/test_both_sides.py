"""Our sending side against our receiving side, in one process: what goes in comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest
from conversing import Talk
from hypothesis import given, settings
from hypothesis import strategies as st
from next_hop import BODY, OPTIONS, REMOTE, message

from mailsrv.smtp import reply
from mailsrv.smtp.envelope import Notice
from mailsrv.smtp.events import Question
from mailsrv.smtp.reply import Reply
from mailsrv.smtp.sending.message import OutgoingMessage
from mailsrv.smtp.sending.options import SendingOptions, TlsPolicy
from mailsrv.smtp.sending.outcome import Outcome
from mailsrv.smtp.sending.session import SendingSession, Want
from mailsrv.smtp.state_machine import State

ROUNDS_MAX = 100_000
Cut = Callable[[bytes], Iterable[bytes]]
BY_SETTING = pytest.mark.parametrize("chunking", [False, True])


def in_one(octets: bytes) -> Iterable[bytes]:
    return [octets]


def every(count: int) -> Cut:
    return lambda octets: [octets[at : at + count] for at in range(0, len(octets), count)]


def decide(question: Question) -> Reply | None:
    return reply.UNKNOWN_RECIPIENT if "nobody" in str(question.forward_path) else None


def carry(
    talk: Talk,
    *messages: tuple[OutgoingMessage, Sequence[bytes]],
    options: SendingOptions = OPTIONS,
    cut: Cut = in_one,
) -> list[Sequence[Outcome]]:
    """Send messages through both sessions, with what passes between them cut into pieces."""
    sender = SendingSession(options, REMOTE)
    waiting = list(messages)
    found: list[Sequence[Outcome]] = []
    content = iter(())
    talk.session.greet()
    talk.feed(b"")
    read = 0
    for _ in range(ROUNDS_MAX):
        outcomes = sender.take_outcomes()
        if outcomes is not None:
            found.append(outcomes)
        if read < len(talk.flights):
            for piece in cut(talk.flights[read]):
                sender.receive(piece)
            read += 1
        elif sender.output:
            octets = b"".join(sender.output)
            sender.output.clear()
            talk.feed(*cut(octets))
        elif sender.want is Want.HANDSHAKE:
            assert talk.session.state is State.HANDSHAKE
            talk.session.secured("TLSv1.3")
            sender.secured("TLSv1.3")
        elif sender.want is Want.CONTENT:
            piece = next(content, None)
            sender.end_content() if piece is None else sender.feed(piece)
        elif sender.want is Want.MESSAGE and waiting:
            outgoing, pieces = waiting.pop(0)
            content = iter(pieces)
            sender.start(outgoing)
        elif sender.want is Want.MESSAGE:
            sender.quit()
        else:
            assert sender.want is Want.CLOSE
            assert sender.trouble is None
            assert talk.session.closing
            return found
    raise AssertionError("they never come to an end")


@BY_SETTING
@pytest.mark.parametrize("cut", [in_one, every(1), every(7)])
def test_every_extension_is_understood(chunking: bool, cut: Cut) -> None:
    talk = Talk(decide, tls=True)
    outgoing = message(
        *("gr\u00fc\u00dfe@example.test", "nobody@example.test", "c@example.test"),
        sender="\u00fc@example.org",
        body="8BITMIME",
        smtputf8=True,
        ret="HDRS",
        envid="QQ+2B1",
        notices={0: Notice(("SUCCESS", "FAILURE"), "utf-8;gr\u00fc\u00dfe@example.org")},
    )
    content = b"Subject: gr\xc3\xbc\xc3\x9fe\r\n\r\n.\r\n..\r\n.x\r\n\x00\xff\r\n"
    (outcomes,) = carry(
        talk,
        (outgoing, [content]),
        options=OPTIONS._replace(chunking=chunking, tls=TlsPolicy.REQUIRED),
        cut=cut,
    )
    assert [(one.kind.value, one.status) for one in outcomes] == [
        *(("relayed", "2.0.0"), ("failed", "5.1.1"), ("relayed", "2.0.0")),
    ]
    assert outcomes[0].dsn
    (arrived,) = talk.messages
    sent = outgoing.envelope
    assert arrived.content == content
    assert arrived.envelope.reverse_path == sent.reverse_path
    assert arrived.envelope.forward_paths == [sent.forward_paths[0], sent.forward_paths[2]]
    assert arrived.envelope.protocol == "UTF8SMTPS"
    assert arrived.envelope.body == "8BITMIME"
    assert arrived.envelope.size_declared_octets == outgoing.size_octets
    assert (arrived.envelope.ret, arrived.envelope.envid) == ("HDRS", "QQ+2B1")
    assert arrived.envelope.notices == sent.notices


@BY_SETTING
def test_several_messages_go_over_one_connection(chunking: bool) -> None:
    talk = Talk(decide)
    letters = [
        (message("a@example.test"), [BODY]),
        (message("nobody@example.test"), [BODY]),
        (
            message("b@example.test", "nobody@example.test"),
            [BODY, b"x" * 70_000 + b"\r\n", b"y\r\n"],
        ),
        (message(sender=""), []),
        (message("c@example.test"), [b"one\nline\r\n"]),
        (message("d@example.test"), [BODY]),
    ]
    found = carry(talk, *letters, options=OPTIONS._replace(chunking=chunking))
    assert [[one.kind.value for one in outcomes] for outcomes in found] == [
        *(["relayed"], ["failed"], ["relayed", "failed"], ["relayed"], ["failed"], ["relayed"]),
    ]
    assert len(talk.messages) == 4
    assert talk.codes.count(503) == 0


def test_a_refused_message_leaves_the_connection_usable() -> None:
    for chunking in (False, True):
        talk = Talk(decide, outcomes=("452 4.3.1 full", "554 5.7.1 spam"))
        letter = (message("a@example.test"), [BODY])
        found = carry(talk, letter, letter, letter, options=OPTIONS._replace(chunking=chunking))
        assert [one[0].diagnostic[:9] for one in found] == [
            *("452 4.3.1", "554 5.7.1", "250 2.0.0"),
        ]


def test_a_message_larger_than_the_limit_fails_before_it_is_sent() -> None:
    talk = Talk(decide, message_octets=100)
    (outcomes,) = carry(talk, (message(octets=101), [b"x" * 99 + b"\r\n"]))
    assert outcomes[0].status == "5.3.4"
    assert talk.codes == [220, 250, 221]


tokens = st.sampled_from([b"\r\n", b".", b"\r\n.", b"x", b"\xff", b"Subject: x\r\n", b"\r\n.\r\n"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(tokens, max_size=12).map(b"".join), max_size=6),
    st.booleans(),
    st.integers(1, 40),
    st.booleans(),
)
def test_any_content_arrives_octet_for_octet(
    pieces: list[bytes], chunking: bool, size: int, tls: bool
) -> None:
    talk = Talk(decide, tls=tls)
    head = b"X-First: 1\r\n"
    carry(
        talk,
        (message(), [head, *pieces]),
        options=OPTIONS._replace(chunking=chunking),
        cut=every(size),
    )
    content = head + b"".join(pieces)
    ended = content.endswith(b"\r\n") or chunking
    (arrived,) = talk.messages
    assert arrived.content == (content if ended else content + b"\r\n")
