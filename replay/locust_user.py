"""Load from many machines: a user for Locust (https://locust.io) that plays captures.

A locustfile names them::

    from replay.locust_user import CaptureUser

    class Sender(CaptureUser):
        captures = ("captures/client", "captures/mta")

and ``locust -f FILE --host mx.example.com:25`` plays them, with ``--master`` and ``--worker`` from
as many machines as there are.  Each user plays one session after another, with the plans and the
pacing of ``replay load``.  Locust is told of every step as a request, named as the step; where a
session fails, both the step at which it failed and the session are failures.  It rounds
what it is told; so histograms are kept beside it, which workers send to the master with their
reports, and which are written at the end where ``--hgrm FOLDER`` is given.

It comes with the extra ``locust``.  The sockets are gevent's: what waits lets other users go on.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, ClassVar

import gevent
from gevent.select import select
from locust import User, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from mailsrv.runtime.clock import SystemClock
from mailsrv.units import NS_PER_MS, NS_PER_S, seconds_to_ns
from replay.load.interval import room_for
from replay.load.mix import mixed, parse_weight
from replay.load.plan import LoadError, Plan, read_plans
from replay.load.reply_labels import CONNECT, SESSION, STEPS, TLS
from replay.load.session import LoadSession
from replay.load.tally import Latency, Tally
from replay.play import sockets
from replay.play.target import Target, TargetError, bind_client, loopback_clients, resolve
from replay.report.load import write_hgrm
from replay.smtp.replies import ReceivedReply
from replay.transcript.collection import CollectionError, path_of
from replay.transcript.octets import printable
from replay.transcript.script import StartTls
from replay.verify.suite import InputError, find

RETRY_PAUSE_S = 0.1
"""A user waits so long after a session that could not be connected."""
LEFT_OUT_TOLD_MAX = 50
"""Of transcripts that make no load: these are named on the log, the others counted."""
COMPLAINT_MAX_CHARACTERS = 1000
_WRONG_USE = 2
_NO_HOST = "--host HOST:PORT is missing"
_CLOCK = SystemClock()
_REPORTED = "replay"
"""The key in a worker's report, which Locust leaves alone, and its message with a complaint."""


class SessionFailed(Exception):
    """A session was not as its transcript says; the message names the transcript and says what was
    not, as ``replay load`` does, with no more of the server's words than a reply code."""


class CaptureUser(User):
    """A client that plays sessions of ``captures`` in turn, at the server that ``--host`` names.

    ``captures`` are transcripts, folders of them, or names as ``builtin:client``; ``weights`` are
    as those of ``replay load --weight``; a single one of either need be in no tuple.  ``tls`` is
    "", "starttls" or "implicit".
    """

    abstract = True
    captures: ClassVar[str | Sequence[str]] = ("builtin:client",)
    weights: ClassVar[str | Sequence[str]] = ()
    tls: ClassVar[str] = ""
    timeout_s: ClassVar[float] = 30
    clients: ClassVar[int] = 1000

    @task
    def play(self) -> None:
        """One session."""
        try:
            host, captures = self.host or "", _several(self.captures)
            _target(host)
            stage = _stage(captures, _several(self.weights), self.tls, host, self.clients)
        except (LoadError, TargetError, InputError, CollectionError) as error:
            _end_test(self.environment, str(error))
            raise StopUser from None
        session = stage.session(self.environment, seconds_to_ns(self.timeout_s))
        try:
            session.connect(stage.target.address)
            while not session.over:
                _wait_for(session)
            connected = session.connected
        finally:
            session.release()
        if not connected:
            gevent.sleep(RETRY_PAUSE_S)


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _log(level: int, sentence: str) -> None:
    logging.getLogger("locust").log(level, "replay: %s", printable(sentence))


@events.test_start.add_listener
def _refuse_to_start_without_host(environment: Environment, **_: Any) -> None:
    """In every process, the master's too, which plays nothing itself."""
    for one in environment.user_classes:
        if issubclass(one, CaptureUser) and not (one.host or environment.host):
            _end_test(environment, _NO_HOST)


def _end_test(environment: Environment, complaint: str) -> None:
    """End the test with a sentence, whichever user is the first to know; a worker ends itself and
    has its master end, which else would have tested nothing with success."""
    if environment.process_exit_code != _WRONG_USE:
        environment.process_exit_code = _WRONG_USE
        _log(logging.ERROR, complaint[:COMPLAINT_MAX_CHARACTERS])
        if isinstance(environment.runner, WorkerRunner):
            environment.runner.send_message(_REPORTED, complaint)
        gevent.spawn(environment.runner.quit)


