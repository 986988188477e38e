"""The wall clock is set while sessions go on: no timer notices, and every reply comes as before."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mailsrv.units import NS_PER_S
from replay.testing import Step, VirtualSender, VirtualServer

Server = Callable[..., VirtualServer]

DAY_S, YEAR_S = 24 * 3600, 365 * 24 * 3600
STEPS_S = [-1, 3600, -DAY_S, 10 * YEAR_S, -55 * YEAR_S]
"""The last one is before 1970."""


def waits_in_every_way(server: VirtualServer, meanwhile: Callable[[], None]) -> VirtualSender:
    """A session that waits for a lookup, a delivery, a pause and at last for patience to end;
    ``meanwhile`` is called in the middle of each wait."""
    sender = server.sender()
    sender.silence(3)
    meanwhile()
    sender.expect(220)  # after the greet wait
    sender.send("EHLO client.example")
    sender.expect(250)
    sender.send("MAIL FROM:<ann@slow.example>")
    sender.silence(1)
    meanwhile()
    sender.expect(250)
    sender.send("RCPT TO:<bob@example.test>")
    sender.expect(250)
    sender.send("DATA")
    sender.expect(354)
    sender.send(b"half of it\r\n")
    meanwhile()
    sender.wait(100)
    sender.send(b"and the rest\r\n.\r\n")
    sender.silence(1)
    meanwhile()
    sender.expect(250)
    for _ in range(2):
        sender.send("FOO")
        meanwhile()
        sender.expect(500)
    sender.send(b"NOO")
    sender.silence(30)
    meanwhile()
    sender.expect(421)
    sender.expect_close()
    return sender


SLOW = {
    "dns": {"slow.example MX": {"records": ["10 mx.slow.example."], "delay_s": 4}},
    "delivery": {"replies": [{"delay_s": 7}]},
}


@pytest.mark.parametrize("step_s", STEPS_S)
def test_no_timer_of_a_session_follows_the_wall_clock(mail_server: Server, step_s: int) -> None:
    def server() -> VirtualServer:
        return mail_server(
            world=SLOW,
            greet_wait_s=6,
            sender_domain_check="reject",
            errors_soft=1,
            error_pause_s=5,
            command_timeout_s=60,
        )

    undisturbed = server()
    calm = waits_in_every_way(undisturbed, lambda: None)
    disturbed = server()
    stepped = waits_in_every_way(disturbed, lambda: disturbed.clock.step(step_s))
    assert stepped.replies == calm.replies
    assert [message.content for message in disturbed.messages] == [
        message.content for message in undisturbed.messages
    ]


@pytest.mark.parametrize("step_s", STEPS_S)
def test_patience_with_the_silent_ends_at_the_same_instant(
    mail_server: Server, enveloped: Step, step_s: int
) -> None:
    server = mail_server(idle_timeout_s=60, content_start_timeout_s=50)
    idle, in_content = server.sender("192.0.2.1"), server.sender("192.0.2.2")
    idle.expect(220)
    in_content.play([enveloped])
    idle.silence(25)
    server.clock.step(step_s)
    assert in_content.expect(421).at_ns == 50 * NS_PER_S
    assert idle.expect(421).at_ns == 60 * NS_PER_S


def test_the_log_follows_the_wall_clock(mail_server: Server) -> None:
    server = mail_server()
    sender = server.sender()
    sender.expect(220)
    sender.send("MAIL FROM:<a@example.org>")
    sender.expect(503)
    server.clock.step(-10 * YEAR_S)
    sender.send("MAIL FROM:<a@example.org>")
    sender.expect(503)
    before, after = (line for line in server.log if " event=refuse" in line)
    assert before.startswith("time=2026-")
    assert after.startswith("time=2016-")


@pytest.mark.parametrize("step_s", STEPS_S)
def test_a_step_does_not_lock_a_greylisted_sender_out(mail_server: Server, step_s: int) -> None:
    """Whatever happened to the clock: who goes on retrying passes within the delay."""
    server = mail_server(greylist=True, greylist_delay_s=300)

    def tries() -> int:
        sender = server.sender("192.0.2.1")
        sender.send(b"HELO a\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nQUIT\r\n")
        for code in (220, 250, 250):
            sender.expect(code)
        return sender.replies[3].code

    assert tries() == 450
    server.clock.step(step_s)
    codes = []
    for _ in range(3):
        codes.append(tries())
        server.advance(301)
    assert codes[-1] == 250
