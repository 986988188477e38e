"""What was observed beside what was expected: each difference is told in full."""

from __future__ import annotations

from typing import Any

import pytest

from replay.play.observed import ObservedConnection
from replay.smtp.replies import ReceivedReply
from replay.transcript import transcript
from replay.transcript.script import ScriptedConnection
from replay.verify.comparison import Difference, Tolerance, compare, compare_all

MS = 1_000_000
GREETING, OK = b"220 mx ESMTP\r\n", b"250 Ok\r\n"

SCRIPT = r"""+++
story = "s"
+++
@0        open[1] from 192.0.2.1
@0        S[4]: 220 mx ESMTP\r\n
reply+1ms C[5]: NOOP\r\n
@1ms      S[6]: 250 Ok\r\n
+1ms      until-closed
@2ms      S[8] eof
"""


def connection(text: str = SCRIPT) -> ScriptedConnection:
    (one,) = transcript.parse(text, "x.smtp").connections
    return one


def observed(*replies: ReceivedReply, end: str = "eof", end_ms: int = 2) -> ObservedConnection:
    return ObservedConnection("1", replies=list(replies), end=end, end_at_ns=end_ms * MS)


AS_WRITTEN = (ReceivedReply(0, GREETING), ReceivedReply(MS, OK))


def differences(seen: ObservedConnection, text: str = SCRIPT, **options: Any) -> list[Difference]:
    return compare(connection(text), seen, **options)


def only(seen: ObservedConnection, text: str = SCRIPT) -> Difference:
    (difference,) = differences(seen, text)
    return difference


def test_what_is_as_written_has_no_difference() -> None:
    assert differences(observed(*AS_WRITTEN)) == []


def test_another_code_is_told_with_number_both_codes_both_times_line_and_packet() -> None:
    difference = only(observed(AS_WRITTEN[0], ReceivedReply(3 * MS, b"451 Later\r\n")))
    assert str(difference).splitlines() == [
        "reply 2: code 451 instead of 250, 2ms too late (line 7, packet 6)",
        r"  expected @1ms 250 Ok\r\n",
        r"  observed @3ms 451 Later\r\n",
    ]


def test_another_text_under_the_same_code_is_a_difference_of_text() -> None:
    difference = only(observed(AS_WRITTEN[0], ReceivedReply(MS, b"250 Okay\r\n")))
    assert difference.what == "reply 2: text differs"
    assert (difference.expected, difference.observed) == (r"250 Ok\r\n", r"250 Okay\r\n")


def test_an_expectation_that_is_no_reply_is_met_by_none() -> None:
    text = SCRIPT.replace("S[6]: 250 Ok", "S[6]: :250-mx\\r\\n\n          S: 250 Ok")
    assert only(observed(*AS_WRITTEN), text).what == "reply 2: code 250 instead of 0"


def test_a_bare_line_feed_in_a_reply_is_a_difference() -> None:
    assert (
        only(observed(AS_WRITTEN[0], ReceivedReply(MS, b"250 Ok\n"))).what
        == "reply 2: text differs"
    )


@pytest.mark.parametrize(("at_ns", "what"), [(MS + 1, "1ns too late"), (MS - 1, "1ns too early")])
def test_a_nanosecond_makes_a_difference(at_ns: int, what: str) -> None:
    difference = only(observed(AS_WRITTEN[0], ReceivedReply(at_ns, OK)))
    assert difference.what == f"reply 2: {what}"
    assert (difference.expected_at_ns, difference.observed_at_ns) == (MS, at_ns)


# -- in real time ---------------------------------------------------------------------------------


def really(*reply_us: int, departed_us: tuple[int | None, ...]) -> ObservedConnection:
    """The replies as written, at other times, after departures at other times."""
    texts = (GREETING, OK)
    seen = observed(
        *(ReceivedReply(us * 1000, text) for us, text in zip(reply_us, texts, strict=True))
    )
    seen.departed_ns = [None if us is None else us * 1000 for us in departed_us]
    seen.end_at_ns = (departed_us[-1] or 0) * 1000
    return seen


def test_with_a_tolerance_instants_count_from_the_departure_they_hang_on() -> None:
    slow = really(5000, 9010, departed_us=(5000, 9000, 10_000))
    assert differences(slow, tolerance=Tolerance(10_000)) == []
    (late,) = differences(slow, tolerance=Tolerance(9_999))
    assert late.what == "reply 2: 0.01ms too late (9999ns allowed; --tolerance allows more)"
    assert (late.expected_at_ns, late.observed_at_ns) == (9_000_000, 9_010_000)


def test_a_tolerance_in_percent_is_of_the_time_the_server_was_expected_to_take() -> None:
    text = SCRIPT.replace("@1ms      S[6]", "@101ms    S[6]").replace("@2ms", "@200ms")
    text = text.replace("+1ms      until", "@200ms    until")
    seen = really(0, 111_000, departed_us=(0, 1000, 200_000))
    assert differences(seen, text, tolerance=Tolerance(MS, 10)) == []
    (late,) = differences(seen, text, tolerance=Tolerance(MS, 9))
    assert late.what == "reply 2: 10ms too late (9ms allowed; --tolerance allows more)"


