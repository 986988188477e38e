"""Each kind of claim at a server that keeps it and at one that breaks it, on real sockets.

Real time passes here, but no test waits for longer than some tenths of a second.
"""

from __future__ import annotations

import pytest
from checking import QUICK, check, named
from scripted_server import Manners

from replay.verify.check.claims import CheckedRun, Finding, How, judge_claims
from replay.verify.check.profile import Profile
from replay.verify.check.runner import CheckOptions
from replay.verify.check.verdict import Verdict, judge

TO_DATA = r"""
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\r\n
*        S? 250
reply+0  C: MAIL FROM:<a@example.org>\r\n
*        S? 250
reply+0  C: RCPT TO:<b@example.test>\r\n
*        S? 250
reply+0  C: DATA\r\n
*        S? 354
"""
QUIT = r"""
reply+0  C: QUIT\r\n
*        S? 221
reply+0  close
"""
MESSAGE = (
    TO_DATA
    + r"""
reply+0  C: Subject: x\r\n\r\nhello\r\n.\r\n
*        S? 250
"""
)
NOOP = r"""
@0       open from 192.0.2.10
*        S? 220
reply+0  C: NOOP\r\n
*        S? 250
"""
SMUGGLING = (
    TO_DATA
    + r"""
reply+0  C: Subject: x\r\n\r\nhello\n.\r\n
+20ms    C: MAIL FROM:<c@example.org>\r\n
+20ms    C: RCPT TO:<b@example.test>\r\n
+20ms    C: DATA\r\n
+20ms    C: Subject: y\r\n\r\ngotcha\r\n.\r\n
*        S? 250
may      reply 250 451 5yz, or end
+50ms    C: QUIT\r\n
*        S? 221
+20ms    close
must     [CVE-2023-51764] accept at most 1
"""
)
INJECTION = r"""
@0       open from 192.0.2.10
*        S? 220
reply+0  C: STARTTLS\r\nNOOP\r\n
*        S? 220
reply+0  starttls
+50ms    until-closed
must     [CVE-2011-0411] no reply
"""
SECURED = r"""
@0       open from 192.0.2.10
*        S? 220
reply+0  C: STARTTLS\r\n
*        S? 220
reply+0  starttls
+50ms    until-closed
"""
LATE = NOOP + "+100ms   close\nmust     [RFC 5321 4.5.3.2.7] "
SILENCE = NOOP + "reply+0  until-closed\nmust     [RFC 5321 4.5.3.2.7] "
CLOSES = {"closes_behind": "NOOP"}
NO = b"550 No\r\n"
LATER = b"450 Later\r\n"


def must(body: str, claim: str, rest: str = QUIT) -> str:
    return f"{body}must     [RFC 5321 4.2] {claim}\n{rest}"


