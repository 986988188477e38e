"""Each claim of a scenario beside what a server did: whether it holds, or how it is broken.

A claim is *reached* when the departure above it has left.  What the sender did not come to says
nothing: neither that a claim holds nor that it is broken.  Where a server took an alternative that
ends the session (``then end``, ``then stop``, ``end``), what stands below *does not arise*.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from mailsrv.units import NS_PER_S
from replay.play.conditions import Patience
from replay.play.observed import ObservedConnection
from replay.smtp.replies import ReceivedReply
from replay.transcript.claims.claim import (
    Accepts,
    Alternative,
    Bound,
    Claim,
    ContentHas,
    Ends,
    RepliesAsExpected,
    RepliesNoMore,
    RepliesWith,
    ShakesHands,
    StaysOpen,
    Strength,
    Then,
    fits,
)
from replay.transcript.duration import format_ns
from replay.transcript.octets import to_text
from replay.transcript.script import Scenario, ScriptedConnection, expected_code
from replay.verify.check.acceptance import messages_accepted
from replay.verify.check.profile import Profile
from replay.verify.check.progress import Progress

SHOWN_MAX_CHARACTERS = 300
"""Of one reply."""


class Finding(Enum):
    """What became of a claim."""

    HOLDS = "holds"
    BROKEN = "broken"
    NOT_REACHED = "not reached"
    DOES_NOT_ARISE = "does not arise"
    NOT_SEEN = "not seen"
    """It is about contents, and these could not be looked at."""


class How(Enum):
    """In which way a claim is broken."""

    STRICTER = "stricter"
    """What should be taken is refused."""
    LAXER = "laxer"
    """What should be refused is taken."""
    OTHER_CODE = "other code"
    """Taken or refused as it should be, but with a code that is not listed."""
    HANG = "hang"
    """Nothing came, and the connection stayed open."""
    CLOSE = "close"
    """The connection ended."""
    TOO_LATE = "too late"
    TOO_EARLY = "too early"
    ONE_TOO_MANY = "one too many"
    """A reply that nothing asked for."""
    STAYS_OPEN = "stays open"
    HANDSHAKE = "handshake"
    CONTENT = "content"


class Judged(NamedTuple):
    """A finding; how a broken claim is broken, and what was observed, in words."""

    finding: Finding
    how: How | None = None
    observed: str = ""


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What became of ``claim``; ``connection`` is "" for one about all of them."""

    claim: Claim
    connection: str
    finding: Finding
    how: How | None = None
    observed: str = ""


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """What a run of a scenario showed.

    ``lasted_ns`` is how long it was looked at.  ``contents`` are those of the messages that were
    delivered, as far as they can be seen: None for not at all.  ``profile`` says what the server
    may do of right, ``patience`` what its own timeout is and what instants may be off.
    """

    connections: Sequence[ObservedConnection]
    lasted_ns: int
    contents: Sequence[bytes] | None = None
    profile: Profile = field(default_factory=Profile)
    patience: Patience = field(default_factory=Patience)


def judge_claims(scenario: Scenario, run: CheckedRun) -> list[ClaimResult]:
    """The result of each claim but those that demand nothing (MAY), in the order of the text."""
    results: list[ClaimResult] = []
    progress: list[Progress] = []
    for connection, observed in zip(scenario.connections, run.connections, strict=True):
        judge = _ConnectionJudge(connection, observed, run)
        progress.append(judge.progress)
        results += [
            ClaimResult(claim, connection.name, *judge.judged(claim))
            for claim in connection.claims
            if claim.strength is not Strength.MAY
        ]
    if scenario.claims:
        accepted = messages_accepted(scenario, run.connections, None)
        results += [
            ClaimResult(claim, "", *_of_scenario(claim, run, progress, accepted))
            for claim in scenario.claims
        ]
    return sorted(results, key=lambda one: one.claim.line)


