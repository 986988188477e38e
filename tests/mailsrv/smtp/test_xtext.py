"""xtext and the forms of addresses beyond ASCII: what is written can be read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.smtp.command import RcptParameters, rcpt
from mailsrv.smtp.envelope import Notice
from mailsrv.smtp.xtext import (
    TypedAddress,
    decode,
    decode_orcpt,
    embed,
    encode,
    encode_orcpt,
    unembed,
)

PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


@pytest.mark.parametrize(
    ("text", "xtext"),
    [
        ("ann@example.org", "ann@example.org"),
        ("ann+x@example.org", "ann+2Bx@example.org"),
        ("a=b", "a+3Db"),
        ("a b", "a+20b"),
        ("a\r\nb", "a+0D+0Ab"),
        ("~!", "~!"),
    ],
)
def test_xtext_spells_what_a_parameter_cannot_hold(text: str, xtext: str) -> None:
    assert encode(text) == xtext
    assert decode(xtext) == text


@given(st.text(st.characters(codec="ascii")))
def test_xtext_of_any_ascii_is_one_word_and_reads_back(text: str) -> None:
    assert decode(encode(text)) == text
    assert all("!" <= one <= "~" and one != "=" for one in encode(text))


def test_there_is_no_xtext_beyond_ascii() -> None:
    with pytest.raises(ValueError, match="ASCII"):
        encode("é")


@pytest.mark.parametrize(
    ("text", "ascii_form", "utf8_form"),
    [
        ("\u05d0@\u05d1.example", r"\x{5D0}@\x{5D1}.example", "\u05d0@\u05d1.example"),
        ("a+b=c d\\", r"a\x{2B}b\x{3D}c\x{20}d\x{5C}", r"a\x{2B}b\x{3D}c\x{20}d\x{5C}"),
        ("\U0001f4e7@x.example", r"\x{1F4E7}@x.example", "\U0001f4e7@x.example"),
    ],
)
def test_an_address_beyond_ascii_has_two_forms(text: str, ascii_form: str, utf8_form: str) -> None:
    assert embed(text, utf8=False) == ascii_form
    assert embed(text, utf8=True) == utf8_form
    assert unembed(ascii_form) == unembed(utf8_form) == text


@given(PRINTABLE, st.booleans())
def test_both_forms_read_back(text: str, utf8: bool) -> None:
    assert unembed(embed(text, utf8=utf8)) == text


@given(PRINTABLE)
def test_an_orcpt_of_ours_is_taken_by_any_who_reads_the_rfc(address: str) -> None:
    orcpt = encode_orcpt(address)
    assert orcpt.isascii()
    assert decode_orcpt(orcpt).text == address
    if len(orcpt) <= 500:
        assert rcpt(f"ORCPT={orcpt}", False) == RcptParameters(Notice((), orcpt))


def test_what_is_no_character_stays_as_it_is_written() -> None:
    assert unembed(r"\x{D800}\x{FFFFFF}\x{}") == r"\x{D800}\x{FFFFFF}\x{}"
    assert decode("+zz+4") == "+zz+4"
    assert decode_orcpt("X400;a+20b") == TypedAddress("x400", "a b")
    assert decode_orcpt("nonsense") == TypedAddress("nonsense", "")
