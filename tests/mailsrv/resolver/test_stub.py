"""The resolver against a real name server on loopback, in virtual time."""

from __future__ import annotations

import contextlib
import os
import resource
import socket

import dns.flags
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from nameserver import Asked, Behaviour, Net, failing, net, silent, zone

from mailsrv.policy.lookups import DnsAnswer, DnsStatus
from mailsrv.resolver import exchange, stub
from mailsrv.settings import Settings
from mailsrv.units import seconds_to_ns

ANSWER = DnsAnswer(DnsStatus.NOERROR, ("192.0.2.1",))
NO_DATA = DnsAnswer(DnsStatus.NOERROR)
NXDOMAIN = DnsAnswer(DnsStatus.NXDOMAIN)
SERVFAIL = DnsAnswer(DnsStatus.SERVFAIL)
TIMEOUT = DnsAnswer(DnsStatus.TIMEOUT)

ATTEMPT_MS = stub.ATTEMPT_TIMEOUT_NS // 10**6
SOA = "example. 600 SOA ns.example. host.example. 1 7200 900 1209600 60"
good = zone(A="300 192.0.2.1", MX="300 10 mx.example.")


def nonexistent(asked: Asked) -> list[bytes]:
    return [asked.reply(rcode="NXDOMAIN", authority=(SOA,))]


def truncating(asked: Asked) -> list[bytes]:
    if asked.over == "UDP":
        return [asked.reply(flags=dns.flags.TC)]
    return good(asked)


# -- what servers say -----------------------------------------------------------------------------


def test_records_come_in_presentation_form() -> None:
    with net(good) as world:
        assert world.ask("a.example") == [ANSWER]
        assert world.ask("a.example", "MX") == [DnsAnswer(DnsStatus.NOERROR, ("10 mx.example.",))]
        assert world.now_ns == 0


def test_a_null_mx_is_told_as_the_policy_expects_it() -> None:
    with net(zone(MX="300 0 .")) as world:
        assert world.ask("a.example", "MX") == [DnsAnswer(DnsStatus.NOERROR, ("0 .",))]


def test_no_such_name_and_no_data_are_told_apart() -> None:
    with net(nonexistent) as world:
        assert world.ask("a.example") == [NXDOMAIN]
    with net(zone()) as world:
        assert world.ask("a.example") == [NO_DATA]


def test_aliases_are_followed_within_the_answer() -> None:
    def aliased(asked: Asked) -> list[bytes]:
        records = ("a.example. 9 CNAME b.example.", "b.example. 9 CNAME c.example.")
        return [asked.reply(*records, "c.example. 9 A 192.0.2.1")]

    with net(aliased) as world:
        assert world.ask("a.example") == [ANSWER]


def test_a_ring_of_aliases_is_a_failure() -> None:
    def ring(asked: Asked) -> list[bytes]:
        return [asked.reply("a.example. 9 CNAME b.example.", "b.example. 9 CNAME a.example.")]

    with net(ring) as world:
        assert world.ask("a.example") == [SERVFAIL]


def addresses(world: Net) -> list[tuple[str, int]]:
    return [server.address for server in world.servers]


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP"])
def test_a_failing_server_makes_room_for_the_next_at_once(rcode: str) -> None:
    with net(lambda asked: [asked.reply(rcode=rcode)], good) as world:
        assert world.ask("a.example") == [ANSWER]
        assert [len(server.asked) for server in world.servers] == [1, 1]
        assert world.now_ns == 0


def test_when_all_servers_fail_the_answer_is_servfail_and_noted() -> None:
    with net(failing, failing) as world:
        assert world.ask("a.example") == [SERVFAIL]
        assert [len(server.asked) for server in world.servers] == [1, 1]
        told = [f"{host} port {port}: SERVFAIL" for host, port in addresses(world)]
        assert world.noted == [("a.example", "A", ", ".join(told))]


