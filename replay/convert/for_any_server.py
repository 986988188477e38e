"""An imported scenario as a test of any server: claims in place of what one server said.

What was recorded is one server's habit: which recipients it has, whom it delays, its words.  So no
words are expected, the replies that took something are claimed by their first digit, and behind
a refusal the sender goes on whatever is answered.  How many messages there can be at most follows
from what the sender sent; that the server ends the session behind QUIT is claimed where it did.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from replay.smtp.commands import split, verbs
from replay.transcript.claims.claim import (
    Accepts,
    Alternative,
    Claim,
    Ends,
    RepliesAsExpected,
    RepliesWith,
    Strength,
)
from replay.transcript.script import (
    Abandon,
    Close,
    Departure,
    ExactOctets,
    Expectation,
    PeerCloses,
    ReplyCode,
    Reset,
    Scenario,
    ScriptedConnection,
    SendOctets,
    Step,
)

IN_SEQUENCE = ("RFC 5321 4.3.2",)
"""Which replies a command has where it succeeds."""
BEHIND_QUIT = ("RFC 5321 4.1.1.10",)
ONE_MESSAGE = ("RFC 5321 4.1.1.4",)

_ANY_CODE = RepliesWith((Alternative(("2yz", "3yz", "4yz", "5yz")),))
_START_MAIL_INPUT = 354
_KEYWORDS = (
    ("SIZE", re.compile(rb" SIZE=[0-9]", re.IGNORECASE)),
    ("8BITMIME", re.compile(rb" BODY=8BITMIME", re.IGNORECASE)),
    ("BINARYMIME", re.compile(rb" BODY=BINARYMIME", re.IGNORECASE)),
    ("SMTPUTF8", re.compile(rb" SMTPUTF8", re.IGNORECASE)),
    ("DSN", re.compile(rb" (?:RET|ENVID|NOTIFY|ORCPT)=", re.IGNORECASE)),
)
"""Keywords of EHLO, and the parameters of MAIL and RCPT that need them."""
_VERBS = {"BDAT": "CHUNKING", "AUTH": "AUTH", "ETRN": "ETRN"}


def for_any_server(scenario: Scenario) -> Scenario:
    """``scenario``, imported from a capture, with claims."""
    connections = tuple(_claimed(connection) for connection in scenario.connections)
    sent = [_sent(connection) for connection in connections]
    claims: tuple[Claim, ...] = ()
    needs = _needs(sent)
    if "CHUNKING" not in needs and all(map(_is_whole, connections)):
        most = sum(_messages(connection) for connection in connections)
        claims = (Claim(Strength.MUST, ONE_MESSAGE, Accepts(0, most)),)
    return replace(
        scenario,
        connections=connections,
        server={},
        world={key: value for key, value in scenario.world.items() if key == "tls"},
        claims=claims,
        needs=needs,
        target="",
    )


def _claimed(connection: ScriptedConnection) -> ScriptedConnection:
    """``connection`` with codes alone expected, and claims below what they are about.  What came
    when the sender had closed already is not expected: it does not read that."""
    steps: list[Step] = []
    claims: list[Claim] = []
    code, is_taken, is_closed = 0, False, False
    for step in connection.steps:
        if isinstance(step, Expectation):
            if is_closed:
                continue
            step = _by_code(step)
        else:
            is_closed = isinstance(step.action, Close | Reset)
        steps.append(step)
        if isinstance(step, Expectation) and isinstance(step.outcome, ReplyCode):
            code = step.outcome.code
            if code >= 400:
                claims.append(Claim(Strength.MAY, (), _ANY_CODE, len(steps)))
            else:
                is_taken = True
        elif isinstance(step, Expectation) and isinstance(step.outcome, PeerCloses) and code == 221:
            claims.append(Claim(Strength.MUST, BEHIND_QUIT, Ends(), len(steps)))
    if is_taken:
        claims.append(Claim(Strength.SHOULD, IN_SEQUENCE, RepliesAsExpected(), len(steps)))
    return replace(connection, steps=tuple(steps), claims=tuple(claims))


def _by_code(step: Expectation) -> Expectation:
    """A reply by its code alone, at any time; another outcome as it is."""
    outcome = step.outcome
    if isinstance(outcome, ExactOctets):
        outcome = ReplyCode(int(outcome.octets[:3]), outcome.octets)
    return replace(step, outcome=outcome, at_ns=None)


def _is_whole(connection: ScriptedConnection) -> bool:
    """Whether the record shows the session from its greeting to its end: else there may have been
    messages that it does not show."""
    *_, last = connection.departures()
    first = next(iter(connection.expectations()), None)
    greeted = first is not None and isinstance(first.outcome, ReplyCode)
    return greeted and not isinstance(last.action, Abandon)


def _messages(connection: ScriptedConnection) -> int:
    """How many times the server let content come: so many messages were sent at most."""
    outcomes = [one.outcome for one in connection.expectations()]
    return sum(isinstance(one, ReplyCode) and one.code == _START_MAIL_INPUT for one in outcomes)


def _sent(connection: ScriptedConnection) -> bytes:
    return b"".join(
        step.action.octets
        for step in connection.steps
        if isinstance(step, Departure) and isinstance(step.action, SendOctets)
    )


def _needs(sent: list[bytes]) -> tuple[str, ...]:
    """The keywords of EHLO that the senders' commands need."""
    return tuple(sorted({word for octets in sent for word in _keywords(octets)}))


def _keywords(sent: bytes) -> Iterator[str]:
    parts = list(split(sent))
    for verb in verbs(parts):
        if word := _VERBS.get(verb, ""):
            yield word
    commands = b"".join(part.command.line for part in parts if part.kind == "command")
    yield from (word for word, parameter in _KEYWORDS if parameter.search(commands))
