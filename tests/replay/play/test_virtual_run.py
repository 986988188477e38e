"""The virtual driver: the shipped server plays a script, and says what happened when."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from running import GOODBYE, HELLO, transcript_text

from replay.play import virtual_run
from replay.play.virtual_run import VirtualRun
from replay.transcript import transcript
from replay.transcript.octets import to_text

MS, S = 1_000_000, 1_000_000_000


def play(body: str, header: str = "") -> VirtualRun:
    return virtual_run.play(transcript.parse(transcript_text(body, header), "x.smtp"))


def codes(run: VirtualRun, connection: int = 0) -> list[int]:
    return [reply.code for reply in run.connections[connection].replies]


def into_data(client: str = "192.0.2.1", name: str = "") -> str:
    """The way to the 354, on a connection called ``name``."""
    lines = [
        f"@0 | open from {client}",
        "* | S? 220",
        r"reply+0 | C: EHLO me\r\n",
        "* | S? 250",
        r"reply+0 | C: MAIL FROM:<a@example.org>\r\n",
        "* | S? 250",
        r"reply+0 | C: RCPT TO:<b@example.test>\r\n",
        "* | S? 250",
        r"reply+0 | C: DATA\r\n",
        "* | S? 354",
    ]
    return "\n".join(lines).replace("|", f"{name}|" if name else "") + "\n"


# -- a script that cannot go on -------------------------------------------------------------------


def test_a_script_that_waits_for_a_reply_that_never_comes_ends_and_says_so() -> None:
    run = play(HELLO + "* S? 250\n* S? 250\nreply+0 close\n", "[server]\nidle_timeout_s = 30\n")
    (seen,) = run.connections
    assert [one.code for one in seen.replies] == [220, 250, 421]
    assert seen.waits_for == "reply 4, to go on at line 12"
    assert run.virtual_ns == 30 * S + MS


def test_a_script_that_waits_for_a_close_it_will_not_read_ends_with_the_server() -> None:
    run = play(HELLO + "+0 stop-reading\n+1ms until-closed\n", "[server]\nidle_timeout_s = 30\n")
    assert run.connections[0].waits_for == "the server to close"
    assert run.virtual_ns == (30 + 5) * S + MS  # idle, and then what a closing server grants


# -- octets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("octets", [64 * 1024, 1024 * 1024 + 1])
def test_a_large_departure_arrives_whole_and_in_order(octets: int) -> None:
    content = b"X: y\r\n" + (b"%07d\r\n" * (octets // 9)) % tuple(range(octets // 9))
    body = into_data() + f"reply+0 C: {to_text(content)}.\\r\\n\n* S? 250\n"
    assert messages_of(body + "reply+0 close\n") == [content]


def test_a_fin_behind_octets_that_a_pausing_server_does_not_read_is_no_octet() -> None:
    """The kernel counts it among those that it has not sent yet."""
    body = HELLO + "+0 C*400000: no such\\r\\n\n+0 half-close\n* S? 500\n+0 until-closed\n"
    run = play(body, "[server]\nerrors_soft = 1\nerrors_hard = 5\n")
    assert codes(run) == [220, 250, *[500] * 5, 421]


def test_eight_bit_content_arrives_as_it_left() -> None:
    content = b"X: " + bytes(octet for octet in range(256) if octet not in b"\r\n") + b"\r\n"
    body = into_data() + f"reply+0 C: {to_text(content)}.\\r\\n\n* S? 250\nreply+0 close\n"
    assert messages_of(body) == [content]


def messages_of(body: str) -> list[bytes]:
    """The contents that a run of ``body`` got accepted."""
    return [message.content for message in play(body).messages]


# -- ends -----------------------------------------------------------------------------------------


def test_the_server_closing_early_ends_what_the_script_still_wanted_to_say() -> None:
    body = HELLO + r"reply+1ms C: QUIT\r\n" + "\n* S? 221\n* S? 250\nreply+0 close\n"
    (seen,) = play(body).connections
    assert (seen.end, seen.end_at_ns) == ("eof", 2 * MS)
    assert seen.waits_for == "reply 4, to go on at line 11"


def test_what_is_sent_to_a_server_that_has_gone_does_no_harm() -> None:
    late = r"reply+1ms C: QUIT\r\n" + "\n* S? 221\n" + "+1s C: NOOP\\r\\n\n" * 3 + "+1s close\n"
    (seen,) = play(HELLO + late).connections
    assert [one.code for one in seen.replies] == [220, 250, 221]
    assert None not in seen.departed_ns


def test_a_reset_inside_the_content_leaves_no_message_and_nothing_behind() -> None:
    run = play(into_data() + r"reply+0 C: Subject: x\r\n" + "\n+1ms reset\n")
    assert codes(run) == [220, 250, 250, 250, 354]
    disconnected, abandoned = run.log[-2:]
    assert 'how="Connection reset by peer" state="message content"' in disconnected
    assert "verdict=abandoned" in abandoned
    assert run.messages == ()


# -- several connections --------------------------------------------------------------------------


def test_two_connections_do_not_mix() -> None:
    one = into_data("192.0.2.1", "a") + r"reply+5s a| C: x\r\n.\r\n" + "\n* a| S? 250\n"
    two = into_data("192.0.2.2", "b") + r"reply+2s b| C: y\r\n.\r\n" + "\n* b| S? 250\n"
    run = play(one + "reply+0 a| close\n" + two + "reply+0 b| close\n")
    ends = [one.replies[-1] for one in run.connections]
    assert [(reply.code, reply.at_ns) for reply in ends] == [(250, 5 * S), (250, 2 * S)]


def test_a_hundred_connections_in_one_scenario_are_each_answered() -> None:
    lines = []
    for number in range(100):
        lines += [
            f"@{number % 7}ms n{number}| open from 192.0.2.{number}",
            f"* n{number}| S? 220",
            f"reply+{number}ms n{number}| C: EHLO me\\r\\n",
            f"* n{number}| S? 250",
            f"+3s n{number}| C: QUIT\\r\\n",
            f"* n{number}| S? 221",
            f"reply+0 n{number}| close",
        ]
    run = play("\n".join(lines))
    assert all(codes(run, number) == [220, 250, 221] for number in range(100))
    at_ns = [one.replies[-1].at_ns for one in run.connections]
    assert at_ns == [(number % 7 + number + 3000) * MS for number in range(100)]


# -- the trace hash -------------------------------------------------------------------------------

WHOLE = HELLO + GOODBYE


def later_by_a_nanosecond(body: str) -> str:
    return body.replace(r"reply+1ms C: QUIT", r"reply+1000001ns C: QUIT")


def another_octet(body: str) -> str:
    return body.replace("QUIT", "quit")


def another_ending(body: str) -> str:
    return body.replace("close", "reset")


def test_the_same_script_has_the_same_hash_whatever_it_expects() -> None:
    expecting_otherwise = re.sub(r"@1ms +S: .*", "* S? 550", WHOLE)
    assert play(WHOLE).trace_hash == play(WHOLE).trace_hash
    assert play(WHOLE).trace_hash == play(expecting_otherwise).trace_hash


@pytest.mark.parametrize("change", [later_by_a_nanosecond, another_octet, another_ending])
def test_the_trace_hash_tells(change: Callable[[str], str]) -> None:
    assert change(WHOLE) != WHOLE
    assert play(change(WHOLE)).trace_hash != play(WHOLE).trace_hash


def test_the_trace_hash_tells_when_octets_left_though_nothing_answers_them() -> None:
    runs = [
        play(HELLO + f"+{wait}ns C: QU\n@2ms C: IT\\r\\n\n@2ms S? 221\n+0 close\n")
        for wait in (7, 8)
    ]
    assert runs[0].connections[0].replies == runs[1].connections[0].replies
    assert runs[0].trace_hash != runs[1].trace_hash


def test_the_trace_hash_is_the_one_it_always_was() -> None:
    known = "f9c045ec26d12e35a3187be146a4130e87aba50d13155a15d17b42c476145ec4"
    assert play(WHOLE).trace_hash == known


def test_the_trace_hash_tells_what_the_server_said() -> None:
    renamed = '[server]\nhostname = "my.example.test"\n'
    assert play(WHOLE, renamed).trace_hash != play(WHOLE).trace_hash


def test_the_trace_hash_tells_where_one_departure_ended_and_the_next_began() -> None:
    together = HELLO + r"+1ms C: NOOP\r\nNOOP\r\n" + "\n* S? 250\n* S? 250\n+0 close\n"
    apart = (
        HELLO + r"+1ms C: NOOP\r\n" + "\n" + r"+0 C: NOOP\r\n" + "\n* S? 250\n* S? 250\n+0 close\n"
    )
    assert play(together).trace_hash != play(apart).trace_hash


def test_what_comes_in_one_flight_with_its_half_close_is_answered() -> None:
    sends = "reply+0 C: NOOP\\r\\n\n  C: NOOP\\r\\n\n+0 half-close-at-once\n* S? 250\n* S? 250\n"
    run = play(HELLO + sends + "+0 until-closed\n")
    assert codes(run) == [220, 250, 250, 250]
    assert (run.connections[0].end, run.virtual_ns) == ("eof", MS)
