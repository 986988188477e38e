"""Load from many machines: a user for Locust (https://locust.io) that plays captures.

A locustfile names them::

    from replay.locust_user import CaptureUser

    class Sender(CaptureUser):
        captures = ("captures/client", "captures/mta")

and ``locust -f FILE --host mx.example.com:25`` plays them, with ``--master`` and ``--worker`` from
as many machines as there are.  Each user plays one session after another, with the plans and the
pacing of ``replay load``.  Locust is told of every step as a request, named as the step.  It rounds
what it is told; so histograms are kept beside it, which workers send to the master with their
reports, and which are written at the end where ``--hgrm FOLDER`` is given.

It comes with the extra ``locust``.  The sockets are gevent's: what waits lets other users go on.
"""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from collections.abc import Iterator
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

from mailsrv.runtime.clock import SystemClock
from mailsrv.units import NS_PER_MS, NS_PER_S, seconds_to_ns
from replay.load.mix import mixed, parse_weight
from replay.load.plan import LoadError, Plan, read_plans
from replay.load.reply_labels import SESSION, STEPS
from replay.load.session import LoadSession
from replay.load.tally import Latency, Tally
from replay.play import sockets
from replay.play.target import Target, TargetError, bind_client, loopback_clients, resolve
from replay.report.load import write_hgrm
from replay.smtp.replies import ReceivedReply
from replay.transcript.collection import CollectionError, path_of
from replay.verify.suite import InputError, find

RETRY_PAUSE_S = 0.1
"""A user waits so long after a session that could not be connected."""
_WRONG_USE = 2
_CLOCK = SystemClock()
_REPORTED = "replay"
"""The key in a worker's report: Locust leaves what it does not know alone."""


class SessionFailed(Exception):
    """A session was not as its transcript says; the message is the kind of failure."""


class CaptureUser(User):
    """A client that plays sessions of ``captures`` in turn, at the server that ``--host`` names.

    ``captures`` are transcripts, folders of them, or names as ``builtin:client``; ``weights`` are
    as those of ``replay load --weight``; ``tls`` is "", "starttls" or "implicit".
    """

    abstract = True
    captures: ClassVar[tuple[str, ...]] = ("builtin:client",)
    weights: ClassVar[tuple[str, ...]] = ()
    tls: ClassVar[str] = ""
    timeout_s: ClassVar[float] = 30
    clients: ClassVar[int] = 1000

    @task
    def play(self) -> None:
        """One session."""
        try:
            stage = _stage(self.captures, self.weights, self.tls, self.host or "", self.clients)
        except (LoadError, TargetError, InputError, CollectionError) as error:
            _end_test(self.environment, str(error))
            raise StopUser from None
        session = stage.session(_Observer(self.environment), seconds_to_ns(self.timeout_s))
        try:
            session.connect(stage.target.address)
            while not session.over:
                _wait_for(session)
            connected = session.connected
        finally:
            session.release()
        if not connected:
            gevent.sleep(RETRY_PAUSE_S)


def _end_test(environment: Environment, complaint: str) -> None:
    """End this process's part of the test with a sentence, whichever user is the first to know."""
    if environment.process_exit_code != _WRONG_USE:
        environment.process_exit_code = _WRONG_USE
        logging.getLogger("locust").error("replay: %s", complaint)
        gevent.spawn(environment.runner.quit)


@dataclass(frozen=True)
class _Stage:
    """What the users of one class share in a process."""

    target: Target
    plans: Iterator[Plan]
    addresses: Iterator[str]

    def session(self, observer: _Observer, timeout_ns: int) -> LoadSession:
        """The next session, not yet connected."""
        sock = sockets.sender_socket(self.target.family)
        sock.setblocking(False)
        if address := next(self.addresses):
            bind_client(sock, address)
        return LoadSession(next(self.plans), sock, _CLOCK, observer, timeout_ns)


@cache
def _stage(
    captures: tuple[str, ...], weights: tuple[str, ...], tls: str, host: str, clients: int
) -> _Stage:
    """Whole before another user sees it: looking a name up lets others go on."""
    target = resolve(host)
    plans, _ = read_plans(find(path_of(one) for one in captures), tls)
    played = mixed(plans, [parse_weight(one) for one in weights])
    return _Stage(target, cycle(played), loopback_clients(target, clients))


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
    """Tells Locust what happens in a session."""

    def __init__(self, environment: Environment) -> None:
        self._request = environment.events.request

    def timed(self, step: str, service_ns: int, response_ns: int) -> None:
        self._fire(step, response_ns, None, {_REPORTED: (service_ns, response_ns)})

    def replied(self, label: str, reply: ReceivedReply) -> None:
        """Nothing: the wait for a reply is told as a step."""

    def ended(self, kind: str, complaint: str, reply: ReceivedReply | None) -> None:
        if kind:
            self._fire(SESSION, 0, SessionFailed(kind), {})

    def _fire(
        self, name: str, took_ns: int, exception: Exception | None, context: dict[str, Any]
    ) -> None:
        self._request.fire(
            request_type="SMTP",
            name=name,
            response_time=took_ns / NS_PER_MS,
            response_length=0,
            exception=exception,
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


@events.init.add_listener
def _keep_histograms(environment: Environment, **_: Any) -> None:
    """Keep them in this process; on a worker until the next report, elsewhere to the end."""
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

    def write(**_: Any) -> None:
        folder = getattr(environment.parsed_options, "hgrm", "")
        if folder and tally.response:
            write_hgrm(tally, Path(folder))

    environment.events.request.add_listener(note)
    environment.events.report_to_master.add_listener(report)
    environment.events.worker_report.add_listener(receive)
    environment.events.quit.add_listener(write)
