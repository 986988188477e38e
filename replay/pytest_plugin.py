"""The pytest plugin: ``.smtp`` files as tests, and fixtures for tests in virtual time.

This module is loaded into every pytest run where the package is installed, so it imports nothing
but pytest and the standard library; the rest is imported when it is needed.

Fixtures: ``smtp_target`` and ``smtp_delivered`` (yours to override), ``smtp_check``,
``smtp_scenario``, ``smtp_replay``, ``smtp_sender``, ``mail_server``, ``fake_clock``.  Markers:
``smtp_replay``, on every transcript; ``smtp_scenarios``, which scenarios ``smtp_scenario`` is.
Options: ``--smtp-target``, ``--smtp-clock-reads``, ``--smtp-replay-update``,
``--smtp-replay-unused``.

A golden is written while its own test runs and at no other time, whole or not at all, so that
workers side by side do not disturb each other.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from mailsrv.runtime.clock import FakeClock
    from replay.play.virtual_run import VirtualDriver
    from replay.testing.sender import Sender
    from replay.testing.virtual_server import VirtualServer
    from replay.verify.check.runner import CheckResult
    from replay.verify.server_under_test import ServerUnderTest
    from replay.verify.suite import ReadTranscript, ScenarioResult

SUFFIX = ".smtp"
ITEM_NAME = "transcript"
LOG_LINES_SHOWN_MAX = 100
CREATE, FIX = "create", "fix"
UPDATES = {"": (CREATE, FIX), "=create": (CREATE,), "=fix": (FIX,)}
UPDATES |= {"=create,fix": (CREATE, FIX), "=fix,create": (CREATE, FIX)}
"""What may stand behind --smtp-replay-update; behind a space would stand a path."""
_SERVERS: pytest.StashKey[list[VirtualServer]] = pytest.StashKey()
NO_TARGET = (
    "no server to play this at: override the fixture smtp_target in conftest.py, or give "
    '--smtp-target HOST:PORT (in the configuration: smtp_target = ...); "mailsrv" names the '
    "server that comes with this plugin"
)
PLAYED_AT = "smtp_server"
"""The property of a report that names the server under test."""
CHECKED, DEPARTS = "smtp_check", ": departs"
"""The property that tells a verdict, and the end of one that fails no test by itself."""
_UNUSED: pytest.StashKey[list[str]] = pytest.StashKey()
_FROZEN: pytest.StashKey[bool] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("smtp_replay", "transcripts of SMTP senders")
    for kinds, meaning in UPDATES.items():
        group.addoption(
            f"--smtp-replay-update{kinds}",
            action="store_const",
            const=",".join(meaning),
            default="",
            dest="smtp_replay_update",
            help="write what was observed into transcripts that differ or leave something open; "
            "their tests fail once, for review (also =create, =fix: one of the two alone)"
            if not kinds
            else argparse.SUPPRESS,
        )
    group.addoption(
        "--smtp-target",
        metavar="HOST:PORT",
        help="the server under test, in place of the fixture smtp_target; mailsrv is the one that "
        "comes with this plugin",
    )
    group.addoption(
        "--smtp-clock-reads",
        action="store_true",
        default=False,
        help="in virtual time, fail where an asyncio server reads a real clock (slower)",
    )
    parser.addini(
        "smtp_target", "the server under test, where no fixture smtp_target is overridden"
    )
    group.addoption(
        "--smtp-replay-unused",
        action="store_true",
        default=False,
        help="fail if beside the transcripts there are files that no test uses",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Registered before what pytest itself does at the end, and so done behind that.
    config.add_cleanup(lambda: gc.unfreeze() if config.stash.get(_FROZEN, False) else None)
    config.addinivalue_line("markers", f"smtp_replay: a {SUFFIX} transcript")
    config.addinivalue_line(
        "markers",
        "smtp_scenarios(*names): run the test for each of these scenarios, as smtp_scenario: "
        "families and transcripts that come with the package, such as 'attack', or paths",
    )
    if config.getoption("smtp_replay_update", ""):
        from replay.verify.suite import under_ci

        if under_ci():
            raise pytest.UsageError(
                "--smtp-replay-update is refused where CI is set: nobody reads there what it "
                "changes"
            )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "smtp_scenario" not in metafunc.fixturenames:
        return
    names = [
        name for mark in metafunc.definition.iter_markers("smtp_scenarios") for name in mark.args
    ]
    if not names:
        pytest.fail("smtp_scenario needs @pytest.mark.smtp_scenarios('attack')", pytrace=False)
    from replay.verify.server_under_test import claiming

    paths = claiming(_path_of_scenario(name, metafunc.definition.path) for name in names)
    ids = [f"{path.parent.name}/{path.stem}" for path in paths]
    metafunc.parametrize("smtp_scenario", paths, ids=ids)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Where all tests are transcripts, no collection of garbage looks at what is there before the
    first of them, as in ``replay run``; where others run too, memory is theirs."""
    if session.config.getoption("collectonly") or not session.items:
        return
    if all(isinstance(one, TranscriptItem) for one in session.items):
        import replay.verify.server_under_test  # noqa: F401 - loaded now, it is left out too

        session.config.stash[_FROZEN] = True
        gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if not config.getoption("smtp_replay_unused", False) or hasattr(config, "workerinput"):
        return  # a worker's session is a part of one that asks by itself
    from replay.verify.unused import find_unused

    places = [Path(one.partition("::")[0]) for one in config.args]
    config.stash[_UNUSED] = found = [
        _shown(path, config) + f": {why}" for path, why in find_unused(places)
    ]
    if found and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    told = [
        one
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for one in report.user_properties
    ]
    served = [value for name, value in told if name == PLAYED_AT]
    for server in sorted(set(served)):
        terminalreporter.line(f"smtp: {served.count(server)} at {server}")
    checked = {value for name, value in told if name == CHECKED}
    departs = sorted(one.removesuffix(DEPARTS) for one in checked if one.endswith(DEPARTS))
    if departs:
        terminalreporter.line(f"smtp: departs from what it should do in {', '.join(departs)}")
    if found := config.stash.get(_UNUSED, []):
        terminalreporter.section("unused beside transcripts")
        for line in found:
            terminalreporter.line(line.encode("ascii", "backslashreplace").decode())


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != SUFFIX:
        return None
    from replay.verify.unused import begins_as_transcript

    if not begins_as_transcript(file_path):
        return None
    collector: pytest.Collector = TranscriptFile.from_parent(parent, path=file_path)
    return collector