@events.init.add_listener
def _listen_to_workers(environment: Environment, **_: Any) -> None:
    def end(msg: Any, **_: Any) -> None:
        _end_test(environment, str(msg.data))

    if isinstance(environment.runner, MasterRunner):
        environment.runner.register_message(_REPORTED, end)


@dataclass(frozen=True)
class _Stage:
    """What the users of one class share in a process."""

    target: Target
    plans: Iterator[Plan]
    addresses: Iterator[str]
    complaints: Counter[str]
    """What was not as in the transcripts, in a bounded number of different sentences."""

    def session(self, environment: Environment, timeout_ns: int) -> LoadSession:
        """The next session, not yet connected."""
        sock = sockets.sender_socket(self.target.family)
        sock.setblocking(False)
        if address := next(self.addresses):
            bind_client(sock, address)
        plan = next(self.plans)
        observer = _Observer(environment, plan, self.complaints)
        return LoadSession(plan, sock, _CLOCK, observer, timeout_ns)


@cache
def _stage(
    captures: tuple[str, ...], weights: tuple[str, ...], tls: str, host: str, clients: int
) -> _Stage:
    """Made once: nothing in it lets other users go on, for the name has been looked up before."""
    target = _target(host)
    played = mixed(_plans(captures, tls), [parse_weight(one) for one in weights])
    return _Stage(target, cycle(played), loopback_clients(target, clients), Counter())


@cache
def _target(host: str) -> Target:
    """Lets other users go on while a name is looked up."""
    if not host:
        raise TargetError(_NO_HOST)
    return resolve(host)


@cache
def _plans(captures: tuple[str, ...], tls: str) -> list[Plan]:
    """What is played; the first to ask has it told once what is left out, and why."""
    plans, left_out = read_plans(find(path_of(one) for one in captures), tls)
    for reason in left_out[:LEFT_OUT_TOLD_MAX]:
        _log(logging.WARNING, f"left out: {reason}")
    if len(left_out) > LEFT_OUT_TOLD_MAX:
        _log(logging.WARNING, f"left out: {len(left_out) - LEFT_OUT_TOLD_MAX:,} more")
    return plans


def _wait_for(session: LoadSession) -> None:
    """Let other users go on until something happens to this one's session."""
    left_ns = session.deadline_ns - _CLOCK.monotonic_ns()
    if left_ns <= 0:
        session.time_out()
        return
    wanted, sock = session.events, session.sock
    reading = [sock] if wanted & EVENT_READ else []
    writing = [sock] if wanted & EVENT_WRITE else []
    readable, writable, _ = select(reading, writing, [], left_ns / NS_PER_S)
    if readable or writable:
        session.ready(EVENT_READ * bool(readable) | EVENT_WRITE * bool(writable))


class _Observer:
    """Tells Locust what happens in a session.

    The first reply that is not as planned is told when the session is over: only then is known
    whether the session failed for it.
    """

    def __init__(self, environment: Environment, plan: Plan, complaints: Counter[str]) -> None:
        self._request = environment.events.request
        self._plan = plan
        self._complaints = complaints
        self._began_ns = self._seen_ns = _CLOCK.monotonic_ns()
        self._connected = False
        self._handshakes = self._replies = 0
        self._wrong = ""
        self._held: tuple[str, int, int] | None = None

    def timed(self, step: str, service_ns: int, response_ns: int) -> None:
        self._seen_ns = _CLOCK.monotonic_ns()
        self._connected |= step == CONNECT
        self._handshakes += step == TLS
        if step == self._wrong and self._held is None:
            self._held = step, service_ns, response_ns
        else:
            self._fire_measured(step, service_ns, response_ns, None)

    def replied(self, label: str, reply: ReceivedReply) -> None:
        planned = self._plan.replies[self._replies :][:1]
        self._replies += 1
        self._seen_ns = reply.at_ns
        self._wrong = "" if planned and planned[0].code in (0, reply.code) else label

    def ended(self, kind: str, complaint: str, reply: ReceivedReply | None) -> None:
        if not kind:
            return
        now_ns = _CLOCK.monotonic_ns()
        if not self._connected:
            complaint = complaint.removeprefix(f"{self._plan.name}: ")  # it is the same for all
        complaint = room_for(complaint, self._complaints)
        self._complaints[complaint] += 1
        failure = SessionFailed(complaint)
        if self._held:
            self._fire_measured(*self._held, failure if reply else None)
        if reply is None and (step := self._awaited):
            self._fire(step, now_ns - self._seen_ns, failure, {})
        self._fire(SESSION, now_ns - self._began_ns, failure, {})

    @property
    def _awaited(self) -> str:
        """The step that is not over; empty where the session waits for its end alone."""
        if not self._connected:
            return CONNECT
        begun = sum(
            isinstance(one.action, StartTls) and one.replies <= self._replies
            for one in self._plan.acts
        )
        if begun > self._handshakes:
            return TLS
        return next((one.label for one in self._plan.replies[self._replies :]), "")

    def _fire_measured(
        self, step: str, service_ns: int, response_ns: int, failure: SessionFailed | None
    ) -> None:
        self._fire(step, response_ns, failure, {_REPORTED: (service_ns, response_ns)})

    def _fire(
        self, name: str, took_ns: int, failure: SessionFailed | None, context: dict[str, Any]
    ) -> None:
        self._request.fire(
            request_type="SMTP",
            name=name,
            response_time=took_ns / NS_PER_MS,
            response_length=0,
            exception=failure,
            context=context,
        )


