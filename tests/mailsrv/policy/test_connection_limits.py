"""How many may be here: in all, from one client, and what the refused are told."""

from __future__ import annotations

import pytest
from conversing import ENVELOPE, HELLO, NS_PER_S, Caller, codes, harness

from mailsrv.server import REFUSALS_MAX


def test_a_refused_connection_hears_which_limit_fired_and_is_closed() -> None:
    with harness(connections_per_client=1) as run:
        first, second = Caller(run), Caller(run)
        assert second.news == (
            b"421 4.7.0 mx.example.test Error: too many connections: 1 from 192.0.2.10\r\n"
        )
        assert second.ended == "eof"
        assert any("event=refused" in line and "1 from 192.0.2.10" in line for line in run.log)
        other = Caller(run, "192.0.2.11")
        assert codes(other.news) == [220]
        first.close()
        second.close()
        assert codes(Caller(run).news) == [220]


def test_the_total_is_refused_by_its_own_name() -> None:
    with harness(connections=2) as run:
        callers = [Caller(run, f"192.0.2.{number}") for number in range(3)]
        assert [codes(caller.news) for caller in callers[:2]] == [[220], [220]]
        assert callers[2].news.endswith(b"too many connections: 2 in all\r\n")


def test_the_refused_take_no_place_while_they_linger() -> None:
    with harness(connections=4, connections_per_client=2) as run:
        crowd = [Caller(run) for _ in range(6)]
        assert [codes(caller.news) for caller in crowd] == [[220]] * 2 + [[421]] * 4
        assert codes(Caller(run, "192.0.2.11").news) == [220]
        crowd[0].close()
        assert codes(Caller(run).news) == [220]


def test_the_refused_do_not_keep_their_sockets_for_long() -> None:
    with harness(connections=1) as run:
        Caller(run)
        Caller(run).say(HELLO)
        run.run_until(5 * NS_PER_S + 1)
        assert list(run.server.connections) == [1]


def test_a_crowd_of_refused_does_not_use_up_the_descriptors() -> None:
    with harness(connections_per_client=1) as run:
        crowd = [Caller(run) for _ in range(REFUSALS_MAX + 21)]
        assert len(run.server.connections) == 1 + REFUSALS_MAX
        assert {tuple(codes(caller.news)) for caller in crowd[1:]} == {(421,)}
        assert {caller.ended for caller in crowd[1:]} == {"eof"}


# -- stopping -------------------------------------------------------------------------------------


def test_a_stop_ends_the_idle_at_once_and_lets_a_transaction_finish() -> None:
    with harness() as run:
        idle, greeting_only, busy = Caller(run), Caller(run), Caller(run)
        idle.say(HELLO)
        busy.say(HELLO + ENVELOPE + b"DATA\r\nhalf")
        greeting_only.news  # noqa: B018 - forget
        run.server.stop()
        run.settle()
        for caller in (idle, greeting_only):
            said = caller.news
            assert b"421 4.3.2 " in said
            assert caller.ended == "eof"
        assert (busy.ended, run.server.done) == ("", False)
        assert codes(busy.say(b"\r\n.\r\n")) == [250, 421]
        assert busy.ended == "eof"
        for caller in (idle, greeting_only, busy):
            caller.close()
        assert run.server.done


def test_a_stop_loses_patience_with_a_transaction_after_the_grace_time() -> None:
    with harness(grace_s=20) as run:
        busy = Caller(run)
        busy.say(HELLO + ENVELOPE)
        run.server.stop()
        run.run_until(20 * NS_PER_S)
        assert busy.ended == ""
        run.run_until(20 * NS_PER_S + 1)
        assert codes(busy.news)[-1] == 421
        assert busy.ended == "eof"
        run.run_until(25 * NS_PER_S + 1)
        assert run.server.done


def test_a_stop_does_not_wait_for_who_does_not_read() -> None:
    with harness(grace_s=20, junk_commands=10**9) as run:
        deaf = Caller(run)
        deaf.link.reading = False
        while run.server.connections[1].reading:
            deaf.say(b"HELP\r\n" * 5000)
        run.server.stop()
        run.run_until(25 * NS_PER_S + 1)
        assert run.server.done


def test_nobody_is_accepted_after_a_stop() -> None:
    with harness() as run:
        busy = Caller(run)
        busy.say(HELLO + ENVELOPE)
        run.server.stop()
        run.server.stop()  # twice is once
        with pytest.raises(ConnectionRefusedError):
            run.connect("192.0.2.11", lambda octets: None, lambda how: None)
