"""A server as it goes on: configured anew, under stress, and while clients are turned away."""

from __future__ import annotations

from typing import Any

import pytest
from conversing import ENVELOPE, HELLO, HOSTNAME, MESSAGE, NS_PER_S, Caller, Run, codes, harness

from mailsrv.server import REFUSALS_MAX, ServerBackends
from mailsrv.settings import CheckException, Settings
from replay.play.fakes.world import FakeCourier


def reload(run: Run, courier: FakeCourier | None = None, **settings: Any) -> None:
    world = run.world
    run.server.reload(
        Settings(hostname=HOSTNAME, **settings),
        ServerBackends(
            resolver=world.resolver, reputation=world.reputation, courier=courier or world.courier
        ),
    )


# -- configured anew ------------------------------------------------------------------------------


def test_a_reload_drops_nobody_and_who_is_here_keeps_the_rules_they_came_under() -> None:
    with harness() as run:
        early = Caller(run)
        early.say(HELLO + b"MAIL FROM:<a@example.org>\r\n")
        reload(run, domains=("example.test",), idle_timeout_s=60)
        late = Caller(run)
        late.say(HELLO + b"MAIL FROM:<a@example.org>\r\n")
        assert codes(early.say(b"RCPT TO:<b@elsewhere.example>\r\n")) == [250]
        assert codes(late.say(b"RCPT TO:<b@elsewhere.example>\r\n")) == [550]
        run.run_until(60 * NS_PER_S + 1)
        assert (early.ended, late.ended) == ("", "eof")
        assert codes(early.say(b"DATA\r\nx\r\n.\r\n")) == [354, 250]


def test_after_a_reload_mail_goes_where_the_new_configuration_says() -> None:
    with harness() as run:
        elsewhere = FakeCourier(lambda delay_ns, act: None)
        reload(run, elsewhere)
        assert codes(Caller(run).say(HELLO + MESSAGE))[-1] == 250
        assert (len(elsewhere.messages), run.world.courier.messages) == (1, [])


def test_clients_counted_before_a_reload_are_counted_after_it() -> None:
    with harness() as run:
        first = Caller(run)
        reload(run, connections_per_client=1)
        assert codes(Caller(run).news) == [421]
        first.close()
        assert codes(Caller(run).news) == [220]


# -- stress ---------------------------------------------------------------------------------------


def test_stress_shortens_the_patience_with_those_who_were_here_before() -> None:
    with harness(connections=10) as run:
        early = Caller(run, "192.0.2.1")
        run.run_until(5 * NS_PER_S)
        crowd = [Caller(run, f"198.51.100.{number}") for number in range(7)]
        assert any("event=stress on=1" in line for line in run.log)
        run.run_until(10 * NS_PER_S)
        assert early.ended == ""
        run.run_until(10 * NS_PER_S + 1)
        assert early.ended == "eof"
        assert b"no command for 10 s" in early.news
        assert all(caller.ended == "" for caller in crowd)


def test_when_stress_is_over_those_who_stayed_have_all_the_time_again() -> None:
    with harness(connections=10) as run:
        crowd = [Caller(run, f"198.51.100.{number}") for number in range(8)]
        for caller in crowd[1:]:
            caller.close()
        assert any("event=stress on=0" in line for line in run.log)
        run.run_until(299 * NS_PER_S)
        assert crowd[0].ended == ""
        run.run_until(300 * NS_PER_S + 1)
        assert crowd[0].ended == "eof"


def test_under_stress_one_error_is_enough_whenever_a_client_came() -> None:
    with harness(connections=10) as run:
        crowd = [Caller(run, f"198.51.100.{number}") for number in range(8)]
        late = Caller(run, "192.0.2.9")
        assert codes(late.say(b"JUNK\r\n")) == [500, 421]
        assert codes(crowd[0].say(b"JUNK\r\n")) == [500, 421]


def test_exceptions_hold_under_stress_too() -> None:
    old_scanner = CheckException(("bare_lf",), networks=("192.0.2.9/32",))
    with harness(connections=10, exceptions=(old_scanner,)) as run:
        for number in range(8):
            Caller(run, f"198.51.100.{number}")
        assert any("event=stress on=1" in line for line in run.log)
        content = b"Subject: x\r\n\r\nscanned\n\r\n.\r\n"
        for client, code in (("192.0.2.9", 250), ("192.0.2.8", 550)):
            caller = Caller(run, client)
            caller.say(HELLO + ENVELOPE + b"DATA\r\n")
            assert codes(caller.say(content))[0] == code


# -- turning away ---------------------------------------------------------------------------------


def test_beyond_the_bound_the_refused_that_was_told_first_makes_room() -> None:
    with harness(connections_per_client=1) as run:
        Caller(run)
        refused = [Caller(run) for _ in range(REFUSALS_MAX + 1)]
        assert all(codes(caller.news) == [421] for caller in refused)
        assert len(run.server.connections) == 1 + REFUSALS_MAX


@pytest.mark.parametrize(
    ("settings", "limit", "check"),
    [
        ({"connections_per_client": 1}, "1 from 192.0.2.10", "connections"),
        ({"client_connections_per_min": 1}, "1 a minute from 192.0.2.10", "rate"),
    ],
)
def test_a_connection_too_many_at_once_and_one_too_many_a_minute_are_told_apart(
    settings: dict[str, Any], limit: str, check: str
) -> None:
    with harness(**settings) as run:
        greeted, refused = Caller(run), Caller(run)
        assert codes(b"".join(octets for _, octets in greeted.heard)) == [220]
        assert codes(b"".join(octets for _, octets in refused.heard)) == [421]
        assert [line.partition(" limit=")[2] for line in run.log] == [f'"{limit}" check={check}']