def test_a_dead_server_is_named_with_its_port_and_as_what_it_is() -> None:
    def malformed(asked: Asked) -> list[bytes]:
        five_answers = b"\x80\x00\0\x01\0\x05\0\0\0\0"
        return [asked.octets[:2] + five_answers + asked.octets[12:]]

    with net(good, silent, malformed) as world:
        (dead, mute, mad) = addresses(world)
        world.servers.pop(0).close()
        world.ask("a.example")
        world.advance_to_ms(20_000)
        ((_, _, why),) = world.noted
        assert why.split(", ") == [
            f"{dead[0]} port {dead[1]}: refused",
            f"{mute[0]} port {mute[1]}: no answer",
            f"{mad[0]} port {mad[1]}: malformed answer",
        ]


def test_a_closed_port_makes_room_for_the_next_at_once() -> None:
    with net(good, good) as world:
        world.servers.pop(0).close()
        assert world.ask("a.example") == [ANSWER]
        assert world.now_ns == 0


def test_a_server_that_does_not_recurse_is_passed_over() -> None:
    def lame(asked: Asked) -> list[bytes]:
        return [asked.reply(authority=("example. 9 NS ns.example.",), flags=0)]

    with net(lame, good) as world:
        assert world.ask("a.example") == [ANSWER]


@pytest.mark.parametrize(("soa", "flags"), [((SOA,), 0), ((), dns.flags.AA)])
def test_no_data_with_the_zones_servers_named_is_no_referral(
    soa: tuple[str, ...], flags: int
) -> None:
    def naming(asked: Asked) -> list[bytes]:
        return [asked.reply(authority=("example. 9 NS ns.example.", *soa), flags=flags)]

    with net(naming) as world:
        assert world.ask("a.example") == [NO_DATA]


def test_a_text_that_can_be_no_name_is_not_asked() -> None:
    with net(good) as world:
        assert world.ask("a" * 64 + ".example") == [NXDOMAIN]
        assert world.ask("a..example") == [NXDOMAIN]
        assert world.ask(".".join(["a" * 60] * 5)) == [NXDOMAIN]
        assert world.servers[0].asked == []


def test_a_name_beyond_ascii_is_asked_in_its_a_labels() -> None:
    with net(good) as world:
        assert world.ask("bücher.example") == [ANSWER]
        assert world.servers[0].asked[0].name == "xn--bcher-kva.example."


# -- silence --------------------------------------------------------------------------------------


def test_a_silent_server_is_asked_again_and_the_answer_is_timeout_at_the_tick() -> None:
    with net(silent) as world:
        answers = world.ask("a.example")
        for attempt in range(1, stub.ATTEMPTS_MAX):
            world.advance_to_ms(attempt * ATTEMPT_MS - 1)
            assert len(world.servers[0].asked) == attempt
            world.advance_to_ms(attempt * ATTEMPT_MS)
            assert len(world.servers[0].asked) == attempt + 1
        world.advance_to_ms(stub.ATTEMPTS_MAX * ATTEMPT_MS - 1)
        assert answers == []
        world.advance_to_ms(stub.ATTEMPTS_MAX * ATTEMPT_MS)
        assert answers == [TIMEOUT]
        assert len(world.servers[0].asked) == stub.ATTEMPTS_MAX
        ((host, port),) = addresses(world)
        assert world.noted == [("a.example", "A", f"{host} port {port}: no answer")]


def test_each_attempt_has_a_new_id_and_a_new_port() -> None:
    with net(silent) as world:
        world.ask("a.example")
        world.advance_to_ms(10 * ATTEMPT_MS)
        asked = world.servers[0].asked
        assert len({one.id for one in asked}) == len(asked)
        assert len({one.source for one in asked}) > 1  # the kernel may pick one port twice


def test_after_silence_the_next_server_is_asked_and_from_then_on_first() -> None:
    with net(silent, good) as world:
        answers = world.ask("a.example")
        world.advance_to_ms(ATTEMPT_MS)
        assert answers == [ANSWER]
        assert world.ask("b.example") == [ANSWER]
        assert [len(server.asked) for server in world.servers] == [1, 2]


