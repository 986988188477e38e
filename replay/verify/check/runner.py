"""Plays scenarios at a server side by side, and judges each as it ends.

Scenarios that wait for a server's timeouts are begun first, all in one batch, and do not count as
jobs: they send nothing.  Clients of a server on loopback have addresses of 127/8, another network
for each scenario, so that limits for one client do not disturb.  Where a server takes no more
connections (a greeting of 4yz, or an end without a word), fewer are played at a time, and the
scenario is tried again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from mailsrv.runtime.clock import Clock
from mailsrv.units import NS_PER_MS, NS_PER_S
from replay.play import realtime
from replay.play.conditions import Conditions, Patience
from replay.play.observed import ObservedConnection
from replay.play.realtime import RealRun, RealtimeRun, SideBySide
from replay.play.realtime_player import RealtimeOptions
from replay.play.target import Target
from replay.transcript.duration import DURATION_NS_MAX
from replay.transcript.script import At, Close, Departure, Open, Scenario, ScriptedConnection
from replay.verify.check import duration
from replay.verify.check.acceptance import messages_accepted
from replay.verify.check.claims import CheckedRun
from replay.verify.check.delivered import Delivered, mark_of
from replay.verify.check.duration import Plan, side_by_side_ns
from replay.verify.check.offer import Offer, does_not_apply, introduction_for
from replay.verify.check.prepared import (
    Introduction,
    NotPreparedError,
    prepare,
    with_clients,
)
from replay.verify.check.profile import Profile
from replay.verify.check.recut import recut
from replay.verify.check.selection import NamedScenario
from replay.verify.check.verdict import Judgement, Verdict, judge

JOBS_DEFAULT = 20
LONG_NS = 30 * NS_PER_S
"""A scenario that may wait for longer is one of the batch of timeouts."""
LONG_AT_ONCE_MAX = 60
"""Of these, at one time: many servers have a hundred processes and no more."""
TRIES_MAX = 4
SILENT_MAX = 5
"""So many scenarios in a row without a greeting, and the server is taken for gone."""
DELIVERY_NS = 10 * NS_PER_S
"""How long after the end of a scenario its messages are waited for."""
SURPLUS_NS = NS_PER_S
"""How long after it one is waited for that nobody was told of."""
REPLIES_KEPT_MAX = 1000
"""Of one connection, for reports."""
LOOK_EVERY_NS = 500 * NS_PER_MS
PAUSES_NS = (0, NS_PER_S, 3 * NS_PER_S)
"""When each of the last tries to reach a target that is gone is made."""
_NETWORKS = 250


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How to check.  ``run`` is eight hexadecimal digits of this run's own, for marks."""

    introduction: Introduction = field(default_factory=Introduction)
    patience: Patience = field(default_factory=Patience)
    playing: RealtimeOptions = field(default_factory=RealtimeOptions)
    profile: Profile = field(default_factory=Profile)
    jobs: int = JOBS_DEFAULT
    longest_ns: int = DURATION_NS_MAX
    delivery_ns: int = DELIVERY_NS
    run: str = "00000000"

    @property
    def how(self) -> RealtimeOptions:
        return replace(self.playing, by_claims=self.patience)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came of one scenario.  ``scenario`` is what was played, None where it was not;
    ``accepted`` is how many messages were accepted by the replies, ``delivered`` how many were
    seen, None where nothing can be seen."""

    named: NamedScenario
    judgement: Judgement
    real_ns: int = 0
    scenario: Scenario | None = None
    observed: tuple[ObservedConnection, ...] = ()
    accepted: int = 0
    delivered: int | None = None

    @property
    def name(self) -> str:
        return self.named.name

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict


@dataclass(slots=True)
class _Job:
    """A scenario to play."""

    named: NamedScenario
    scenario: Scenario
    mark: str
    is_long: bool
    longest_ns: int
    tries: int = 0


@dataclass(slots=True)
class _Done:
    """A run that is over: from ``early_ns`` on it is judged if as many messages as were accepted
    have come, and at ``due_ns`` whatever has come."""

    job: _Job
    run: RealRun
    early_ns: int
    due_ns: int


class Check:
    """One check of the server at ``target``: ``results`` yields, ``ended`` says why it ended before
    its time, ``not_played`` counts what was left, ``variants`` those with octets cut otherwise."""

    def __init__(
        self,
        target: Target,
        offer: Offer,
        options: CheckOptions,
        clock: Clock,
        delivered: Delivered | None = None,
        pauses_ns: Sequence[int] = PAUSES_NS,
    ) -> None:
        self.target = target
        self.offer = offer
        self.options = options
        self.ended = ""
        self.not_played = 0
        self.variants = 0
        self._clock = clock
        self._delivered = delivered
        self._pauses_ns = pauses_ns
        self._jobs_max = options.jobs
        self._waiting: deque[_Job] = deque()
        self._playing: dict[int, _Job] = {}
        self._done: list[_Done] = []
        self._look_ns = 0
        self._silent = self._number = 0

    def results(
        self, scenarios: Iterable[NamedScenario], told: Callable[[Plan], None] = lambda _: None
    ) -> Iterator[CheckResult]:
        """Play all of ``scenarios``; what does not apply comes first, and then what is to be played
        is ``told``.  Raises DeliveredError."""
        jobs = []
        for one in scenarios:
            job, reason = self._job(one)
            if job is None:
                yield CheckResult(one, Judgement(Verdict.DOES_NOT_APPLY, reason))
            else:
                jobs.append(job)
        jobs.sort(key=lambda job: not job.is_long)
        if jobs:
            told(self._plan(jobs))
        yield from self._play(jobs)

    def recut_results(
        self, results: Iterable[CheckResult], told: Callable[[Plan], None] = lambda _: None
    ) -> Iterator[CheckResult]:
        """Play what holds again, each send cut in other ways: a result for each variant; how much
        that is is ``told`` first.  Raises DeliveredError."""
        jobs: list[_Job] = []
        for result in results:
            if result.verdict is Verdict.HOLDS and not self.ended:
                jobs += self._recut(result.named)
        if jobs:
            told(self._plan(jobs))
        yield from self._play(jobs)

    def _recut(self, one: NamedScenario) -> Iterator[_Job]:
        """A job for each variant, with a mark of its own."""
        place = 0
        while (job := self._job(one)[0]) is not None and not job.is_long:
            variants = list(recut(replace(one, scenario=job.scenario)))
            if place >= len(variants):
                return
            job.named = variants[place]
            job.scenario = job.named.scenario
            yield job
            place += 1

    def _play(self, jobs: Iterable[_Job]) -> Iterator[CheckResult]:
        self._waiting.extend(jobs)
        with SideBySide(self.target, self.options.how, self._clock) as loop:
            while (self._waiting and not self.ended) or self._playing or self._done:
                self._begin(loop)
                for run in loop.turn(self._look_ns if self._done else None):
                    self._take(run)
                yield from self._judged()
            self.not_played = len(self._waiting)

    def _plan(self, jobs: Sequence[_Job]) -> Plan:
        """What is told before it begins."""
        lanes = [jobs]  # each of which is played beside the others
        if self.options.jobs > 1:
            lanes = [[one for one in jobs if one.is_long is which] for which in (True, False)]
        longest_ns = max(
            side_by_side_ns([one.longest_ns for one in lane], self._at_once(is_long=place == 0))
            for place, lane in enumerate(lanes)
        )
        if self._delivered:
            longest_ns += self.options.delivery_ns
        return Plan(len(jobs), self.options.jobs, longest_ns)

    def _at_once(self, *, is_long: bool) -> int:
        """How many of a kind may be played at a time."""
        return LONG_AT_ONCE_MAX if is_long and self._jobs_max > 1 else self._jobs_max

    def _job(self, one: NamedScenario) -> tuple[_Job | None, str]:
        introduction = introduction_for(one.scenario, self.options.introduction)
        if reason := does_not_apply(one.scenario, self.offer, self.options.introduction):
            return None, reason
        self._number += 1
        number = self._number
        mark = mark_of(self.options.run, number) if self._delivered else ""
        try:
            scenario = prepare(one.scenario, introduction, mark)
        except NotPreparedError as error:
            return None, str(error)
        if self.target.on_loopback and not self.options.playing.proxy:
            scenario = with_clients(
                scenario, f"127.{100 + number // _NETWORKS % 100}.{1 + number % _NETWORKS}"
            )
        patience = self.options.patience
        longest_ns = max(Conditions(one, patience).longest_wait_ns for one in scenario.connections)
        if longest_ns > self.options.longest_ns:
            return None, "it takes longer than is allowed (--longest)"
        is_long = longest_ns > LONG_NS
        return _Job(one, scenario, mark, is_long, duration.longest_ns(scenario, patience)), ""

    # -- playing ----------------------------------------------------------------------------------

    def _begin(self, loop: SideBySide) -> None:
        """Begin as many scenarios as may be played at a time."""
        while self._waiting and not self.ended:
            job = self._waiting[0]
            beside = sum(one.is_long == job.is_long for one in self._playing.values())
            is_alone = self._jobs_max == 1
            if beside >= self._at_once(is_long=job.is_long) or (is_alone and self._playing):
                return
            self._waiting.popleft()
            job.tries += 1
            self._playing[id(loop.begin(job.scenario))] = job

    def _take(self, run: RealtimeRun) -> None:
        """A run is over: to be judged, to be tried again, or the last of all."""
        job, result = self._playing.pop(id(run)), run.result()
        if result.unreachable:
            self._retry_or_end(job)
            return
        replies = [reply for seen in result.connections for reply in seen.replies[:1]]
        is_busy = any(400 <= reply.code < 500 for reply in replies)
        if self._playing and not replies:  # without a word, while others are served
            is_busy = any(seen.end for seen in result.connections)
        if is_busy and job.tries < TRIES_MAX and not self.ended and self._expects_220(job):
            self._jobs_max = max(1, self._jobs_max // 2)
            self._waiting.append(job)
            return
        self._silent = self._silent + 1 if not replies else 0
        if self._silent >= SILENT_MAX and self._silent >= len(self._playing):
            self.ended = f"{self.target.name} does not greet any more"
        now_ns = self._clock.monotonic_ns()
        if not self._done:
            self._look_ns = now_ns
        wait_ns = self.options.delivery_ns if self._delivered else 0
        self._done.append(_Done(job, result, now_ns + min(SURPLUS_NS, wait_ns), now_ns + wait_ns))

    @staticmethod
    def _expects_220(job: _Job) -> bool:
        """Whether a refusal at the greeting says nothing about the scenario."""
        return not any(
            claim.after <= 2 for each in job.scenario.connections for claim in each.claims
        )

    def _retry_or_end(self, job: _Job) -> None:
        """The target could not be reached: it is restarting, or gone for good."""
        if not self.ended:
            scenario = _knocks(self._pauses_ns)
            seen = realtime.play(scenario, self.target, self.options.how, self._clock)
            if seen.unreachable or job.tries >= TRIES_MAX:
                names = [one.named.name for one in (job, *self._playing.values())]
                beside = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
                reason = seen.unreachable or "it takes no connection"
                self.ended = f"{self.target.name} is gone ({reason}), while playing {beside}"
        self._waiting.append(job)

    # -- judging ----------------------------------------------------------------------------------

    def _judged(self) -> Iterator[CheckResult]:
        """The results of those runs whose messages have been waited for."""
        now_ns = self._clock.monotonic_ns()
        if not self._done or now_ns < self._look_ns:
            return
        if self._delivered:
            self._delivered.look()
        for done in self._done.copy():
            if self._is_complete(done, now_ns):
                self._done.remove(done)
                yield self._result(done)
        self._look_ns = self._clock.monotonic_ns() + min(LOOK_EVERY_NS, self.options.delivery_ns)

    def _is_complete(self, done: _Done, now_ns: int) -> bool:
        """Whether the messages of a run have come, or have been waited for."""
        if now_ns >= done.due_ns or self._delivered is None:
            return True
        if now_ns < done.early_ns:
            return False
        accepted = messages_accepted(done.job.scenario, done.run.connections, None)
        return len(self._delivered.contents(done.job.mark)) >= accepted

    def _result(self, done: _Done) -> CheckResult:
        job, run = done.job, done.run
        contents = self._delivered.contents(job.mark) if self._delivered else None
        checked = CheckedRun(
            run.connections,
            run.real_ns,
            contents,
            self.options.profile,
            self.options.patience,
        )
        result = CheckResult(
            job.named,
            judge(job.scenario, checked),
            run.real_ns,
            job.scenario,
            run.connections,
            messages_accepted(job.scenario, run.connections, None),
            None if contents is None else len(contents),
        )
        for one in run.connections:
            del one.replies[REPLIES_KEPT_MAX:]
        return result


def _knocks(pauses_ns: Sequence[int]) -> Scenario:
    """Some connections, one after another, and nothing said."""
    return Scenario(
        "Is anybody there?",
        tuple(
            ScriptedConnection(
                f"{number}",
                (
                    Departure(At(pause_ns), Open("127.0.0.1")),
                    Departure(At(pause_ns + NS_PER_MS), Close()),
                ),
            )
            for number, pause_ns in enumerate(pauses_ns)
        ),
    )
