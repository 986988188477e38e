"""Addresses and identifiers as the DSN parameters and fields spell them (RFC 3461, RFC 6533).

``xtext`` stands for printable ASCII: "+", "=" and what is not visible become "+" and two digits.
Beyond ASCII, RFC 6533 section 3 writes a character as ``\\x{5D0}`` (utf-8-addr-xtext), or, where
UTF-8 is allowed, as it is (utf-8-addr-unitext).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_NO_XCHAR = re.compile(r"[^!-*,-<>-~]")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")
_NO_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")
_NO_QUCHAR = re.compile(r"[^!-*,-<>-\[\]-~\x80-\U0010ffff]")
_POINT_MAX = 0x10FFFF

ASCII_TYPE, UTF8_TYPE = "rfc822", "utf-8"
"""Address types of RFC 3461 and RFC 6533."""


class TypedAddress(NamedTuple):
    """An address of some type, decoded."""

    kind: str
    text: str


def decode(xtext: str) -> str:
    """What ``xtext`` stands for."""
    return _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), xtext)


def encode(text: str) -> str:
    """The xtext of ``text``.  Raises ValueError beyond ASCII, for which xtext has no form."""
    if not text.isascii():
        raise ValueError("xtext is ASCII")
    return _NO_XCHAR.sub(lambda match: f"+{ord(match[0]):02X}", text)


def embed(text: str, *, utf8: bool) -> str:
    """``text`` as utf-8-addr-xtext, or, if ``utf8``, as utf-8-addr-unitext."""
    unsafe = _NO_QUCHAR if utf8 else _NO_QCHAR
    return unsafe.sub(lambda match: f"\\x{{{ord(match[0]):02X}}}", text)


def unembed(text: str) -> str:
    """What utf-8-addr-xtext or utf-8-addr-unitext stands for."""
    return _EMBEDDED.sub(_character, text)


def _character(match: re.Match[str]) -> str:
    point = int(match[1], 16)
    return chr(point) if point <= _POINT_MAX and not 0xD800 <= point <= 0xDFFF else match[0]


def decode_orcpt(orcpt: str) -> TypedAddress:
    """What an ORCPT parameter stands for."""
    kind, _, rest = orcpt.partition(";")
    kind = kind.lower()
    return TypedAddress(kind, unembed(rest) if kind == UTF8_TYPE else decode(rest))


def encode_orcpt(address: str) -> str:
    """The ORCPT parameter that names ``address``, in ASCII."""
    if address.isascii():
        return f"{ASCII_TYPE};{encode(address)}"
    return f"{UTF8_TYPE};{embed(address, utf8=False)}"
