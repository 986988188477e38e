"""What a load run plays of a transcript: the sender's acts, each behind the replies it waits for.

The pauses of the capture are left out: a departure goes out when as many replies have arrived as
stand above it in the transcript; what a sender pipelined goes out unasked.  Of the server's side,
the codes are kept, not the texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mailsrv.units import NS_PER_S
from replay.load.reply_labels import GREETING, ReplyLabels
from replay.transcript import transcript
from replay.transcript.duration import format_ns
from replay.transcript.notation import TranscriptError
from replay.transcript.script import (
    HANDSHAKES,
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
    TlsRefused,
)

SERVER_WAIT_MAX_NS = 5 * NS_PER_S
"""A script in which the server takes longer than this waits for a timer: nothing to make load of.
It also bounds how late after the open a server may end a connection by itself."""

_SETTINGS_WITHOUT_EFFECT = {"hostname"}
"""Of [server]: what changes texts alone, which a load run does not compare."""

_CLOSING, _SHUTTING_DOWN = 221, 421

STARTTLS, IMPLICIT_TLS = "starttls", "implicit"
TLS_MODES = (STARTTLS, IMPLICIT_TLS)
"""How the sessions of a run come under TLS (RFC 3207; RFC 8314 section 3)."""
RECEIVES = "it plays a receiver of mail, to which only mailsrv in virtual time can deliver"
_LOAD_EHLO = b"EHLO load.example\r\n"

Action = SendOctets | StartTls | HalfClose | Close | Reset


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
class PlannedReply:
    """A reply that is expected: its ``code`` (0 for any), what it answers (``reply_labels``), and
    the number of the act that asked for it; None for the greeting and what is not asked for."""

    code: int
    label: str
    act: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One connection of a transcript, ready to be played again and again.

    With ``server_ends`` the session lasts until the server closes; with ``held`` it lasts until
    the run ends it, and anything the server does then is a loss.  ``opens_ns`` is when the
    connection was opened, from the beginning of its transcript.
    """

    name: str
    acts: tuple[PlannedAct, ...]
    replies: tuple[PlannedReply, ...]
    server_ends: bool = False
    held: bool = False
    opens_ns: int = 0

    @property
    def speaks_first(self) -> bool:
        """True where something departs without waiting for the greeting."""
        return bool(self.acts) and not self.acts[0].replies


def idle_plan(tls: str = "") -> Plan:
    """A client that sends EHLO and then nothing."""
    hello = PlannedAct(1, SendOctets(b"EHLO idle.example\r\n"))
    replies = (PlannedReply(220, GREETING), PlannedReply(250, "EHLO", 0))
    return _under_tls(Plan("idle connection", (hello,), replies, held=True), tls)


def read_plans(paths: Iterable[Path], tls: str = "") -> tuple[list[Plan], list[str]]:
    """The plans of transcript files, and what was left out and why.

    ``tls`` is one of ``TLS_MODES``, or empty for plaintext.  Raises LoadError.
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
        of_file, reasons = plans_of(scenario, str(path), tls)
        plans += of_file
        skipped += reasons
    return plans, skipped


def plans_of(scenario: Scenario, name: str, tls: str = "") -> tuple[list[Plan], list[str]]:
    """The plans of a file's connections, each a session of its own, and why others make none."""
    own_tls = scenario.world.get("tls")
    if reason := _unsuitable(scenario, tls):
        return [], [f"{name}: {reason}"]
    plans: list[Plan] = []
    skipped: list[str] = []
    for connection in scenario.connections:
        several = len(scenario.connections) > 1
        full_name = f"{name} ({connection.name})" if several else name
        try:
            plan = plan_of(connection, full_name, with_tls=bool(own_tls))
            plans.append(plan if own_tls else _under_tls(plan, tls))
        except UnsuitableError as reason:
            skipped.append(f"{full_name}: {reason}")
    return plans, skipped


def _unsuitable(scenario: Scenario, tls: str) -> str:
    """Why a scenario makes no load on a server of this kind; empty if it does."""
    own_tls = scenario.world.get("tls")
    how = IMPLICIT_TLS if own_tls == IMPLICIT_TLS else STARTTLS
    if own_tls and tls != how:
        return f"it speaks TLS: --tls {how} plays it"
    plain = {key: value for key, value in scenario.world.items() if key != "tls"}
    return needs_of_its_own(replace(scenario, world=plain))


