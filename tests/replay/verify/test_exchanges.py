"""Which reply answered what."""

from __future__ import annotations

from replay.play.observed import ObservedConnection
from replay.smtp.replies import ReceivedReply
from replay.transcript import script
from replay.verify.exchanges import CONTENT, GREETING, UNASKED, Exchanges, dialogue

MS = 1_000_000


def heard(sends: list[tuple[int, bytes]], replies: list[tuple[int, str]]) -> Exchanges:
    """The dialogue of a sender that says each of ``sends`` at so many ms."""
    departures = [script.Departure(script.At(0), script.Open("192.0.2.1"))]
    departures += [
        script.Departure(script.At(ms * MS), script.SendOctets(text)) for ms, text in sends
    ]
    departures.append(script.Departure(script.At(10**15), script.UntilClosed()))
    connection = script.ScriptedConnection("1", tuple(departures))
    observed = ObservedConnection("1", [0, *(ms * MS for ms, _ in sends), None])
    observed.replies = [ReceivedReply(ms * MS, f"{text}\r\n".encode()) for ms, text in replies]
    return dialogue(connection, observed)


def asked(found: Exchanges) -> list[str]:
    return [one.asked for one in found.exchanges]


ENVELOPE = b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nRCPT TO:<c@y>\r\nDATA\r\n"


def test_replies_to_a_pipelined_group_find_their_commands() -> None:
    found = heard(
        [(1, b"EHLO x\r\n"), (2, ENVELOPE), (3, b"Subject: x\r\n\r\nRSET\r\n.\r\nQUIT\r\n")],
        [
            (0, "220 x"),
            (1, "250 x"),
            *[(2, "250 Ok")] * 3,
            (2, "354 go"),
            (3, "250 Ok"),
            (3, "221"),
        ],
    )
    assert asked(found)[:3] == [GREETING, "to EHLO x", "to MAIL FROM:<a@x>"]
    assert asked(found)[-3:] == ["to DATA", CONTENT, "to QUIT"]
    assert [one.delivery.forward_path for one in found.accepted] == [b"b@y", b"c@y"]
    assert found.messages == 1


def test_a_command_that_was_sent_later_is_not_what_was_answered() -> None:
    found = heard([(1, b"NOO"), (9, b"P\r\n")], [(0, "220 x"), (5, "421 bye"), (9, "250 Ok")])
    assert asked(found) == [GREETING, UNASKED, "to NOOP"]


def test_a_reply_within_the_content_answers_nothing() -> None:
    found = heard(
        [(1, ENVELOPE), (2, b"half a mess"), (9, b"age\r\n.\r\n")],
        [(0, "220 x"), *[(1, "250 Ok")] * 3, (1, "354 go"), (5, "421 too slow")],
    )
    assert asked(found)[-1] == UNASKED
    assert not found.accepted


def test_an_empty_message_ends_at_its_first_line() -> None:
    found = heard(
        [(1, ENVELOPE), (2, b".\r\nQUIT\r\n")],
        [(0, "220 x"), *[(1, "250 Ok")] * 3, (1, "354 go"), (2, "250 Ok"), (2, "221 Bye")],
    )
    assert asked(found)[-2:] == [CONTENT, "to QUIT"]


def test_chunks_are_passed_over_and_the_last_is_the_message() -> None:
    chunks = b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nBDAT 6\r\nQUIT\r\nBDAT 2 LAST\r\nxxQUIT\r\n"
    found = heard([(1, chunks)], [(0, "220 x"), *[(1, "250 Ok")] * 4, (1, "221 Bye")])
    assert asked(found)[-3:] == ["to BDAT 6", "to BDAT 2 LAST", "to QUIT"]
    assert found.messages == 1


def test_content_is_the_same_however_it_was_cut_and_another_is_another() -> None:
    ready = [(0, "220 x"), *[(1, "250 Ok")] * 3, (1, "354 go"), (3, "250 Ok")]
    whole = heard([(1, ENVELOPE), (2, b"one\r\n.\r\n")], ready)
    cut = heard([(1, ENVELOPE), (2, b"one\r"), (3, b"\n.\r\n")], ready)
    other = heard([(1, ENVELOPE), (2, b"two\r\n.\r\n")], ready)
    assert [one.delivery for one in whole.accepted] == [one.delivery for one in cut.accepted]
    assert not {one.delivery for one in whole.accepted} & {one.delivery for one in other.accepted}


def test_what_follows_from_a_refusal_is_known_and_where_the_sender_goes_astray() -> None:
    found = heard(
        [(1, b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n"), (2, b"hello\r\n.\r\n")],
        [(0, "220 x"), (1, "250 Ok"), (1, "450 no"), (1, "554 no"), (2, "500 what"), (2, "500 ?")],
    )
    assert [one.follows for one in found.exchanges] == [False, False, False, True, False, False]
    assert [one.awry for one in found.exchanges].index(True) == 3
    assert asked(found)[-2:] == ["to hello", "to ."]


def test_a_proxy_header_gets_no_answer() -> None:
    v2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12)
    for header in (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n", v2):
        found = heard([(0, header + b"QUIT\r\n")], [(0, "220 x"), (0, "221 Bye")])
        assert asked(found) == [GREETING, "to QUIT"]


def test_a_null_sender_and_a_quoted_one_are_known_whatever_their_case() -> None:
    found = heard(
        [(1, b"mail from: <>\r\nRCPT TO:<B@Y> NOTIFY=NEVER\r\nDATA\r\n"), (2, b".\r\n")],
        [(0, "220 x"), (1, "250"), (1, "250"), (1, "354"), (2, "250 Ok")],
    )
    assert [(one.delivery.reverse_path, one.delivery.forward_path) for one in found.accepted] == [
        (b"", b"b@y")
    ]


def test_what_shows_a_command_shows_no_line_break_and_not_all_of_it() -> None:
    found = heard([(1, b"\x1b[2J" + b"x" * 500 + b"\r\n")], [(0, "220 x"), (1, "500 what")])
    assert "\x1b" not in found.exchanges[1].asked
    assert len(found.exchanges[1].asked) < 100


def test_replies_without_a_command_before_them_are_no_fault() -> None:
    found = heard([], [(0, "220 x"), (1, "250 surprise"), (2, "garbage")])
    assert asked(found) == [GREETING, UNASKED, UNASKED]