class TranscriptFile(pytest.File):
    """One file is one test: its connections make up one scenario."""

    def collect(self) -> Iterable[pytest.Item]:
        yield TranscriptItem.from_parent(self, name=ITEM_NAME)


def _transcript(_smtp_server: ServerUnderTest, request: pytest.FixtureRequest) -> None:
    """What a transcript asks for, as any test does: the server, by the fixtures around its file."""


class TranscriptItem(pytest.Function):
    """Runs a transcript against the server; one that cannot be read fails, and stops no other.  One
    that names no server and makes claims is judged by these."""

    def __init__(self, **known: Any) -> None:
        super().__init__(**known, callobj=_transcript)
        self.add_marker("smtp_replay")

    def runtest(self) -> None:
        __tracebackhide__ = True
        from replay.verify.server_under_test import is_for_any_server

        server = cast("ServerUnderTest", self.funcargs["_smtp_server"])
        read = _read(self.path, self.config)
        if is_for_any_server(read.scenario):
            request = cast(pytest.FixtureRequest, self.funcargs["request"])
            _check([self.path], self, server, request.getfixturevalue("smtp_delivered"))
            return
        result = _run(read, self, server)
        self.user_properties += [
            ("virtual_ns", result.virtual_ns),
            ("trace_hash", result.trace_hash),
        ]

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{ITEM_NAME} {_shown(self.path, self.config)}"


def _read(path: Path, config: pytest.Config) -> ReadTranscript:
    """The transcript at ``path``; the test fails if it cannot be used."""
    __tracebackhide__ = True
    from replay.verify.suite import InputError, read_transcript

    try:
        return read_transcript(path)
    except InputError as error:
        complaint = str(error).replace(str(path), _shown(path, config))
    pytest.fail(complaint, pytrace=False)


def _run(read: ReadTranscript, item: pytest.Item, server: ServerUnderTest) -> ScenarioResult:
    """Run a transcript for ``item``, which fails if it does not hold."""
    __tracebackhide__ = True
    from mailsrv.runtime.clock import SystemClock
    from replay.play.target import TargetError
    from replay.report.complaint import of_transcript
    from replay.verify import suite
    from replay.verify.server_under_test import LeftOut, NoTarget

    shown = _shown(read.path, item.config)
    kinds = item.config.getoption("smtp_replay_update", "")
    try:
        updating = kinds.split(",") if kinds else ()
        result = server.run(read, SystemClock(), updating=updating)
    except suite.InputError as error:
        complaint = str(error).replace(str(read.path), shown)
    except (NoTarget, TargetError) as error:
        complaint = f"{shown}: {str(error) or NO_TARGET}"
    except LeftOut as reason:
        pytest.skip(f"not for {server.name}: {reason}")
    else:
        item.user_properties.append((PLAYED_AT, server.name))
        if result.good and not result.changes:
            return result
        if result.log:
            item.add_report_section(
                "call", "server log", "\n".join(result.log[-LOG_LINES_SHOWN_MAX:])
            )
        complaint = of_transcript(result, shown, server.name)
    pytest.fail(complaint, pytrace=False)


