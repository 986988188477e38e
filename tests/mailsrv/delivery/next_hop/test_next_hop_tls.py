"""STARTTLS to next hops by each policy: offered, missing, broken, with another's certificate."""

from __future__ import annotations

import pytest
from hops import CLOSE, Answer, Hop, Peer, World, message, mx, relay

from mailsrv.smtp.sending.options import TlsPolicy

A = "192.0.2.1"
OPPORTUNISTIC, REQUIRED, VERIFIED = (
    TlsPolicy.OPPORTUNISTIC,
    TlsPolicy.REQUIRED,
    TlsPolicy.VERIFIED,
)
TLS = ("PIPELINING", "STARTTLS")


def garbage(peer: Peer, line: bytes) -> Answer:
    """Promises TLS and sends nonsense."""
    if line == b"STARTTLS":
        peer.say(b"220 go\r\n")
        peer.shaking = True
        return b"this is no handshake, however it is read\r\n" * 20
    return None


def closing(peer: Peer, line: bytes) -> Answer:
    if line == b"STARTTLS":
        peer.say(b"220 go\r\n")
        return CLOSE
    return None


def named(world: World, name: str) -> None:
    world.resolver[f"{name} A"] = [A]


@pytest.mark.parametrize("policy", [OPPORTUNISTIC, REQUIRED])
def test_where_tls_is_offered_it_is_used_with_any_certificate(policy: TlsPolicy) -> None:
    content = b"0123456789abcdef" * 40_000 + b"\r\n"
    with World() as world:
        world.hops[A] = hop = Hop(extensions=TLS)
        for _ in range(2):
            outcome = world.send(relay(A, tls=policy), message(content=content))[0]
            assert outcome.kind.value == "relayed"
        (peer,) = hop.peers
        assert peer.tls is not None and peer.lines.count(b"EHLO mx.our.test") == 2
        assert [one.content for one in hop.taken] == [b"R: y\r\n" + content] * 2
        assert world.memory.held_octets < 64 * 1024


def test_without_tls_on_offer_opportunistic_mail_goes_in_the_clear() -> None:
    with World() as world:
        world.hops[A] = Hop()
        assert world.send(relay(A, tls=OPPORTUNISTIC))[0].kind.value == "relayed"


@pytest.mark.parametrize("policy", [REQUIRED, VERIFIED])
def test_without_tls_on_offer_other_mail_waits(policy: TlsPolicy) -> None:
    with World() as world:
        world.hops[A] = hop = Hop()
        assert world.send(relay(A, tls=policy))[0].kind.value == "deferred"
        assert all(not line.startswith(b"MAIL") for line in hop.peers[0].lines)


@pytest.mark.parametrize("script", [garbage, closing])
def test_where_tls_breaks_opportunistic_mail_goes_in_the_clear_and_that_is_remembered(
    script: object,
) -> None:
    with World() as world:
        world.hops[A] = hop = Hop(script, extensions=TLS)  # type: ignore[arg-type]
        assert world.send(relay(A, tls=OPPORTUNISTIC))[0].kind.value == "relayed"
        assert len(hop.peers) == 2
        world.advance(60)
        assert world.send(relay(A, tls=OPPORTUNISTIC))[0].kind.value == "relayed"
        assert len(hop.peers) == 3 and b"STARTTLS" not in hop.peers[2].lines


@pytest.mark.parametrize("script", [garbage, closing])
@pytest.mark.parametrize("policy", [REQUIRED, VERIFIED])
def test_where_tls_breaks_other_mail_waits(policy: TlsPolicy, script: object) -> None:
    with World() as world:
        world.hops[A] = hop = Hop(script, extensions=TLS)  # type: ignore[arg-type]
        outcome = world.send(relay(A, tls=policy))[0]
        assert (outcome.kind.value, outcome.status[0]) == ("deferred", "4")
        assert hop.taken == []


def test_a_verified_next_hop_must_bear_its_name() -> None:
    with World() as world:
        named(world, "mx.example.test")
        named(world, "other.test")
        world.hops[A] = hop = Hop(extensions=TLS)
        good = world.send(mx("mx.example.test", tls=VERIFIED))[0]
        assert good.kind.value == "relayed"
        bad = world.send(mx("other.test", tls=VERIFIED))[0]
        assert (bad.kind.value, bad.status) == ("deferred", "4.7.5")
        assert "certificate" in bad.diagnostic and "other.test" in bad.diagnostic
        assert len(hop.taken) == 1


def test_a_silent_handshake_ends_in_time() -> None:
    def silent(peer: Peer, line: bytes) -> Answer:
        if line == b"STARTTLS":
            peer.say(b"220 go\r\n")
            peer.shaking = True
            return b""
        return None

    with World() as world:
        world.hops[A] = Hop(silent, extensions=TLS)
        assert world.send(relay(A, tls=REQUIRED))[0].kind.value == "deferred"
        assert world.now_s < 120


@pytest.mark.parametrize("stuffed", [True, False])
def test_a_next_hop_that_reads_nothing_for_a_while_gets_all_of_it_in_the_end(
    stuffed: bool,
) -> None:
    """Whatever the kernel takes at once, what is encrypted and kept stays within its bound."""
    line = b".\r\n" if stuffed else b"x" * 62 + b"\r\n"
    content = line * (8_000_000 // len(line))
    with World() as world:
        world.hops[A] = hop = Hop(extensions=TLS)
        told = world.deliver(relay(A, tls=REQUIRED), message(content=content))
        for _ in range(60):
            world.loop.dispatch(None)
            hop.serve()
            if hop.peers and hop.peers[0].in_content:
                hop.stops_reading = True
        world.settle()
        assert not told and world.memory.held_octets > 0
        while not told:
            hop.stops_reading = False
            hop.serve()
            hop.stops_reading = True
            for _ in range(3):
                world.loop.dispatch(None)
        assert told[0][0].kind.value == "relayed", told
        assert (hop.taken[0].content == b"R: y\r\n" + content) is True