class _ConnectionJudge:
    """Judges the claims of one connection."""

    def __init__(
        self, connection: ScriptedConnection, observed: ObservedConnection, run: CheckedRun
    ) -> None:
        self._observed = observed
        self._run = run
        self._excuse = run.profile.excuse(observed)
        self.progress = Progress(connection, observed)
        self._places = self.progress.places

    def judged(self, claim: Claim) -> Judged:
        judged = self._judged(claim)
        ended = judged.how is How.CLOSE or judged.observed == self._last_reply()
        if judged.finding is Finding.BROKEN and self._excuse and ended:
            return Judged(Finding.NOT_REACHED, None, self._excuse)
        return judged

    def _last_reply(self) -> str:
        replies = self._observed.replies
        return shown(replies[-1]) if replies else ""

    def _judged(self, claim: Claim) -> Judged:
        if self.progress.does_not_arise(claim):
            return Judged(Finding.DOES_NOT_ARISE)
        match claim.statement:
            case RepliesNoMore():
                return self._no_reply(claim)
            case RepliesAsExpected():
                return self._as_expected()
        departed_ns = self._observed.departed_ns[self._places.departure_number(claim)]
        if departed_ns is None:
            return Judged(Finding.NOT_REACHED)
        match claim.statement:
            case RepliesWith(alternatives, within):
                number = self._places.reply_number(claim)
                return self._reply(alternatives, within, number, departed_ns)
            case Ends(within):
                return self._ends(within, departed_ns)
            case StaysOpen(within):
                return self._stays_open(claim, within, departed_ns)
            case ShakesHands(refused):
                return self._handshake("refused" if refused else "done")
        raise TypeError(claim.statement)

    # -- replies ----------------------------------------------------------------------------------

    def _reply(
        self,
        alternatives: Sequence[Alternative],
        within: Bound | None,
        number: int,
        departed_ns: int,
    ) -> Judged:
        observed = self._observed
        if number > len(observed.replies):
            if not observed.end and self.progress.has_left_by_itself():
                return Judged(Finding.NOT_REACHED)
            if not observed.end:
                return Judged(Finding.BROKEN, How.HANG, "nothing came")
            if any(not one.codes for one in alternatives):
                return Judged(Finding.HOLDS)
            return Judged(Finding.BROKEN, How.CLOSE, f"the connection ended ({observed.end})")
        reply = observed.replies[number - 1]
        taken = alternative_of(alternatives, reply.code)
        if taken is None:
            how = how_other(reply.code, [code for one in alternatives for code in one.codes])
            return Judged(Finding.BROKEN, how, shown(reply))
        if taken.then is Then.END and not observed.end:
            return Judged(Finding.BROKEN, How.STAYS_OPEN, f"{shown(reply)}, and stays open")
        if within is not None and reply.at_ns - departed_ns > self._at_most_ns(within):
            took = format_ns(reply.at_ns - departed_ns)
            return Judged(Finding.BROKEN, How.TOO_LATE, f"{shown(reply)}, after {took}")
        return Judged(Finding.HOLDS)

    def _as_expected(self) -> Judged:
        """The first reply that is not as expected, and has no claim of its own."""
        observed, not_reached = self._observed, False
        for number, expected, above in self.progress.expected_replies():
            if number in self.progress.claimed or self.progress.is_below_end(number):
                continue
            if observed.departed_ns[above] is None:
                not_reached = True
                continue
            if number > len(observed.replies) and self.progress.has_left_by_itself():
                continue
            if number > len(observed.replies):
                how = How.CLOSE if observed.end else How.HANG
                return Judged(Finding.BROKEN, how, f"nothing came for reply {number}")
            reply = observed.replies[number - 1]
            code = expected_code(expected.outcome)
            if code and reply.code // 100 != code // 100:
                how = how_other(reply.code, [str(code)])
                return Judged(Finding.BROKEN, how, shown(reply))
        return Judged(Finding.NOT_REACHED if not_reached else Finding.HOLDS)

    def _no_reply(self, claim: Claim) -> Judged:
        number = self._places.reply_number(claim)
        next_ns = self._next_departed_ns(claim)
        replies = [one for one in self._observed.replies if next_ns is None or one.at_ns < next_ns]
        if len(replies) > number:
            return Judged(Finding.BROKEN, How.ONE_TOO_MANY, shown(replies[number]))
        return Judged(Finding.HOLDS if self.progress.came_to(claim) else Finding.NOT_REACHED)

    # -- ends -------------------------------------------------------------------------------------

    def _ends(self, within: Bound | None, departed_ns: int) -> Judged:
        observed = self._observed
        if not observed.end:
            waited_ns = self._run.lasted_ns - departed_ns
            if within is not None and waited_ns < self._at_most_ns(within):
                return Judged(Finding.NOT_REACHED)
            waited = format_ns(waited_ns // NS_PER_S * NS_PER_S)
            return Judged(Finding.BROKEN, How.STAYS_OPEN, f"still open after {waited}")
        took_ns = observed.end_at_ns - departed_ns
        if within is not None and took_ns > self._at_most_ns(within):
            return Judged(Finding.BROKEN, How.TOO_LATE, f"ended after {format_ns(took_ns)}")
        return Judged(Finding.HOLDS)

    def _stays_open(self, claim: Claim, within: Bound | None, departed_ns: int) -> Judged:
        observed, until_ns = self._observed, self._next_departed_ns(claim)
        if within is not None:
            until_ns = departed_ns + self._run.patience.at_least_ns(within)
        if observed.end and (until_ns is None or observed.end_at_ns < until_ns):
            took_ns = max(observed.end_at_ns - departed_ns, 0)  # the sender may not have noticed
            ended = f"ended ({observed.end}) after {format_ns(took_ns)}"
            return Judged(Finding.BROKEN, How.CLOSE, ended)
        if within is not None and not observed.end and self._run.lasted_ns < (until_ns or 0):
            return Judged(Finding.NOT_REACHED)
        return Judged(Finding.HOLDS)

    def _handshake(self, wanted: str) -> Judged:
        handshake = self._observed.handshake
        if handshake == wanted:
            return Judged(Finding.HOLDS)
        if not handshake:
            how = How.CLOSE if self._observed.end else How.HANG
            return Judged(Finding.BROKEN, how, "no handshake came about")
        return Judged(Finding.BROKEN, How.HANDSHAKE, f"the handshake was {handshake}")

    # -- times ------------------------------------------------------------------------------------

    def _next_departed_ns(self, claim: Claim) -> int | None:
        """When the departure below ``claim`` left; None if there is none, or it did not."""
        number = self._places.departure_number(claim) + 1
        departed_ns = self._observed.departed_ns
        return departed_ns[number] if number < len(departed_ns) else None

    def _at_most_ns(self, bound: Bound) -> int:
        return self._run.patience.at_most_ns(bound)


def _of_scenario(
    claim: Claim, run: CheckedRun, progress: Sequence[Progress], accepted: int
) -> Judged:
    """``accepted``: so many messages, by the replies."""
    unfinished = any(one.is_cut_short for one in progress)
    match claim.statement:
        case Accepts(least, most):
            count = max(accepted, len(run.contents or ()))
            if most is not None and count > most:
                return Judged(Finding.BROKEN, How.LAXER, f"{count} were accepted")
            if unfinished and (count < least or most is not None):
                return Judged(Finding.NOT_REACHED)
            if count < least and any(one.is_ended_by_alternative for one in progress):
                return Judged(Finding.DOES_NOT_ARISE)
            if count < least:
                return Judged(Finding.BROKEN, How.STRICTER, f"{count} were accepted")
        case ContentHas(octets, lacks):
            if run.contents is None:
                return Judged(Finding.NOT_SEEN)
            found = any(octets in content for content in run.contents)
            if lacks and found:
                return Judged(Finding.BROKEN, How.CONTENT, "they stand in what was delivered")
            if not found and unfinished:
                return Judged(Finding.NOT_REACHED)
            if not found and accepted > len(run.contents):
                late = f"of {accepted} accepted messages {len(run.contents)} were delivered in time"
                return Judged(Finding.NOT_REACHED, None, late)
            if not lacks and not run.contents:
                return Judged(Finding.DOES_NOT_ARISE)
            if not lacks and not found:
                contents = ", ".join(to_text(one)[:SHOWN_MAX_CHARACTERS] for one in run.contents)
                return Judged(Finding.BROKEN, How.CONTENT, contents)
    return Judged(Finding.HOLDS)


def alternative_of(alternatives: Sequence[Alternative], code: int) -> Alternative | None:
    """The first of ``alternatives`` that a reply's code is one of."""
    for one in alternatives:
        if any(fits(code, pattern) for pattern in one.codes):
            return one
    return None


def how_other(code: int, wanted: Sequence[str]) -> How:
    """In which way ``code`` is none of those that are wanted."""
    is_refusal = code >= 400
    refusals = [pattern[0] in "45" for pattern in wanted]
    if is_refusal in refusals or not refusals:
        return How.OTHER_CODE
    return How.STRICTER if is_refusal else How.LAXER


def shown(reply: ReceivedReply) -> str:
    """A reply as a person reads it."""
    text = to_text(reply.octets.removesuffix(b"\r\n"))
    return text if len(text) <= SHOWN_MAX_CHARACTERS else text[: SHOWN_MAX_CHARACTERS - 1] + "…"


def broken(results: Sequence[ClaimResult]) -> Iterator[ClaimResult]:
    """The claims that do not hold."""
    return (one for one in results if one.finding is Finding.BROKEN)
