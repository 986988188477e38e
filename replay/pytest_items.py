"""Tests at the server under test: a transcript is one by itself, and others play or check some.

Loaded with ``pytest_plugin``, and so under its rule: it imports nothing but pytest and the standard
library; the rest is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from replay.verify.check.runner import CheckResult
    from replay.verify.server_under_test import ServerUnderTest
    from replay.verify.suite import ReadTranscript, ScenarioResult

SUFFIX = ".smtp"
ITEM_NAME = "transcript"
LOG_LINES_SHOWN_MAX = 100
NO_TARGET = (
    "no server to play this at: override the fixture smtp_target in conftest.py, or give "
    '--smtp-target HOST:PORT (in the configuration: smtp_target = ...); "mailsrv" names the '
    "server that comes with this plugin"
)
PLAYED_AT = "smtp_server"
"""The property of a report that names the server under test."""
CHECKED, DEPARTS = "smtp_check", ": departs"
"""The property that tells a verdict, and the end of one that fails no test by itself."""


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
        transcript = read(self.path, self.config)
        if is_for_any_server(transcript.scenario):
            request = cast(pytest.FixtureRequest, self.funcargs["request"])
            check([self.path], self, server, request.getfixturevalue("smtp_delivered"))
            return
        result = run(transcript, self, server)
        self.user_properties += [
            ("virtual_ns", result.virtual_ns),
            ("trace_hash", result.trace_hash),
        ]

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{ITEM_NAME} {shown_path(self.path, self.config)}"


def read(path: Path, config: pytest.Config) -> ReadTranscript:
    """The transcript at ``path``; the test fails if it cannot be used."""
    __tracebackhide__ = True
    from replay.verify.suite import InputError, read_transcript

    try:
        return read_transcript(path)
    except InputError as error:
        complaint = str(error).replace(str(path), shown_path(path, config))
    pytest.fail(complaint, pytrace=False)


def run(read: ReadTranscript, item: pytest.Item, server: ServerUnderTest) -> ScenarioResult:
    """Run a transcript for ``item``, which fails if it does not hold."""
    __tracebackhide__ = True
    from mailsrv.runtime.clock import SystemClock
    from replay.play.target import TargetError
    from replay.report.complaint import of_transcript
    from replay.verify import suite
    from replay.verify.server_under_test import LeftOut, NoTarget

    shown = shown_path(read.path, item.config)
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
            show_log(item, "call", "server log", result.log)
        complaint = of_transcript(result, shown, server.name)
    pytest.fail(complaint, pytrace=False)


def show_log(item: pytest.Item, when: str, title: str, lines: Sequence[str]) -> None:
    """The last lines of a server's log, in the report of ``item``."""
    item.add_report_section(when, title, "\n".join(lines[-LOG_LINES_SHOWN_MAX:]))


def shown_path(path: Path, config: pytest.Config) -> str:
    """``path`` as people type it."""
    here = config.invocation_params.dir
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def check(
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
