"""Scripted receivers in virtual time: what they do and see of a client that connects to them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from dialling import ToyClient

from replay.play import virtual_run
from replay.play.fakes.world import settings_from
from replay.play.mailsrv_harness import MailsrvHarness
from replay.play.observed import Trace
from replay.play.virtual_run import VirtualPlayer
from replay.transcript import transcript
from replay.transcript.script import Scenario
from replay.verify.comparison import compare_all
from replay.verify.update import update

MS = 1_000_000
S = 1000 * MS

HEADER = '+++\nstory = "A client delivers."\n{}+++\n'
DELIVERY = r"""
@0           listen at 192.0.2.25
@1s          C open
command+0    S: 220 mx.example.org ESMTP\r\n
@1s          C: EHLO me\r\n
command+5ms  S: 250-mx.example.org\r\n
             S: 250 PIPELINING\r\n
@1.005s      C: MAIL FROM:<a@example.org>\r\n
@1.005s      C: RCPT TO:<b@example.test>\r\n
@1.005s      C: DATA\r\n
command+0    S: 250 ok\r\n
             S: 250 ok\r\n
             S: 354 go on\r\n
@1.005s      C: Subject: x\r\n
             C: \r\n
             C: ..\r\n
             C: .\r\n
command+2s   S: 250 taken\r\n
@3.005s      C? QUIT
command+0    S: 221 bye\r\n
@3.005s      C eof
+0           close
"""
FLIGHTS = (
    b"EHLO me\r\n",
    b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n",
    b"",
    b"",
    b"Subject: x\r\n\r\n..\r\n.\r\n",
    b"QUIT\r\n",
)


def read(body: str, header: str = "") -> Scenario:
    return transcript.parse(HEADER.format(header) + body, "hop.smtp")


def played(
    scenario: Scenario,
    *clients: tuple[int, Sequence[bytes]],
    world: dict[str, object] | None = None,
) -> tuple[list[VirtualPlayer], list[ToyClient], MailsrvHarness, str]:
    """Play with toy clients, each beginning at an instant."""
    trace = Trace()
    toys: list[ToyClient] = []
    with MailsrvHarness(settings_from({}), world or scenario.world) as harness:
        players = [
            VirtualPlayer(harness, trace, number, connection)
            for number, connection in enumerate(scenario.connections)
        ]
        for player in players:
            player.schedule()
        for at_ns, flights in clients:
            harness.at(at_ns, lambda flights=flights: toys.append(ToyClient(harness, flights)))  # type: ignore[misc]
        while harness.next_ns() is not None:
            harness.step()
        for player in players:
            player.conclude()
    return players, toys, harness, trace.hexdigest()


def differences(scenario: Scenario, *clients: tuple[int, Sequence[bytes]]) -> list[str]:
    players, *_ = played(scenario, *clients)
    return [str(one) for one in compare_all(scenario, [player.observed for player in players])]


def test_a_receiver_plays_its_lines_and_sees_the_commands_with_their_instants() -> None:
    assert differences(read(DELIVERY), (1 * S, FLIGHTS)) == []


def test_the_same_delivery_has_the_same_hash_each_time() -> None:
    assert len({played(read(DELIVERY), (S, FLIGHTS))[3] for _ in range(3)}) == 1


def test_a_client_that_comes_at_another_time_or_never_is_told() -> None:
    text = "\n".join(differences(read(DELIVERY), (1 * S + 1, FLIGHTS)))
    assert "the client connects: 1ns too late" in text
    assert differences(read(DELIVERY)) == [
        "the client did not connect (line 6)\n  expected @1s C open\n  observed nothing"
    ]


def test_another_command_is_shown_beside_the_one_that_was_expected() -> None:
    others = [b"EHLO me\r\n", b"MAIL FROM:<x@example.org>\r\nDATA\r\n"]
    first, second, *_ = differences(read(DELIVERY), (S, others))
    assert first.splitlines() == [
        "command 2: text differs (line 11)",
        r"  expected @1.005s MAIL FROM:<a@example.org>\r\n",
        r"  observed @1.005s MAIL FROM:<x@example.org>\r\n",
    ]
    assert r"observed @1.005s DATA\r\n" in second


def test_a_verb_is_all_that_is_expected_behind_a_question_mark() -> None:
    scenario = read(DELIVERY.replace("C? QUIT", "C? RSET"))
    (difference,) = differences(scenario, (S, FLIGHTS))
    assert difference.splitlines()[0] == "command 6: QUIT instead of RSET (line 22)"
    assert difference.splitlines()[1] == "  expected @3.005s a command RSET"


def test_content_is_what_follows_a_354_and_nothing_else() -> None:
    refused = DELIVERY.replace("354 go on", "554 no recipients")
    players, *_ = played(read(refused), (S, FLIGHTS))
    assert [one.verb for one in players[0].observed.commands] == [
        *("EHLO", "MAIL", "RCPT", "DATA", "SUBJECT", "?", "?", "?", "QUIT")
    ]


def test_the_second_client_gets_the_second_receiver_of_an_address() -> None:
    lines = DELIVERY.strip().splitlines()
    body = "\n".join(f"{line[:13]}{name}| {line[13:]}" for name in ("a", "b") for line in lines)
    players, *_ = played(read(body), (S, FLIGHTS), (5 * S, FLIGHTS))
    assert [one.observed.opened_at_ns for one in players] == [S, 5 * S]


def test_an_address_without_a_receiver_refuses_is_silent_or_has_no_route() -> None:
    body = "@0 listen at 192.0.2.99\n* C open\n+0 close\n"
    for kind, said in (("refused", "refused"), ("no route", "route"), ("silence", "")):
        scenario = read(body, f'[world]\nhosts = {{ "192.0.2.25" = "{kind}" }}\n')
        trace: list[ToyClient] = []
        with MailsrvHarness(settings_from({}), scenario.world) as harness:
            trace.append(ToyClient(harness, ()))
            assert harness.receivers.unexpected == []
            toy = trace[0]
            assert (toy.refused is None) is (kind == "silence")
            if toy.refused is not None:
                assert said in str(toy.refused)
            else:
                toy._close()


def test_a_connection_to_an_address_nobody_wrote_of_is_kept_for_the_report() -> None:
    *_, harness, _ = played(read("@0 listen at ::1\n* C open\n+0 close\n"), (7 * S, FLIGHTS))
    assert [tuple(one) for one in harness.receivers.unexpected] == [(7 * S, "192.0.2.25", 25)]


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_receiver_that_leaves_in_the_middle_of_content_expects_nothing_more(end: str) -> None:
    body = rf"""
