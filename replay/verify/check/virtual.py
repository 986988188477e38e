"""A scenario checked at a server in virtual time, which is started anew for each."""

from __future__ import annotations

from collections.abc import Callable

from replay.play.conditions import Patience
from replay.play.virtual_run import VirtualRun, play_at
from replay.play.virtual_time import Harness
from replay.transcript.script import Scenario
from replay.verify.check.acceptance import messages_accepted
from replay.verify.check.claims import CheckedRun
from replay.verify.check.delivered import Mailbox
from replay.verify.check.offer import (
    Offer,
    does_not_apply,
    hello_scenario,
    introduction_for,
    offer_of,
)
from replay.verify.check.prepared import Introduction, NotPreparedError, prepare
from replay.verify.check.runner import CheckResult
from replay.verify.check.selection import NamedScenario
from replay.verify.check.verdict import Judgement, Verdict, judge

EXACT = Patience(grace_ns=0)
"""In virtual time no clock is off."""

Begin = Callable[[], Harness]
"""Starts the server anew."""


class VirtualCheck:
    """Checks at the server that ``begin`` starts and that is called ``name``.

    ``mailbox`` shows what it delivered, if that can be seen.  What the harness raises passes
    through; TargetError comes of a server that is no SMTP server.
    """

    def __init__(
        self,
        begin: Begin,
        name: str,
        introduction: Introduction | None = None,
        mailbox: Mailbox | None = None,
        patience: Patience = EXACT,
    ) -> None:
        self._begin = begin
        self._introduction = introduction or Introduction()
        self._mailbox = mailbox
        self._patience = patience
        (seen,) = self._play_at(prepare(hello_scenario(), self._introduction)).connections
        self.offer: Offer = offer_of(seen, name, self._introduction)

    def _play_at(self, scenario: Scenario) -> VirtualRun:
        return play_at(self._begin(), scenario, by_claims=self._patience)

    def check(self, one: NamedScenario) -> CheckResult:
        """Play a scenario, and judge it by its claims."""
        if reason := does_not_apply(one.scenario, self.offer, self._introduction):
            return CheckResult(one, Judgement(Verdict.DOES_NOT_APPLY, reason))
        try:
            scenario = prepare(one.scenario, introduction_for(one.scenario, self._introduction))
        except NotPreparedError as error:
            return CheckResult(one, Judgement(Verdict.DOES_NOT_APPLY, str(error)))
        if self._mailbox is not None:
            list(self._mailbox.look())  # those of before
        run = self._play_at(scenario)
        contents = None if self._mailbox is None else list(self._mailbox.look())
        checked = CheckedRun(run.connections, run.virtual_ns, contents, patience=self._patience)
        return CheckResult(
            one,
            judge(scenario, checked),
            scenario=scenario,
            observed=run.connections,
            accepted=messages_accepted(scenario, run.connections, None),
            delivered=None if contents is None else len(contents),
        )
