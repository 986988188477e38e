"""Masks in expectations: their text, what they fit, and what names remember."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import write

from mailsrv.runtime.clock import FakeClock
from replay.transcript import masks, transcript
from replay.transcript.masks import Bindings
from replay.transcript.notation import TranscriptError
from replay.transcript.octets import OctetsError
from replay.transcript.script import Expectation, Mask, MaskedOctets, Scenario
from replay.verify import suite, update

BEFORE = """+++
story = "A test."
+++
@0         open from 192.0.2.10
"""
AFTER = "+0         until-closed\n"


def reply(text: str) -> MaskedOctets:
    return MaskedOctets(masks.from_text(text))


def fits(text: str, octets: bytes, bindings: Bindings | None = None) -> bool:
    return not masks.mismatch(reply(text), octets, {} if bindings is None else bindings)


def only_expectation(scenario: Scenario) -> Expectation:
    (expectation,) = scenario.connections[0].expectations()
    return expectation


# -- text -----------------------------------------------------------------------------------------


def test_masks_and_octets_are_told_apart() -> None:
    assert masks.from_text(r"250 <*> \<a> <id:[0-9A-F]+>\r\n") == (
        b"250 ",
        Mask(),
        b" <a> ",
        Mask("id", "[0-9A-F]+"),
        b"\r\n",
    )


def test_a_masked_reply_is_read_with_its_packet_and_further_lines() -> None:
    text = BEFORE + "@1ms       S~[7]: 250-<host>\\r\\n\n           S~: 250 <*>\\r\\n\n" + AFTER
    scenario = transcript.parse(text, "x.smtp")
    expectation = only_expectation(scenario)
    pieces = (b"250-", Mask("host"), b"\r\n250 ", Mask(), b"\r\n")
    assert expectation == Expectation(MaskedOctets(pieces), 1_000_000)
    assert expectation.packet == 7
    lines = ["@1ms  S~[7]: 250-<host>\\r\\n", "      S~: 250 <*>\\r\\n"]
    assert transcript.write(scenario).splitlines()[-3:-1] == lines
    assert transcript.parse(transcript.write(scenario), "x.smtp") == scenario


@pytest.mark.parametrize(
    ("item", "column", "said"),
    [
        ("S~: 250 Ok\\r\\n", 1, "S~ has at least one mask; without one write S:"),
        ("S~: 250 <Id>\\r\\n", 21, "a mask's name"),
        ("S~: 250 <\\r\\n", 20, "a mask is <*>"),
        ("S~: 250 <>\\r\\n", 21, "a mask is <*>"),
        ("S~: 250 <id:>\\r\\n", 21, "a mask is <*>"),
        ("S~: 250 <id:(a+)+>\\r\\n", 24, "a pattern takes"),
        ("S~: 250 <id:[z-a]>\\r\\n", 24, "bad character range"),
        ("S~: 250 <id:a**>\\r\\n", 26, "a pattern takes"),
        ("S~: 250 <*>\\q\\r\\n", 23, "unknown escape"),
        ("S~: 250 <*> ", 23, "a space at the end"),
        ("S~: 250 <*><*>\\r\\n", 1, "says where one mask ends"),
        ("S~: 250 <a>\\r\\n250 <b>\\r\\n", 1, "more than one reply"),
        ("S~*4: 250 <*>\\r\\n", 12, "expected one of"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_column(item: str, column: int, said: str) -> None:
    with pytest.raises(TranscriptError) as caught:
        transcript.parse(f"{BEFORE}*          {item}\n{AFTER}", "x.smtp")
    assert said in caught.value.message
    assert (caught.value.line, caught.value.column) == (5, column)


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,5}", fullmatch=True)
PATTERNS = st.sampled_from([r"[0-9A-F]+", r"\d{1,3}", "a|b", r".*", r"[^ ]+", r"\x3c?\.", "x y"])
MASKS = st.builds(Mask, NAMES | st.just(""), PATTERNS) | st.builds(Mask, NAMES) | st.just(Mask())
LITERALS = st.binary(min_size=1, max_size=20) | st.sampled_from([b"<", b"\\<a>", b" ", b"\r\n"])


@st.composite
def masked_replies(draw: st.DrawFn) -> MaskedOctets:
    pieces: list[bytes | Mask] = []
    for _ in range(draw(st.integers(1, 5))):
        pieces += [draw(LITERALS), draw(MASKS)]
    return MaskedOctets(masks.joined([*pieces, *draw(st.lists(LITERALS, max_size=2))]))


@given(masked_replies())
def test_text_and_pieces_are_one_another(masked: MaskedOctets) -> None:
    assert masks.fault(masked) == ""
    assert masks.from_text(masks.shown(masked.pieces)) == masked.pieces
    lines = [masks.from_text(line) for line in masks.to_lines(masked.pieces)]
    assert masks.joined([piece for line in lines for piece in line]) == masked.pieces


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        pieces = masks.from_text(text)
    except OctetsError as error:
        assert 0 <= error.offset <= len(text)
    else:
        assert masks.from_text(masks.shown(pieces)) == pieces


# -- what fits ------------------------------------------------------------------------------------


def test_a_star_fits_anything_up_to_the_text_behind_it() -> None:
    assert fits(r"220 <*> ESMTP <*>\r\n", b"220 mx.example.test ESMTP Postfix\r\n")
    assert fits(r"220 <*> ESMTP<*>\r\n", b"220 mx.example.test ESMTP\r\n")
    assert not fits(r"220 <*> ESMTP <*>\r\n", b"220 mx.example.test SMTP\r\n")
    assert not fits(r"220 <*> ESMTP <*>\r\n", b"221 mx.example.test ESMTP x\r\n")


def test_no_mask_reaches_over_a_line_end() -> None:
    assert not fits(r"250<*>HELP\r\n", b"250-mx\r\n250 HELP\r\n")
    assert not fits(r"250<:[^H]+>HELP\r\n", b"250-mx\r\n250 HELP\r\n")
    assert not fits(r"250 <*>", b"250 a\r\n")
    assert fits(r"250-<*>\r\n250 HELP\r\n", b"250-mx\r\n250 HELP\r\n")


def test_a_pattern_takes_all_it_can_and_gives_nothing_back() -> None:
    queued = r"250 2.0.0 Ok: queued as <id:[0-9A-F]+>\r\n"
    assert not fits(queued, b"250 2.0.0 Ok: queued as 4CBx7C\r\n")
    assert fits(queued, b"250 2.0.0 Ok: queued as 4CB07C\r\n")
    assert not fits(r"250 <:\d+>0\r\n", b"250 100\r\n")
    assert not fits(r"250 <:\d+0>\r\n", b"250 100\r\n")
    assert fits(r"250 <:ab|a><:\d{2}>\r\n", b"250 a12\r\n")


def test_the_octets_behind_the_last_mask_count() -> None:
    assert not fits(r"250 <*>\r\n", b"250 a\r\nb")
    assert not fits(r"250 <:\d+>", b"250 12x")


def test_a_name_is_the_same_octets_from_then_on() -> None:
    bindings: Bindings = {}
    assert fits(r"220 <host> ESMTP\r\n", b"220 mx1.example ESMTP\r\n", bindings)
    assert fits(r"250 <host> at your service\r\n", b"250 mx1.example at your service\r\n", bindings)
    why = masks.mismatch(reply(r"221 <host> closing\r\n"), b"221 mx2.example closing\r\n", bindings)
    assert why == "<host> was 'mx1.example' before"


def test_a_name_twice_in_one_reply_must_agree_and_is_never_empty() -> None:
    assert fits(r"250 <a> and <a>\r\n", b"250 x and x\r\n")
    assert not fits(r"250 <a> and <a>\r\n", b"250 x and y\r\n")
    assert not fits(r"250 <a>\r\n", b"250 \r\n")


def test_a_reply_that_does_not_fit_binds_nothing() -> None:
    bindings: Bindings = {}
    assert not fits(r"220 <host> ESMTP\r\n", b"220 mx1 SMTP\r\n", bindings)
    assert not fits(r"220 <host> <*>x\r\n", b"220 mx1 y\r\n", bindings)
    assert bindings == {}


@given(st.lists(st.sampled_from([r"\d*", "[0-9]*", "a?", "<*>0", ".*"]), max_size=15))
def test_no_pattern_takes_long(parts: list[str]) -> None:
    text = "250 " + "".join(part if part[0] == "<" else f"<:{part}>" for part in parts) + "!<*>"
    masks.mismatch(reply(text), b"250 " + b"0" * 30_000 + b"\r\n", {})


@given(masked_replies(), st.binary(max_size=60))
def test_matching_anything_never_fails(masked: MaskedOctets, octets: bytes) -> None:
    assert isinstance(masks.mismatch(masked, octets, {}), str)


# -- in virtual time, and kept by an update -------------------------------------------------------

MASKED = r"""
@0        open from 192.0.2.10
@0        S~: 220 <host> ESMTP <*>\r\n
reply+1ms C: HELO me\r\n
@1ms      S~: 250 <host>\r\n
reply+1ms C: QUIT\r\n
@2ms      S~: 221 2.0.0 <:[A-Z][a-z]+>\r\n
reply+0   close
"""


def test_masks_hold_in_virtual_time(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", MASKED)
    assert suite.run_file(path, FakeClock()).verdict == suite.AS_EXPECTED
    write(path, MASKED.replace("250 <host>", "250 <host>x"))
    (difference,) = suite.run_file(path, FakeClock()).differences
    assert difference.what == "reply 2: text differs"


def test_an_update_keeps_masks_that_fit_and_replaces_those_that_do_not(tmp_path: Path) -> None:
    path = write(tmp_path / "x.smtp", MASKED.replace("@1ms", "*   ").replace("[a-z]+>", "[0-9]+>"))
    assert suite.run_file(path, FakeClock(), updating=update.KINDS).verdict == suite.UPDATED
    text = path.read_text(encoding="utf-8")
    assert r"@0        S~: 220 <host> ESMTP <*>\r\n" in text
    assert r"@1ms      S~: 250 <host>\r\n" in text
    assert r"@2ms      S: 221 2.0.0 Bye\r\n" in text
