"""What all connections share is bounded in all: places, memory, descriptors."""

from __future__ import annotations

from conversing import ENVELOPE, HELLO, MESSAGE, NS_PER_S, Caller, Run, codes, harness

from mailsrv.runtime.descriptor_budget import RESERVE, DescriptorBudget
from mailsrv.runtime.memory_budget import READ_OCTETS, SCARCE_READ_OCTETS, MemoryBudget

FLOOD = b"HELP\r\n" * 5000


def hold_replies(run: Run) -> Caller:
    """A client that sends and does not read, until it is not read from any more."""
    caller = Caller(run)
    caller.link.reading = False
    connection = run.server.connections[max(run.server.connections)]
    while connection.reading:
        caller.say(FLOOD)
    return caller


def test_input_and_unread_replies_are_counted_and_given_back_at_the_end() -> None:
    with harness(junk_commands=10**9) as run:
        caller = hold_replies(run)
        connection = run.server.connections[1]
        held = connection.pending_octets + connection.session.buffered_octets
        assert held > 1000
        assert run.server.memory.held_octets == held
        caller.close()
        assert run.server.memory.held_octets == 0


def test_input_that_waits_for_a_verdict_is_counted() -> None:
    world: dict[str, object] = {"delivery": {"replies": [{"delay_s": 10}]}}
    with harness(world) as run:
        caller = Caller(run)
        caller.say(HELLO + MESSAGE + b"NOOP\r\n" * 100)
        assert run.server.memory.held_octets == 600
        run.run_until(10 * NS_PER_S)
        assert run.server.memory.held_octets == 0


def test_while_memory_is_scarce_there_is_stress_and_reads_are_short_and_then_nobody_comes_in() -> (
    None
):
    with harness(junk_commands=10**9, memory_octets=50_000) as run:
        first = hold_replies(run)
        assert run.server.memory.scarce
        assert run.server.memory.read_octets == SCARCE_READ_OCTETS
        Caller(run).say(HELLO)
        assert any("event=stress on=1" in line for line in run.log)
        more = [hold_replies(run) for _ in range(12)]
        assert run.server.memory.spent
        late = Caller(run)
        assert codes(late.news) == [421]
        assert late.ended == "eof"
        assert any("no memory is left" in line for line in run.log)
        for caller in (first, *more):
            caller.close()
        assert run.server.memory.read_octets == READ_OCTETS
        assert any("event=stress on=0" in line for line in run.log)
        assert codes(Caller(run).say(HELLO + MESSAGE)) == [250, 250, 250, 354, 250]


def test_when_no_place_is_left_the_longest_idle_goes_first_and_the_next_comes_in() -> None:
    with harness(connections=3, stress_percent=0) as run:
        busy, idle, young = Caller(run), Caller(run), Caller(run)
        busy.say(HELLO + ENVELOPE)
        run.run_until(NS_PER_S)
        idle.say(HELLO)
        run.run_until(2 * NS_PER_S)
        young.say(HELLO)
        run.run_until(3 * NS_PER_S - 1)
        assert codes(Caller(run).news) == [421]
        assert codes(idle.news) == [421]
        assert idle.ended == "eof"
        assert (busy.ended, young.ended) == ("", "")
        idle.close()
        assert codes(Caller(run).say(HELLO + MESSAGE)) == [250, 250, 250, 354, 250]


def test_nobody_is_ended_who_is_idle_for_less_than_a_second_or_in_a_transaction() -> None:
    with harness(connections=2, stress_percent=0) as run:
        busy = Caller(run)
        busy.say(HELLO + ENVELOPE)
        run.run_until(10 * NS_PER_S)
        fresh = Caller(run)
        fresh.say(HELLO)
        assert codes(Caller(run).news) == [421]
        run.run_until(11 * NS_PER_S - 1)
        assert codes(Caller(run).news) == [421]
        assert (busy.ended, fresh.ended) == ("", "")


def test_a_limit_of_one_client_ends_nobody() -> None:
    with harness(connections_per_client=1, trusted_networks=()) as run:
        first = Caller(run)
        run.run_until(10 * NS_PER_S)
        assert codes(Caller(run).news) == [421]
        assert first.ended == ""


def test_descriptors_are_read_off_the_newest_socket() -> None:
    budget = DescriptorBudget(1000)
    assert not budget.filled(1)
    budget.opened(799)
    assert budget.filled(80)
    assert not budget.filled(81)
    assert not budget.spent
    budget.opened(1000 - RESERVE - 1)
    assert not budget.spent
    budget.opened(1000 - RESERVE)
    assert budget.spent
    budget.opened(10)
    assert not budget.spent


def test_half_of_the_memory_makes_reads_short() -> None:
    budget = MemoryBudget(1000)
    budget.hold(499)
    assert (budget.scarce, budget.read_octets) == (False, READ_OCTETS)
    budget.hold(1)
    assert (budget.scarce, budget.read_octets, budget.spent) == (True, SCARCE_READ_OCTETS, False)
    budget.hold(500)
    assert budget.spent
    budget.hold(-1000)
    assert (budget.held_octets, budget.scarce, budget.spent) == (0, False, False)