def _shown(path: Path, config: pytest.Config) -> str:
    """``path`` as people type it."""
    here = config.invocation_params.dir
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


# -- fixtures -------------------------------------------------------------------------------------


@pytest.fixture
def mail_server(request: pytest.FixtureRequest) -> Iterator[Callable[..., VirtualServer]]:
    """Makes servers in virtual time: ``server = mail_server(idle_timeout_s=30)``.

    Takes settings by name and ``world=``; returns a ``VirtualServer`` (of ``replay.testing``).
    At the end of the test each server is shut down, and anything left then is an error.  A test
    that fails shows the servers' logs.
    """
    from replay.testing.virtual_server import VirtualServer

    servers: list[VirtualServer] = request.node.stash.setdefault(_SERVERS, [])

    def make(**settings: Any) -> VirtualServer:
        __tracebackhide__ = True
        servers.append(stack.enter_context(VirtualServer(**settings)))
        return servers[-1]

    with contextlib.ExitStack() as stack:
        yield make


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """Before the report of a failure is made, add the logs of the test's servers to it."""
    if call.excinfo is None:
        return
    servers = item.stash.get(_SERVERS, [])
    for number, server in enumerate(servers, 1):
        which = f" {number}" if len(servers) > 1 else ""
        item.add_report_section(
            call.when, f"server{which} log", "\n".join(server.log[-LOG_LINES_SHOWN_MAX:])
        )
    servers.clear()


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that starts at 0 and moves only by ``advance(seconds)``."""
    from mailsrv.runtime.clock import FakeClock

    return FakeClock(start=0)


@pytest.fixture
def smtp_target() -> object:
    """The server under test.  Override it, and return (or yield) one of

    - ``"HOST:PORT"``, or a pair of host and port: a server that is there, in real time;
    - a context manager that starts a server and yields its address;
    - ``async def start(loop)`` that returns an ``asyncio.Server``, or a function that returns an
      ``UnthreadedController`` of aiosmtpd: in virtual time, started anew for each transcript;
    - ``"mailsrv"``: the server that comes with this plugin, in virtual time.
    """
    return None


@pytest.fixture(scope="session")
def _smtp_driver() -> Iterator[VirtualDriver]:
    """Plays all transcripts of the session at mailsrv: what never changes is made once."""
    from replay.play.virtual_run import VirtualDriver

    with VirtualDriver() as driver:
        yield driver


@pytest.fixture
def _smtp_server(
    request: pytest.FixtureRequest, _smtp_driver: VirtualDriver
) -> Iterator[ServerUnderTest]:
    from replay.verify.server_under_test import OnlyMailsrv

    config = request.config
    target = config.getoption("--smtp-target") or request.getfixturevalue("smtp_target")
    target = target or config.getini("smtp_target")
    if not target:
        yield OnlyMailsrv(_smtp_driver)
        return
    from replay.play.target import TargetError
    from replay.verify.other_servers import TargetValueError, server_under_test

    with contextlib.ExitStack() as stack:
        if hasattr(target, "__enter__"):
            target = stack.enter_context(target)
        try:
            clocks = config.getoption("--smtp-clock-reads")
            server = server_under_test(target, play=_smtp_driver, clocks=clocks)
        except (TargetError, TargetValueError) as error:
            pytest.fail(str(error), pytrace=False)
        yield server


@pytest.fixture
def smtp_sender(
    request: pytest.FixtureRequest, _smtp_server: ServerUnderTest
) -> Iterator[Callable[..., Sender]]:
    """Opens connections to the server under test: ``sender = smtp_sender("192.0.2.1")``.

    They have the same words in virtual time and over real sockets (``replay.testing.Sender``), and
    are of one server, which is shut down at the end of the test if it was started for it.
    """
    from replay.verify.server_under_test import NoTarget

    try:
        server = _smtp_server.server()
    except NoTarget:
        pytest.fail(NO_TARGET, pytrace=False)
    request.node.user_properties.append((PLAYED_AT, _smtp_server.name))
    with server:
        yield server.sender


@pytest.fixture
def smtp_delivered() -> Callable[[], Iterable[bytes]] | None:
    """What the server under test delivered.  Override it, and return a function that returns the
    contents of all messages so far: then claims about contents are looked at, too."""
    return None


@pytest.fixture
def smtp_check(
    request: pytest.FixtureRequest,
    _smtp_server: ServerUnderTest,
    smtp_delivered: Callable[[], Iterable[bytes]] | None,
) -> Callable[..., list[CheckResult]]:
    """Judges the server under test by the claims of scenarios: ``smtp_check("attack")``.

    Names are those of families and transcripts that come with the package; a path ends in .smtp and
    is seen from the test's file.  The test fails where the server does what it must not; with
    ``should=True``, also where it does what it should not.  ``recipient``, ``sender`` and ``helo``
    take the place of those in the transcripts.  Returns the results (``CheckResult`` of
    ``replay.verify.check.runner``); where none could tell anything, the test is skipped.
    """

    def check(*names: str | Path, should: bool = False, **introduced: str) -> list[CheckResult]:
        __tracebackhide__ = True
        from replay.verify.server_under_test import claiming

        given = [_path_of_scenario(name, request.path) for name in names]
        paths = claiming(given) or given
        return _check(paths, request.node, _smtp_server, smtp_delivered, should, introduced)

    return check


def _check(
    paths: Sequence[Path],
    item: pytest.Item,
    server: ServerUnderTest,
    delivered: Callable[[], Iterable[bytes]] | None,
    should: bool = False,
    introduced: Mapping[str, str] = MappingProxyType({}),
) -> list[CheckResult]:
    """Check the scenarios at ``paths`` for ``item``, which fails if the server violates a claim."""
    __tracebackhide__ = True
    from mailsrv.runtime.clock import SystemClock
    from replay.play.target import TargetError
    from replay.play.virtual_time import Leaked, NotVirtual, ServerFault, Stalled, TargetFault
    from replay.report.complaint import of_checks
    from replay.verify.check.delivered import Called, DeliveredError
    from replay.verify.check.prepared import Introduction
    from replay.verify.check.selection import named_scenarios
    from replay.verify.server_under_test import NoTarget
    from replay.verify.suite import InputError

    mailbox = None if delivered is None else Called(delivered)
    try:
        scenarios = named_scenarios(paths)
        results = server.check(scenarios, Introduction(**introduced), mailbox, SystemClock())
    except NoTarget:
        pytest.fail(NO_TARGET, pytrace=False)
    except (DeliveredError, InputError, TargetError) as error:
        pytest.fail(str(error), pytrace=False)
    except (Leaked, NotVirtual, ServerFault, Stalled, TargetFault) as error:
        pytest.fail(f"{error}\nat {server.name}", pytrace=False)
    item.user_properties.append((PLAYED_AT, server.name))
    item.user_properties += [(CHECKED, f"{one.name}: {one.verdict.value}") for one in results]
    if complaint := of_checks(results, server.name, should=should):
        pytest.fail(complaint, pytrace=False)
    if not any(one.verdict.value in ("holds", "departs") for one in results):
        reasons = dict.fromkeys(one.judgement.reason for one in results)
        pytest.skip(f"at {server.name}: " + "; ".join(list(reasons)[:3]))
    return results


def _path_of_scenario(name: str | Path, beside: Path) -> Path:
    """Where a scenario, or a family of them, is that a test names."""
    __tracebackhide__ = True
    from replay.transcript.collection import PREFIX, CollectionError, path_of

    text = str(name)
    if isinstance(name, Path) or text.endswith(SUFFIX):
        return beside.parent / name
    try:
        return path_of(text if text.startswith(PREFIX) else PREFIX + text)
    except CollectionError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def smtp_replay(
    request: pytest.FixtureRequest, _smtp_server: ServerUnderTest
) -> Callable[[str | Path], ScenarioResult]:
    """Runs a transcript at the server under test: ``smtp_replay("stall.smtp")``, with the path seen
    from the test's file, or the name of one that comes with the package (``builtin:FAMILY/NAME``).

    Returns its ``ScenarioResult`` (of ``replay.verify.suite``); the test fails, with every
    difference, when the transcript does not run as it expects.
    """

    def run(path: str | Path) -> ScenarioResult:
        __tracebackhide__ = True
        from replay.transcript.collection import CollectionError, path_of

        try:
            place = request.path.parent / path_of(str(path))
        except CollectionError as error:
            pytest.fail(str(error), pytrace=False)
        return _run(_read(place, request.config), request.node, _smtp_server)

    return run
