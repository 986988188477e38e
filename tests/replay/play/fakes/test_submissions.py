"""[world.messages]: mail that comes in by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from replay.play.fakes.submissions import submissions_from
from replay.play.fakes.tables import WorldError
from replay.transcript import transcript
from replay.verify.suite import run_scenario

LISTEN = "\n@0 listen at 192.0.2.25\n* C open\n+0 close\n"


def run(world: str, server: str = "") -> tuple[list[str], list[bytes]]:
    text = f'+++\nstory = "x"\n[server]\n{server}\n[world]\n{world}\n+++{LISTEN}'
    result = run_scenario(transcript.parse(text, "x.smtp"), Path("x.smtp"))
    told = [str(one) for one in result.differences if not one.connection]
    return told, [one.content for one in result.delivered]


def test_each_message_comes_in_at_its_time_as_it_is_written() -> None:
    told, contents = run(
        'messages = [{ from = "<a@example.org> BODY=8BITMIME", to = ["b@example.test", '
        '"<c@example.test>"], content = "A: b\\n\\n.a\\nb", at_s = 90 }, '
        '{ from = "<>", to = ["b@example.test"] }]'
    )
    assert told == []
    assert contents == [b"Subject: A message\r\n\r\nIts text.\r\n", b"A: b\r\n\r\n.a\r\nb\r\n"]


def test_a_message_that_is_refused_is_told() -> None:
    told, contents = run(
        'messages = [{ from = "a@example.org", to = ["b@example.test"] }]\n'
        'delivery = { replies = ["452 4.3.1 Error: full"] }'
    )
    assert contents == []
    assert told[0].splitlines()[0] == ("message 1 of [world]: reply 6: code 452 instead of 250")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "world.messages: a list"),
        ([1], r"world.messages\[1\]: a table of from, to"),
        ([{"from": "a@b"}], r"world.messages\[1\].to: a list"),
        ([{"to": ["a@b"]}], r"world.messages\[1\].from: a path"),
        ([{"from": "a b", "to": ["a@b"]}], "from: a path"),
        ([{"from": "<a>\r\nRSET", "to": ["a@b"]}], "from: a path"),
        ([{"from": "", "to": ["a@b"]}], "from: a path"),
        ([{"from": "a", "to": ["b"], "at_s": -1}], "at_s: a number of seconds"),
        ([{"from": "a", "to": ["b"], "at_s": float("nan")}], "at_s: a number of seconds"),
        ([{"from": "a", "to": ["b"], "content": 1}], "content: a text"),
        ([{"from": "a", "to": ["b"], "client": "x"}], "client: an IPv4"),
        ([{"from": "a", "to": ["b"], "form": "x"}], "did you mean from"),
    ],
)
def test_a_message_that_cannot_be_is_declined_with_its_place(value: object, said: str) -> None:
    with pytest.raises(WorldError, match=said):
        submissions_from(value)
