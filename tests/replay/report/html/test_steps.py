"""The rungs of a ladder where a receiver is played: the server's side is the script's."""

from __future__ import annotations

from replay.play.observed import ObservedConnection
from replay.report.html.steps import StepSide, pair_up
from replay.smtp.commands import ReceivedCommand
from replay.transcript import transcript
from replay.verify.comparison import compare

TEXT = r"""+++
story = "A receiver."
+++
@0           listen at 192.0.2.25
@1s          C open
command+1ms  S: 220 hop\r\n
*            C? EHLO was: EHLO recorded\r\n
+1s          until-closed
@3s          C eof
"""
S = 1_000_000_000
SEEN = ObservedConnection(
    "1",
    [0, S, 2 * S],
    end="eof",
    end_at_ns=3 * S,
    commands=[ReceivedCommand(2 * S, b"EHLO me\r\n", "EHLO")],
    opened_at_ns=2 * S,
)


def test_what_the_receiver_does_is_the_servers_and_what_it_sees_is_the_senders() -> None:
    (connection,) = transcript.parse(TEXT, "x.smtp").connections
    pairs = pair_up(connection, SEEN, compare(connection, SEEN), {})
    assert [one.by_server for one in pairs] == [True, True, False, False, True, False]
    opened = next(one for one in pairs if one.expected == StepSide(S, words="connects"))
    assert opened.differs
    assert opened.observed == StepSide(2 * S, words="connects")
    command = next(one for one in pairs if one.observed and one.observed.octets == b"EHLO me\r\n")
    assert not command.differs
    assert command.expected is not None
    assert (command.expected.octets, command.expected.words) == (
        b"EHLO recorded\r\n",
        "EHLO, any text",
    )
