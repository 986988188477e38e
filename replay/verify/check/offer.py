"""What a server offers: asked once before anything else, so that a server which is none is told."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mailsrv.runtime.clock import Clock
from replay.play import realtime
from replay.play.observed import ObservedConnection
from replay.play.realtime_player import RealtimeOptions
from replay.play.target import Target, TargetError
from replay.smtp.replies import ReceivedReply
from replay.transcript.claims.claim import Alternative, Claim, RepliesWith, Strength
from replay.transcript.claims.places import all_claims
from replay.transcript.script import (
    AfterArrival,
    At,
    Close,
    Departure,
    Expectation,
    Open,
    ReplyCode,
    Scenario,
    ScriptedConnection,
    SendOctets,
    Step,
)
from replay.verify.check.claims import shown
from replay.verify.check.prepared import (
    IMPLICIT,
    STARTTLS,
    Introduction,
    prepare,
    speaks_tls,
)

_CLIENT = "192.0.2.10"
_COMMANDS = (
    b"MAIL FROM:<a@example.org>\r\n",
    b"RCPT TO:<b@example.test>\r\n",
    b"QUIT\r\n",
)


@dataclass(frozen=True, slots=True)
class Offer:
    """``keywords`` are those of the last reply to EHLO; ``doubt`` says that the recipient or the
    sender is refused, so that few scenarios will come far."""

    greeting: str
    keywords: frozenset[str]
    doubt: str = ""


def ask(
    target: Target, options: RealtimeOptions, introduction: Introduction, clock: Clock
) -> Offer:
    """What the server at ``target`` offers.  Raises TargetError where it is no SMTP server, greets
    with a refusal, or refuses TLS or the credentials."""
    scenario = prepare(hello_scenario(), introduction)
    run = realtime.play(scenario, target, options, clock)
    if run.unreachable:
        raise TargetError(f"cannot connect to {target.name}: {run.unreachable}")
    (seen,) = run.connections
    return offer_of(seen, target.name, introduction)


def offer_of(seen: ObservedConnection, name: str, introduction: Introduction) -> Offer:
    """What the server called ``name`` offers, as ``hello_scenario`` showed.  Raises TargetError as
    ``ask`` does."""
    if introduction.tls and seen.handshake != "done" and (seen.handshake or not seen.replies):
        raise TargetError(f"{name}: the TLS handshake failed")
    if not seen.replies:
        silence = _cut(seen.rest) if seen.rest else "nothing"
        ended = ", and closed the connection" if seen.end else ""
        raise TargetError(f"{name} is no SMTP server: its greeting was {silence}{ended}")
    greeting, *replies = seen.replies
    if not greeting.code:
        raise TargetError(f"{name} is no SMTP server: it began with {shown(greeting)}")
    if greeting.code != 220:
        raise TargetError(f"{name} takes no mail: it greets with {shown(greeting)}")
    hello = _last_hello(replies)
    if hello is None:
        last = shown(replies[-1]) if replies else "nothing"
        raise TargetError(f"{name}: EHLO was answered {last}")
    keywords = _keywords(hello)
    if introduction.tls == STARTTLS and seen.handshake != "done":
        refused = next((one for one in replies if one.code >= 400), None)
        answer = f"was answered {shown(refused)}" if refused else "led to no handshake"
        raise TargetError(f"{name} does not begin TLS: STARTTLS {answer}")
    behind = replies[replies.index(hello) + 1 :]
    return Offer(shown(greeting), keywords, _doubt(introduction, name, behind))


def hello_scenario() -> Scenario:
    """EHLO, MAIL, RCPT, QUIT."""
    steps: list[Step] = [Departure(At(0), Open(_CLIENT)), Expectation(ReplyCode(220))]
    for octets in (b"EHLO client.example\r\n", *_COMMANDS):
        steps += [Departure(AfterArrival(0), SendOctets(octets)), Expectation(ReplyCode(250))]
    steps[-1] = Expectation(ReplyCode(221))
    steps.append(Departure(AfterArrival(0), Close()))
    any_positive = RepliesWith((Alternative(("2yz", "3yz")),))
    claim = Claim(Strength.MAY, (), any_positive, after=2)
    connection = ScriptedConnection("1", tuple(steps), (claim,))
    return Scenario("What does the server offer?", (connection,))


def _last_hello(replies: list[ReceivedReply]) -> ReceivedReply | None:
    """The last reply to EHLO: the one before that of MAIL, or of whatever was refused before."""
    hellos = [one for one in replies if one.code == 250 and one.octets[:4] == b"250-"]
    if hellos:
        return hellos[-1]
    return next((one for one in replies if one.code == 250), None)


def _keywords(hello: ReceivedReply) -> frozenset[str]:
    lines = hello.octets.decode("ascii", "replace").upper().splitlines()[1:]
    return frozenset(line[4:].split(" ")[0].strip() for line in lines)


def _doubt(introduction: Introduction, name: str, replies: list[ReceivedReply]) -> str:
    """What of the introduction is refused.  Raises TargetError for credentials."""
    refused = next((one for one in replies if one.code >= 400), None)
    if refused is None:
        return ""
    before = replies.index(refused)
    if introduction.user and not any(one.code == 235 for one in replies):
        raise TargetError(f"{name} refuses the credentials: {shown(refused)}")
    steps = before - sum(one.code in (235, 334) for one in replies[:before])
    if steps == 0:
        sender = introduction.sender or "a@example.org"
        return f"MAIL FROM:<{sender}> is refused: {shown(refused)}; --sender names another"
    if steps == 1:
        recipient = introduction.recipient or "b@example.test"
        return f"RCPT TO:<{recipient}> is refused: {shown(refused)}; --recipient names another"
    return ""


def _cut(octets: bytes) -> str:
    return shown(ReceivedReply(0, octets[:200]))


def does_not_apply(scenario: Scenario, offer: Offer, introduction: Introduction) -> str:
    """Why the claims of ``scenario`` say nothing about the server; empty if they do."""
    if not any(all_claims(scenario)):
        return "it makes no claim on any other server than mailsrv"
    missing = [keyword for keyword in scenario.needs if keyword not in offer.keywords]
    if missing:
        return f"EHLO does not offer {', '.join(missing)}"
    if scenario.world.get("tls") == "implicit":
        if introduction.tls != IMPLICIT:
            return "it speaks TLS from the first octet on, and the target does not (--tls implicit)"
        return ""
    if speaks_tls(scenario) or scenario.world.get("tls") is True:
        if introduction.tls:
            return "it begins TLS itself, and the target's is on already (--tls)"
        if "STARTTLS" not in offer.keywords:
            return "EHLO does not offer STARTTLS"
    return ""


def introduction_for(scenario: Scenario, introduction: Introduction) -> Introduction:
    """The introduction for one scenario: one that shakes hands by itself needs no help."""
    return replace(introduction, tls="") if speaks_tls(scenario) else introduction