def test_silence_towards_two_questions_is_held_against_a_server_once() -> None:
    with net(silent, good) as world:
        world.ask("a.example")
        world.ask("b.example")
        world.advance_to_ms(ATTEMPT_MS)
        world.ask("c.example")
        assert [len(server.asked) for server in world.servers] == [2, 3]


def test_a_server_that_failed_is_not_asked_again_while_others_are_silent() -> None:
    with net(failing, silent) as world:
        answers = world.ask("a.example")
        world.advance_to_ms(3 * ATTEMPT_MS)
        assert answers == [TIMEOUT]
        assert [len(server.asked) for server in world.servers] == [1, 3]


def test_all_attempts_together_take_less_than_a_decision_may_wait() -> None:
    whole_ns = stub.ATTEMPTS_MAX * stub.ATTEMPT_TIMEOUT_NS
    assert whole_ns < seconds_to_ns(Settings().lookup_timeout_s)


def test_an_answer_after_the_last_attempt_is_harmless() -> None:
    with net(silent) as world:
        answers = world.ask("a.example")
        world.advance_to_ms(stub.ATTEMPTS_MAX * ATTEMPT_MS)
        server = world.servers[0]
        for one in server.asked:
            server.udp.sendto(one.reply("a.example. 9 A 192.0.2.9"), one.source)
        with contextlib.suppress(ConnectionRefusedError):
            world.settle()
        assert answers == [TIMEOUT]


# -- forgers and fools ----------------------------------------------------------------------------


def with_id(octets: bytes, id_: int) -> bytes:
    return id_.to_bytes(2, "big") + octets[2:]


def test_an_answer_under_another_id_or_to_another_question_is_passed_over() -> None:
    def confused(asked: Asked) -> list[bytes]:
        wrong = "a.example. 9 A 203.0.113.66"
        return [
            b"",
            b"x",
            with_id(asked.reply(wrong), asked.id ^ 1),
            asked.reply("b.example. 9 A 203.0.113.66", question="b.example"),
            with_id(asked.reply(wrong)[:-3], asked.id ^ 1),
            asked.octets[:-3],  # a question is no answer, not even a bad one
            *good(asked),
        ]

    with net(confused) as world:
        assert world.ask("a.example") == [ANSWER]


def test_a_record_of_another_name_in_the_answer_is_not_taken() -> None:
    with net(lambda asked: [asked.reply("evil.example. 9 A 203.0.113.66")]) as world:
        assert world.ask("a.example") == [NO_DATA]


def test_an_answer_from_another_source_is_not_even_received() -> None:
    with net(silent) as world, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
        forger.bind(("127.0.0.1", 0))
        answers = world.ask("a.example")
        (asked,) = world.servers[0].asked
        forger.sendto(asked.reply("a.example. 9 A 203.0.113.66"), asked.source)
        world.settle()
        assert answers == []
        world.servers[0].udp.sendto(good(asked)[0], asked.source)
        world.settle()
        assert answers == [ANSWER]


def test_who_guesses_ids_drives_the_question_to_tcp() -> None:
    def guessing(asked: Asked) -> list[bytes]:
        if asked.over == "TCP":
            return good(asked)
        guess = asked.reply("a.example. 9 A 203.0.113.66")
        strays = [with_id(guess, asked.id ^ one) for one in range(1, exchange.STRAYS_MAX + 1)]
        return [*strays, guess]

    with net(guessing) as world:
        assert world.ask("a.example") == [ANSWER]


@budget(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=3), st.booleans())
def test_garbage_is_a_failure_or_passed_over(garbage: list[bytes], with_right_id: bool) -> None:
    def mad(asked: Asked) -> list[bytes]:
        return [asked.octets[:2] + b"\x80" + one if with_right_id else one for one in garbage]

    with net(mad) as world:
        answers = world.ask("a.example")
        world.advance_to_ms(stub.ATTEMPTS_MAX * ATTEMPT_MS)
        assert answers in ([SERVFAIL], [TIMEOUT], [NO_DATA])