def test_what_hangs_on_a_reply_at_any_time_is_timed_from_the_last_departure_that_is_known() -> None:
    text = SCRIPT.replace("@0        S[4]", "*         S[4]")
    seen = really(50, 60, departed_us=(0, 55, 2000))
    (late,) = differences(seen, text, tolerance=Tolerance(100_000))
    assert late.what == "reply 2: 0.94ms too early (0.1ms allowed; --tolerance allows more)"


def test_what_hangs_on_a_departure_that_never_was_is_not_timed() -> None:
    seen = really(0, 1, departed_us=(None, None, None))
    assert differences(seen, tolerance=Tolerance(1)) == []


# -- codes, and masks -----------------------------------------------------------------------------


def test_codes_alone_can_be_compared() -> None:
    assert (
        differences(observed(AS_WRITTEN[0], ReceivedReply(MS, b"250 Okay\r\n")), codes_only=True)
        == []
    )
    (other,) = differences(
        observed(AS_WRITTEN[0], ReceivedReply(MS, b"251 Ok\r\n")), codes_only=True
    )
    assert other.what == "reply 2: code 251 instead of 250"


MASKED = SCRIPT.replace("S[4]: 220 mx", "S~[4]: 220 <host>").replace(
    "S[6]: 250 Ok", r"S~[6]: 250 <host> says <:[A-Z][a-z]+>"
)


def test_a_masked_reply_is_met_by_what_fits() -> None:
    assert (
        differences(observed(AS_WRITTEN[0], ReceivedReply(MS, b"250 mx says Yes\r\n")), MASKED)
        == []
    )


def test_a_masked_reply_that_does_not_fit_is_told_with_the_mask() -> None:
    difference = only(observed(AS_WRITTEN[0], ReceivedReply(MS, b"250 mx says no\r\n")), MASKED)
    assert str(difference).splitlines() == [
        "reply 2: <:[A-Z][a-z]+> does not fit 'no' (line 7, packet 6)",
        r"  expected @1ms 250 <host> says <:[A-Z][a-z]+>\r\n",
        r"  observed @1ms 250 mx says no\r\n",
    ]


def test_a_name_that_is_something_else_later_is_told_with_what_it_was() -> None:
    difference = only(observed(AS_WRITTEN[0], ReceivedReply(MS, b"250 my says Yes\r\n")), MASKED)
    assert difference.what == "reply 2: <host> was 'mx' before"


def test_a_masked_reply_with_another_code_is_told_so() -> None:
    difference = only(observed(AS_WRITTEN[0], ReceivedReply(MS, b"450 mx says Yes\r\n")), MASKED)
    assert difference.what == "reply 2: code 450 instead of 250"


def test_a_name_holds_for_all_connections_of_a_scenario() -> None:
    lines = "@0 {0}| open from 192.0.2.1\n* {0}| S~: 220 <host>\\r\\n\n+0 {0}| abandon\n"
    text = '+++\nstory = "s"\n+++\n' + lines.format("a") + lines.format("b")
    scenario = transcript.parse(text, "x.smtp")
    seen = [
        ObservedConnection(name, replies=[ReceivedReply(0, b"220 %b\r\n" % host)])
        for name, host in (("a", b"mx1"), ("b", b"mx2"))
    ]
    (difference,) = compare_all(scenario, seen)
    assert (difference.connection, difference.what) == ("b", "reply 1: <host> was 'mx1' before")


def test_a_missing_and_an_unexpected_reply_are_told_with_their_numbers() -> None:
    missing = only(observed(AS_WRITTEN[0]))
    assert (missing.what, missing.observed, missing.line) == ("reply 2: missing", None, 7)
    unexpected = only(observed(*AS_WRITTEN, ReceivedReply(MS, b"250 More\r\n")))
    assert (unexpected.what, unexpected.expected) == ("reply 3: not expected", None)
    assert "expected nothing" in str(unexpected)


def test_octets_that_are_no_whole_reply_are_told() -> None:
    seen = observed(*AS_WRITTEN)
    seen.rest = b"250-and"
    assert only(seen).observed == "250-and"


@pytest.mark.parametrize(
    ("end", "end_ms", "what"),
    [
        ("reset", 2, "the server's end differs"),
        ("", 0, "the server did not end the connection"),
        ("eof", 5, "the server's end: 3ms too late"),
    ],
)
def test_the_servers_end_is_compared(end: str, end_ms: int, what: str) -> None:
    difference = only(observed(*AS_WRITTEN, end=end, end_ms=end_ms))
    assert (difference.what, difference.packet) == (what, 8)


