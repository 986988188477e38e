"""How the notation complains: with a place, and with what is allowed; never with a traceback."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from calls import calls_of
from hypothesis import given
from hypothesis import strategies as st

from replay.transcript import notation, transcript
from replay.transcript.script import (
    At,
    Close,
    Departure,
    Open,
    Scenario,
    ScriptedConnection,
    SendOctets,
    Step,
)
from replay.transcript.transcript import TranscriptError, parse, write

HEADER = '+++\nstory  = "s"\n+++\n'
DOCUMENT = Path(__file__).parents[3] / "docs" / "understand" / "notation.md"
WHOLE = DOCUMENT.read_text("utf-8").split("```")[1].lstrip("\n")


def scenario_of(*steps: Step) -> Scenario:
    return Scenario("s", (ScriptedConnection("1", steps),))


def sending(sent: bytes) -> Scenario:
    return scenario_of(
        Departure(At(0), Open("192.0.2.1")),
        Departure(At(0), SendOctets(sent)),
        Departure(At(0), Close()),
    )


OPEN = "@0 open from 192.0.2.1\n"


@pytest.mark.parametrize(
    ("body", "line", "column", "said"),
    [
        ("", 4, 1, "no connection"),
        (OPEN, 4, 1, "no end"),
        (OPEN + "+0 close\n+0 close\n", 6, 1, "after the connection's end"),
        (OPEN + OPEN + "+0 close\n", 5, 1, "opened once"),
        ("@0 close\n", 4, 1, "begins with open or listen"),
        ("@0 S eof\n" + OPEN + "+0 close\n", 4, 1, "begins with open or listen"),
        ("+0 open from ::1\n+0 close\n", 4, 1, "@T"),
        ("@0 open from 192.0.2.256\n+0 close\n", 4, 1, "IPv4 or IPv6"),
        ("@0 open from fe80::1%x\n+0 close\n", 4, 1, "IPv4 or IPv6"),
        ("@0 open from mx.example.test\n+0 close\n", 4, 1, "IPv4 or IPv6"),
        ("@0 open\n+0 close\n", 4, 4, "from ADDRESS"),
        (OPEN + "+0 close from ::1\n", 5, 4, "from ADDRESS"),
        (OPEN + "reply+0 close\n", 5, 1, "reply expected above"),
        (OPEN + "@0 S eof\nreply+0 close\n", 6, 1, "reply expected above"),
        (OPEN + "+0 half-close\n+0 C: x\n+0 close", 6, 1, "after half-close"),
        (OPEN + "+0 half-close-at-once\n+0 close", 5, 1, "right below the octets"),
        (OPEN + "+0 C: x\n+1ms half-close-at-once\n+0 close", 6, 1, r"stands at \+0"),
        (OPEN + "+0 C: x\n+0 half-close-at-once\n+0 C: x\n+0 close", 7, 1, "after half-close"),
        (OPEN + "+0 half-close\n+0 starttls\n+0 close", 6, 1, "after half-close"),
        (OPEN + "+0 starttls\n+0 starttls\n+0 close", 6, 1, "one TLS handshake"),
        (OPEN + "@1s S tls\n@2s S tls-refused\n+0 close", 6, 1, "one TLS handshake"),
        (OPEN + "@1s S tls\nreply+0 close\n", 6, 1, "reply expected above"),
        (OPEN + "@0 S tls-\n+0 close\n", 5, 4, "S tls, S tls-refused"),
        (OPEN + "@5s S? 250\n@4s S? 250\n+0 close", 6, 1, "earlier"),
        (OPEN + "@5s S? 250\n* S? 250\n@4s S? 250\n+0 close", 7, 1, "earlier"),
        (OPEN + "* S? 099\n+0 close", 5, 1, "three digits"),
        (OPEN + r"@0 S: 250-a\r\n250 b\r\n250 c\r\n" + "\n+0 close", 5, 1, "more than one reply"),
        (OPEN + "* close\n", 5, 1, "no free time"),
        (OPEN + "-1s close\n", 5, 1, "allowed are @T"),
        (OPEN + "@-1s close\n", 5, 2, "no duration"),
        (OPEN + "reply+1 close\n", 5, 7, "no duration"),
        (OPEN + "reply+1 S? 250\n", 5, 1, "has the time @T"),
        (OPEN + "+1001h24000 close\n", 5, 2, "no duration"),
        (OPEN + "+24001h close\n", 5, 2, "1000 days"),
        (OPEN + "+0\n", 5, 1, "expected a time, spaces and an item"),
        (OPEN + "+0 S? \n", 5, 4, "needs a reply code"),
        (OPEN + "+0 S? 25\n", 5, 4, "expected one of"),
        (OPEN + "+0 vanish\n", 5, 4, "half-close"),
        (OPEN + "+0 Close\n", 5, 4, "expected one of"),
        (OPEN + "+0 C:x\n", 5, 4, "expected one of"),
        (OPEN + "+0 C: \n", 5, 7, "missing"),
        (OPEN + "+0 C:    a\\q\n", 5, 11, "unknown escape"),
        (OPEN + "+0 C: é\\xg0\n", 5, 8, "unknown escape"),
        (OPEN + "+0 C: a\\\n", 5, 8, "unknown escape"),
        (OPEN + "+0 C: a\\é\n", 5, 8, "unknown escape"),
        (OPEN + "+0 C: a \n", 5, 8, r"write it as \\x20"),
        (OPEN + "+0 C: a\tb\n", 5, 8, r"U\+0009 cannot be seen; write it as \\t"),
        (OPEN + "+0 C: a\u200bb\n", 5, 8, r"write it as \\xe2\\x80\\x8b"),
        (OPEN + "+0 C: a\r\n+0 close\r\n", 5, 8, "LF alone"),
        (OPEN + "+0 C: a\ud800\n", 5, 8, "UTF-8"),
        (OPEN + "+0 C*0: a\n", 5, 6, "1 or more"),
        (OPEN + "+0 C*99999999999: a\n", 5, 19, "octets in all"),
        (OPEN + "+0 C[0]: a\n", 5, 6, "packet number"),
        (OPEN + "+0 C[99999999999999999]: a\n", 5, 6, "packet number"),
        (OPEN + "   C: a\n", 5, 4, "no more lines"),
        ("   C: a\n", 4, 1, "a new step begins with a time"),
        (OPEN + "+0 C: a\n   S: a\n", 6, 4, "takes C: octets"),
        (OPEN + "+0 C: a\n   C[3]: a\n", 6, 4, "takes C: octets"),
        (OPEN + "* S? 250 was: a\n   S? 250 was: b\n", 6, 4, r"takes S\? was: octets"),
        (OPEN + "+0 a| close\n", 5, 7, "every line"),
        ("@0 a| open from ::1\n+0 close\n", 5, 4, "every line"),
        ("@0 A| open from ::1\n", 4, 4, "a connection's name is"),
        (f"@0 {'a' * 33}| open from ::1\n", 4, 4, "a connection's name is"),
        ("@0 a| open from ::1\n+0 a| C: x\n   b| C: y", 6, 1, "the same connection"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_allowed(
    body: str, line: int, column: int, said: str
) -> None:
    with pytest.raises(TranscriptError, match=said) as caught:
        parse(HEADER + body, "bad.smtp")
    assert str(caught.value).startswith(f"bad.smtp:{line}:{column}: ")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, r"begins with a line \+\+\+"),
        ("\ufeff+++\n", 1, r"begins with a line \+\+\+"),
        ("+++\nstory = 'x'\n", 3, "does not end"),
        ("+++\n+++\n", 1, "needs a story"),
        ("+++\nstory = ' '\n+++\n", 2, "needs a story"),
        ("+++\nsource = 'a'\nstory = 5\n+++\n", 3, "story is a line of text"),
        ('+++\nstory = "a\\nb"\n+++\n', 2, "one line"),
        ("+++\nstory = 'x'\nserver = 5\n+++\n", 3, "server is a table"),
        ("+++\nstory = 'x'\n\nstorey = 'y'\n+++\n", 4, '"storey".*story, source, needs, server'),
        ("+++\nstory = 'x'\n[sever]\na = 1\n+++\n", 3, '"sever"'),
        ("+++\nstory = 'x'\nstory = 'y'\n+++\n", 3, "TOML"),
        ("+++\nstory = 'x'\na = \n+++\n", 3, "TOML"),
        ("+++\nstory = 'x'\n[server]\nat = 2020-01-01\n+++\n", 3, "is a date"),
        ("+++\nstory = 'x'\n[server]\na.b.c.d.e.f.g.h.i = 1\n+++\n", 3, "nests deeper"),
        (f"+++\nstory = 'x'\na = {'[' * 5000}\n+++\n", 1, "nests deeper"),
        (f"+++\nstory = 'x'\na = {'1' * 5000}\n+++\n", 3, "TOML"),
        (f"+++\nstory = '{'x' * 9000}'\n+++\n", 2, "too long"),
        ("+++\n" + "# comment\n" * 200_000 + "+++\n", 104_859, "too long"),
    ],
)
def test_a_wrong_header_is_refused(text: str, line: int, said: str) -> None:
    with pytest.raises(TranscriptError, match=said) as caught:
        parse(text, "bad.smtp")
    assert caught.value.line == line


def opened_and_closed(count: int) -> str:
    return HEADER + "".join(f"@0 c{n}| open from ::1\n+0 c{n}| close\n" for n in range(count))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER + "\n" * notation.LINES_MAX, "lines"),
        (HEADER + "x" * notation.TEXT_CHARACTERS_MAX, "longer than"),
        (opened_and_closed(notation.CONNECTIONS_MAX + 1), "too many connections"),
    ],
    ids=["lines", "length", "connections"],
)
def test_bounds_on_lines_length_and_connections_hold(text: str, said: str) -> None:
    with pytest.raises(TranscriptError, match=said):
        parse(text, "x")


def test_as_many_connections_as_allowed_are_read() -> None:
    text = opened_and_closed(notation.CONNECTIONS_MAX)
    assert len(parse(text, "x").connections) == notation.CONNECTIONS_MAX


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("s", ()),
        dataclasses.replace(sending(b"x"), story=""),
        dataclasses.replace(sending(b"x"), story="a\nb"),
        dataclasses.replace(sending(b"x"), server={"a": None}),
        dataclasses.replace(sending(b"x"), world={"a": "\ud800"}),
        dataclasses.replace(sending(b"x"), connections=sending(b"x").connections * 2),
        Scenario("s", (ScriptedConnection("No name", sending(b"x").connections[0].steps),)),
        sending(b""),
        scenario_of(Departure(At(0), Open("::1"))),
        scenario_of(),
        scenario_of(Departure(At(-1), Open("::1")), Departure(At(0), Close())),
        scenario_of(Departure(At(0), Open("::1")), Departure(At(0), Close(), packet=-1)),
    ],
)
def test_what_could_not_be_read_again_is_not_written(scenario: Scenario) -> None:
    with pytest.raises(ValueError):
        write(scenario)


FRAGMENTS = re.findall(
    r"\S+",
    r"""
    story='x' [server] [world.dns] @0 +5ms reply+1s * open from 192.0.2.1 ::1 C: S: S? S eof reset
    close half-close until-closed abandon 250 was: [3] *4: a| b| # \r\n \x41 \ é +++
    """,
)
soup = st.lists(
    st.sampled_from([*FRAGMENTS, "\n", "\n", " ", "\t", "+++\n", "\n@0 "])
    | st.text(max_size=5)
    | st.characters(),
    max_size=40,
).map("".join)


def never_a_traceback(text: str) -> None:
    try:
        scenario = parse(text, "x")
    except TranscriptError as error:
        assert 1 <= error.line <= text.count("\n") + 1
        assert error.column >= 1
    else:
        assert parse(write(scenario), "x") == scenario


@given(st.text() | soup)
def test_any_text_gives_a_scenario_or_a_transcript_error(text: str) -> None:
    never_a_traceback(text)


@given(soup)
def test_any_header_gives_a_scenario_or_a_transcript_error(text: str) -> None:
    never_a_traceback(f"+++\nstory='x'\n{text}\n+++\n{OPEN}+0 close\n")


@given(soup)
def test_any_body_gives_a_scenario_or_a_transcript_error(text: str) -> None:
    never_a_traceback(f"{HEADER}{OPEN}@0 S? 250\n{text}\n+0 close\n")


@given(st.integers(0, len(WHOLE)), st.integers(0, 5), soup)
def test_any_damage_to_a_transcript_gives_a_scenario_or_a_transcript_error(
    start: int, length: int, put_in: str
) -> None:
    never_a_traceback(WHOLE[:start] + put_in + WHOLE[start + length :])


def test_a_file_is_loaded_and_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.smtp"
    path.write_text(WHOLE, "utf-8")
    assert transcript.load(path) == parse(WHOLE, "x")
    path.write_bytes(b"+++\nst\xe9")
    with pytest.raises(TranscriptError, match=r"a.smtp:2:3: .*UTF-8"):
        transcript.load(path)


def test_time_to_read_does_not_grow_with_the_square_of_a_lines_length() -> None:
    for tail in ("close" + " " * 200_000 + "x", "S?" + " " * 200_000 + "x", "a" * 200_000):
        with pytest.raises(TranscriptError, match="expected one of"):
            parse(f"{HEADER}{OPEN}@0 {tail}", "x")


def test_time_to_read_does_not_grow_with_the_square_of_the_steps() -> None:
    steps = "@0 S? 250\nreply+1ms C: NOOP\\r\\n\n" * 20_000
    assert len(parse(f"{HEADER}{OPEN}{steps}+0 close\n", "x").connections[0].steps) == 40_002


def test_time_to_read_does_not_grow_with_the_square_of_the_replies_to_ehlo() -> None:
    def calls(replies: int) -> int:
        steps = "* S ehlo\n" * replies
        return calls_of(lambda: parse(f"{HEADER}{OPEN}{steps}+0 close\n", "x"))

    assert calls(400) < 2.5 * calls(200)


@pytest.mark.parametrize(
    ("above", "word", "line"),
    [("notation = {}\n", "notation", 2), ("[server]\nmessage_octets = {}\n", "server", 3)],
)
def test_a_number_longer_than_python_prints_is_declined_by_its_name(
    above: str, word: str, line: int
) -> None:
    server = above.format("0x" + 5000 * "f")
    text = f'+++\n{server if word == "notation" else ""}story = "s"\n'
    text += f"{server if word == 'server' else ''}+++\n{OPEN}* S ehlo\nreply+0 close\n"
    with pytest.raises(TranscriptError, match=rf"a.smtp:{line}:1: {word}.* more than 256 bits"):
        parse(text, "a.smtp")