def needs_of_its_own(scenario: Scenario, *, with_tls: bool = False) -> str:
    """Why the server has to be another than any that is there; empty if it has not.

    ``with_tls``: a server that offers STARTTLS can be found.
    """
    if scenario.plays_receivers:
        return RECEIVES
    world = {key: value for key, value in scenario.world.items() if not with_tls or key != "tls"}
    if world or scenario.world.get("tls") == IMPLICIT_TLS:
        return "its world is faked ([world] in its header); no real server lives in it"
    if settings := sorted(set(scenario.server) - _SETTINGS_WITHOUT_EFFECT):
        return (
            f"it needs settings of its own ([server] in its header: {', '.join(settings)}); "
            "the target has others"
        )
    return ""


def plan_of(connection: ScriptedConnection, name: str, *, with_tls: bool = False) -> Plan:
    """Raises UnsuitableError."""
    if connection.plays_receiver:
        raise UnsuitableError(RECEIVES)
    refuse_timers(connection)
    builder = _Builder(with_tls)
    for step in connection.steps:
        if isinstance(step, Expectation):
            if builder.server_ends:
                break
            builder.expect(step)
        elif isinstance(step.action, Open):
            builder.open(step)
        elif not builder.server_ends:
            builder.depart(step)
    return builder.plan(name)


class _Builder:
    """Walks through a connection's steps, with every act and every reply at its place."""

    def __init__(self, with_tls: bool) -> None:
        self.server_ends = False
        self._with_tls = with_tls
        self._acts: list[PlannedAct] = []
        self._codes: list[int] = []
        self._labels = ReplyLabels()
        self._opens_ns = 0

    def open(self, step: Departure) -> None:
        if isinstance(step.anchor, At):
            self._opens_ns = step.anchor.ns

    def depart(self, step: Departure) -> None:
        action = step.action
        if isinstance(action, StopReading):
            raise UnsuitableError(f"stops reading (line {step.line}): only buffers are tried")
        if isinstance(action, StartTls) and not self._with_tls:
            raise UnsuitableError(f"speaks TLS (line {step.line}), but its header offers none")
        if not isinstance(action, SendOctets | StartTls | HalfClose | Close | Reset):
            return  # until-closed, abandon: the replies still expected are waited for, no more
        if isinstance(action, SendOctets):
            self._labels.sent(len(self._acts), action.octets)
        elif isinstance(action, StartTls):
            self._labels.begin_tls()
        self._acts.append(PlannedAct(len(self._codes), action))

    def expect(self, step: Expectation) -> None:
        outcome = step.outcome
        if isinstance(outcome, TlsRefused):
            raise UnsuitableError(f"its handshake fails (line {step.line})")
        if isinstance(outcome, HANDSHAKES):
            return
        if not isinstance(outcome, UTTERANCES):
            self.server_ends = True
            return
        self._codes.append(_code(outcome))
        self._labels.expected(self._codes[-1])

    def plan(self, name: str) -> Plan:
        replies = tuple(
            PlannedReply(code, label, act)
            for code, (label, act) in zip(self._codes, self._labels.labels(), strict=True)
        )
        return Plan(name, tuple(self._acts), replies, self.server_ends, opens_ns=self._opens_ns)


def _under_tls(plan: Plan, tls: str) -> Plan:
    """``plan`` as a sender plays it that speaks TLS from the first octet, or asks for STARTTLS
    before anything else.  Raises UnsuitableError."""
    if not tls:
        return plan
    if tls == IMPLICIT_TLS:
        prelude: tuple[PlannedAct, ...] = (PlannedAct(0, StartTls()),)
        asked: tuple[PlannedReply, ...] = ()
    else:
        if plan.speaks_first:
            raise UnsuitableError("does not wait for the greeting, as STARTTLS has to")
        prelude = (
            PlannedAct(1, SendOctets(_LOAD_EHLO)),
            PlannedAct(2, SendOctets(b"STARTTLS\r\n")),
            PlannedAct(3, StartTls()),
        )
        asked = (PlannedReply(250, "EHLO", 0), PlannedReply(220, "STARTTLS", 1))
    later = [
        replace(one, act=None if one.act is None else one.act + len(prelude))
        for one in plan.replies
    ]
    acts = [replace(one, replies=one.replies + len(asked)) for one in plan.acts]
    replies = (*later[:1], *asked, *later[1:])
    return replace(plan, acts=(*prelude, *acts), replies=replies)


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
            if isinstance(outcome, HANDSHAKES):
                by_itself = False
            elif isinstance(outcome, UTTERANCES):
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