def test_an_end_nobody_expected_is_told_unless_the_sender_ends_too() -> None:
    quiet = SCRIPT.replace("@2ms      S[8] eof\n", "")
    assert only(observed(*AS_WRITTEN), quiet).what == "the server ended the connection"
    leaving = quiet.replace("until-closed", "close")
    assert differences(observed(*AS_WRITTEN), leaving) == []


def test_a_code_alone_takes_any_text_at_any_time_but_no_other_code() -> None:
    text = SCRIPT.replace(r"@1ms      S[6]: 250 Ok\r\n", r"*         S?[6] 250 was: 250 fine\r\n")
    assert (
        differences(observed(AS_WRITTEN[0], ReceivedReply(77 * MS, b"250-a\r\n250 b\r\n")), text)
        == []
    )
    difference = only(observed(AS_WRITTEN[0], ReceivedReply(77 * MS, b"550 no\r\n")), text)
    assert str(difference).splitlines() == [
        "reply 2: code 550 instead of 250 (line 7, packet 6)",
        r"  expected a reply 250, recorded as 250 fine\r\n",
        r"  observed @77ms 550 no\r\n",
    ]


def test_a_reply_behind_the_senders_close_may_come_too_late_to_be_heard() -> None:
    text = SCRIPT.split("@1ms")[0] + "+0 close\n@1ms S: 250 Ok\\r\\n\n"
    assert differences(observed(AS_WRITTEN[0], end=""), text) == []
    assert only(observed(AS_WRITTEN[0], ReceivedReply(MS, b"500 No\r\n"), end=""), text)


LEAVES = r"""+++
story = "s"
+++
@0        open from 192.0.2.1
@0        S: 220 mx ESMTP\r\n
reply+1ms C: NOOP\r\n
@1ms      S: 250 Ok\r\n
+{after}  reset
"""


@pytest.mark.parametrize("instant", ["@1ms", "*   "])
@pytest.mark.parametrize(("after_ms", "missing"), [(1, False), (99, False), (101, True)])
def test_in_real_time_a_reply_is_missing_only_where_the_sender_stayed_for_it(
    instant: str, after_ms: int, missing: bool
) -> None:
    text = LEAVES.format(after=f"{after_ms}ms").replace(
        "@1ms      S: 250", f"{instant}      S: 250"
    )
    departed_ns = [0, 1 * MS, (1 + after_ms) * MS]
    seen = ObservedConnection("1", departed_ns, [AS_WRITTEN[0]])
    tolerance = Tolerance(100 * MS)
    found = [one.what for one in differences(seen, text, tolerance=tolerance)]
    assert found == (["reply 2: missing"] if missing else [])
    assert [one.what for one in differences(seen, text)] == ["reply 2: missing"]


def test_after_abandon_nothing_is_compared() -> None:
    text = SCRIPT.replace("until-closed", "abandon").replace("@2ms      S[8] eof\n", "")
    assert differences(observed(*AS_WRITTEN, ReceivedReply(9 * MS, b"421 x\r\n")), text) == []


def test_a_script_that_could_not_go_on_says_what_it_waited_for() -> None:
    seen = observed(*AS_WRITTEN)
    seen.waits_for = "reply 2, to go on at line 8"
    assert "waited for reply 2, to go on at line 8" in only(seen).what


def test_the_lines_of_a_long_reply_stand_under_one_another_and_none_is_hidden() -> None:
    lines = [b"250-%s%d\r\n" % (b"X" * 50, number) for number in range(20)]
    seen = only(observed(AS_WRITTEN[0], ReceivedReply(MS, b"".join(lines) + b"250 END\r\n")))
    shown = str(seen).splitlines()
    assert shown[2].startswith("  observed @1ms 250-X")
    assert shown[-1] == r"                250 END\r\n"
    assert len(shown) == 2 + 21


HANDSHAKE = SCRIPT.replace(r"reply+1ms C[5]: NOOP\r\n", "reply+1ms starttls[5]").replace(
    r"S[6]: 250 Ok\r\n", "S[6] tls"
)


def shaken(handshake: str, at_ns: int = MS) -> ObservedConnection:
    seen = observed(AS_WRITTEN[0])
    seen.handshake, seen.handshake_at_ns = handshake, at_ns
    return seen


def test_the_handshakes_outcome_and_its_instant_are_compared() -> None:
    assert differences(shaken("done"), HANDSHAKE) == []
    assert differences(shaken("refused"), HANDSHAKE.replace(" tls\n", " tls-refused\n")) == []
    difference = only(shaken("refused"), HANDSHAKE)
    assert str(difference).splitlines() == [
        "the TLS handshake differs (line 7, packet 6)",
        "  expected @1ms S tls",
        "  observed @1ms S tls-refused",
    ]
    assert only(shaken("done", MS + 5), HANDSHAKE).what == "the TLS handshake: 5ns too late"
    assert only(shaken("", 0), HANDSHAKE).what == "the TLS handshake: missing"
    assert only(shaken("done"), HANDSHAKE.replace("@1ms      S[6] tls\n", "")).what == (
        "the TLS handshake: not expected"
    )
