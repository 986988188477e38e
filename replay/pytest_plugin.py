"""What pytest gets: ``.smtp`` files as tests, and fixtures for tests in virtual time.

This module is loaded into every run of everybody who has the package, so it imports nothing but
pytest and the standard library; the rest comes when it is needed.

Fixtures: ``mail_server``, ``fake_clock``, ``smtp_replay``.  Marker: ``smtp_replay``, on every
transcript.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mailsrv.clock import FakeClock
    from replay.runs import Result
    from replay.script import Scenario
    from replay.virtual_sender import VirtualServer

SUFFIX = ".smtp"
ITEM_NAME = "transcript"
LOG_LINES_SHOWN_MAX = 100


class TranscriptFailed(AssertionError):
    """A transcript did not run as it expects; the message has every difference."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"smtp_replay: a {SUFFIX} transcript, run in virtual time")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != SUFFIX:
        return None
    collector: pytest.Collector = TranscriptFile.from_parent(parent, path=file_path)
    return collector


class TranscriptFile(pytest.File):
    """One file is one test: its connections make up one scenario."""

    def collect(self) -> Iterable[pytest.Item]:
        yield TranscriptItem.from_parent(self, name=ITEM_NAME, scenario=self._scenario())

    def _scenario(self) -> Scenario:
        from replay import transcript
        from replay.world import WorldError, settings_from, world_from

        path = str(self.path)
        try:
            scenario = transcript.load(self.path)
            settings_from(scenario.server)
            world_from(scenario.world, lambda delay_ns, callback: None)
        except transcript.TranscriptError as error:
            complaint = str(error)
        except WorldError as error:
            complaint = f"{path}: {error}"
        except OSError as error:
            complaint = f"{path}: {error.strerror}"
        else:
            return scenario
        raise self.CollectError(complaint.replace(path, _shown(self.path, self.config)))


class TranscriptItem(pytest.Item):
    """Runs a transcript against the server."""

    def __init__(self, *, scenario: Scenario, **known: Any) -> None:
        super().__init__(**known)
        self._scenario = scenario
        self.add_marker("smtp_replay")

    def runtest(self) -> None:
        from replay import runs

        result = runs.run_scenario(self._scenario, self.path)
        self.user_properties += [
            ("virtual_ns", result.virtual_ns),
            ("trace_hash", result.trace_hash),
        ]
        if not result.good:
            log = "\n".join(result.log[-LOG_LINES_SHOWN_MAX:])
            self.add_report_section("call", "server log", log)
            raise TranscriptFailed(_complaint(result, _shown(self.path, self.config)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, TranscriptFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self._scenario.story


def _shown(path: Path, config: pytest.Config) -> str:
    """``path`` as people type it."""
    here = config.invocation_params.dir
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _complaint(result: Result, shown: str) -> str:
    """Every difference, each under its file and line."""
    lines = [f"{shown}: {result.story}"]
    if result.complaint:
        lines.append(f"{shown}: {result.complaint}")
    for one in result.differences:
        name = f"connection {one.connection}, " if result.sessions > 1 else ""
        lines.append(f"{shown}:{one.line}: {name}{one}" if one.line else f"{shown}: {name}{one}")
    return "\n".join(lines)


# -- fixtures -------------------------------------------------------------------------------------


@pytest.fixture
def mail_server() -> Iterator[Callable[..., VirtualServer]]:
    """Makes servers in virtual time: ``server = mail_server(idle_timeout_s=30)``.

    Takes settings by name and ``world=``; gives a ``replay.virtual_sender.VirtualServer``.  At
    the end of the test each server is shut down, and anything left then is an error.
    """
    from replay.virtual_sender import VirtualServer

    with contextlib.ExitStack() as servers:
        yield lambda **settings: servers.enter_context(VirtualServer(**settings))


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that starts at 0 and moves only by ``advance(seconds)``."""
    from mailsrv.clock import FakeClock

    return FakeClock(start=0)


@pytest.fixture
def smtp_replay(request: pytest.FixtureRequest) -> Callable[[str | Path], Result]:
    """Runs a transcript: ``smtp_replay("stall.smtp")``, with the path seen from the test's file.

    Gives its ``replay.runs.Result``; raises TranscriptFailed, with every difference, when it
    does not run as it expects.
    """
    from mailsrv.clock import SystemClock
    from replay import runs

    def run(path: str | Path) -> Result:
        __tracebackhide__ = True
        whole = request.path.parent / path
        try:
            result = runs.run_file(whole, SystemClock())
        except runs.InputError as error:
            pytest.fail(str(error), pytrace=False)
        if not result.good:
            raise TranscriptFailed(_complaint(result, _shown(whole, request.config)))
        return result

    return run
