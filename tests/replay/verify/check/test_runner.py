"""Scenarios side by side at one server: how many at a time, and a server that goes away."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from checking import OFFER, QUICK, named
from real_server import closed_port
from scripted_server import Manners, scripted

from mailsrv.runtime.clock import SystemClock
from mailsrv.units import NS_PER_MS
from replay.report.check import missing_messages
from replay.verify.check.delivered import Called, Delivered
from replay.verify.check.offer import Offer
from replay.verify.check.prepared import Introduction
from replay.verify.check.runner import REPLIES_KEPT_MAX, Check, CheckOptions, CheckResult
from replay.verify.check.selection import NamedScenario
from replay.verify.check.verdict import Verdict

WAITS = """
@0       open from 192.0.2.10
*        S? 220
+200ms   C: NOOP\\r\\n
*        S? 250
must     [RFC 5321 4.2] reply 2yz
reply+0  close
"""


def several(count: int, body: str = WAITS) -> list[NamedScenario]:
    return [named(body, f"attack/{number}") for number in range(count)]


def checked(scenarios: list[NamedScenario], manners: Manners, **options: object) -> Check:
    with scripted(manners, connections=len(scenarios)) as target:
        how = CheckOptions(patience=QUICK, **options)  # type: ignore[arg-type]
        check = Check(target, OFFER, how, SystemClock())
        results = list(check.results(scenarios))
    assert {one.verdict for one in results} == {Verdict.HOLDS}
    assert len(results) == len(scenarios)
    return check


def test_scenarios_take_the_time_of_the_longest_and_not_the_sum() -> None:
    clock = SystemClock()
    began_ns = clock.monotonic_ns()
    checked(several(20), Manners(), jobs=20)
    together_ns = clock.monotonic_ns() - began_ns
    assert 200 * NS_PER_MS <= together_ns < 20 * 200 * NS_PER_MS / 2


def test_no_more_are_played_at_a_time_than_jobs() -> None:
    clock = SystemClock()
    began_ns = clock.monotonic_ns()
    checked(several(4), Manners(), jobs=2)
    assert clock.monotonic_ns() - began_ns >= 2 * 200 * NS_PER_MS


@pytest.mark.parametrize("refusal", [b"421 Too many\r\n", b""])
def test_a_server_that_takes_no_more_connections_is_tried_again_with_fewer(refusal: bytes) -> None:
    manners = Manners(connections_max=3, refusal=refusal)
    scenarios = several(8, WAITS.replace("+200ms ", "reply+200ms "))
    with scripted(manners, connections=40, waits=False) as target:
        check = Check(target, OFFER, CheckOptions(patience=QUICK, jobs=8), SystemClock())
        results = list(check.results(scenarios))
    assert [one.verdict for one in results] == [Verdict.HOLDS] * 8


def test_what_does_not_apply_says_why_and_is_not_played() -> None:
    quiet = WAITS.replace("must     [RFC 5321 4.2] reply 2yz\n", "")
    needs = '+++\nnotation = 3\nstory = "s"\nneeds = ["CHUNKING", "DSN"]\n+++\n'
    secures = WAITS.replace("reply+0  close", "reply+0  starttls\n+0 close")
    implicit = '+++\nnotation = 3\nstory = "s"\n[world]\ntls = "implicit"\n+++\n'
    asked = [
        (named(quiet), Introduction(), "it makes no claim on any other server than mailsrv"),
        (named(WAITS, header=needs), Introduction(), "EHLO does not offer CHUNKING, DSN"),
        (named(secures), Introduction(), "EHLO does not offer STARTTLS"),
        (named(secures), Introduction(tls="starttls"), "it begins TLS itself, and the target's"),
        (named(secures, header=implicit), Introduction(), "it speaks TLS from the first octet on"),
    ]
    for one, introduction, reason in asked:
        with closed_port() as target:
            how = CheckOptions(introduction, QUICK)
            check = Check(target, Offer("220", frozenset()), how, SystemClock())
            (result,) = check.results([one])
        assert result.verdict is Verdict.DOES_NOT_APPLY
        assert result.judgement.reason.startswith(reason)


def test_a_target_that_goes_away_ends_the_run_once_and_keeps_what_there_is() -> None:
    scenarios = several(3)
    with scripted(Manners(), connections=1) as target:
        how = CheckOptions(patience=QUICK, jobs=1)
        check = Check(target, OFFER, how, SystemClock(), pauses_ns=(0, NS_PER_MS))
        results = list(check.results(scenarios))
    assert [one.verdict for one in results] == [Verdict.HOLDS]
    assert check.ended == (f"{target.name} is gone (Connection refused), while playing attack/1")
    assert check.not_played == 2


def test_a_target_that_does_not_greet_any_more_ends_the_run() -> None:
    scenarios = several(9, WAITS.replace("+200ms ", "reply+0"))
    with scripted(Manners(replies={"": b""}), connections=9, waits=False) as target:
        check = Check(target, OFFER, CheckOptions(patience=QUICK, jobs=2), SystemClock())
        results = list(check.results(scenarios))
    assert check.ended.endswith("does not greet any more")
    assert {one.verdict for one in results} == {Verdict.COULD_NOT_TELL}
    assert len(results) + check.not_played == 9
    assert check.not_played >= 2


MAILS = """
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\\r\\n
*        S? 250
reply+0  C: MAIL FROM:<a@example.org>\\r\\n
*        S? 250
reply+0  C: RCPT TO:<b@example.test>\\r\\n
*        S? 250
reply+0  C: DATA\\r\\n
*        S? 354
reply+0  C: Subject: WORD\\r\\n\\r\\nhello\\r\\n.\\r\\n
*        S? 250
reply+0  close
must     [RFC 5321 6.1] content has: WORD
must     [RFC 5321 6.1] accept exactly 1
"""


def mailed(manners: Manners, place: Callable[[], Iterable[bytes]]) -> list[CheckResult]:
    """What comes of three scenarios of a message each; ``place`` is where they are looked for."""
    words = [MAILS.replace("WORD", f"word{number}") for number in range(3)]
    scenarios = [named(body, f"attack/{number}") for number, body in enumerate(words)]
    with scripted(manners, connections=3) as target:
        how = CheckOptions(patience=QUICK, delivery_ns=100 * NS_PER_MS, run="0123abcd")
        check = Check(target, OFFER, how, SystemClock(), Delivered(Called(place)))
        return list(check.results(scenarios))


def test_messages_are_found_again_by_their_marks_among_those_of_others() -> None:
    manners = Manners()
    results = mailed(manners, lambda: [*manners.messages, b"Subject: other\r\n\r\nx"])
    assert [one.verdict for one in results] == [Verdict.HOLDS] * 3
    assert [(one.accepted, one.delivered) for one in results] == [(1, 1)] * 3
    assert b"MAIL FROM:<a+rp0123abcdx2z@example.org>\r\n" in manners.commands
    assert missing_messages(results) == ""


def test_messages_that_do_not_come_to_where_they_are_looked_for_are_told() -> None:
    manners = Manners()
    some = mailed(manners, lambda: manners.messages[:1])
    assert missing_messages(some) == "of 3 accepted messages 1 came to --delivered in time"
    none = mailed(Manners(), list)
    assert missing_messages(none).endswith(
        "0 came to --delivered in time: is that where the server delivers?"
    )


def test_a_flood_of_replies_is_not_kept() -> None:
    flood = Manners(replies={"NOOP": b"250 x\r\n" * 60_000})
    with scripted(flood, waits=False) as target:
        check = Check(target, OFFER, CheckOptions(patience=QUICK), SystemClock())
        (result,) = check.results([named(WAITS + "must     [RFC 5321 4.2] no reply\n")])
    assert result.verdict is Verdict.VIOLATES
    assert len(result.observed[0].replies) == REPLIES_KEPT_MAX


def test_what_takes_longer_than_is_allowed_is_left_out_with_a_word() -> None:
    with closed_port() as target:
        how = CheckOptions(patience=QUICK, longest_ns=100 * NS_PER_MS)
        (result,) = Check(target, OFFER, how, SystemClock()).results([named(WAITS)])
    assert result.verdict is Verdict.DOES_NOT_APPLY
    assert result.judgement.reason == "it takes longer than is allowed (--longest)"
