"""Jobs on their way to a next hop: delivered, tried elsewhere, or back with a reason."""

from __future__ import annotations

import errno
import gc
import itertools

import pytest
from hops import CLOSE, RESET, Answer, Hop, Peer, World, lmtp, message, mx, relay

from mailsrv.delivery.next_hop.attempt import ATTEMPT_NS
from mailsrv.delivery.next_hop.connection_pool import MESSAGES_PER_CONNECTION_MAX
from mailsrv.delivery.next_hop.destination import KEPT_NS
from mailsrv.delivery.spool.rows import SpoolError
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.outcome import Outcome
from mailsrv.units import NS_PER_S

A, B = "192.0.2.1", "192.0.2.2"


def words(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    return [(one.kind.value, one.status) for one in outcomes]


def on(verb: bytes, answer: Answer, times: int = 1 << 30) -> Hop:
    """A next hop that answers a command so, a number of times."""
    left = itertools.count(times, -1)

    def script(peer: Peer, line: bytes) -> Answer:
        return answer if line.upper().startswith(verb) and next(left) > 0 else None

    return Hop(script)


# -- a message that is taken ----------------------------------------------------------------------


def test_head_and_content_arrive_octet_for_octet() -> None:
    content = b".\r\n..two\r\n.\r\nlast\r\n" + bytes(range(32, 127)) + b"\r\n"
    with World() as world:
        world.hops[A] = hop = Hop()
        (outcome,) = world.send(relay(A), message("b@d.test", content=content))
        assert (outcome.kind.value, outcome.remote) == ("relayed", f"[{A}]")
        (taken,) = hop.taken
        assert taken.content == b"R: y\r\n" + content
        assert taken.mail.startswith(b"MAIL FROM:<a@s.test>")
        assert taken.recipients == [b"<b@d.test>"]


def test_a_large_content_arrives_in_chunks_and_behind_data() -> None:
    content = b"".join(b"%08d is a line of this message\r\n" % n for n in range(50_000))
    for extensions in (["PIPELINING"], ["PIPELINING", "CHUNKING"]):
        with World() as world:
            world.hops[A] = hop = Hop(extensions=extensions)
            assert words(world.send(relay(A), message(content=content)))[0][0] == "relayed"
            assert hop.taken[0].content == b"R: y\r\n" + content


def test_a_connection_serves_one_message_after_the_other() -> None:
    with World() as world:
        world.hops[A] = hop = Hop()
        for _ in range(5):
            world.send(relay(A))
        assert len(hop.peers) == 1 and len(hop.taken) == 5
        world.advance(KEPT_NS / NS_PER_S + 1)
        assert hop.peers[0].lines[-1] == b"QUIT" and len(world.next_hops.pool) == 0


def test_a_connection_that_has_ended_leaves_no_circle_behind() -> None:
    def relayed() -> None:
        assert words(world.send(mx(), message("b@d.test")))[0][0] == "relayed"
        world.advance(KEPT_NS / NS_PER_S + 1)
        assert not world.hops[A].peers.pop().open

    with World() as world:
        world.hops[A] = Hop()
        world.resolver["d.test A"] = [A]
        relayed()  # what is made once
        gc.collect()
        gc.disable()
        try:
            relayed()
            assert gc.collect() == 0
        finally:
            gc.enable()


def test_after_many_messages_a_new_connection_is_made() -> None:
    with World() as world:
        world.hops[A] = hop = Hop()
        for _ in range(MESSAGES_PER_CONNECTION_MAX + 1):
            world.send(relay(A))
        first, second = hop.peers
        assert (
            first.lines[-1] == b"QUIT" and first.lines.count(b"DATA") == MESSAGES_PER_CONNECTION_MAX
        )
        assert second.lines.count(b"DATA") == 1


def test_a_thousand_recipients_go_in_several_transactions() -> None:
    recipients = [f"r{n}@d.test" for n in range(1000)]

    def script(peer: Peer, line: bytes) -> Answer:
        return b"550 5.1.1 no\r\n" if b"7@" in line else None

    with World() as world:
        world.hops[A] = hop = Hop(script)
        outcomes = world.send(relay(A), message(*recipients))
        assert [one.place for one in outcomes] == list(range(1000))
        failed = [one.place for one in outcomes if one.kind.value == "failed"]
        assert failed == [n for n in range(1000) if n % 10 == 7]
        assert len(hop.taken) == 10 and len(hop.peers) == 1


def test_each_recipient_of_lmtp_has_its_own_outcome() -> None:
    replies = b"250 2.0.0 in\r\n452 4.2.2 full\r\n552 5.2.2 no\r\n"

    def script(peer: Peer, line: bytes) -> Answer:
        return replies if line == b"." else None

    with World() as world:
        world.hops[A] = Hop(script)
        outcomes = world.send(lmtp(A), message("a@d.test", "b@d.test", "c@d.test"))
        assert words(outcomes) == [
            ("delivered", "2.0.0"),
            ("deferred", "4.2.2"),
            ("failed", "5.2.2"),
        ]


# -- from address to address ----------------------------------------------------------------------

BROKEN = {
    "refused": None,
    "unreachable": errno.ENETUNREACH,
    "busy": on(b"GREETING", b"421 4.3.2 busy\r\n"),
    "closed": on(b"GREETING", CLOSE),
    "reset": on(b"EHLO", RESET),
    "nonsense": on(b"GREETING", b"HTTP/1.1 400 Bad Request\r\n"),
    "mail": on(b"MAIL", CLOSE),
    "rcpt": on(b"RCPT", RESET),
    "data": on(b"DATA", b"421 4.3.2 going down\r\n"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_the_next_address_takes_what_the_first_cannot(how: str) -> None:
    with World() as world:
        if how == "unreachable":
            world.hops[A] = errno.ENETUNREACH
        elif how != "refused":
            first = BROKEN[how]
            assert isinstance(first, Hop)
            world.hops[A] = Hop(first.script)
        world.hops[B] = second = Hop()
        assert words(world.send(relay(A, B)))[0][0] == "relayed"
        assert world.dialled == [A, B] and len(second.taken) == 1
        assert world.send(relay(A, B))[0].kind.value == "relayed"
        assert world.dialled == [A, B]  # the connection is kept
        world.advance(60)
        world.send(relay(A, B))
        assert world.dialled == [A, B, B]  # the last that worked comes first


def test_a_silent_address_costs_its_time_once() -> None:
    with World() as world:
        world.hops[A], world.hops[B] = None, Hop()
        assert world.send(relay(A, B))[0].kind.value == "relayed"
        assert 30 <= world.now_s < 31
        world.advance(60)
        before_s = world.now_s
        world.send(relay(A, B))
        assert world.now_s == before_s


def test_what_was_refused_at_one_address_is_not_asked_at_the_next() -> None:
    def script(peer: Peer, line: bytes) -> Answer:
        if line.startswith(b"RCPT TO:<no@"):
            return b"550 5.1.1 no\r\n"
        return CLOSE if line == b"DATA" else None

    with World() as world:
        world.hops[A], world.hops[B] = Hop(script), Hop()
        outcomes = world.send(relay(A, B), message("no@d.test", "yes@d.test"))
        assert [one.kind.value for one in outcomes] == ["failed", "relayed"]
        second = world.hops[B]
        assert isinstance(second, Hop) and second.taken[0].recipients == [b"<yes@d.test>"]


def test_a_message_that_may_have_been_taken_is_sent_nowhere_else() -> None:
    with World() as world:
        world.hops[A], world.hops[B] = on(b".", CLOSE), Hop()
        assert words(world.send(relay(A, B))) == [("deferred", "4.4.2")]
        assert world.dialled == [A]


def test_a_kept_connection_that_died_costs_nothing() -> None:
    def script(peer: Peer, line: bytes) -> Answer:
        return RESET if line.startswith(b"MAIL") and len(peer.lines) > 3 else None

    with World() as world:
        world.hops[A] = hop = Hop(script)
        assert world.send(relay(A))[0].kind.value == "relayed"
        assert world.send(relay(A))[0].kind.value == "relayed"
        assert len(hop.peers) == 2 and not world.log


def test_a_kept_connection_that_the_next_hop_closes_is_forgotten() -> None:
    with World() as world:
        world.hops[A] = hop = Hop()
        world.send(relay(A))
        hop.peers[0].act(b"421 4.4.2 idle\r\n")
        hop.peers[0].act(CLOSE)
        world.settle()
        assert len(world.next_hops.pool) == 0
        assert world.send(relay(A))[0].kind.value == "relayed"


# -- by MX ----------------------------------------------------------------------------------------


def test_mail_goes_to_the_exchangers_of_each_domain() -> None:
    with World() as world:
        world.resolver["one.test MX"] = ["10 mx.one.test."]
        world.resolver["mx.one.test A"] = [A]
        world.resolver["two.test A"] = [B]
        world.hops[A], world.hops[B] = one, two = Hop(), Hop()
        (first, second) = world.send(mx(), message("a@one.test", "c@ONE.test"))
        assert first.remote == second.remote == "mx.one.test"
        assert world.send(mx(), message("b@two.test"))[0].remote == "two.test"
        assert one.taken[0].recipients == [b"<a@one.test>", b"<c@ONE.test>"]
        assert two.taken[0].recipients == [b"<b@two.test>"]


def test_a_domain_that_takes_no_mail_fails_without_a_connection() -> None:
    with World() as world:
        world.resolver["null.test MX"] = ["0 ."]
        assert words(world.send(mx(), message("d@null.test"))) == [("failed", "5.1.10")]
        assert words(world.send(mx(), message("e@none.test"))) == [("failed", "5.1.2")]
        assert world.dialled == []


def test_recipients_that_may_go_together_have_equal_ways() -> None:
    with World() as world:
        one, same, other = (
            MailPath("a", domain) for domain in ("one.test", "ONE.test", "two.test")
        )
        assert world.way(mx(), one) == world.way(mx(), same) != world.way(mx(), other)
        assert world.way(relay(A), one) == world.way(relay(A), other) != world.way(relay(B), one)
        assert len({world.way(mx("hub.test"), path) for path in (one, same, other)}) == 1


def test_all_mail_can_go_to_the_exchangers_of_one_domain() -> None:
    with World() as world:
        world.resolver["hub.test A"] = [A]
        world.hops[A] = hop = Hop()
        world.send(mx("hub.test"), message("a@one.test", "b@two.test"))
        assert hop.taken[0].recipients == [b"<a@one.test>", b"<b@two.test>"]


# -- a message that cannot be read, or takes too long ---------------------------------------------


@pytest.mark.parametrize("error", [SpoolError("x"), ValueError("x"), OSError(5, "x")])
@pytest.mark.parametrize("large", [True, False])
def test_a_content_that_cannot_be_read_is_deferred_and_never_sent_in_part(
    error: Exception, large: bool
) -> None:
    job = message(content=b"x" * 500_000 + b"\r\n" if large else b"hello\r\n")

    def content() -> itertools.chain[bytes]:
        def broken() -> itertools.chain[bytes]:
            raise error

        whole = iter(list(job.content())[:-1])
        return itertools.chain(whole, (one for _ in (0,) for one in broken()))

    with World() as world:
        world.hops[A] = hop = Hop()
        assert words(world.send(relay(A), job._replace(content=content))) == [("deferred", "4.3.0")]
        assert hop.taken == []


@pytest.mark.parametrize("octets", [b"", b"short\r\n", b"Subject: x\r\n\r\nhello\r\nmore\r\n"])
def test_a_content_of_another_length_is_never_sent(octets: bytes) -> None:
    with World() as world:
        world.hops[A] = hop = Hop()
        job = message()._replace(content=lambda: iter([octets] if octets else []))
        assert words(world.send(relay(A), job)) == [("deferred", "4.3.0")]
        assert hop.taken == []


def test_a_tarpit_that_uses_every_limit_is_left_in_the_end() -> None:
    recipients = [f"r{n}@d.test" for n in range(100)]
    with World() as world:
        world.hops[A] = hop = Hop(extensions=())

        def script(peer: Peer, line: bytes) -> Answer:
            wait_ns = 290 * NS_PER_S
            world.loop.timers.schedule(
                world.loop.now_ns + wait_ns, lambda: peer.act(hop.usual(peer, line))
            )
            return b""

        hop.script = script
        outcomes = world.send(relay(A), message(*recipients))
        assert {one.kind.value for one in outcomes} == {"deferred"}
        assert ATTEMPT_NS / NS_PER_S < world.now_s < ATTEMPT_NS / NS_PER_S + 1100
        world.advance(300)