@pytest.mark.parametrize(
    ("body", "good", "bad", "how"),
    [
        (must(NOOP, "reply 2yz"), {}, {"replies": {"NOOP": NO}}, How.STRICTER),
        (must(NOOP, "reply 5yz"), {"replies": {"NOOP": NO}}, {}, How.LAXER),
        (must(NOOP, "reply 251"), {"replies": {"NOOP": b"251 Ok\r\n"}}, {}, How.OTHER_CODE),
        (
            must(NOOP, "reply 5yz"),
            {"replies": {"NOOP": NO}},
            {"replies": {"NOOP": LATER}},
            How.OTHER_CODE,
        ),
        (must(NOOP, "reply 2yz"), {}, {"replies": {"NOOP": b""}}, How.HANG),
        (must(NOOP, "reply 2yz"), {}, CLOSES | {"replies": {"NOOP": b""}}, How.CLOSE),
        (must(NOOP, "reply 2yz"), {}, {"replies": {"NOOP": b"Hello there\r\n"}}, How.OTHER_CODE),
        (must(NOOP, "reply 2yz then end"), CLOSES, {}, How.STAYS_OPEN),
        (
            must(NOOP, "reply 5yz, or end"),
            CLOSES | {"replies": {"NOOP": b""}},
            {"replies": {"NOOP": b""}},
            How.HANG,
        ),
        (
            must(NOOP, "no reply"),
            {},
            {"replies": {"NOOP": b"250 1\r\n250 2\r\n"}},
            How.ONE_TOO_MANY,
        ),
        (INJECTION, {}, {"keeps_buffer": True}, How.ONE_TOO_MANY),
        (must(NOOP, "replies as expected"), {}, {"replies": {"NOOP": NO}}, How.STRICTER),
        (must(NOOP, "replies as expected"), {}, {"replies": {"NOOP": b""}}, How.HANG),
        (must(NOOP + QUIT, "replies as expected", ""), {}, {"replies": {"QUIT": b""}}, How.CLOSE),
        (SILENCE + "end within 100ms", {"idle_s": 0.05}, {"idle_s": 1}, How.STAYS_OPEN),
        (SILENCE + "no end", {}, {"idle_s": 0.01}, How.CLOSE),
        (SILENCE + "end", {"idle_s": 0.05}, {"idle_s": 1}, How.STAYS_OPEN),
        (SILENCE + "end within timeout", {"idle_s": 0.05}, {"idle_s": 1}, How.STAYS_OPEN),
        (LATE + "no end", {}, {"idle_s": 0.01}, How.CLOSE),
        (SILENCE + "no end within 100ms", {"idle_s": 0.2}, {"idle_s": 0.05}, How.CLOSE),
        (must(NOOP, "no end", QUIT.replace("+0", "+50ms", 1)), {}, CLOSES, How.CLOSE),
        (must(MESSAGE + QUIT, "accept exactly 1", ""), {}, {"replies": {".": NO}}, How.STRICTER),
        (
            must(MESSAGE + QUIT, "accept at least 1", ""),
            {},
            {"replies": {".": LATER}},
            How.STRICTER,
        ),
        (must(MESSAGE + QUIT, "accept at most 0", ""), {"replies": {".": NO}}, {}, How.LAXER),
        (SMUGGLING, {}, {"ends_data": rb"\n\.\r\n"}, How.LAXER),
        (must(SECURED, "tls", ""), {}, {"closes_behind": "STAR"}, How.HANDSHAKE),
        (must(SECURED, "tls-refused", ""), {"closes_behind": "STAR"}, {}, How.HANDSHAKE),
    ],
)
def test_a_claim_holds_at_a_good_server_and_is_broken_at_a_bad_one(
    body: str, good: dict[str, object], bad: dict[str, object], how: How
) -> None:
    kept = check(body, Manners(**good))  # type: ignore[arg-type]
    assert (kept.verdict, kept.judgement.reason) == (Verdict.HOLDS, "")
    broken = check(body, Manners(**bad))  # type: ignore[arg-type]
    assert broken.verdict is Verdict.VIOLATES
    assert [one.how for one in broken.judgement.broken] == [how]


def test_contents_are_judged_by_what_was_delivered() -> None:
    scenario = named(MESSAGE + QUIT + "must [RFC 5321 4.5.2] content has: hello\\r\\n").scenario
    lacks = named(MESSAGE + QUIT + "must [RFC 5321 4.5.2] content lacks: hello\\r\\n").scenario
    done = check(MESSAGE + QUIT + "must [RFC 5321 6.1] accept exactly 1", Manners())
    for contents, has, has_not in (
        ([b"Subject: x\r\n\r\nhello\r\n"], Finding.HOLDS, Finding.BROKEN),
        ([b"Subject: x\r\n\r\nbye\r\n"], Finding.BROKEN, Finding.HOLDS),
        (None, Finding.NOT_SEEN, Finding.NOT_SEEN),
        ([], Finding.NOT_REACHED, Finding.NOT_REACHED),  # one was accepted, and is on its way
    ):
        run = CheckedRun(done.observed, 0, contents)
        assert [one.finding for one in judge_claims(scenario, run)] == [has]
        assert [one.finding for one in judge_claims(lacks, run)] == [has_not]


def test_more_delivered_than_was_answered_for_counts() -> None:
    scenario = named(MESSAGE + QUIT + "must [CVE-2023-51764] accept at most 1").scenario
    done = check(MESSAGE + QUIT + "must [RFC 5321 6.1] accept exactly 1", Manners())
    assert judge(scenario, CheckedRun(done.observed, 0, [b"1"])).verdict is Verdict.HOLDS
    assert judge(scenario, CheckedRun(done.observed, 0, [b"1", b"2"])).verdict is Verdict.VIOLATES


def test_a_should_that_is_broken_departs_and_a_may_demands_nothing() -> None:
    body = NOOP + "should [RFC 5321 4.2] reply 250\nmay reply 2yz 5yz\n" + QUIT
    assert check(body, Manners(replies={"NOOP": NO})).verdict is Verdict.DEPARTS
    body = NOOP + "may reply 250\n" + QUIT
    result = check(body, Manners())
    assert (result.verdict, result.judgement.results) == (Verdict.COULD_NOT_TELL, [])


