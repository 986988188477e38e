"""Checks scenarios written in a test at a scripted server.  No test."""

from __future__ import annotations

from pathlib import Path

from scripted_server import Manners, scripted

from mailsrv.runtime.clock import SystemClock
from mailsrv.units import NS_PER_MS
from replay.play.conditions import Patience
from replay.transcript import transcript
from replay.verify.check.offer import Offer
from replay.verify.check.runner import Check, CheckOptions, CheckResult
from replay.verify.check.selection import NamedScenario

QUICK = Patience(
    reply_ns=200 * NS_PER_MS,
    timeout_ns=50 * NS_PER_MS,
    settle_ns=20 * NS_PER_MS,
    timeout_grace_ns=100 * NS_PER_MS,
    grace_ns=10 * NS_PER_MS,
)
"""Long enough for a server in a thread of this process."""
OFFER = Offer("220 mx", frozenset({"CHUNKING", "STARTTLS"}))
HEADER = '+++\nnotation = 3\nstory = "s"\n+++\n'


def named(body: str, name: str = "attack/x", header: str = HEADER) -> NamedScenario:
    """A scenario of a few lines."""
    scenario = transcript.parse(f"{header}{body.strip()}\n", "x.smtp")
    return NamedScenario(name, Path("x.smtp"), scenario)


def check(body: str, manners: Manners, options: CheckOptions | None = None) -> CheckResult:
    """The result of one scenario at a server with these manners."""
    one = named(body)
    with scripted(manners, connections=len(one.scenario.connections)) as target:
        checking = Check(target, OFFER, options or CheckOptions(patience=QUICK), SystemClock())
        (result,) = checking.results([one])
    return result
