"""The pytest plugin: ``.smtp`` files as tests, and fixtures for tests in virtual time.

This module is loaded into every pytest run where the package is installed, with ``pytest_items``
alone, so both import nothing but pytest and the standard library; the rest is imported when it is
needed.

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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from replay import pytest_items
from replay.pytest_items import (
    CHECKED,
    DEPARTS,
    NO_TARGET,
    PLAYED_AT,
    SUFFIX,
    TranscriptFile,
    TranscriptItem,
    shown_path,
)

if TYPE_CHECKING:
    from mailsrv.runtime.clock import FakeClock
    from replay.play.virtual_run import VirtualDriver
    from replay.testing.sender import Sender
    from replay.testing.virtual_server import VirtualServer
    from replay.verify.check.runner import CheckResult
    from replay.verify.server_under_test import ServerUnderTest
    from replay.verify.suite import ScenarioResult

CREATE, FIX = "create", "fix"
UPDATES = {"": (CREATE, FIX), "=create": (CREATE,), "=fix": (FIX,)}
UPDATES |= {"=create,fix": (CREATE, FIX), "=fix,create": (CREATE, FIX)}
"""What may stand behind --smtp-replay-update; behind a space would stand a path."""
_SERVERS: pytest.StashKey[list[VirtualServer]] = pytest.StashKey()
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
        shown_path(path, config) + f": {why}" for path, why in find_unused(places)
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
        pytest_items.show_log(item, call.when, f"server{which} log", server.log)
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
        return pytest_items.check(
            paths, request.node, _smtp_server, smtp_delivered, should, introduced
        )

    return check


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
        read = pytest_items.read(place, request.config)
        return pytest_items.run(read, request.node, _smtp_server)

    return run
