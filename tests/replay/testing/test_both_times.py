"""One script, played over a real socket and in virtual time: the same object, the same words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from real_server import HOST, mailsrv

from mailsrv.units import NS_PER_S
from replay.testing import (
    Expect,
    FakeClock,
    Greylist,
    ReceivedReply,
    Script,
    Send,
    Sender,
    Unexpected,
    VirtualServer,
    session,
)

Play = Callable[[Script], list[ReceivedReply]]


@pytest.fixture(params=["real", "virtual"])
def play(request: pytest.FixtureRequest) -> Iterator[Play]:
    """Plays a script at a server with a certificate."""
    if request.param == "virtual":
        with VirtualServer({"tls": True}) as server:
            yield server.session
    else:
        with mailsrv() as target:
            yield lambda script: session(HOST, int(target.address[1]), script, timeout_s=10)


# -- the slow loris and the greylist, as the project's first page prints them ---------------------


def slow_loris(expect: Expect, send: Send) -> None:
    expect("220")
    send("HELO test.invalid")
    expect("250")
    send("MAIL FROM:<probe@test.invalid>", pause=120)
    expect("250")
    expect("421")


def test_the_slow_loris_as_printed_in_virtual_time() -> None:
    with VirtualServer(idle_timeout_s=60) as server:
        replies = server.session([slow_loris])
        assert server.now_ns == 120 * NS_PER_S
    assert [(reply.code, reply.at_ns) for reply in replies] == [
        (220, 0),
        (250, 0),
        (250, 0),
        (421, 60 * NS_PER_S),
    ]


def test_the_slow_loris_as_printed_over_a_real_socket() -> None:
    with mailsrv(idle_timeout_s=0.05) as target:
        replies = session(HOST, int(target.address[1]), [slow_loris])
    assert [reply.code for reply in replies] == [220, 250, 250, 421]
    assert replies[3].at_ns - replies[2].at_ns >= 49_000_000


def test_the_greylist_as_printed() -> None:
    clock = FakeClock(start=0)
    gl = Greylist(clock=clock, delay=300)
    triplet = ("192.0.2.1", "a@example.org", "b@example.test")
    assert gl.check(triplet) == "DEFER"
    clock.advance(299)
    assert gl.check(triplet) == "DEFER"
    clock.advance(1)
    assert gl.check(triplet) == "PASS"


# -- the words ------------------------------------------------------------------------------------


def test_expect_takes_text_or_a_number_and_returns_a_reply_that_prints_as_its_text() -> None:
    def step(expect: Expect, send: Send) -> None:
        assert str(expect("220")) == "220 mx.example.test ESMTP mailsrv"
        send("NOOP")
        assert f"{expect(250)}" == "250 2.0.0 Ok"

    with VirtualServer(hostname="mx.example.test") as server:
        server.session([step])
    with mailsrv() as target:
        session(HOST, int(target.address[1]), [step])


def test_a_pause_begins_when_the_line_has_gone_and_replies_in_it_keep_their_own_instants(
    play: Play,
) -> None:
    def step(sender: Sender) -> None:
        sender.expect("220")
        sent_ns = sender.elapsed_ns
        sender.send("NOOP", pause=0.02)
        assert len(sender.replies) == 2, "the reply is there when the pause is over"
        assert sender.elapsed_ns - sent_ns >= 20_000_000
        assert sender.expect("250").at_ns < sender.elapsed_ns

    play([step])


def test_a_wait_is_a_pause_before_a_line(play: Play) -> None:
    def step(sender: Sender) -> None:
        sender.expect("220")
        before_ns = sender.elapsed_ns
        sender.wait(0.02)
        assert sender.elapsed_ns - before_ns >= 20_000_000
        sender.send("NOOP")
        assert sender.expect("250").at_ns - before_ns >= 20_000_000

    play([step])


def test_a_step_is_called_with_what_it_names(play: Play) -> None:
    def secures(expect: Expect, send: Send, starttls: Callable[[], None]) -> None:
        expect("220")
        send("EHLO client.example")
        assert "STARTTLS" in str(expect("250"))
        send("STARTTLS")
        expect("220")
        starttls()
        send("EHLO client.example")
        assert "STARTTLS" not in str(expect("250"))

    def leaves(
        send: Send, expect: Expect, half_close: Callable[[], None], expect_close: Callable[[], int]
    ) -> None:
        send("NOOP")
        half_close()
        expect("250")
        expect_close()

    assert [reply.code for reply in play([secures, leaves])] == [220, 250, 220, 250, 250]


def test_silence_is_broken_by_a_reply_and_by_the_servers_end(play: Play) -> None:
    def step(sender: Sender) -> None:
        sender.expect("220")
        sender.silence(0.01)
        sender.send("QUIT")
        with pytest.raises(Unexpected, match=r"expected silence, came at .*: 221 "):
            sender.silence(0.05)
        sender.expect("221")
        sender.expect_close()
        with pytest.raises(Unexpected, match="expected silence, but the server ended"):
            sender.silence(0.01)

    play([step])


def test_after_a_reset_or_a_close_of_its_own_a_sender_waits_for_nothing(play: Play) -> None:
    def step(sender: Sender, reset: Callable[[], None]) -> None:
        sender.expect("220")
        reset()
        with pytest.raises(Unexpected, match="waits for a reply 250, but has itself closed"):
            sender.expect("250")

    play([step])


def test_what_is_not_read_is_left_in_the_kernel(play: Play) -> None:
    def step(sender: Sender) -> None:
        sender.expect("220")
        sender.stop_reading()
        sender.send("NOOP", pause=0.01)
        assert len(sender.replies) == 1
        sender.resume_reading()
        sender.expect("250")

    play([step])


def test_a_second_handshake_is_refused(play: Play) -> None:
    def step(sender: Sender) -> None:
        sender.expect("220")
        sender.send("STARTTLS")
        sender.expect("220")
        sender.starttls()
        with pytest.raises(ValueError, match="one TLS handshake"):
            sender.starttls()

    play([step])
