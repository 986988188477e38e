"""Two runs beside each other: what two servers say differently is masked, or parts them."""

from __future__ import annotations

import pytest

from replay.play.observed import ObservedConnection
from replay.smtp.replies import ReceivedReply
from replay.transcript import script
from replay.transcript.script import Scenario
from replay.verify.divergence import DiffVerdict, Divergence, compare_runs

MS = 1_000_000
ACTS: tuple[script.Action, ...] = (
    script.Open("192.0.2.1"),
    script.SendOctets(b"EHLO x\r\n"),
    script.Close(),
)


def observed(*replies: str, at_ms: int = 0, end: str = "", end_ms: int = 0) -> ObservedConnection:
    """A run of a sender that says EHLO at once and closes after 10 ms."""
    seen = ObservedConnection("1", [0, 0, 10 * MS], end=end, end_at_ns=end_ms * MS)
    seen.replies = [ReceivedReply(at_ms * MS, f"{one}\r\n".encode()) for one in replies]
    return seen


def parted(a: ObservedConnection, b: ObservedConnection, tolerance_ms: int = 0) -> Divergence:
    steps = tuple(script.Departure(script.At(0), act) for act in ACTS)
    scenario = Scenario("x", (script.ScriptedConnection("1", steps),))
    (parting,) = compare_runs("x", scenario, ([a], [b]), tolerance_ns=tolerance_ms * MS)
    return parting


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Ok: queued as 4XyZ12", "Ok: queued as 9AbC"),
        ("OK id=1rXyZ-000abc-AB", "OK id=1sAbC-000xyz-CD"),
        ("accepted 629F6FBD82C07CD for delivery", "accepted 0A5D2F36BAA9455 for delivery"),
        ("closed, Mon, 12 Jan 2026 13:46:43 +0000", "closed, Tue, 3 Feb 2026 01:02:03 +0100 (CET)"),
        ("at 2026-01-12T13:46:43.001Z", "at 2026-02-03 01:02:03+01:00"),
        ("mx1.example.org greets you", "mx2.example.org greets you"),
    ],
)
def test_ids_dates_and_the_servers_own_name_do_not_part_two_servers(a: str, b: str) -> None:
    greetings = "220 mx1.example.org ESMTP", "220 mx2.example.org ESMTP"
    one, other = observed(greetings[0], f"250 {a}"), observed(greetings[1], f"250 {b}")
    assert parted(one, other).verdict is DiffVerdict.SAME


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("8BITMIME", "SMTPUTF8"),
        ("SIZE 1000000", "SIZE 2000000"),
        ("Ok", "ok"),
        ("SHA256", "SHA512"),
    ],
)
def test_other_words_do(a: str, b: str) -> None:
    parting = parted(observed("220 mx ESMTP", f"250 {a}"), observed("220 mx ESMTP", f"250 {b}"))
    assert (parting.verdict, parting.reply) == (DiffVerdict.OTHER_TEXT, 2)


def test_another_code_of_the_same_class_does() -> None:
    assert parted(observed("220 x", "250 x"), observed("220 x", "251 x")).verdict is (
        DiffVerdict.OTHER_REPLY
    )


def test_what_lies_within_the_tolerance_is_the_same_and_beyond_it_is_slower() -> None:
    early, late = observed("220 x"), observed("220 x", at_ms=7)
    assert parted(early, late, tolerance_ms=7).verdict is DiffVerdict.SAME
    slower, faster = parted(early, late, tolerance_ms=6), parted(late, early, tolerance_ms=6)
    assert (slower.verdict, slower.gap_ns) == (DiffVerdict.SLOWER, 7 * MS)
    assert (faster.verdict, faster.gap_ns) == (DiffVerdict.FASTER, -7 * MS)


def test_who_closes_first_after_the_last_reply_is_chance() -> None:
    bye = observed("220 x", "221 x"), observed("220 x", "221 x", end="eof", end_ms=9)
    assert parted(bye[0], bye[1], tolerance_ms=1).verdict is DiffVerdict.SAME
    assert parted(bye[1], bye[0], tolerance_ms=1).verdict is DiffVerdict.SAME


def test_a_server_that_closes_long_before_the_sender_cuts_it_off() -> None:
    cut = parted(observed("220 x", "250 x"), observed("220 x", "250 x", end="reset", end_ms=2))
    assert (cut.verdict, cut.b.text) == (DiffVerdict.CUT_OFF, "resets the connection")
    silent = parted(observed("220 x", "250 x"), observed("220 x", end="eof", end_ms=2))
    assert (silent.verdict, silent.reply) == (DiffVerdict.CUT_OFF, 2)


def test_a_reply_that_never_comes_is_no_cut() -> None:
    assert parted(observed("220 x", "250 x"), observed("220 x")).verdict is DiffVerdict.UNANSWERED


def test_a_server_without_a_word_at_all_is_told() -> None:
    parting = parted(observed("220 x", "250 x"), observed())
    assert (parting.verdict, parting.reply, parting.b.text) == (DiffVerdict.UNANSWERED, 1, "")
    assert parted(observed(), observed()).verdict is DiffVerdict.SAME


def test_what_is_no_reply_at_all_is_no_acceptance() -> None:
    assert (
        parted(observed("220 x", "250 x"), observed("220 x", "hello")).verdict
        is DiffVerdict.REFUSED
    )
