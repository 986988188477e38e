"""The reply to EHLO that mailsrv owes a client, from the settings of a scenario.

This is a statement of its own, not the server's code: a keyword that the server gains or loses
shows as a difference wherever a transcript has the word ``S ehlo``.  It holds for any of mailsrv's
settings; a transcript that is about EHLO writes the reply out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from replay.transcript.script import (
    HOSTNAME_DEFAULT,
    EhloReply,
    ExactOctets,
    Expectation,
    Scenario,
    ScriptedConnection,
    Step,
    TlsDone,
)

DEFAULTS = {
    "hostname": HOSTNAME_DEFAULT,
    "message_octets": 50 * 1024 * 1024,
    "transactions": 100,
    "recipients": 1000,
}
"""Of the settings that EHLO shows (docs/run/esmtp.md)."""


def ehlo_reply(server: Mapping[str, Any], world: Mapping[str, Any], *, under_tls: bool) -> bytes:
    """The octets of the reply, in the order in which mailsrv has always given its keywords."""
    setting = DEFAULTS | {key: server[key] for key in DEFAULTS if key in server}
    keywords = [
        setting["hostname"],
        "PIPELINING",  # RFC 2920
        f"SIZE {setting['message_octets']}",  # RFC 1870
        *(("STARTTLS",) if world.get("tls") is True and not under_tls else ()),  # RFC 3207
        "8BITMIME",  # RFC 6152
        "SMTPUTF8",  # RFC 6531
        "ENHANCEDSTATUSCODES",  # RFC 2034
        "CHUNKING",  # RFC 3030
        "DSN",  # RFC 3461
        f"LIMITS MAILMAX={setting['transactions']} RCPTMAX={setting['recipients']}",  # RFC 9422
    ]
    lines = [f"250-{keyword}\r\n" for keyword in keywords[:-1]] + [f"250 {keywords[-1]}\r\n"]
    return "".join(lines).encode("utf-8", "surrogateescape")


def owed_replies(scenario: Scenario) -> tuple[bytes, bytes]:
    """The replies that ``scenario`` demands: in plaintext, and under TLS."""
    plain, secured = (
        ehlo_reply(scenario.server, scenario.world, under_tls=under_tls)
        for under_tls in (False, True)
    )
    return plain, secured


def with_word(scenario: Scenario) -> Scenario:
    """``scenario`` with the word for each reply that is the one owed to EHLO."""

    def word(reply: ExactOctets, owed: bytes) -> ExactOctets:
        return EhloReply(owed) if reply.octets == owed else reply

    return _replaced(scenario, word)


def without_stale_words(scenario: Scenario) -> Scenario:
    """``scenario`` with the word only where its settings give that reply."""

    def word(reply: ExactOctets, owed: bytes) -> ExactOctets:
        is_stale = isinstance(reply, EhloReply) and reply.octets != owed
        return ExactOctets(reply.octets) if is_stale else reply

    return _replaced(scenario, word)


def _replaced(scenario: Scenario, word: Callable[[ExactOctets, bytes], ExactOctets]) -> Scenario:
    owed = owed_replies(scenario)
    connections = []
    for connection in scenario.connections:
        if connection.plays_receiver:
            connections.append(connection)
            continue
        steps: list[Step] = []
        under_tls = False
        for step in connection.steps:
            if isinstance(step, Expectation):
                under_tls = under_tls or isinstance(step.outcome, TlsDone)
                if isinstance(step.outcome, ExactOctets):
                    outcome = word(step.outcome, owed[under_tls])
                    step = dataclasses.replace(step, outcome=outcome)
            steps.append(step)
        connections.append(ScriptedConnection(connection.name, tuple(steps), connection.claims))
    return dataclasses.replace(scenario, connections=tuple(connections))
