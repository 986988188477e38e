"""What a load run plays of a transcript: the sender's acts, each behind the replies it waits for.

A closed loop has no schedule.  The pauses of the capture are left out, and a departure goes out
when as many replies have arrived as stand above it in the transcript; what a sender pipelined
goes out unasked.  Of the server's side, the codes are kept, not the texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mailsrv.units import NS_PER_S
from replay.smtp.commands import ContentEnds
from replay.transcript import transcript
from replay.transcript.duration import format_ns
from replay.transcript.notation import TranscriptError
from replay.transcript.script import (
    UTTERANCES,
    After,
    AfterArrival,
    At,
    Close,
    Departure,
    ExactOctets,
    Expectation,
    HalfClose,
    MaskedOctets,
    Open,
    Outcome,
    ReplyCode,
    Reset,
    Scenario,
    ScriptedConnection,
    SendOctets,
    StartTls,
    StopReading,
)

SERVER_WAIT_MAX_NS = 5 * NS_PER_S
"""A script in which the server takes longer than this waits for a timer: nothing to make load of.
It also bounds how late after the open a server may end a connection by itself."""

_SETTINGS_WITHOUT_EFFECT = {"hostname"}
"""Of [server]: what changes texts alone, which a load run does not compare."""

_START_MAIL_INPUT = 354
_CLOSING, _SHUTTING_DOWN = 221, 421

Action = SendOctets | HalfClose | Close | Reset


class LoadError(Exception):
    """A run that cannot be; the message says in a sentence why."""


class UnsuitableError(Exception):
    """A connection that makes no load; the message says why."""


@dataclass(frozen=True, slots=True)
class PlannedAct:
    """``action`` is due when ``replies`` replies have arrived on the connection."""

    replies: int
    action: Action


@dataclass(frozen=True, slots=True)
class Plan:
    """One connection of a transcript, ready to be played again and again.

    ``codes`` are the expected replies in order, 0 for any.  ``content_ends`` maps the number of
    an act (from 0) that sends the final dot to the number of the reply that answers it.  With
    ``server_ends`` the session lasts until the server closes; with ``held`` it lasts until
    the run ends it, and anything the server does then is a loss.
    """

    name: str
    acts: tuple[PlannedAct, ...]
    codes: tuple[int, ...]
    content_ends: Mapping[int, int] = field(default_factory=dict)
    server_ends: bool = False
    held: bool = False

    @property
    def speaks_first(self) -> bool:
        """True where something departs without waiting for the greeting."""
        return bool(self.acts) and not self.acts[0].replies


def idle_plan() -> Plan:
    """A client that sends EHLO and then nothing."""
    hello = PlannedAct(1, SendOctets(b"EHLO idle.example\r\n"))
    return Plan("idle connection", (hello,), (220, 250), held=True)


def read_plans(paths: Iterable[Path]) -> tuple[list[Plan], list[str]]:
    """The plans of transcript files, and what was left out and why.

    Raises LoadError.
    """
    plans: list[Plan] = []
    skipped: list[str] = []
    for path in paths:
        try:
            scenario = transcript.load(path)
        except TranscriptError as error:
            raise LoadError(str(error)) from None
        except OSError as error:
            raise LoadError(f"{path}: {error.strerror}") from None
        of_file, reasons = plans_of(scenario, str(path))
        plans += of_file
        skipped += reasons
    return plans, skipped


def plans_of(scenario: Scenario, name: str) -> tuple[list[Plan], list[str]]:
    """The plans of a file's connections, each a session of its own, and why others make none."""
    if reason := needs_of_its_own(scenario):
        return [], [f"{name}: {reason}"]
    plans: list[Plan] = []
    skipped: list[str] = []
    for connection in scenario.connections:
        several = len(scenario.connections) > 1
        full_name = f"{name} ({connection.name})" if several else name
        try:
            plans.append(plan_of(connection, full_name))
        except UnsuitableError as reason:
            skipped.append(f"{full_name}: {reason}")
    return plans, skipped


RECEIVES = "it plays a receiver of mail, to which only mailsrv in virtual time can deliver"


