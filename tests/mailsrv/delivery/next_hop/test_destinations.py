"""How much is sent to a destination at once: windows, pauses, rates, bounds, and the shutdown."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

from hops import CLOSE, Answer, Hop, Peer, World, message, mx, relay

from mailsrv.config.routes import Route
from mailsrv.delivery.job import Job
from mailsrv.delivery.next_hop.attempt import ADDRESSES_TRIED_MAX
from mailsrv.delivery.next_hop.destination import (
    KEPT_EXCHANGER_NS,
    KEPT_NS,
    PAUSE_MAX_NS,
    PAUSE_MIN_NS,
    TROUBLES_MAX,
    WINDOW_FIRST,
)
from mailsrv.delivery.next_hop.next_hops import (
    ATTEMPTS_MAX,
    DESTINATIONS_MAX,
    GRACE_NS,
    WAITING_MAX,
)
from mailsrv.smtp.sending.outcome import Outcome
from mailsrv.units import NS_PER_S

A, B = "192.0.2.1", "192.0.2.2"
Told = list[list[list[Outcome]]]


def many(world: World, route: Route, number: int) -> Told:
    return [world.deliver(route, message()) for _ in range(number)]


def kinds(told: Told) -> dict[str, int]:
    counted: dict[str, int] = {}
    for one in told:
        word = one[0][0].kind.value if one else "untold"
        counted[word] = counted.get(word, 0) + 1
    return counted


class Holding(Hop):
    """Takes the content and says so when it is told to."""

    def __init__(self) -> None:
        super().__init__(self.hold)
        self.held: list[Peer] = []

    def hold(self, peer: Peer, line: bytes) -> Answer:
        if line != b".":
            return None
        self.held.append(peer)
        return b""

    def let_go(self, number: int = 1 << 30) -> int:
        peers, self.held = self.held[:number], self.held[number:]
        for peer in peers:
            peer.act(self.usual(peer, b"."))
        return len(peers)


# -- the window -----------------------------------------------------------------------------------


def test_the_window_opens_with_success_up_to_the_bound_of_the_route() -> None:
    with World() as world:
        world.hops[A] = hop = Holding()
        told = many(world, relay(A, connections=8), 60)
        world.settle()
        at_once = []
        while hop.held:
            at_once.append(len(hop.held))
            hop.let_go()
            world.settle()
        assert at_once[:4] == [WINDOW_FIRST, 8, 8, 8] and max(at_once) == 8
        assert kinds(told) == {"relayed": 60} and len(hop.peers) == 8


def test_after_trouble_one_is_sent_and_the_window_opens_slowly() -> None:
    with World() as world:
        world.hops[A] = hop = Holding()
        many(world, relay(A, connections=8), 13)
        for _ in range(2):
            world.settle()
            hop.let_go()
        world.settle()
        many(world, relay(A, connections=8), 8)
        world.settle()
        assert len(hop.held) == 8
        hop.held.pop().act(CLOSE)
        world.settle()
        hop.let_go(6)
        world.settle()
        hop.held.pop().act(CLOSE)
        told = many(world, relay(A, connections=8), 40)
        world.settle()
        at_once = []
        while hop.held:
            at_once.append(len(hop.held))
            hop.let_go()
            world.settle()
        assert at_once[:6] == [1, 2, 3, 4, 5, 6] and max(at_once) == 8
        assert kinds(told) == {"relayed": 40}


def test_a_next_hop_that_takes_few_connections_gets_all_mail_through_these() -> None:
    def script(peer: Peer, line: bytes) -> Answer:
        if line == b"GREETING" and peer.hop.open_peers > 3:
            peer.say(b"421 4.7.0 too many connections\r\n")
            return CLOSE
        return None

    with World() as world:
        world.hops[A] = hop = Hop(script)
        told = many(world, relay(A), 60)
        world.settle()
        assert kinds(told) == {"relayed": 60} and len(hop.taken) == 60


# -- a destination that cannot be reached ---------------------------------------------------------


def test_a_destination_that_is_down_is_left_alone_for_a_while() -> None:
    with World() as world:
        world.hops[A] = errno.ECONNREFUSED
        told = many(world, relay(A), 50)
        world.settle()
        assert kinds(told) == {"deferred": 50}
        assert told[-1][0][0].status == "4.4.1" and "refused" in told[-1][0][0].diagnostic.lower()
        assert len(world.dialled) <= WINDOW_FIRST
        tries = len(world.dialled)
        assert kinds(many(world, relay(A), 1)) == {"untold": 1}
        world.settle()
        assert len(world.dialled) == tries
        pauses_s = []
        for _ in range(8):
            began_s = world.now_s
            while len(world.dialled) == tries:
                world.advance(1)
                world.send(relay(A))
            pauses_s.append(world.now_s - began_s)
            tries = len(world.dialled)
        assert pauses_s[0] <= PAUSE_MIN_NS / NS_PER_S + 1
        assert pauses_s == sorted(pauses_s) and pauses_s[-1] <= PAUSE_MAX_NS / NS_PER_S + 1
        world.hops[A] = Hop()
        world.advance(PAUSE_MAX_NS / NS_PER_S)
        assert world.send(relay(A))[0].kind.value == "relayed"


def test_what_an_operator_has_tried_in_vain_makes_no_pause_longer() -> None:
    def pauses_s(world: World, asked: int) -> list[float]:
        world.hops[A] = errno.ECONNREFUSED
        world.send(relay(A))
        measured = []
        for _ in range(3):
            began_s, tries = world.now_s, len(world.dialled)
            for _ in range(asked):
                world.advance(1)
                world.next_hops.resume()
                assert world.send(relay(A))[0].status == "4.4.1"
                tries += 1
                assert len(world.dialled) == tries, "it was tried"
            while len(world.dialled) == tries:
                world.advance(1)
                world.send(relay(A))
            measured.append(world.now_s - began_s)
        return measured

    with World() as alone, World() as beside:
        assert pauses_s(alone, 0) == pauses_s(beside, 3)


def test_what_was_under_way_when_an_operator_asked_does_not_keep_it_from_being_tried() -> None:
    class FailsMost(Holding):
        def hold(self, peer: Peer, line: bytes) -> Answer:
            if line.startswith(b"MAIL") and len(self.peers) <= TROUBLES_MAX + 1:
                return b"421 4.3.2 no\r\n" if peer is not self.peers[0] else None
            return super().hold(peer, line)

    with World() as world:
        world.hops[A] = hop = FailsMost()
        told = many(world, relay(A), TROUBLES_MAX + 1)
        world.settle()
        assert kinds(told) == {"deferred": TROUBLES_MAX, "untold": 1} and len(hop.held) == 1
        world.next_hops.resume()
        asked = world.deliver(relay(A), message())
        world.settle()
        assert not asked, "one at a time is sent"
        hop.held.pop().act(CLOSE)
        world.settle()
        hop.let_go()
        world.settle()
        assert kinds(told) == {"deferred": TROUBLES_MAX + 1}
        assert asked[0][0].kind.value == "relayed"


def test_a_next_hop_that_works_when_an_operator_asks_is_left_alone_no_longer() -> None:
    with World() as world:
        world.hops[A] = errno.ECONNREFUSED
        world.send(relay(A))
        world.hops[A] = Hop()
        world.next_hops.resume()
        assert [world.send(relay(A))[0].kind.value for _ in range(3)] == ["relayed"] * 3
        world.hops[A] = errno.ECONNREFUSED
        world.advance(KEPT_NS / NS_PER_S + 1)
        began_s, tries = world.now_s, len(world.dialled)
        world.send(relay(A))
        while len(world.dialled) == tries + 1:
            world.advance(1)
            world.send(relay(A))
        assert world.now_s - began_s == PAUSE_MIN_NS / NS_PER_S, "the first pause again"


def test_a_next_hop_that_fails_each_message_is_left_alone_as_well() -> None:
    def script(peer: Peer, line: bytes) -> Answer:
        return b"421 4.3.2 no\r\n" if line.startswith(b"MAIL") else None

    with World() as world:
        world.hops[A] = hop = Hop(script)
        told = many(world, relay(A), 100)
        world.settle()
        assert kinds(told) == {"deferred": 100}
        assert len(hop.peers) <= WINDOW_FIRST + TROUBLES_MAX
        assert [values["why"] for event, values in world.log if event == "next hop paused"]
        hop.script = None
        world.advance(PAUSE_MIN_NS / NS_PER_S)
        assert world.send(relay(A))[0].kind.value == "relayed"


def test_addresses_that_this_machine_has_no_route_to_are_passed_over() -> None:
    v6 = [f"2001:db8::{n}" for n in range(1, 9)]
    with World() as world:
        world.hops |= dict.fromkeys(v6, errno.ENETUNREACH)
        world.hops[A] = Hop()
        assert world.send(relay(*v6, A))[0].kind.value == "relayed"
        assert world.dialled == [*v6, A] and not world.log


def test_an_attempt_tries_so_many_addresses_and_no_more() -> None:
    ips = [f"192.0.2.{n}" for n in range(1, 17)]
    with World() as world:
        world.hops |= dict.fromkeys(ips, errno.ECONNREFUSED)
        assert world.send(relay(*ips))[0].kind.value == "deferred"
        assert world.dialled == ips[:ADDRESSES_TRIED_MAX]
        world.advance(PAUSE_MIN_NS / NS_PER_S)
        world.hops[ips[-1]] = Hop()
        for _ in range(2):
            world.send(relay(*ips))
            world.advance(PAUSE_MAX_NS / NS_PER_S)
        assert world.send(relay(*ips))[0].kind.value == "relayed"


def test_a_down_destination_does_not_hold_up_another() -> None:
    with World() as world:
        world.hops[A], world.hops[B] = errno.ECONNREFUSED, Hop()
        down, up = many(world, relay(A), 20), many(world, relay(B), 20)
        world.settle()
        assert (kinds(down), kinds(up)) == ({"deferred": 20}, {"relayed": 20})


def test_without_descriptors_mail_waits_and_the_destination_is_not_blamed() -> None:
    with World() as world:
        world.hops[A] = errno.EMFILE
        assert world.send(relay(A))[0].status == "4.3.1"
        world.hops[A] = Hop()
        assert world.send(relay(A))[0].kind.value == "relayed"


def test_the_reserve_of_descriptors_is_left_to_others() -> None:
    with World(descriptors=8) as world:
        world.hops[A] = Hop()
        held = [os.dup(0) for _ in range(16)]  # so that no new one has a low number
        try:
            outcome = world.send(relay(A))[0]
        finally:
            for descriptor in held:
                os.close(descriptor)
        assert (outcome.kind.value, outcome.status) == ("deferred", "4.3.1")
        assert len(world.next_hops.pool) == 0


def test_a_defect_behind_one_job_keeps_no_other_from_its_outcomes() -> None:
    def defect(outcomes: Sequence[Outcome]) -> None:
        raise RuntimeError("a defect")

    with World() as world:
        world.hops[A] = Hop()
        way = world.way(relay(A))
        for _ in range(3):
            way.deliver(message(), defect)
        told = many(world, relay(A), 3)
        world.settle()
        assert kinds(told) == {"relayed": 3}
        assert [str(fault) for fault in world.faults] == ["a defect"] * 3
        world.faults.clear()


# -- the rate -------------------------------------------------------------------------------------


def test_a_rate_spaces_messages_evenly() -> None:
    with World() as world:
        world.hops[A] = hop = Hop()
        told = many(world, relay(A, messages_per_min=6), 5)
        taken = []
        for _ in range(45):
            world.settle()
            taken.append(len(hop.taken))
            world.advance(1)
        assert [taken.index(n) for n in range(1, 6)] == [0, 10, 20, 30, 40]
        assert kinds(told) == {"relayed": 5}


# -- many destinations, all bounds ----------------------------------------------------------------


def domains(world: World, number: int, ip: str) -> None:
    for n in range(number):
        world.resolver[f"d{n}.test A"] = [ip]


def test_one_slow_destination_leaves_slots_for_others() -> None:
    with World() as world:
        world.hops[A], world.hops[B] = slow, quick = Holding(), Hop()
        for n in range(6):
            world.resolver[f"d{n}.test A"] = [A]
        world.resolver["quick.test A"] = [B]
        for _ in range(12):
            for n in range(6):
                for _ in range(20):
                    world.deliver(mx(connections=60), message(f"b@d{n}.test"))
            world.settle()
            slow.let_go()
        world.settle()
        assert world.next_hops.active <= ATTEMPTS_MAX
        told = world.deliver(mx(), message("b@quick.test"))
        world.settle()
        assert [one.kind.value for one in told[0]] == ["relayed"] and len(quick.taken) == 1


def test_jobs_beyond_the_bound_come_back() -> None:
    with World() as world:
        world.hops[A] = Holding()
        told = many(world, relay(A), WAITING_MAX + 10)
        world.settle()
        assert kinds(told)["deferred"] >= 10
        assert kinds(told)["untold"] <= WAITING_MAX


def test_what_is_remembered_of_destinations_is_bounded() -> None:
    with World() as world:
        for n in range(DESTINATIONS_MAX + 500):
            world.send(mx(), message(f"b@nowhere{n}.test"))
        assert len(world.next_hops._destinations) <= DESTINATIONS_MAX


def test_open_connections_are_bounded_and_kept_ones_make_room() -> None:
    with World() as world:
        world.hops[A] = hop = Hop()
        domains(world, 200, A)
        for n in range(200):
            told = world.deliver(mx(), message(f"b@d{n}.test"))
            world.settle()
            assert told and len(world.next_hops.pool) <= ATTEMPTS_MAX
            assert hop.open_peers <= ATTEMPTS_MAX
        world.advance(KEPT_EXCHANGER_NS / NS_PER_S + 1)
        assert len(world.next_hops.pool) == 0 and hop.open_peers == 0


def test_the_room_of_a_way_is_what_would_not_wait() -> None:
    with World() as world:
        world.hops[A] = hop = Holding()
        way = world.way(relay(A, connections=3))
        for left in (3, 2, 1, 0):
            assert way.room() == left
            many(world, relay(A, connections=3), 1)
            world.settle()
        assert world.way(mx(connections=60)).room() == WINDOW_FIRST
        hop.let_go(2)
        world.settle()
        assert way.room() == 1


# -- the shutdown ---------------------------------------------------------------------------------


def test_a_shutdown_lets_what_is_under_way_finish() -> None:
    with World() as world:
        world.hops[A] = hop = Holding()
        told = many(world, relay(A), 20)
        world.settle()
        world.next_hops.close()
        world.settle()
        assert kinds(told) == {"untold": WINDOW_FIRST, "deferred": 20 - WINDOW_FIRST}
        world.advance(GRACE_NS / NS_PER_S - 1)
        assert not world.next_hops.done
        hop.let_go()
        world.settle()
        assert world.next_hops.done
        assert kinds(told) == {"relayed": WINDOW_FIRST, "deferred": 20 - WINDOW_FIRST}


def test_what_is_not_done_within_the_grace_time_is_deferred() -> None:
    with World() as world:
        world.hops[A], world.hops[B] = Holding(), None
        told = many(world, relay(A), 3) + many(world, relay(B), 3)
        world.settle()
        world.next_hops.close()
        world.advance(GRACE_NS / NS_PER_S + 1)
        assert world.next_hops.done and kinds(told) == {"deferred": 6}
        told = many(world, relay(A), 1)
        world.settle()
        assert kinds(told) == {"deferred": 1}


def test_a_shutdown_during_a_lookup_ends_it() -> None:
    with World() as world:
        world.resolver["d.test MX"] = "silence"
        told = [world.deliver(mx(), message())]
        world.settle()
        world.next_hops.close()
        world.advance(GRACE_NS / NS_PER_S + 1)
        assert world.next_hops.done and kinds(told) == {"deferred": 1}


# -- large content --------------------------------------------------------------------------------


def test_a_next_hop_that_does_not_read_costs_a_piece_of_memory_and_then_its_time() -> None:
    content = b"x" * 62 + b"\r\n"
    with World() as world:
        world.hops[A] = hop = Hop()
        job = message(content=content * (50 * 1024 * 1024 // len(content)))
        told = world.deliver(relay(A), job)
        for _ in range(30):
            world.loop.dispatch(None)
            hop.serve()
            if hop.peers and hop.peers[0].in_content:
                hop.stops_reading = True
        world.settle()
        assert 0 < world.memory.held_octets < 1024 * 1024
        world.advance(200)
        assert [one[0].status for one in told] == ["4.4.2"]
        assert world.memory.held_octets == 0


def test_large_messages_take_turns_with_one_another() -> None:
    content = (b"x" * 62 + b"\r\n") * 40_000
    read: list[str] = []

    def job(name: str) -> Job:
        job = message(content=content)

        def pieces() -> Iterator[bytes]:
            for piece in job.content():
                read.append(name)
                yield piece

        return job._replace(content=pieces)

    with World() as world:
        world.hops[A], world.hops[B] = Hop(), Hop()
        told = [world.deliver(relay(A), job("a")), world.deliver(relay(B), job("b"))]
        world.settle()
        assert kinds(told) == {"relayed": 2}
        assert sorted(read[:8]) == ["a"] * 4 + ["b"] * 4