# -- TCP ------------------------------------------------------------------------------------------


def test_a_truncated_answer_is_asked_for_over_tcp() -> None:
    with net(truncating) as world:
        assert world.ask("a.example") == [ANSWER]
        assert [asked.over for asked in world.servers[0].asked] == ["UDP", "TCP"]
        assert world.now_ns == 0


def test_an_answer_in_single_octets_is_put_together() -> None:
    with net(truncating) as world:
        server = world.servers[0]
        framed: list[bytes] = []

        def hold_back(octets: bytes) -> bytes:
            framed.append(octets)
            return b""

        server.stream = hold_back
        answers = world.ask("a.example")
        for octet in framed[0]:
            assert answers == []
            server.streams[0].send(bytes([octet]))
            world.settle()
        assert answers == [ANSWER]


@pytest.mark.parametrize(
    "octets",
    [None, b"\x00\x00", b"\xff\xff", b"\x40\x01", b"\x00\x03abc", b"\x00\x0c" + b"x" * 12],
)
def test_what_is_no_answer_over_tcp_is_a_failure(octets: bytes | None) -> None:
    with net(truncating, good) as world:
        world.servers[0].stream = lambda framed: octets
        answers = world.ask("a.example")
        assert answers == [ANSWER]
        assert len(world.servers[1].asked) == 1


def test_a_server_that_stalls_over_tcp_has_the_same_time() -> None:
    with net(truncating, good) as world:
        world.servers[0].stream = lambda framed: framed[:5]
        answers = world.ask("a.example")
        world.advance_to_ms(ATTEMPT_MS - 1)
        assert answers == []
        world.advance_to_ms(ATTEMPT_MS)
        assert answers == [ANSWER]


def test_a_server_without_tcp_has_failed() -> None:
    with net(truncating, good) as world:
        world.servers[0].refuse_tcp()
        assert world.ask("a.example") == [ANSWER]


def test_an_answer_too_large_for_the_bound_is_a_failure() -> None:
    def huge(asked: Asked) -> list[bytes]:
        if asked.over == "UDP":
            return truncating(asked)
        records = [f"{asked.name} 9 A 10.0.{n // 256}.{n % 256}" for n in range(2000)]
        return [asked.reply(*records)]

    with net(huge) as world:
        assert world.ask("a.example") == [SERVFAIL]


# -- together -------------------------------------------------------------------------------------


def test_a_question_that_is_being_asked_is_not_asked_again() -> None:
    with net(silent) as world:
        first, second = world.ask("a.example"), world.ask("A.Example.")
        other = world.ask("a.example", "MX")
        (asked, another) = world.servers[0].asked
        assert {asked.rtype, another.rtype} == {"A", "MX"}
        world.servers[0].udp.sendto(good(asked)[0], asked.source)
        world.settle()
        assert (first, second, other) == ([ANSWER], [ANSWER], [])


def test_too_many_waiting_for_one_question_are_refused() -> None:
    with net(silent) as world:
        answers: list[DnsAnswer] = []
        for _ in range(stub.WAITING_MAX):
            world.resolver.lookup("a.example", "A", answers.append)
        assert answers == []
        assert world.ask("a.example") == [SERVFAIL]


def test_too_many_questions_at_once_are_refused_and_noted_once() -> None:
    with net(silent) as world:
        waiting = [world.ask(f"{n}.example") for n in range(stub.INQUIRIES_MAX)]
        assert world.poll.watched == stub.INQUIRIES_MAX
        assert world.ask("x.example") == world.ask("y.example") == [SERVFAIL]
        assert world.noted == [("x.example", "A", "too many questions")]
        world.servers[0].behaviour = good
        world.advance_to_ms(ATTEMPT_MS)
        assert waiting == [[ANSWER]] * stub.INQUIRIES_MAX
        assert world.ask("x.example") == [ANSWER]  # the refusal was not kept
        world.servers[0].behaviour = silent
        for number in range(stub.INQUIRIES_MAX + 1):
            world.ask(f"{number}.second.example")
        assert len(world.noted) == 2