def needs_of_its_own(scenario: Scenario, *, with_tls: bool = False) -> str:
    """Why the server has to be another than any that is there; empty if it has not.

    ``with_tls``: a server that offers STARTTLS can be found.
    """
    if scenario.plays_receivers:
        return RECEIVES
    world = {key: value for key, value in scenario.world.items() if not with_tls or key != "tls"}
    if world or scenario.world.get("tls") == "implicit":
        return "its world is faked ([world] in its header); no real server lives in it"
    if settings := sorted(set(scenario.server) - _SETTINGS_WITHOUT_EFFECT):
        return (
            f"it needs settings of its own ([server] in its header: {', '.join(settings)}); "
            "the target has others"
        )
    return ""


def plan_of(connection: ScriptedConnection, name: str) -> Plan:
    """Raises UnsuitableError."""
    if connection.plays_receiver:
        raise UnsuitableError(RECEIVES)
    refuse_timers(connection)
    builder = _Builder()
    for step in connection.steps:
        if isinstance(step, Expectation):
            if builder.server_ends:
                break
            builder.expect(step)
        elif not isinstance(step.action, Open) and not builder.server_ends:
            builder.depart(step)
    return Plan(
        name,
        tuple(builder.acts),
        tuple(builder.codes),
        builder.content_ends,
        builder.server_ends,
    )


class _Builder:
    """Walks through a connection's steps and notes which act ends a message's content."""

    def __init__(self) -> None:
        self.acts: list[PlannedAct] = []
        self.codes: list[int] = []
        self.content_ends: dict[int, int] = {}
        self.server_ends = False
        self._content_ends = ContentEnds()
        self._dot: int | None = None

    def depart(self, step: Departure) -> None:
        action = step.action
        if isinstance(action, StopReading):
            raise UnsuitableError(f"stops reading (line {step.line}): only buffers are tried")
        if isinstance(action, StartTls):
            raise UnsuitableError(f"speaks TLS (line {step.line}): load is plaintext")
        if not isinstance(action, SendOctets | HalfClose | Close | Reset):
            return  # until-closed, abandon: the replies still expected are waited for, no more
        if isinstance(action, SendOctets) and self._content_ends.is_in(action.octets):
            self._dot = len(self.acts)
        self.acts.append(PlannedAct(len(self.codes), action))

    def expect(self, step: Expectation) -> None:
        if not isinstance(step.outcome, UTTERANCES):
            self.server_ends = True
            return
        if self._dot is not None and self.codes and self.codes[-1] == _START_MAIL_INPUT:
            self.content_ends[self._dot] = len(self.codes)
            self._dot = None
        self.codes.append(_code(step.outcome))


def _code(outcome: Outcome) -> int:
    if isinstance(outcome, ReplyCode | MaskedOctets):
        return outcome.code
    if not isinstance(outcome, ExactOctets):
        return 0
    digits = outcome.octets[:3]
    return int(digits) if len(digits) == 3 and digits.isdigit() else 0


def refuse_timers(connection: ScriptedConnection) -> None:
    """Raise UnsuitableError where what the server does hangs on a long timer, not on a command."""
    opened_ns = departed_ns = seen_ns = 0
    may_close = False
    for step in connection.steps:
        if isinstance(step, Departure):
            departed_ns = _scheduled_ns(step, departed_ns, seen_ns)
            opened_ns = departed_ns if isinstance(step.action, Open) else opened_ns
            may_close = may_close or isinstance(step.action, HalfClose)
        elif step.at_ns is not None:
            outcome = step.outcome
            if isinstance(outcome, UTTERANCES):
                by_itself = _code(outcome) == _SHUTTING_DOWN
                may_close = may_close or _code(outcome) == _CLOSING
            else:
                by_itself = not may_close
            since_ns = opened_ns if by_itself else max(departed_ns, seen_ns)
            if step.at_ns - since_ns > SERVER_WAIT_MAX_NS:
                took = format_ns(step.at_ns - since_ns)
                raise UnsuitableError(f"waits {took} for a timer of the server (line {step.line})")
            seen_ns = step.at_ns


def _scheduled_ns(step: Departure, above_ns: int, seen_ns: int) -> int:
    """When a departure leaves if the server is as fast as the transcript says."""
    match step.anchor:
        case At(ns):
            return ns
        case After(ns):
            return above_ns + ns
        case AfterArrival(ns):
            return seen_ns + ns
