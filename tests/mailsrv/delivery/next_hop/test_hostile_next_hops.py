"""Next hops that hang, break, lie and babble, at each stage, on real sockets in virtual time.

Whatever they do, each recipient has one outcome in the time that its wait may take; the message
goes to the next address if none can have taken it, and nowhere if one can; and ``World`` sees at
its end that no connection, timer or buffer is left, and at each instant that all come to rest.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hops import CLOSE, HANG, RESET, Answer, Hop, Peer, World, lmtp, message, relay

from mailsrv.config.routes import Route
from mailsrv.delivery.callouts import Callouts
from mailsrv.delivery.queue.ways import Way
from mailsrv.policy.lookups import CalloutAnswer
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.outcome import OutcomeKind
from mailsrv.smtp.sending.reply_reader import DIAGNOSTIC_CHARACTERS_MAX
from mailsrv.smtp.sending.timeouts import SENDING_TIMEOUTS_NS, SendingTimeout
from mailsrv.units import NS_PER_S

STAGES = {
    b"GREETING": SendingTimeout.GREETING,
    b"EHLO": SendingTimeout.HELLO,
    b"MAIL": SendingTimeout.MAIL,
    b"RCPT": SendingTimeout.RCPT,
    b"DATA": SendingTimeout.DATA,
    b".": SendingTimeout.END,
}
LINES = ("PIPELINING",), ()
FIRST, SECOND = "192.0.2.1", "192.0.2.2"
PLAIN = relay(FIRST)
BODY = b"Subject: x\r\n\r\nhello\r\n"

BREAKS: dict[str, Answer] = {  # None: see ``breaking``
    "hangs": HANG,
    "resets": RESET,
    "closes": CLOSE,
    "says 421": b"421 4.3.2 shutting down\r\n",
    "says 421 and closes": None,
    "is malformed": b"\x16\x03\x01\x00\x02what?\r\n",
    "is cut": None,
    "changes its mind": b"250-yes\r\n550 no\r\n",
    "answers another command": None,
    "has an endless line": b"250-" + b"x" * 1_000_000,
    "has endless lines": b"250-more\r\n" * 100_000,
}


def is_at(stage: bytes, line: bytes) -> bool:
    return line.split(b" ")[0] == stage


def wrong_at(stage: bytes) -> bytes:
    return b"250 fine\r\n" if stage == b"DATA" else b"354 go\r\n"


def breaking(stage: bytes, how: str, extensions: tuple[str, ...]) -> Hop:
    """A next hop that does this at each ``stage``."""

    def script(peer: Peer, line: bytes) -> Answer:
        if not is_at(stage, line):
            return None
        if how == "answers another command":
            return wrong_at(stage)
        if how == "is cut":
            peer.say(b"25")
            return HANG
        if how == "says 421 and closes":
            peer.say(b"421 4.3.2 shutting down\r\n")
            return CLOSE
        return BREAKS[how]

    return Hop(script, extensions=extensions)


EACH = pytest.mark.parametrize(
    ("stage", "how"), [(stage, how) for stage in STAGES for how in BREAKS]
)


@EACH
@pytest.mark.parametrize("extensions", LINES, ids=["pipelined", "one by one"])
def test_a_next_hop_that_breaks_defers_the_message_in_its_time(
    stage: bytes, how: str, extensions: tuple[str, ...]
) -> None:
    with World() as world:
        hop = world.hops[FIRST] = breaking(stage, how, extensions)
        outcomes = world.send(relay(FIRST), message("b@d.test", "c@d.test"))
        assert [one.kind for one in outcomes] == [OutcomeKind.DEFERRED] * 2
        for one in outcomes:
            assert one.status.startswith("4.")
            assert one.diagnostic.isprintable()
            assert one.diagnostic.isascii()
            assert len(one.diagnostic) <= DIAGNOSTIC_CHARACTERS_MAX + 100
        waits = how in ("hangs", "is cut")
        assert world.now_s == (SENDING_TIMEOUTS_NS[STAGES[stage]] / NS_PER_S if waits else 0)
        assert hop.taken == [] or stage == b"."


@EACH
def test_the_next_address_gets_what_the_first_cannot_have_taken(stage: bytes, how: str) -> None:
    with World() as world:
        world.hops[FIRST] = breaking(stage, how, ("PIPELINING",))
        good = world.hops[SECOND] = Hop()
        (outcome,) = world.send(relay(FIRST, SECOND))
        if stage == b".":
            assert outcome.kind is OutcomeKind.DEFERRED
            assert good.taken == []
        else:
            assert outcome.kind is OutcomeKind.RELAYED
            assert [one.content for one in good.taken] == [b"R: y\r\n" + BODY]


@pytest.mark.parametrize("stage", STAGES)
def test_a_tarpit_that_drips_a_reply_gains_no_time(stage: bytes) -> None:
    with World() as world:

        def drip(peer: Peer) -> None:
            if peer.open:
                peer.say(b"2")
                world.loop.timers.schedule(world.loop.now_ns + 10 * NS_PER_S, lambda: drip(peer))

        def script(peer: Peer, line: bytes) -> Answer:
            if not is_at(stage, line):
                return None
            peer.say(b"250-")
            drip(peer)
            return HANG

        world.hops[FIRST] = Hop(script)
        (outcome,) = world.send(relay(FIRST))
        assert outcome.kind is OutcomeKind.DEFERRED
        assert outcome.diagnostic.startswith("timed out, waiting for the ")
        assert world.now_s == SENDING_TIMEOUTS_NS[STAGES[stage]] / NS_PER_S
        world.advance(20)


def test_a_reply_amid_the_content_ends_it() -> None:
    with World() as world:

        def script(peer: Peer, line: bytes) -> Answer:
            return b"354 go\r\n552 5.3.4 too much\r\n" if line == b"DATA" else None

        hop = world.hops[FIRST] = Hop(script)
        (outcome,) = world.send(relay(FIRST), message(content=b"x" * 4_000_000 + b"\r\n"))
        assert (outcome.kind, outcome.status) == (OutcomeKind.FAILED, "5.3.4")
        assert hop.taken == []


def test_a_next_hop_that_says_twice_what_it_was_asked_once_gets_no_mail() -> None:
    for stage in (b"GREETING", b"EHLO"):
        with World() as world:

            def script(peer: Peer, line: bytes, stage: bytes = stage) -> Answer:
                return b"250 fine\r\n250 fine\r\n" if is_at(stage, line) else None

            hop = world.hops[FIRST] = Hop(script)
            (outcome,) = world.send(relay(FIRST))
            assert (outcome.kind, outcome.status) == (OutcomeKind.DEFERRED, "4.5.0")
            assert hop.taken == []


def test_what_it_said_is_shown_escaped_and_cut() -> None:
    with World() as world:
        said = b"550 5.1.1 \x1b[2J\xff\0<script>" + b"x" * 3000 + b"\r\n"
        world.hops[FIRST] = Hop(lambda peer, line: said if is_at(b"RCPT", line) else None)
        (outcome,) = world.send(relay(FIRST))
        assert outcome.kind is OutcomeKind.FAILED
        assert outcome.diagnostic.startswith("550 5.1.1 \\x1b[2J\\xff\\x00<script>xxx")
        assert len(outcome.diagnostic) == DIAGNOSTIC_CHARACTERS_MAX


def every_second(peer: Peer, line: bytes) -> Answer:
    """Refuses every second recipient."""
    if not is_at(b"RCPT", line):
        return None
    number = int(line.partition(b"<r")[2].partition(b"@")[0])
    return b"550 5.1.1 no\r\n" if number % 2 else None


@pytest.mark.parametrize(
    "extensions", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING"), ("CHUNKING",)]
)
@pytest.mark.parametrize("route", [relay, lmtp], ids=["SMTP", "LMTP"])
def test_every_second_recipient_refused(
    extensions: tuple[str, ...], route: Callable[..., object]
) -> None:
    with World() as world:
        hop = world.hops[FIRST] = Hop(every_second, extensions=extensions)
        if route is lmtp:
            world.hops[FIRST] = hop = LmtpHop(every_second, extensions=extensions)
        names = [f"r{number}@d.test" for number in range(250)]
        outcomes = world.send(route(FIRST), message(*names))  # type: ignore[arg-type]
        good = OutcomeKind.DELIVERED if route is lmtp else OutcomeKind.RELAYED
        assert [one.kind for one in outcomes] == [good, OutcomeKind.FAILED] * 125
        taken = [name for one in hop.taken for name in one.recipients]
        assert len(hop.taken) == 3  # a hundred recipients at a time
        assert set(taken) >= {f"<r{number}@d.test>".encode() for number in range(0, 250, 2)}


class LmtpHop(Hop):
    """A next hop that answers the end of the content once for each recipient that it took."""

    def answer(self, peer: Peer, line: bytes) -> Answer:
        if line != b"." or not peer.last_chunk:
            return super().answer(peer, line)
        refused = sum(
            (every_second(peer, b"RCPT TO:" + one) or b"2")[:1] == b"5"  # type: ignore[index]
            for one in peer.received.recipients
        )
        taken = len(peer.received.recipients) - refused
        super().answer(peer, line)
        return b"250 2.0.0 fine\r\n" * taken


def test_a_greylister_takes_the_second_try() -> None:
    seen: set[bytes] = set()

    def script(peer: Peer, line: bytes) -> Answer:
        if not is_at(b"RCPT", line) or line in seen:
            return None
        seen.add(line)
        return b"451 4.7.1 greylisted\r\n"

    with World() as world:
        hop = world.hops[FIRST] = Hop(script)
        (outcome,) = world.send(relay(FIRST))
        assert (outcome.kind, outcome.status) == (OutcomeKind.DEFERRED, "4.7.1")
        (outcome,) = world.send(relay(FIRST))
        assert outcome.kind is OutcomeKind.RELAYED
        assert len(hop.peers) == 1  # no fault of the connection


# -- recipients asked ahead -----------------------------------------------------------------------


def ask(world: World, *addresses: str, route: Route = PLAIN) -> list[CalloutAnswer]:
    """What callouts answer, in the order in which they do."""
    way = world.way(route)
    callouts = Callouts(world.clock.monotonic_ns)
    callouts.configure(lambda recipient: Way(way.name, way), 1000, 100)
    said: list[CalloutAnswer] = []
    for address in addresses:
        callouts.ask(MailPath(*address.split("@")), said.append)
    while callouts.under_way:
        world.settle()
        if callouts.under_way:
            assert world.step()
    return said


def test_a_callout_asks_for_each_recipient_and_sends_nothing() -> None:
    with World() as world:
        hop = world.hops[FIRST] = Hop(every_second, extensions=("PIPELINING", "SIZE 10"))
        said = ask(world, "r0@d.test", "r1@d.test", "r2@d.test", "r1@d.test")
        assert sorted(one.status for one in said) == ["refused", "refused", "taken", "taken"]
        lines = [line for peer in hop.peers for line in peer.lines]
        assert lines.count(b"RCPT TO:<r1@d.test>") == 1
        assert b"MAIL FROM:<> SIZE=0" in lines
        assert b"DATA" not in lines
        assert hop.taken == []
        (outcome,) = world.send(relay(FIRST), message("r0@d.test", content=b"\r\n", head=b""))
        assert outcome.kind is OutcomeKind.RELAYED


def test_callouts_go_before_mail_and_do_not_count_towards_its_rate() -> None:
    with World() as world:
        hop = world.hops[FIRST] = Hop()
        route = relay(FIRST, messages_per_min=1)
        told = [world.deliver(route, message()) for _ in range(3)]
        world.settle()
        assert len(hop.taken) == 1
        for number in range(5):
            (said,) = ask(world, f"r{number}@d.test", route=route)
            assert said.status == "taken"
        assert world.now_s == 0
        assert len(hop.taken) == 1
        world.advance(30)
        ask(world, "later@d.test", route=route)
        world.advance(30)
        assert len(hop.taken) == 2
        world.advance(60)
        assert all(told)


@EACH
def test_a_next_hop_that_breaks_is_no_answer_to_a_callout(stage: bytes, how: str) -> None:
    with World() as world:
        world.hops[FIRST] = breaking(stage, how, ("PIPELINING",))
        (said,) = ask(world, "b@d.test")
        asked = stage not in (b"DATA", b".")
        assert said.status == ("unanswered" if asked else "taken")


def test_a_mailbox_server_is_asked_in_its_own_protocol() -> None:
    with World() as world:
        hop = world.hops[FIRST] = Hop(every_second)
        said = ask(world, "r0@d.test", "r1@d.test", route=lmtp(FIRST))
        assert sorted(one.status for one in said) == ["refused", "taken"]
        assert hop.peers[0].lines[0] == b"LHLO mx.our.test"


def test_a_callout_about_an_address_beyond_ascii_asks_for_smtputf8() -> None:
    for offered, said in ((("SMTPUTF8",), "taken"), ((), "refused")):
        with World() as world:
            hop = world.hops[FIRST] = Hop(extensions=offered)
            (answer,) = ask(world, "gr\u00fc\u00dfe@d.test")
            assert answer.status == said
            assert (b"MAIL FROM:<> SMTPUTF8" in hop.peers[0].lines) == bool(offered)


def test_a_null_reverse_path_that_is_refused_is_no_answer_to_a_callout() -> None:
    with World() as world:
        world.hops[FIRST] = Hop(lambda peer, line: b"550 no\r\n" if is_at(b"MAIL", line) else None)
        (said,) = ask(world, "b@d.test")
        assert said.status == "unanswered"
