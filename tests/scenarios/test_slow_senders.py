"""Senders that are slow, silent or absent-minded: what the clock decides."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.testing import Step, VirtualServer

Server = Callable[..., VirtualServer]


def test_a_slow_loris_that_drips_a_command_gets_421_at_exactly_the_timeout(
    mail_server: Server,
) -> None:
    loris = mail_server(command_timeout_s=60).sender()
    loris.expect(220)
    for octet in b"EHLO client.example":
        loris.wait(7)
        loris.send(bytes([octet]))

    said = loris.expect(421)

    assert said.at_ns == (7 + 60) * NS_PER_S  # from the command's first octet
    assert "command not ended after 60 s" in said.text
    assert loris.expect_close() == said.at_ns


@pytest.mark.parametrize(("every_s", "timeout_s"), [(0.999, 30), (1, 30), (29.999, 300)])
def test_dripping_faster_or_slower_does_not_move_the_timeout_of_a_command(
    mail_server: Server, every_s: float, timeout_s: float
) -> None:
    loris = mail_server(command_timeout_s=timeout_s).sender()
    loris.expect(220)
    for _ in range(40):
        loris.wait(every_s)
        loris.send(b"N")
    assert loris.expect(421).at_ns == round((every_s + timeout_s) * 1000) * NS_PER_MS


def test_a_slow_loris_that_drips_header_lines_gets_421_when_its_credit_is_used_up(
    mail_server: Server, enveloped: Step
) -> None:
    server = mail_server(content_timeout_s=180, content_rate_octets_s=500)
    loris = server.sender()
    loris.play([enveloped])
    line = b"X-Padding: " + 37 * b"x" + b"\r\n"
    assert len(line) == 50
    for _ in range(20):
        loris.wait(20)
        loris.send(line)

    said = loris.expect(421)

    # First octet, at 20 s, + 180 s + octets / (500/s): the ten lines until then bought 0.1 s each.
    assert said.at_ns == 200 * NS_PER_S + 10 * 50 * NS_PER_S // 500
    assert "content slower than 500 octets/s" in said.text
    assert server.messages == []


def test_content_that_stops_gets_421_at_exactly_the_timeout_after_its_last_octet(
    mail_server: Server, enveloped: Step
) -> None:
    sender = mail_server(content_timeout_s=30).sender()
    sender.play([enveloped])
    sender.wait(25)
    sender.send(20_000 * b"x\r\n")
    said = sender.expect(421)
    assert said.at_ns == (25 + 30) * NS_PER_S
    assert "no content for 30 s" in said.text


def test_a_connection_silent_for_ninety_seconds_is_still_served(mail_server: Server) -> None:
    sender = mail_server().sender()
    sender.expect(220)
    sender.silence(90)
    sender.send("EHLO client.example")
    assert sender.expect(250).at_ns == 90 * NS_PER_S


def test_a_connection_silent_for_ninety_seconds_is_closed_at_sixty_if_sixty_are_set(
    mail_server: Server,
) -> None:
    server = mail_server(idle_timeout_s=60)
    sender = server.sender()
    sender.expect(220)
    server.advance(90)

    said = sender.expect(421)

    assert said.at_ns == 60 * NS_PER_S
    assert "no command for 60 s" in said.text
    assert sender.expect_close() == 60 * NS_PER_S
    assert any("event=timeout" in line and "limit=idle" in line for line in server.log)


def test_a_sender_that_speaks_a_tick_before_its_timeout_is_served(mail_server: Server) -> None:
    sender = mail_server(idle_timeout_s=60).sender()
    sender.expect(220)
    sender.wait(59.999)
    sender.send("NOOP")
    assert sender.expect(250).at_ns == 59_999 * NS_PER_MS
    assert sender.expect(421).at_ns == 119_999 * NS_PER_MS


def test_a_sender_that_speaks_in_the_instant_of_its_timeout_is_served(mail_server: Server) -> None:
    sender = mail_server(idle_timeout_s=60).sender()
    sender.expect(220)
    sender.wait(60)
    sender.send("NOOP")  # at one instant, arrivals come before timers
    sender.expect(250)


def test_a_sender_that_speaks_a_tick_after_its_timeout_has_been_told(mail_server: Server) -> None:
    sender = mail_server(idle_timeout_s=60).sender()
    sender.expect(220)
    sender.wait(60.001)
    sender.send("NOOP")
    assert sender.expect(421).at_ns == 60 * NS_PER_S
    sender.expect_close()


def test_a_session_ends_at_its_cap_however_busy_it_is(mail_server: Server) -> None:
    sender = mail_server(session_timeout_s=100, junk_commands=1000).sender()
    sender.expect(220)
    for _ in range(10):
        sender.wait(9.5)
        sender.send("NOOP")
        sender.expect(250)
    assert sender.expect(421).at_ns == 100 * NS_PER_S