@0         listen at 192.0.2.25
*          C open
command+0  S: 220 hi\r\n
*          C? DATA
command+0  S: 354 go\r\n
+1s        {end}
"""
    assert differences(read(body), (0, [b"DATA\r\n", b"Subject: half"])) == []


def test_a_client_that_stays_is_no_end() -> None:
    body = "@0 listen at 192.0.2.25\n* C open\n+0 until-closed\n* C eof\n"
    scenario = read(body)
    players, *_ = played(scenario, (0, ()))
    assert players[0].observed.waits_for == "the client to close"


def test_an_update_writes_the_commands_that_came_and_when() -> None:
    opened = DELIVERY.replace("@1.005s", "*").replace("@3.005s", "*").replace("@1s  ", "*    ")
    text = HEADER.format("") + opened
    scenario = transcript.parse(text, "hop.smtp")
    players, *_ = played(scenario, (S, FLIGHTS))
    new = update(scenario, tuple(one.observed for one in players))
    written = transcript.rewrite(text, new.scenario, "hop.smtp")
    lines = [line.split(maxsplit=1) for line in written.splitlines()]
    assert ["@1s", "C open"] in lines
    assert ["@1.005s", r"C: DATA\r\n"] in lines
    assert ["@3.005s", r"C: QUIT\r\n"] in lines
    again = transcript.parse(written, "hop.smtp")
    assert not compare_all(again, [one.observed for one in players])


def test_virtual_runs_play_receivers_beside_senders() -> None:
    scenario = read("@0 listen at 192.0.2.25\n* C open\n+0 close\n")
    run = virtual_run.play(scenario)
    assert run.connections[0].opened_at_ns is None
    assert run.connections[0].waits_for == "the client to connect, to go on at line 6"
