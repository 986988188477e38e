"""A connection that is reset, wherever it stands: nothing is left of it, and others are served.

Each case is a run of its own, so that what the harness looks for at the end (timers, watched
sockets, descriptors, messages neither finished nor given up) is looked for after every reset.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replay.play import virtual_run
from replay.testing import VirtualServer
from replay.transcript.script import (
    After,
    AfterArrival,
    At,
    Close,
    Departure,
    Expectation,
    Open,
    ReplyCode,
    Reset,
    Scenario,
    ScriptedConnection,
    SendOctets,
    Step,
    StopReading,
)

Server = Callable[..., VirtualServer]

SECOND_NS = 1_000_000_000

COMMANDS = (
    (b"EHLO client.example\r\n", 250),
    (b"MAIL FROM:<a@example.org>\r\n", 250),
    (b"RCPT TO:<b@example.test>\r\n", 250),
    (b"DATA\r\n", 354),
    (b"Subject: x\r\n\r\n..hello\r\n.\r\n", 250),
    (b"MAIL FROM:<a@example.org>\r\n", 250),
    (b"RCPT TO:<b@example.test>\r\n", 250),
    (b"BDAT 6\r\n.\r\nhel", 250),
    (b"BDAT 5 LAST\r\nlo.\r\n", 250),
    (b"RSET\r\n", 250),
    (b"MAIL FROM:<a@example.org>\r\n", 250),
    (b"RCPT TO:<b@example.test>\r\n", 250),
    (b"QUIT\r\n", 221),
)
SAID = b"".join(line for line, _ in COMMANDS)
SLOW = {
    "dns": {"example.org MX": {"records": ["10 mx.example.org."], "delay_s": 2}},
    "delivery": {"replies": [{"delay_s": 3}, {"delay_s": 3}]},
}
"""MAIL is answered after two seconds, the end of a message three later."""
FULL_SERVICE = {"sender_domain_check": "reject", "greylist": False}


def next_sender(at_ns: int) -> ScriptedConnection:
    """Somebody who comes afterwards, and must be served."""
    steps: list[Step] = [Departure(At(at_ns), Open("192.0.2.2")), Expectation(ReplyCode(220))]
    for line, code in (*COMMANDS[:5], COMMANDS[-1]):
        steps += [Departure(AfterArrival(0), SendOctets(line)), Expectation(ReplyCode(code))]
    return ScriptedConnection("next", (*steps, Departure(AfterArrival(0), Close())))


def survives(steps: list[Step], world: dict[str, object], settings: dict[str, object]) -> int:
    """Play the steps and then the next sender; how many messages of the first were accepted."""
    first = ScriptedConnection("first", (Departure(At(0), Open("192.0.2.1")), *steps))
    last = next_sender(3600 * SECOND_NS)
    run = virtual_run.play(Scenario("x", (first, last), server=settings, world=world))
    served = run.connections[1]
    assert [reply.code for reply in served.replies] == [220, 250, 250, 250, 354, 250, 221]
    assert not served.waits_for
    return len(run.messages) - 1


@pytest.mark.parametrize(
    ("after_s", "messages"),
    [(0, {0}), (1, {0}), (4, {0, 1}), (6, {0, 1}), (9, {0, 1, 2})],
    ids=["at once", "lookup", "delivery", "second lookup", "second delivery"],
)
def test_a_reset_after_any_octet_of_a_flight_leaves_nothing(
    after_s: int, messages: set[int]
) -> None:
    """``messages`` are the numbers of those that were accepted by then, over all cases."""
    accepted = set()
    for size in range(1, len(SAID) + 1):
        send = Departure(After(0), SendOctets(SAID[:size]))
        reset = Departure(After(after_s * SECOND_NS), Reset())
        accepted.add(survives([send, reset], SLOW, FULL_SERVICE))
    assert accepted == messages


def test_a_reset_after_any_octet_is_survived_with_nothing_in_the_way() -> None:
    ends = [SAID.index(end) + len(end) for end in (b"hello\r\n.\r\n", b"lo.\r\n")]
    for size in range(1, len(SAID) + 1):
        steps: list[Step] = [
            Departure(After(0), SendOctets(SAID[:size])),
            Departure(After(0), Reset()),
        ]
        assert survives(steps, {}, {}) == sum(size >= end for end in ends), size


def test_octets_and_the_reset_behind_them_may_arrive_together(mail_server: Server) -> None:
    """The server finds the reset when it answers, or when it reads on."""
    server = mail_server(sender_domain_check="reject", world=SLOW)
    harness = server.harness
    for size in range(1, len(SAID) + 1):
        link = harness.connect("192.0.2.1", lambda octets: None, lambda how: None)
        harness.settle()
        link.send(SAID[:size])
        link.reset()
        harness.touch(link)
        harness.settle()
        server.advance(10)
        assert not harness.server.connections, size
    server.sender("192.0.2.2").play([lambda expect, send: expect(220)])


def test_who_is_gone_before_he_is_accepted_harms_nobody(mail_server: Server) -> None:
    server = mail_server()
    harness = server.harness
    link = harness.connect("192.0.2.1", lambda octets: None, lambda how: None)
    link.reset()
    harness.touch(link)
    server.sender("192.0.2.2").play([lambda expect, send: expect(220)])
    assert len(harness.server.connections) == 1


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
def test_a_reset_at_any_reply_is_survived(reads: bool) -> None:
    for heard in range(len(COMMANDS) + 1):
        steps: list[Step] = [Expectation(ReplyCode(220))]
        for line, code in COMMANDS[:heard]:
            steps += [Departure(AfterArrival(0), SendOctets(line)), Expectation(ReplyCode(code))]
        if not reads:
            steps.append(Departure(AfterArrival(0), StopReading()))
            steps.append(Departure(After(0), SendOctets(b"NOOP\r\n")))
        steps.append(Departure(AfterArrival(0), Reset()))
        survives(steps, SLOW, FULL_SERVICE)


@pytest.mark.parametrize(
    "settings",
    [
        {"greet_wait_s": 6},
        {"errors_soft": 1, "error_pause_s": 5},
        {"greylist": True},
        {"message_octets": 10},
        {"errors_hard": 1},
    ],
    ids=str,
)
def test_a_reset_is_survived_in_every_kind_of_waiting(settings: dict[str, object]) -> None:
    said = b"FOO\r\nBAR\r\nBAZ\r\n" + SAID
    for size in range(0, len(said) + 1, 3):
        for after_s in (1, 5, 7):
            steps: list[Step] = []
            if size:
                steps.append(Departure(After(0), SendOctets(said[:size])))
            steps.append(Departure(After(after_s * SECOND_NS), Reset()))
            survives_with(steps, settings)


def survives_with(steps: list[Step], settings: dict[str, object]) -> None:
    """The same without the next sender, who would be greylisted himself."""
    first = ScriptedConnection("first", (Departure(At(0), Open("192.0.2.1")), *steps))
    virtual_run.play(Scenario("x", (first,), server=settings))
