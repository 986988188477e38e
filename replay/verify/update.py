"""Makes expectations of what was observed: *creates* what was open, *fixes* what does not hold.

An expectation of less than the octets and the instant is open there: a reply of which only the
code is expected, or the time ``*``.  To create is to fill in what was open; it takes nothing back.
To fix is to change or to drop what was expected and does not hold.  What came unexpected is created
on a connection that is still open somewhere, or expects nothing at all; on one that is exact
throughout it contradicts, and is fixed.

Only a person who reads the fixes makes a golden transcript of the result.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from replay.play.fakes.world import DeliveredMessage
from replay.play.observed import ObservedConnection
from replay.smtp.commands import ReceivedCommand
from replay.smtp.replies import ReceivedReply
from replay.transcript import masks, script
from replay.transcript.ehlo import owed_replies
from replay.transcript.script import (
    CommandVerb,
    Departure,
    EhloReply,
    ExactOctets,
    Expectation,
    MaskedOctets,
    Outcome,
    ReplyCode,
    Scenario,
    ScriptedConnection,
    Step,
)
from replay.verify.accepted import update_accepted

CREATE, FIX = "create", "fix"
KINDS = (CREATE, FIX)
"""The kinds of changes that an update may make."""


class UpdatedScenario(NamedTuple):
    """An updated scenario: ``fixed`` has the fixes alone, ``scenario`` all changes."""

    fixed: Scenario
    fixes: int
    scenario: Scenario
    creations: int


def update(
    scenario: Scenario,
    observed: tuple[ObservedConnection, ...],
    kinds: Collection[str] = KINDS,
    delivered: Sequence[DeliveredMessage] | None = (),
) -> UpdatedScenario:
    """``scenario`` with the same departures, and the expectations that ``kinds`` may change.

    With all kinds it expects just what was observed, and that ``delivered`` are accepted; None
    leaves open what is accepted.
    """
    creating, fixing = CREATE in kinds, FIX in kinds
    fixed, created = [], []
    owed = owed_replies(scenario)
    names_fixing: masks.Bindings = {}
    names_creating: masks.Bindings = {}
    fixes = creations = 0
    for connection, seen in zip(scenario.connections, observed, strict=True):
        is_exact = _is_exact(connection)
        if fixing:
            fix = _Pass(seen, names_fixing, owed, fixing=True, exactly=creating, adding=is_exact)
            connection = fix.connection(connection)
            fixes += fix.changes
        fixed.append(connection)
        if creating:
            create = _Pass(
                seen, names_creating, owed, fixing=False, exactly=True, adding=not is_exact
            )
            connection = create.connection(connection)
            creations += create.changes
        created.append(connection)
    accepted_fixed = accepted_created = scenario.accepted
    messages = update_accepted(scenario.accepted, delivered or ())
    if delivered is None:
        pass
    elif scenario.accepted is None and creating:
        accepted_created = messages
        creations += 1
    elif scenario.accepted is not None and fixing and messages != scenario.accepted:
        accepted_fixed = accepted_created = messages
        fixes += sum(one != other for one, other in zip_longest(messages, scenario.accepted))
    return UpdatedScenario(
        dataclasses.replace(scenario, connections=tuple(fixed), accepted=accepted_fixed),
        fixes,
        dataclasses.replace(scenario, connections=tuple(created), accepted=accepted_created),
        creations,
    )


def _is_exact(connection: ScriptedConnection) -> bool:
    """Whether every expectation is exact, which also expects that nothing else comes."""
    expectations = list(connection.expectations())
    return bool(expectations) and all(
        one.at_ns is not None and not isinstance(one.outcome, ReplyCode | CommandVerb)
        for one in expectations
    )


class _Pass:
    """Goes through one connection, to fix or to create.

    ``exactly``: what is fixed expects octets and instant from then on, though it was open in one of
    them.  ``adding``: what came unexpected is put in.  ``names`` are the bindings of masks,
    ``owed_to_ehlo`` the replies that have a word, in plaintext and under TLS.
    """

    def __init__(
        self,
        observed: ObservedConnection,
        names: masks.Bindings,
        owed_to_ehlo: tuple[bytes, bytes],
        *,
        fixing: bool,
        exactly: bool,
        adding: bool,
    ) -> None:
        self._observed = observed
        self._names = names
        self._owed_to_ehlo = owed_to_ehlo
        self._fixing = fixing
        self._exactly = exactly
        self._adding = adding
        self.changes = 0

    def connection(self, connection: ScriptedConnection) -> ScriptedConnection:
        """A reply is held against the expectation that has its number, so that departures stay
        anchored to the same replies; replies beyond those are put where they were received."""
        observed = self._observed
        kinds = [_kind(one) for one in connection.expectations()]
        to_come = kinds.count("reply")
        replies = [_seen(one) for one in observed.utterances]
        in_place, extra = iter(replies[:to_come]), replies[to_come:] if self._adding else []
        verbs = iter(observed.commands)
        handshake, end = _handshake(observed), _end(observed)
        departed_ns = iter(observed.departed_ns)
        late: list[Step] = []  # an end that the replies it stands above came before
        steps: list[Step] = []
        for step in connection.steps:
            if isinstance(step, Departure):
                at_ns = next(departed_ns)
                while not to_come and extra and (at_ns is None or (extra[0].at_ns or 0) < at_ns):
                    steps += self._add(extra.pop(0))
                steps.append(step)
                if isinstance(step.action, script.StartTls) and "handshake" not in kinds:
                    steps += self._add(handshake)
            elif isinstance(step.outcome, script.UTTERANCES):
                to_come -= 1
                command = next(verbs, None)
                steps += self._judge(step, next(in_place, None), command.verb if command else "")
            elif isinstance(step.outcome, script.HANDSHAKES):
                steps += self._judge(step, handshake)
            elif isinstance(step.outcome, script.PeerOpens):
                steps += self._judge(step, _open(observed))
            else:
                judged = self._judge(step, end)
                if to_come or extra:
                    late += judged
                else:
                    steps += judged
        for one in extra:
            steps += self._add(one)
        starts_tls = any(isinstance(one.action, script.StartTls) for one in connection.departures())
        if "handshake" not in kinds and not starts_tls:
            steps += self._add(handshake)  # an alert to a client that spoke no TLS
        steps += late
        if "end" not in kinds and not _ends_by_itself(connection):
            steps += self._add(end)
        return ScriptedConnection(connection.name, tuple(steps))

    def _add(self, seen: Expectation | None) -> Iterator[Expectation]:
        """What came unexpected."""
        if seen is not None and self._adding:
            self.changes += 1
            yield self._worded(seen)

    def _worded(self, seen: Expectation) -> Expectation:
        """``seen`` with the word for the reply to EHLO, where it is the one that is owed."""
        observed = self._observed
        under_tls = observed.handshake == "done" and observed.handshake_at_ns <= (seen.at_ns or 0)
        owed = EhloReply(self._owed_to_ehlo[under_tls])
        if isinstance(seen.outcome, ExactOctets) and seen.outcome.octets == owed.octets:
            return dataclasses.replace(seen, outcome=owed)
        return seen

    def _judge(
        self, step: Expectation, seen: Expectation | None, verb: str = ""
    ) -> Iterator[Expectation]:
        """What becomes of ``step`` where ``seen`` came, None for nothing; ``verb`` is that of a
        command."""
        if isinstance(step.outcome, CommandVerb):
            fits = step.outcome.verb == verb
        else:
            fits = seen is not None and _fits(step.outcome, seen.outcome, self._names)
        holds = fits and seen is not None and step.at_ns in (None, seen.at_ns)
        if seen is None or holds is self._fixing:  # what holds is not fixed, what fails not created
            if seen is None and self._fixing:
                self.changes += 1
            else:
                yield step
            return
        new = dataclasses.replace(seen, packet=step.packet)
        if fits and isinstance(step.outcome, MaskedOctets | EhloReply):
            new = dataclasses.replace(new, outcome=step.outcome)  # masks and a word that fit stay
        elif isinstance(step.outcome, ReplyCode):
            new = self._worded(new)
        if not self._exactly:
            new = _as_open(step, new, verb)
        self.changes += new != step
        yield step if new == step else new


def _kind(expectation: Expectation) -> str:
    if isinstance(expectation.outcome, script.UTTERANCES):
        return "reply"
    if isinstance(expectation.outcome, script.PeerOpens):
        return "open"
    return "handshake" if isinstance(expectation.outcome, script.HANDSHAKES) else "end"


def _fits(outcome: Outcome, seen: Outcome, bindings: masks.Bindings) -> bool:
    if isinstance(outcome, MaskedOctets) and isinstance(seen, ExactOctets):
        return not masks.mismatch(outcome, seen.octets, bindings)
    if isinstance(outcome, ReplyCode) and isinstance(seen, ExactOctets):
        return outcome.code == _code(seen)
    if isinstance(outcome, ExactOctets) and isinstance(seen, ExactOctets):
        return outcome.octets == seen.octets
    return outcome == seen


def _as_open(step: Expectation, new: Expectation, verb: str) -> Expectation:
    """``new``, as open as ``step`` is."""
    outcome = new.outcome
    if isinstance(step.outcome, CommandVerb) and re.fullmatch("[A-Z]+|content", verb):
        outcome = dataclasses.replace(step.outcome, verb=verb)
    if isinstance(step.outcome, ReplyCode) and isinstance(outcome, ExactOctets) and _code(outcome):
        outcome = dataclasses.replace(step.outcome, code=_code(outcome))
    return dataclasses.replace(
        new, outcome=outcome, at_ns=None if step.at_ns is None else new.at_ns
    )


def _code(reply: ExactOctets) -> int:
    return ReceivedReply(0, reply.octets).code


def _seen(said: ReceivedReply | ReceivedCommand) -> Expectation:
    return Expectation(ExactOctets(said.octets), said.at_ns)


def _open(observed: ObservedConnection) -> Expectation | None:
    if observed.opened_at_ns is None:
        return None
    return Expectation(script.PeerOpens(), observed.opened_at_ns)


def _handshake(observed: ObservedConnection) -> Expectation | None:
    if not observed.handshake:
        return None
    outcome = script.TlsDone() if observed.handshake == "done" else script.TlsRefused()
    return Expectation(outcome, observed.handshake_at_ns)


def _end(observed: ObservedConnection) -> Expectation | None:
    if not observed.end:
        return None
    outcome = script.PeerCloses() if observed.end == "eof" else script.PeerResets()
    return Expectation(outcome, observed.end_at_ns)


def _ends_by_itself(connection: ScriptedConnection) -> bool:
    """Where the played end ends the connection, its peer's end need not be expected."""
    ends = (script.Close, script.Reset, script.Abandon)
    return any(isinstance(one.action, ends) for one in connection.departures())
