"""Greylisting, through its API and end to end."""

from __future__ import annotations

from collections.abc import Callable

from mailsrv.policy.greylist import Greylist
from mailsrv.runtime.clock import FakeClock
from replay.testing import Expect, Send, Step, VirtualServer

Server = Callable[..., VirtualServer]

TRIPLET = ("192.0.2.1", "ann@example.org", "bob@example.test")


def test_a_triplet_is_deferred_at_first_and_after_120_s_and_passes_after_320_s() -> None:
    clock = FakeClock(start=0)
    gl = Greylist(clock=clock, delay=300)
    assert gl.check(TRIPLET) == "DEFER"
    clock.advance(120)
    assert gl.check(TRIPLET) == "DEFER"
    clock.advance(200)
    assert gl.check(TRIPLET) == "PASS"


def test_a_triplet_passes_at_exactly_the_delay(fake_clock: FakeClock) -> None:
    gl = Greylist(clock=fake_clock, delay=300)
    gl.check(TRIPLET)
    fake_clock.advance(299.999)
    assert gl.check(TRIPLET) == "DEFER"
    fake_clock.advance(0.001)
    assert gl.check(TRIPLET) == "PASS"


def tries(greeted: Step, code: int) -> list[Step]:
    """A sender's whole session, with the reply to RCPT that it gets."""

    def envelope(expect: Expect, send: Send) -> None:
        send("MAIL FROM:<ann@example.org>")
        expect(250)
        send("RCPT TO:<bob@example.test>")
        assert expect(code).text.startswith("450 4.2.0 " if code == 450 else "250 2.1.5 ")

    def leaves(expect: Expect, send: Send) -> None:
        send("QUIT")
        expect(221)

    return [greeted, envelope, leaves]


def test_a_sender_that_comes_back_after_120_s_is_deferred_and_after_320_s_is_accepted(
    mail_server: Server, greeted: Step
) -> None:
    server = mail_server(greylist=True, greylist_delay_s=300)
    server.sender("192.0.2.1").play(tries(greeted, 450))
    server.advance(120)
    server.sender("192.0.2.1").play(tries(greeted, 450))
    server.advance(200)
    server.sender("192.0.2.1").play(tries(greeted, 250))


def test_another_address_of_the_same_pool_counts_as_the_same_sender(
    mail_server: Server, greeted: Step
) -> None:
    server = mail_server(greylist=True, greylist_delay_s=300)
    server.sender("192.0.2.1").play(tries(greeted, 450))
    server.advance(320)
    server.sender("192.0.2.77").play(tries(greeted, 250))
    server.sender("198.51.100.1").play(tries(greeted, 450))


def test_without_greylisting_a_new_sender_is_accepted(mail_server: Server, greeted: Step) -> None:
    mail_server().sender().play(tries(greeted, 250))