# -- histograms of all workers --------------------------------------------------------------------


def ship(tally: Tally) -> dict[str, dict[str, str]]:
    """All that was measured, for a report; ``tally`` begins anew."""
    shipped = {
        kind: {step: latency.encode() for step, latency in latencies.items()}
        for kind, latencies in (("response", tally.response), ("service", tally.service))
    }
    tally.response.clear()
    tally.service.clear()
    return shipped


def take(tally: Tally, shipped: dict[str, dict[str, str]]) -> None:
    """Count what another process has shipped."""
    for kind, latencies in (("response", tally.response), ("service", tally.service)):
        for step, encoded in shipped.get(kind, {}).items():
            if step in STEPS:
                latencies.setdefault(step, Latency()).add(Latency.decode(encoded))


@events.init_command_line_parser.add_listener
def _add_option(parser: ArgumentParser, **_: Any) -> None:
    text = "write histograms of all steps as .hgrm files"
    parser.add_argument("--hgrm", metavar="FOLDER", default="", help=text)


def _histogram_folder(environment: Environment) -> Path | None:
    """Where histograms are written at the end, made now; None where none are.  Ends the process
    with a sentence where it cannot be."""
    text = getattr(environment.parsed_options, "hgrm", "")
    if not text or isinstance(environment.runner, WorkerRunner):  # the master writes them
        return None
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        complaint = "" if os.access(folder, os.W_OK | os.X_OK) else "cannot be written"
    except FileExistsError:
        complaint = "histograms are many files; name a folder"
    except (OSError, ValueError) as error:
        complaint = error.strerror or "" if isinstance(error, OSError) else str(error)
    if complaint:
        _log(logging.ERROR, f"--hgrm {folder}: {complaint}")
        sys.exit(_WRONG_USE)
    return folder


@events.init.add_listener
def _keep_histograms(environment: Environment, **_: Any) -> None:
    """Keep them in this process; on a worker until the next report, elsewhere to the end."""
    folder = _histogram_folder(environment)
    gevent.get_hub().loop.update_now()  # else what imports took is taken from the run's time
    tally = Tally()

    def note(name: str, context: dict[str, Any], **_: Any) -> None:
        if measured := context.get(_REPORTED):
            service_ns, response_ns = measured
            tally.service.setdefault(name, Latency()).record(service_ns)
            tally.response.setdefault(name, Latency()).record(response_ns)

    def report(client_id: str, data: dict[str, Any]) -> None:
        data[_REPORTED] = ship(tally)

    def receive(client_id: str, data: dict[str, Any]) -> None:
        take(tally, data.get(_REPORTED, {}))

    def write(exit_code: int, **_: Any) -> None:
        if folder is None or not tally.response:
            return
        try:
            write_hgrm(tally, folder)
        except OSError as error:
            _log(logging.ERROR, f"--hgrm {folder}: {error.strerror}")
            sys.exit(exit_code or _WRONG_USE)  # Locust has settled its exit status before

    environment.events.request.add_listener(note)
    environment.events.report_to_master.add_listener(report)
    environment.events.worker_report.add_listener(receive)
    environment.events.quit.add_listener(write)
