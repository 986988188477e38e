"""A scenario made ready for a server that is there: names and addresses that it takes, TLS and
credentials before the mail, and a mark by which its messages are found again.

Only whole commands in one send are changed.  Octets that are cut or malformed are what a scenario
is about, and stay.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from replay.transcript.claims.claim import Claim, ContentHas
from replay.transcript.script import (
    UTTERANCES,
    After,
    AfterArrival,
    Departure,
    Expectation,
    Open,
    ReplyCode,
    Scenario,
    ScriptedConnection,
    SendOctets,
    StartTls,
    Step,
    TlsDone,
)

STARTTLS, IMPLICIT = "starttls", "implicit"
MARK_LOCAL_PART_MAX = 40
"""A longer local part gets no mark: its length may be what the scenario is about."""

_HELLO = re.compile(rb"(?im)^(EHLO|HELO) ([a-z0-9.-]+)(?=\r\n)")
_MAIL = re.compile(rb"(?i)(MAIL FROM:<)([a-z0-9._-]+)(@[a-z0-9.-]+)(?=>)")
_RCPT = re.compile(rb"(?i)(RCPT TO:<)[a-z0-9._+-]+@example\.test(?=>)")
_SUBJECT = re.compile(rb"(?m)^(Subject: [ -~]*?)(?=\r?$)")
_AT_ONCE = AfterArrival(0)
_CHUNK = re.compile(rb"(?im)^BDAT ")


class NotPreparedError(Exception):
    """A scenario that cannot be made ready; the message says why it does not apply."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """How the senders introduce themselves; an empty text leaves what the transcript says.

    ``recipient`` takes the place of every address of example.test.  ``tls`` is "starttls" or
    "implicit".  ``user`` and ``password`` go with ``mechanism``, PLAIN or LOGIN.
    """

    helo: str = ""
    sender: str = ""
    recipient: str = ""
    tls: str = ""
    user: str = ""
    password: str = ""
    mechanism: str = "PLAIN"


def prepare(scenario: Scenario, introduction: Introduction, mark: str = "") -> Scenario:
    """``scenario`` for a server that is introduced to so; ``mark`` is put into the reverse-path and
    the subject of its messages.  Raises NotPreparedError."""
    connections = []
    for connection in scenario.connections:
        connection = _with_words(connection, introduction, mark)
        if introduction.tls:
            connection = _with_tls(connection, introduction)
        if introduction.user:
            connection = _with_credentials(connection, introduction)
        connections.append(connection)
    claims = tuple(_with_mark(claim, mark) for claim in scenario.claims)
    return replace(scenario, connections=tuple(connections), claims=claims)


def with_clients(scenario: Scenario, network: str) -> Scenario:
    """``scenario`` with its clients in ``network``, three octets such as "127.100.7": those that
    had one address have one still, and no other scenario has it."""
    addresses: dict[str, str] = {}
    connections = []
    for connection in scenario.connections:
        first, *steps = connection.steps
        assert isinstance(first, Departure)
        assert isinstance(first.action, Open)
        host = addresses.setdefault(first.action.client, f"{network}.{1 + len(addresses) % 254}")
        first = replace(first, action=Open(host))
        connections.append(replace(connection, steps=(first, *steps)))
    return replace(scenario, connections=tuple(connections))


# -- words ----------------------------------------------------------------------------------------


def _with_words(
    connection: ScriptedConnection, introduction: Introduction, mark: str
) -> ScriptedConnection:
    is_chunked = any(_CHUNK.search(octets) for octets in _sent(connection))
    steps = []
    for step in connection.steps:
        if isinstance(step, Departure) and isinstance(step.action, SendOctets):
            octets = _introduced(step.action.octets, introduction, mark)
            if mark and not is_chunked:  # the length of a chunk is told before it
                octets = _marked(octets, mark)
            step = replace(step, action=SendOctets(octets))
        steps.append(step)
    return replace(connection, steps=tuple(steps))


def _introduced(octets: bytes, introduction: Introduction, mark: str) -> bytes:
    helo, sender, recipient = (
        text.encode() for text in (introduction.helo, introduction.sender, introduction.recipient)
    )
    extended = introduction.tls == STARTTLS or introduction.user
    if helo or extended:
        octets = _HELLO.sub(
            lambda found: (b"EHLO" if extended else found[1]) + b" " + (helo or found[2]), octets
        )
    if recipient:
        octets = _RCPT.sub(lambda found: found[1] + recipient, octets)
    if sender:
        return _MAIL.sub(lambda found: found[1] + sender, octets)
    return _MAIL.sub(lambda found: _marked_path(found, mark.encode()), octets) if mark else octets


def _marked_path(found: re.Match[bytes], mark: bytes) -> bytes:
    if len(found[2]) > MARK_LOCAL_PART_MAX:
        return found[0]
    return found[1] + found[2] + b"+" + mark + found[3]


def _marked(octets: bytes, mark: str) -> bytes:
    return _SUBJECT.sub(lambda found: found[1] + b" " + mark.encode(), octets)


def _with_mark(claim: Claim, mark: str) -> Claim:
    statement = claim.statement
    if not mark or not isinstance(statement, ContentHas):
        return claim
    return replace(claim, statement=replace(statement, octets=_marked(statement.octets, mark)))


def _sent(connection: ScriptedConnection) -> Iterable[bytes]:
    for departure in connection.departures():
        if isinstance(departure.action, SendOctets):
            yield departure.action.octets


# -- TLS and credentials --------------------------------------------------------------------------


def speaks_tls(scenario: Scenario) -> bool:
    """Whether a sender of ``scenario`` begins a handshake of its own."""
    return any(
        isinstance(departure.action, StartTls)
        for connection in scenario.connections
        for departure in connection.departures()
    )


def _with_tls(connection: ScriptedConnection, introduction: Introduction) -> ScriptedConnection:
    if introduction.tls == IMPLICIT:
        return _inserted(connection, 1, (Departure(After(0), StartTls()), Expectation(TlsDone())))
    place = _below_hello(connection, last=False)
    if not place:
        return connection
    hello = introduction.helo or "client.example"
    return _inserted(
        connection,
        place,
        (
            *_asked(b"STARTTLS\r\n", 220),
            Departure(AfterArrival(0), StartTls()),
            Expectation(TlsDone()),
            *_asked(f"EHLO {hello}\r\n".encode(), 250, After(0)),
        ),
    )


def _with_credentials(
    connection: ScriptedConnection, introduction: Introduction
) -> ScriptedConnection:
    if not any(b"MAIL FROM:" in octets.upper() for octets in _sent(connection)):
        return connection
    place = _below_hello(connection, last=True)
    if not place:
        return connection
    user, password = introduction.user.encode(), introduction.password.encode()
    if introduction.mechanism == "PLAIN":
        steps = _asked(b"AUTH PLAIN %s\r\n" % base64.b64encode(b"\0%s\0%s" % (user, password)), 235)
    else:
        steps = (
            *_asked(b"AUTH LOGIN\r\n", 334),
            *_asked(base64.b64encode(user) + b"\r\n", 334),
            *_asked(base64.b64encode(password) + b"\r\n", 235),
        )
    return _inserted(connection, place, steps)


def _asked(octets: bytes, code: int, anchor: AfterArrival | After = _AT_ONCE) -> tuple[Step, ...]:
    return (Departure(anchor, SendOctets(octets)), Expectation(ReplyCode(code)))


def _below_hello(connection: ScriptedConnection, *, last: bool) -> int:
    """The place below the reply to the first EHLO, or the ``last`` one before the first MAIL; 0 if
    there is none.  Raises NotPreparedError where nothing can be put in between."""
    places = []
    for number, step in enumerate(connection.steps):
        if isinstance(step, Departure) and isinstance(step.action, SendOctets):
            octets = step.action.octets.upper()
            if octets.startswith((b"EHLO ", b"HELO ")):
                places.append(number)
            if b"MAIL FROM:" in octets and not (places and places[-1] == number):
                break
    if not places:
        return 0
    place = places[-1 if last else 0]
    below = connection.steps[place + 1 : place + 3]
    departure = connection.steps[place]
    assert isinstance(departure, Departure)
    assert isinstance(departure.action, SendOctets)
    is_alone = departure.action.octets.count(b"\n") == 1
    is_waited_for = (
        len(below) == 2
        and isinstance(below[0], Expectation)
        and isinstance(below[0].outcome, UTTERANCES)
        and isinstance(below[1], Departure)
        and isinstance(below[1].anchor, AfterArrival)
    )
    if not (is_alone and is_waited_for):
        raise NotPreparedError("it does not wait for the reply to EHLO: nothing fits in between")
    return place + 2


def _inserted(
    connection: ScriptedConnection, place: int, steps: tuple[Step, ...]
) -> ScriptedConnection:
    """``connection`` with ``steps`` put in at ``place``; claims stay below what they are about."""
    claims = tuple(
        replace(claim, after=claim.after + len(steps)) if claim.after > place else claim
        for claim in connection.claims
    )
    before, behind = connection.steps[:place], connection.steps[place:]
    return replace(connection, steps=(*before, *steps, *behind), claims=claims)
