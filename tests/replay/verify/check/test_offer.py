"""What a server offers, and targets that are no SMTP server."""

from __future__ import annotations

import socket

import pytest
from checking import QUICK
from real_server import closed_port, handled_by
from scripted_server import Manners, scripted

from mailsrv.runtime.clock import SystemClock
from replay.play.realtime_player import RealtimeOptions
from replay.play.target import Target, TargetError
from replay.verify.check.offer import Offer, ask
from replay.verify.check.prepared import Introduction

HOW = RealtimeOptions(by_claims=QUICK)
CREDENTIALS = Introduction(user="me", password="secret")


def asked(target: Target, introduction: Introduction | None = None) -> Offer:
    return ask(target, HOW, introduction or Introduction(), SystemClock())


def test_the_keywords_are_those_of_ehlo() -> None:
    with scripted(Manners()) as target:
        offer = asked(target)
    assert offer.keywords == {"CHUNKING", "STARTTLS"}
    assert (offer.greeting, offer.doubt) == ("220 mx.example.test", "")


def test_under_tls_the_keywords_are_those_of_the_second_ehlo() -> None:
    for manners, tls in ((Manners(), "starttls"), (Manners(implicit_tls=True), "implicit")):
        with scripted(manners) as target:
            assert asked(target, Introduction(tls=tls)).keywords == {"CHUNKING", "STARTTLS"}
        assert manners.commands[-1] == b"QUIT\r\n"


@pytest.mark.parametrize(
    ("introduction", "commands"),
    [
        (CREDENTIALS, [b"AUTH PLAIN AG1lAHNlY3JldA==\r\n"]),
        (
            Introduction(user="me", password="secret", mechanism="LOGIN"),
            [b"AUTH LOGIN\r\n", b"bWU=\r\n", b"c2VjcmV0\r\n"],
        ),
    ],
)
def test_credentials_are_given_before_the_mail(
    introduction: Introduction, commands: list[bytes]
) -> None:
    login = {"AUTH": b"334 VXNlcm5hbWU6\r\n", "BWU=": b"334 x\r\n", "C2VJ": b"235 Welcome\r\n"}
    manners = Manners(replies=login if introduction.mechanism == "LOGIN" else {})
    with scripted(manners) as target:
        assert asked(target, introduction).doubt == ""
    assert manners.commands[1 : 1 + len(commands)] == commands
    assert manners.commands[1 + len(commands)].startswith(b"MAIL FROM:")


@pytest.mark.parametrize(
    ("replies", "introduction", "doubt"),
    [
        ({"RCPT": b"554 No relay\r\n"}, None, "RCPT TO:<b@example.test> is refused: 554 No relay"),
        ({"MAIL": b"550 No\r\n"}, None, "MAIL FROM:<a@example.org> is refused: 550 No; --sender"),
        ({"RCPT": b"550 No\r\n"}, CREDENTIALS, "RCPT TO:<b@example.test> is refused: 550 No"),
    ],
)
def test_a_refused_sender_or_recipient_is_told(
    replies: dict[str, bytes], introduction: Introduction | None, doubt: str
) -> None:
    with scripted(Manners(replies=replies)) as target:
        assert asked(target, introduction).doubt.startswith(doubt)


@pytest.mark.parametrize(
    ("manners", "introduction", "reason"),
    [
        (Manners(replies={"": b"554 No\r\n"}), None, "takes no mail: it greets with 554 No"),
        (Manners(replies={"": b"SSH-2.0-x\r\n"}), None, "no SMTP server: it began with SSH-2.0-x"),
        (Manners(replies={"": b""}), None, "no SMTP server: its greeting was nothing"),
        (Manners(replies={"": b"220"}), None, "no SMTP server: its greeting was 220"),
        (
            Manners(replies={"": b""}, closes_behind=""),
            None,
            "its greeting was nothing, and closed the connection",
        ),
        (Manners(replies={"EHLO": b"502 No\r\n"}), None, "EHLO was answered 502 No"),
        (Manners(replies={"EHLO": b""}), None, "EHLO was answered nothing"),
        (Manners(replies={"AUTH": b"535 No\r\n"}), CREDENTIALS, "refuses the credentials: 535 No"),
        (
            Manners(replies={"STAR": b"454 No TLS\r\n"}),
            Introduction(tls="starttls"),
            "does not begin TLS: STARTTLS was answered 454 No TLS",
        ),
        (Manners(closes_behind="STAR"), Introduction(tls="starttls"), "the TLS handshake failed"),
        (Manners(), Introduction(tls="implicit"), "the TLS handshake failed"),
    ],
)
def test_a_target_that_will_not_do_is_told_once(
    manners: Manners, introduction: Introduction | None, reason: str
) -> None:
    with scripted(manners) as target, pytest.raises(TargetError) as caught:
        asked(target, introduction)
    assert reason in str(caught.value)


def test_a_target_that_is_not_there_or_drops_the_connection_is_told() -> None:
    with closed_port() as target, pytest.raises(TargetError, match="Connection refused"):
        asked(target)
    with handled_by(socket.socket.close) as target, pytest.raises(TargetError, match="nothing"):
        asked(target)