def test_an_answer_may_ask_the_next_question() -> None:
    with net(good) as world:
        answers: list[DnsAnswer] = []

        def again(answer: DnsAnswer) -> None:
            answers.append(answer)
            world.resolver.lookup("a.example", "A", answers.append)

        world.resolver.lookup("a.example", "A", again)
        world.settle()
        assert answers == [ANSWER, ANSWER]


def test_a_fault_of_one_who_waits_is_kept_from_the_others() -> None:
    with net(good) as world:
        answers: list[DnsAnswer] = []

        def faulty(answer: DnsAnswer) -> None:
            raise ValueError("mine")

        world.resolver.lookup("a.example", "A", faulty)
        world.resolver.lookup("a.example", "A", answers.append)
        world.settle()
        assert answers == [ANSWER]
        assert [str(fault) for fault in world.faults] == ["mine"]
        world.faults.clear()


@pytest.mark.parametrize("over", ["UDP", "TCP"])
def test_closing_leaves_no_socket_and_no_timer(over: str) -> None:
    with net(silent if over == "UDP" else truncating) as world:
        world.servers[0].stream = lambda framed: b""
        answers = world.ask("a.example")
        assert world.poll.watched == 1
        assert len(world.loop.timers) == 1
        descriptors = len(os.listdir("/proc/self/fd"))
        world.resolver.close()
        assert len(os.listdir("/proc/self/fd")) == descriptors - 1
        assert (world.poll.watched, len(world.loop.timers), answers) == (0, 0, [])


def test_no_descriptor_left_is_a_failure() -> None:
    with net(good) as world:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            answers: list[DnsAnswer] = []
            world.resolver.lookup("a.example", "A", answers.append)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert answers == [SERVFAIL]


# -- the cache ------------------------------------------------------------------------------------


def asked_at(world: Net, at_ms: float) -> int:
    """How many questions have reached the server once one more was asked at ``at_ms``."""
    world.advance_to_ms(at_ms)
    world.ask("a.example")
    return len(world.servers[0].asked)


def test_an_answer_is_kept_for_its_ttl_to_the_tick() -> None:
    with net(good) as world:
        assert asked_at(world, 0) == 1
        assert asked_at(world, 300_000 - 0.000001) == 1
        assert asked_at(world, 300_000) == 2


def test_the_shortest_ttl_of_a_chain_of_aliases_counts() -> None:
    def aliased(asked: Asked) -> list[bytes]:
        return [asked.reply("a.example. 30 CNAME b.example.", "b.example. 900 A 192.0.2.1")]

    with net(aliased) as world:
        assert asked_at(world, 0) == asked_at(world, 29_999) == 1
        assert asked_at(world, 30_000) == 2


@pytest.mark.parametrize(
    ("behaviour", "kept_s"),
    [
        (nonexistent, 60),  # the SOA's minimum
        (lambda asked: [asked.reply(authority=(SOA,))], 60),
        (lambda asked: [asked.reply(rcode="NXDOMAIN")], 5),  # no SOA, no word on how long
        (zone(A="0 192.0.2.1"), 5),
        (zone(A="2000000 192.0.2.1"), 3600),
        (lambda asked: [asked.reply(authority=(SOA[:-2] + "86400",))], 300),
        (failing, 5),
    ],
)
def test_each_kind_of_answer_is_kept_within_its_bounds(behaviour: Behaviour, kept_s: int) -> None:
    with net(behaviour) as world:
        assert asked_at(world, 0) == asked_at(world, kept_s * 1000 - 1) == 1
        assert asked_at(world, kept_s * 1000) == 2
