"""A connection that plays the receiver, in text: S leaves, C is expected."""

from __future__ import annotations

import pytest

from replay.transcript import transcript
from replay.transcript.notation import TranscriptError
from replay.transcript.script import (
    After,
    AfterArrival,
    At,
    CommandVerb,
    Departure,
    Evidence,
    ExactOctets,
    Expectation,
    Listen,
    Mask,
    MaskedOctets,
    PeerCloses,
    PeerOpens,
    SendOctets,
    StartTls,
    TlsDone,
)

HEADER = '+++\nnotation = 2\nstory  = "A receiver."\n+++\n'
TEXT = (
    HEADER
    + r"""@0            listen at 192.0.2.25
@1s           C[4] open
command+2ms?  S[5]: 220 mx.example.org ESMTP\r\n
@1.002s       C[6]: EHLO mx.example.test\r\n
command+0     S: 220 go\r\n
+1ms          starttls
*             C tls
*             C? MAIL was: MAIL FROM:<a@example.org> SIZE=9\r\n
*             C~: RCPT TO:\<<who>>\r\n
*             C? content
+1s^          S: 250 taken\r\n
*             C eof
+0            close
"""
)


def test_a_receiver_is_read_and_written_without_loss() -> None:
    scenario = transcript.parse(TEXT, "hop.smtp")
    assert transcript.write(scenario) == TEXT
    assert transcript.parse(transcript.write(scenario), "hop.smtp") == scenario


def test_what_the_lines_of_a_receiver_mean() -> None:
    (connection,) = transcript.parse(TEXT, "hop.smtp").connections
    assert connection.plays_receiver
    second = 1_000_000_000
    assert list(connection.steps) == [
        Departure(At(0), Listen("192.0.2.25")),
        Expectation(PeerOpens(), second),
        Departure(AfterArrival(2_000_000), SendOctets(b"220 mx.example.org ESMTP\r\n")),
        Expectation(ExactOctets(b"EHLO mx.example.test\r\n"), second + 2_000_000),
        Departure(AfterArrival(0), SendOctets(b"220 go\r\n")),
        Departure(After(1_000_000), StartTls()),
        Expectation(TlsDone()),
        Expectation(CommandVerb("MAIL", b"MAIL FROM:<a@example.org> SIZE=9\r\n")),
        Expectation(MaskedOctets((b"RCPT TO:<", Mask("who"), b">\r\n"))),
        Expectation(CommandVerb("content")),
        Departure(After(second), SendOctets(b"250 taken\r\n")),
        Expectation(PeerCloses()),
        Departure(After(0), connection.steps[-1].action),  # type: ignore[union-attr]
    ]
    marks = [one.evidence for one in connection.departures() if one.evidence]
    assert marks == [Evidence.PRESUMED, Evidence.PROVEN_EARLY]


def test_a_receiver_may_listen_at_another_port_and_at_ipv6() -> None:
    body = "@300s  listen at 2001:db8::25 port 2525\n*      C open\n+0     reset\n"
    scenario = transcript.parse(HEADER + body, "hop.smtp")
    assert scenario.connections[0].steps[0] == Departure(
        At(300_000_000_000), Listen("2001:db8::25", 2525)
    )
    assert transcript.write(scenario) == HEADER + body


def test_senders_and_receivers_stand_in_one_file() -> None:
    body = (
        "@0         in|  open from 192.0.2.1\n"
        "@0         in|  S? 220\n"
        "reply+0    in|  close\n"
        "\n"
        "@0         out| listen at 192.0.2.25\n"
        "*          out| C open\n"
        "command+0  out| close\n"
    )
    scenario = transcript.parse(HEADER + body, "hop.smtp")
    assert [one.plays_receiver for one in scenario.connections] == [False, True]


LISTEN = "@0 listen at 192.0.2.25\n"
OPEN = LISTEN + "* C open\n"


@pytest.mark.parametrize(
    ("body", "line", "column", "said"),
    [
        ("@0 listen at mx.example.org\n", 4, 1, "the receiver is an IPv4 or IPv6 address"),
        ("@0 listen from 192.0.2.25\n", 4, 4, "listen takes at ADDRESS"),
        ("@0 listen\n", 4, 4, "listen takes at ADDRESS"),
        ("@0 open from 192.0.2.25 port 25\n", 4, 4, "open takes from ADDRESS"),
        ("@0 listen at 192.0.2.25 port 0\n", 4, 1, "between 1 and 65535"),
        ("@0 listen at 192.0.2.25 port 65536\n", 4, 1, "between 1 and 65535"),
        ("+0 listen at 192.0.2.25\n", 4, 1, "its time is @T"),
        (LISTEN + "+0 close\n", 5, 1, "C open stands right below listen"),
        (LISTEN + "* C? EHLO\n", 5, 1, "C open stands right below listen"),
        (OPEN + "* C open\n", 6, 1, "C open stands right below listen"),
        (OPEN + "+0 listen at 192.0.2.25\n", 6, 1, "opened once"),
        (OPEN + "reply+0 S: 220 hi\n", 6, 1, r"allowed are .*command\+T"),
        (OPEN + "command+1 C: EHLO me\n", 6, 1, "has the time @T"),
        (OPEN + "* S? 250\n", 6, 3, "S is played and C is expected"),
        (OPEN + "* S ehlo\n", 6, 3, "S is played and C is expected"),
        (OPEN + "* S eof\n", 6, 3, "S is played and C is expected"),
        (OPEN + "* C ehlo\n", 6, 3, "expected one of"),
        (OPEN + "* C? 250\n", 6, 6, "a VERB in capitals"),
        (OPEN + "* C? mail\n", 6, 3, "expected one of"),
        (OPEN + "* C?\n", 6, 3, "needs a verb"),
        (OPEN + r"* C: MAIL FROM:<>\r\nRCPT TO:<b@c>\r\n", 6, 1, "more than one command"),
        (OPEN + "* C eof\n", 4, 1, "has no end"),
        ("@0 open from ::1\n* C open\n", 5, 3, "C is played and S is expected"),
        ("@0 open from ::1\n* C? MAIL\n", 5, 3, "C is played and S is expected"),
        ("@0 open from ::1\n* S? MAIL\n", 5, 6, "a code stands behind"),
        ("@0 open from ::1\ncommand+0 C: x\n", 5, 1, r"allowed are .*reply\+T"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_allowed(
    body: str, line: int, column: int, said: str
) -> None:
    with pytest.raises(TranscriptError, match=said) as caught:
        transcript.parse(HEADER + body, "bad.smtp")
    assert (caught.value.line, caught.value.column) == (line + 1, column)
