"""The lines of MAIL and RCPT, with the parameters that a next hop has offered to take.

A path is sent only if our own grammar knows it, and a parameter only if it is one word: whatever an
envelope holds, it writes no command of its own.
"""

from __future__ import annotations

import re

from mailsrv.smtp.envelope import Envelope, Notice
from mailsrv.smtp.path import MailPath, parse_forward_path, parse_reverse_path
from mailsrv.smtp.sending.extensions import Extensions

_is_word = re.compile(r"[!-~]++").fullmatch
_is_orcpt = re.compile(r"[A-Za-z0-9._-]++;(?:[!-~]|[^\x00-\xa0])++").fullmatch
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


def is_reverse_path(path: MailPath) -> bool:
    """Whether ``path`` can stand in MAIL."""
    return parse_reverse_path(f"<{path}>") == (path, "")


def is_forward_path(path: MailPath) -> bool:
    """Whether ``path`` can stand in RCPT."""
    return parse_forward_path(f"<{path}>") == (path, "")


def mail(
    envelope: Envelope, extensions: Extensions, size_octets: int, *, eight_bit: bool, utf8: bool
) -> bytes:
    """The MAIL line of a message that may hold ``eight_bit`` content and needs SMTPUTF8 or not."""
    words = [f"MAIL FROM:<{envelope.reverse_path}>"]
    if extensions.size:
        words.append(f"SIZE={size_octets}")
    if extensions.eight_bit and eight_bit:
        words.append("BODY=8BITMIME")
    if utf8:
        words.append("SMTPUTF8")
    if extensions.dsn:
        if envelope.ret in ("FULL", "HDRS"):
            words.append(f"RET={envelope.ret}")
        if _is_word(envelope.envid):
            words.append(f"ENVID={envelope.envid}")
    return _line(words)


def rcpt(path: MailPath, notice: Notice, extensions: Extensions, *, utf8: bool) -> bytes:
    """The RCPT line of a recipient."""
    words = [f"RCPT TO:<{path}>"]
    if extensions.dsn:
        occasions = ",".join(notice.notify)
        if _is_word(occasions):
            words.append(f"NOTIFY={occasions}")
        if _is_orcpt(notice.orcpt):
            # RFC 6533 section 3: without SMTPUTF8 a utf-8 address is written in ASCII
            orcpt = notice.orcpt if utf8 else _BEYOND_ASCII.sub(_embedded, notice.orcpt)
            words.append(f"ORCPT={orcpt}")
    return _line(words)


def _embedded(match: re.Match[str]) -> str:
    return f"\\x{{{ord(match[0]):X}}}"


def _line(words: list[str]) -> bytes:
    return " ".join(words).encode() + b"\r\n"
