"""The accepted lines of a transcript, and the notation's version in the header."""

from __future__ import annotations

import dataclasses

import pytest

from replay.transcript.notation import TranscriptError
from replay.transcript.script import AcceptedMessage, Mask
from replay.transcript.transcript import parse, rewrite, write

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
OLD = '+++\nstory = "An old one."\n+++\n@0 open from ::1  # why\n+0 close\n'
MESSAGE = rf"""
accepted  from <a@example.org> BODY=8BITMIME
          to <b@example.test>
          to <"c d"@example.test>
          trace~: Received: from x\r\n
          trace~: \t(<*>) for \<b@example.test>\r\n
          content 4 octets, sha256 {DIGEST}
"""


def test_a_message_is_its_envelope_its_trace_header_and_its_content() -> None:
    (message,) = parse(OLD + MESSAGE, "x").accepted or ()
    assert message == AcceptedMessage(
        b"<a@example.org> BODY=8BITMIME",
        (b"<b@example.test>", b'<"c d"@example.test>'),
        (b"Received: from x\r\n\t(", Mask(), b") for <b@example.test>\r\n"),
        4,
        DIGEST,
    )
    assert message.line == 7


def test_nothing_accepted_is_not_the_same_as_nothing_told() -> None:
    assert parse(OLD, "x").accepted is None
    assert parse(OLD + "accepted nothing\n", "x").accepted == ()


def test_what_is_written_tells_the_version_and_can_be_read_again() -> None:
    scenario = parse(OLD + MESSAGE, "x")
    text = write(scenario)
    assert text.startswith("+++\nnotation = 2\n")
    assert text.endswith(MESSAGE)
    assert parse(text, "x") == scenario


def test_a_version_that_is_not_known_is_refused_with_those_that_are() -> None:
    for version in ("4", "0", "true"):
        text = OLD.replace("story", f"notation = {version}\nstory")
        with pytest.raises(TranscriptError, match=r"x:2:1: notation .* 1 to 3 are"):
            parse(text, "x")
    with pytest.raises(TranscriptError, match="notation is a number"):
        parse(OLD.replace("story", 'notation = "2"\nstory'), "x")


def test_an_old_text_that_is_rewritten_tells_the_version_and_keeps_all_else() -> None:
    for header in ("+++\n", "+++\nnotation = 1\n"):
        text = header + OLD.removeprefix("+++\n")
        new = rewrite(text, dataclasses.replace(parse(text, "x"), accepted=()), "x")
        kept = OLD.removeprefix("+++\n")
        assert new == f"+++\nnotation = 2\n{kept}\naccepted  nothing\n"


@pytest.mark.parametrize("line", ['"notation" = 1', "'notation' = 0x1", "\tnotation=1 # old"])
def test_however_the_old_version_is_spelled_what_is_rewritten_can_be_read(line: str) -> None:
    text = OLD.replace("story", f"{line}\nstory")
    new = rewrite(text, dataclasses.replace(parse(text, "x"), accepted=()), "x")
    assert (parse(new, "x").accepted, line in new) == ((), False)


def test_a_line_of_a_long_text_that_looks_like_the_version_is_kept() -> None:
    text = OLD.replace("+++\n@0", '[world]\nbanner = """\nnotation = 1\n"""\n+++\n@0')
    for old in (text, text.replace("story", "notation = 1\nstory")):
        scenario = parse(old, "x")
        new = rewrite(old, dataclasses.replace(scenario, accepted=()), "x")
        assert parse(new, "x").world == scenario.world == {"banner": "notation = 1\n"}


def test_accepted_lines_are_replaced_where_they_stand() -> None:
    text = f"{OLD}# what came\n{MESSAGE.strip()}\n# the end\n"
    new = rewrite(text, dataclasses.replace(parse(text, "x"), accepted=()), "x")
    assert new.endswith("# what came\naccepted  nothing\n# the end\n")


@pytest.mark.parametrize(
    ("lines", "place", "message"),
    [
        ("accepted something", "6:10", "expected accepted nothing, or accepted from"),
        ("accepted from <a>", "6:1", "has from, to and content"),
        ("accepted from <a>\n  to <b>", "6:1", "has from, to and content"),
        ("accepted nothing\naccepted nothing", "6:1", "not both"),
        ("accepted nothing\n  to <b>", "7:3", "nothing more stands here"),
        ("accepted from <a>\n  to \\q", "7:6", "unknown escape"),
        ("accepted from <a>\n  trace~: <", "7:11", "a mask is"),
        ("accepted from <a>\n  trace: x\n  to <b>", "8:3", "recipients stand above the trace"),
        ("accepted from <a>\n  content 4 octets", "7:3", "sha256 DIGEST"),
        (f"accepted from <a>\n  to <b>\n  trace~: x\n  content 0 octets, sha256 {DIGEST}", "", ""),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(lines: str, place: str, message: str) -> None:
    if not place:
        assert parse(f"{OLD}{lines}\n", "x").accepted  # without a mask it is exact
        return
    with pytest.raises(TranscriptError) as caught:
        parse(f"{OLD}{lines}\n", "x")
    assert str(caught.value).startswith(f"x:{place}: ")
    assert message in str(caught.value)