def test_of_must_and_should_the_must_decides() -> None:
    body = NOOP + "must [RFC 5321 4.2] reply 5yz\nshould [RFC 5321 4.2] reply 502\n" + QUIT
    assert check(body, Manners(replies={"NOOP": b"502 No\r\n"})).verdict is Verdict.HOLDS
    assert check(body, Manners(replies={"NOOP": NO})).verdict is Verdict.DEPARTS
    assert check(body, Manners()).verdict is Verdict.VIOLATES


def test_a_sender_does_not_go_on_after_a_reply_that_it_cannot_go_on_after() -> None:
    manners = Manners(replies={"RCPT": b"554 Relay access denied\r\n"})
    result = check(MESSAGE + QUIT + "must [CVE-2023-51764] accept at most 1", manners)
    assert result.verdict is Verdict.COULD_NOT_TELL
    assert result.judgement.reason == "reply 4 was 554 Relay access denied"
    assert [command[:4] for command in manners.commands] == [b"EHLO", b"MAIL", b"RCPT", b"QUIT"]


def test_a_sender_that_awaits_the_end_of_the_data_says_no_quit_into_the_content() -> None:
    body = (
        TO_DATA
        + "must [RFC 5321 3.3] reply 503, or 354 then stop\n"
        + ("reply+0  C: MAIL FROM:<a@example.org>\\r\\n\n+0 close\n")
    )
    manners = Manners()
    assert check(body, manners).verdict is Verdict.HOLDS
    assert (manners.messages, manners.commands[-1]) == ([], b"DATA\r\n")


@pytest.mark.parametrize("then", ["then stop", "then end"])
def test_what_stands_below_an_alternative_that_ends_the_session_does_not_arise(then: str) -> None:
    body = (
        NOOP
        + f"must [RFC 5321 4.2] reply 250, or 550 {then}\n"
        + (
            "reply+0 C: MAIL FROM:<a@example.org>\\r\\n\n* S? 250\n"
            "must [RFC 5321 4.2] reply 250\nreply+0 close\nmust [RFC 5321 4.2] accept at least 1\n"
        )
    )
    result = check(body, Manners(replies={"NOOP": NO}, closes_behind="NOOP"))
    assert [one.finding for one in result.judgement.results] == [
        Finding.HOLDS,
        Finding.DOES_NOT_ARISE,
        Finding.DOES_NOT_ARISE,
    ]
    assert result.verdict is Verdict.HOLDS


def test_a_session_that_the_server_ends_with_421_says_nothing_about_what_was_to_come() -> None:
    body = NOOP + "must [RFC 5321 4.2] reply 250\n" + QUIT
    result = check(body, Manners(replies={"NOOP": b"421 Too many\r\n"}, closes_behind="NOOP"))
    assert result.verdict is Verdict.COULD_NOT_TELL
    assert result.judgement.reason == "the server ended the session: 421 Too many"


@pytest.mark.parametrize(
    "profile", [Profile(error_limit=1), Profile(junk_limit=2), Profile(closes_after_refusal=True)]
)
def test_what_a_server_does_of_right_is_no_violation(profile: Profile) -> None:
    body = (
        NOOP + "may reply 2yz 5yz\n+50ms C: NOOP\\r\\n\n* S? 250\nmust [RFC 5321 4.2] reply 250\n"
    )
    body += QUIT
    manners = Manners(replies={"NOOP": NO}, closes_behind="NOOP")
    assert check(body, manners).verdict is Verdict.VIOLATES
    result = check(body, manners, CheckOptions(patience=QUICK, profile=profile))
    assert result.verdict is Verdict.COULD_NOT_TELL
    assert result.judgement.reason.startswith("the server end")


def test_where_nothing_was_accepted_nothing_has_what_it_must_lack() -> None:
    body = MESSAGE.replace("S? 250", "S? 550", 5).replace("S? 550", "S? 250", 3) + QUIT
    lacks = named(body + "must [RFC 5321 4.5.2] content lacks: hello\\r\\n").scenario
    has = named(body + "must [RFC 5321 4.5.2] content has: hello\\r\\n").scenario
    done = check(body + "must [RFC 5321 6.1] accept at most 0", Manners(replies={".": NO}))
    run = CheckedRun(done.observed, 0, [])
    assert [one.finding for one in judge_claims(lacks, run)] == [Finding.HOLDS]
    assert [one.finding for one in judge_claims(has, run)] == [Finding.DOES_NOT_ARISE]
