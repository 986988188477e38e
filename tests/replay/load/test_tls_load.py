"""Load under TLS: what a session does before its transcript, and what it measures."""

from __future__ import annotations

import socket

import pytest
from loading import HELLO, MESSAGE, planned, rude_server, run, saying, text_of

from replay.load.interval import NO_HANDSHAKE, UNEXPECTED
from replay.load.plan import IMPLICIT_TLS, STARTTLS, plans_of
from replay.transcript import transcript
from replay.transcript.script import StartTls

OWN_STARTTLS = """\
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\\r\\n
*        S? 250
reply+0  C: STARTTLS\\r\\n
*        S? 220
reply+0  starttls
*        S tls
reply+0  C: EHLO client.example\\r\\n
*        S? 250
+0       close
"""


def own(steps: str, tls: str, world: str) -> tuple[list[object], list[str]]:
    text = text_of(steps).replace("+++\n@0", f"[world]\ntls = {world}\n+++\n@0")
    plans, skipped = plans_of(transcript.parse(text, "x.smtp"), "x.smtp", tls)
    return list(plans), skipped


def test_a_session_asks_for_starttls_before_anything_else(starttls_port: int) -> None:
    outcome = run(MESSAGE, starttls_port, tls=STARTTLS, concurrency=2, sessions=4)
    tally = outcome.tally
    assert (tally.good, tally.messages) == (4, 4)
    assert tally.replies == {220: 8, 250: 20, 354: 4, 221: 4}
    assert tally.steps[:4] == ["connect", "tls", "greeting", "EHLO"]
    assert [tally.of(step).count for step in ("tls", "STARTTLS", "EHLO", "dot")] == [4, 4, 8, 4]
    assert outcome.all_well


def test_a_session_speaks_tls_from_the_first_octet(implicit_tls_port: int) -> None:
    outcome = run(MESSAGE, implicit_tls_port, tls=IMPLICIT_TLS, sessions=3)
    tally = outcome.tally
    assert (tally.good, tally.messages, tally.of("tls").count) == (3, 3, 3)
    assert tally.of("greeting").max_us >= tally.of("tls").percentile_us(1)


@pytest.mark.parametrize("tls", [STARTTLS, IMPLICIT_TLS])
def test_idle_connections_are_held_under_tls(
    tls: str, starttls_port: int, implicit_tls_port: int
) -> None:
    port = starttls_port if tls == STARTTLS else implicit_tls_port
    outcome = run(HELLO, port, tls=tls, idle=20)
    assert outcome.idle.held == 20
    assert outcome.all_well


def test_a_transcript_that_speaks_tls_by_itself_is_played_as_it_is() -> None:
    (plan,), skipped = own(OWN_STARTTLS, STARTTLS, "true")
    assert not skipped
    assert [type(act.action) for act in plan.acts].count(StartTls) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("tls", "world", "reason"),
    [
        ("", "true", "it speaks TLS: --tls starttls plays it"),
        ("", '"implicit"', "it speaks TLS: --tls implicit plays it"),
        (IMPLICIT_TLS, "true", "it speaks TLS: --tls starttls plays it"),
        (STARTTLS, '"implicit"', "it speaks TLS: --tls implicit plays it"),
    ],
)
def test_what_speaks_tls_in_another_way_is_left_out(tls: str, world: str, reason: str) -> None:
    assert own(HELLO, tls, world) == ([], [f"x.smtp: {reason}"])


def test_what_cannot_be_brought_under_tls_is_left_out() -> None:
    early = "@0 open from ::1\n@0 C: EHLO x\\r\\n\n* S? 220\n* S? 250\n+0 abandon\n"
    plans, (said,) = planned(early, STARTTLS)
    assert not plans
    assert "does not wait for the greeting" in said
    (plan,), _ = planned(early, IMPLICIT_TLS)
    assert isinstance(plan.acts[0].action, StartTls)
    refused = OWN_STARTTLS.replace("*        S tls", "*        S tls-refused")
    plans_, (said,) = own(refused, STARTTLS, "true")
    assert not plans_
    assert said == "x.smtp: its handshake fails (line 13)"


def test_a_server_without_starttls_fails_the_session(mailsrv_port: int) -> None:
    outcome = run(HELLO, mailsrv_port, tls=STARTTLS)
    assert outcome.tally.errors == {UNEXPECTED: 1}
    assert list(outcome.tally.complaints) == ["x.smtp: reply 3: 502 instead of 220"]


@pytest.mark.parametrize(
    "answer",
    [b"\x15\x03\x03\x00\x02\x02\x28", b"220 plaintext\r\n", b"\x16\x03\x01\xff\xff" + bytes(99)],
)
def test_a_handshake_that_fails_is_told_as_that(answer: bytes) -> None:
    def behave(sock: socket.socket) -> None:
        sock.recv(10_000)
        sock.sendall(answer)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(10_000):
            pass

    with rude_server(behave) as port:
        tally = run(HELLO, port, tls=IMPLICIT_TLS).tally
    assert tally.errors == {NO_HANDSHAKE: 1}
    assert list(tally.complaints) == ["x.smtp: the TLS handshake failed"]


def test_an_alert_in_a_plaintext_session_ends_it() -> None:
    with rude_server(saying(b"220 x\r\n", b"\x15\x03\x03\x00\x02\x02\x28")) as port:
        tally = run(HELLO, port).tally
    assert tally.errors == {NO_HANDSHAKE: 1}
