"""Cleans what the two sides of an SMTP connection say, without a change of length or meaning.

A first walk tells commands, credentials and message content apart; a second one cleans each.  What
cannot be told apart is cleaned as text, in which a command is still a command: verbs and what
stands beside them by rule are kept wherever a line begins with them.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import NamedTuple

from replay.sanitize.ip_lookalikes import like_address
from replay.sanitize.lookalikes import Lookalikes, lowered
from replay.sanitize.mail_cleaner import MessageCleaner
from replay.sanitize.text_cleaner import CleaningManner, TextCleaner
from replay.sanitize.vocabulary import (
    CALENDAR,
    COMMANDS,
    EHLO_KEYWORDS,
    FIELD_WORDS,
    FOREIGN_COMMANDS,
    PARAMETERS,
    PROMPT,
    REPLY_WORDS,
    terms,
)
from replay.smtp.commands import Command, looks_like_command, split
from replay.smtp.proxy_header import V2_SIGNATURE, header_octets

CREDENTIAL_LINES_MAX = 6
"""Of one AUTH exchange, at most."""

_VERB = re.compile(r"[ \t]*([A-Za-z0-9-]{2,40})(?![A-Za-z0-9-])")
_AUTH = re.compile(rb"(?i)AUTH[ \t]+([A-Z0-9_-]{1,40})(?:[ \t]+(\S+))?[ \t]*\r?\n")
_RESPONSE = re.compile(rb"[A-Za-z0-9+/]*={0,2}[ \t]*\r?\n|\*\r?\n")
_NEW_MESSAGE = re.compile(rb"(?i)(?:MAIL|RSET|EHLO|HELO)\b")
_LONE_DOT = b".\r\n"

_PARAMETER = re.compile(r"(?<=[ \t])([A-Za-z0-9-]{1,40})=(\S*)")
_CODE_POINT = re.compile(r"(\\x\{(?:10|[1-9A-F])?[0-9A-F]{1,4}\})")
_LETTERS_BY_DIGITS = {2: 0xE0, 3: 0x430, 4: 0x4E00, 5: 0x20000, 6: 0x10FF00}
_NUMBERS_STAY = terms("size by mt-priority holdfor holduntil port srcport destport")
_XTEXT = terms("orcpt envid auth")
_REPLY = re.compile(
    r"([2-5][0-9][0-9])([ -]?)([245]\.[0-9]{1,3}\.[0-9]{1,3}(?![0-9.]))?(.*)", re.DOTALL
)
_KEYWORD = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?=[ =\r\n]|$)")

_IN_COMMANDS = CleaningManner(PARAMETERS | FOREIGN_COMMANDS | FIELD_WORDS)
_IN_XTEXT = CleaningManner(frozenset(["rfc822", "utf-8"]), escape="+")
_IN_REPLIES = CleaningManner(
    REPLY_WORDS | COMMANDS | EHLO_KEYWORDS | CALENDAR | PARAMETERS, short_numbers=True, dates=True
)


class Region(NamedTuple):
    """A stretch of the sender's stream.  ``kind`` is command, response (to an AUTH challenge),
    dot-stuffed or chunk; ``message`` numbers the message that content belongs to."""

    start: int
    end: int
    kind: str
    message: int = 0
    mechanism: str = ""


def regions(octets: bytes, *, from_the_beginning: bool = True) -> list[Region]:
    """What is what in the sender's stream, without a gap between."""
    return _Regions(octets).find(from_the_beginning)


class _Regions:
    """Names the parts of a sender's stream, and numbers its messages."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._found: list[Region] = []
        self._message = 0
        self._chunking = False  # more chunks of the same message may follow
        self._place = 0
        self._mechanism = ""  # of the AUTH exchange that goes on
        self._credential_lines = 0

    def find(self, from_the_beginning: bool) -> list[Region]:
        octets = self._octets
        if octets.startswith(V2_SIGNATURE) and (header := header_octets(octets)):
            self._take(min(header, len(octets)), "proxy")
            from_the_beginning = True
        within = not from_the_beginning and not looks_like_command(octets)
        for part in split(octets, at=self._place, begins_within_content=within):
            if part.kind == "command":
                self._command(part.command)
            elif part.kind == "content":
                self._dot_stuffed(part.end)
            else:
                self._take(part.end, "chunk")
        return self._found

    def _take(self, end: int, kind: str, mechanism: str = "") -> None:
        if end > self._place:
            self._found.append(Region(self._place, end, kind, self._message, mechanism))
            self._place = end

    def _command(self, command: Command) -> None:
        line = command.line
        if self._is_response(line):
            self._credential_lines += 1
            self._take(command.end, "response", self._mechanism)
            return
        self._take(command.end, "command")
        auth = _AUTH.fullmatch(line)
        self._mechanism = auth[1].decode("ascii").upper() if auth else ""
        self._credential_lines = 0
        if command.chunk_octets >= 0:
            self._message += not self._chunking
            self._chunking = not command.is_last_chunk
        elif _NEW_MESSAGE.match(line):
            self._chunking = False

    def _is_response(self, line: bytes) -> bool:
        """Whether a line goes on with an AUTH exchange."""
        goes_on = self._mechanism and self._credential_lines < CREDENTIAL_LINES_MAX
        return bool(goes_on and _RESPONSE.fullmatch(line) and not looks_like_command(line))

    def _dot_stuffed(self, end: int) -> None:
        """A message's content, and the dot that ends it, which belongs to no message."""
        self._message += 1
        self._chunking = False
        has_end = self._octets[self._place : end].endswith(_LONE_DOT) and (
            end - self._place == len(_LONE_DOT) or self._octets[end - 5 : end - 3] == b"\r\n"
        )
        self._take(end - len(_LONE_DOT) if has_end else end, "dot-stuffed")
        self._take(end, "end")


class SmtpCleaner:
    """Cleans the streams of connections with the look-alikes of ``looks``."""

    def __init__(self, looks: Lookalikes) -> None:
        self._looks = looks
        self._cleaner = TextCleaner(looks)
        self.kept: set[str] = set()
        """Numbers of SIZE and the like: what they count is kept, so they are."""

    # -- the sender -------------------------------------------------------------------------------

    def sender(self, octets: bytes, *, from_the_beginning: bool = True) -> bytes:
        """What the sender said, cleaned."""
        found = regions(octets, from_the_beginning=from_the_beginning)
        contents: dict[int, list[Region]] = {}
        for region in found:
            if region.kind in ("dot-stuffed", "chunk"):
                contents.setdefault(region.message, []).append(region)
        cleaned = bytearray(octets)
        for parts in contents.values():
            content = b"".join(octets[part.start : part.end] for part in parts)
            message = MessageCleaner(self._cleaner, stuffed=parts[0].kind == "dot-stuffed")
            self._put(cleaned, parts, self._content(message, content))
        first_response = True
        for region in found:
            said = octets[region.start : region.end]
            if region.kind == "command":
                new = self._command(said)
                first_response = True
            elif region.kind == "response":
                new = self._response(said, region.mechanism, first=first_response)
                first_response = False
            elif region.kind == "proxy":
                new = self._proxy(said)
            else:
                continue
            self._put(cleaned, [region], new)
        return bytes(cleaned)

    @staticmethod
    def _put(cleaned: bytearray, parts: list[Region], new: bytes) -> None:
        place = 0
        for part in parts:
            length = part.end - part.start
            cleaned[part.start : part.end] = new[place : place + length]
            place += length
        assert place == len(new)

    def _content(self, message: MessageCleaner, content: bytes) -> bytes:
        cleaned = bytearray()
        for line in _lines(content):
            text = line.decode("utf-8", "surrogateescape")
            if looks_like_command(line):
                cleaned += self._command(line)  # the server may have refused to take content
            else:
                cleaned += message.line(text).encode("utf-8", "surrogateescape")
        return bytes(cleaned)

    def _command(self, line: bytes) -> bytes:
        text = line.decode("utf-8", "surrogateescape")
        if auth := _AUTH.fullmatch(line):
            initial = auth[2]
            if initial and initial not in (b"=", b"*"):
                new = self._credentials(initial, auth[1].decode("ascii").upper(), first=True)
                return line[: auth.start(2)] + new + line[auth.end(2) :]
            return line if auth[1].decode("ascii").lower() in PARAMETERS else self._plain(text)
        return self._plain(text)

    def _plain(self, text: str) -> bytes:
        verb = _VERB.match(text)
        if verb is None or lowered(verb[1]) not in COMMANDS | FOREIGN_COMMANDS:
            return self._cleaner.clean(text, _IN_COMMANDS).encode("utf-8", "surrogateescape")
        rest = text[verb.end() :]
        name = verb[1].upper()
        if name in ("EHLO", "HELO", "LHLO"):
            cleaned = self._greeting(rest)
        elif name == "BDAT" or name == "PROXY":
            self.kept.update(re.findall(r"[0-9]+", rest))
            cleaned = (
                self._cleaner.clean(rest, CleaningManner(_IN_COMMANDS.keep, short_numbers=True))
                if name == "PROXY"
                else _keep_numbers(self._cleaner, rest)
            )
        else:
            cleaned = self._path_and_parameters(rest)
        return (text[: verb.end()] + cleaned).encode("utf-8", "surrogateescape")

    def _greeting(self, rest: str) -> str:
        """The argument of EHLO: one name, or whatever a sender takes for one."""
        name = rest.strip()
        if not name or re.search(r"[\s\[\]<>@():]", name):
            return self._cleaner.clean(rest, CleaningManner(kind="host name"))
        new = like_address(self._looks, name) or self._cleaner.host(name, CleaningManner())
        return rest.replace(name, new, 1)

    def _path_and_parameters(self, rest: str) -> str:
        closing = rest.rfind(">") + 1
        if not closing:
            closing = len(rest.split("=", 1)[0].rpartition(" ")[0]) if "=" in rest else len(rest)
        parts, position = [self._cleaner.clean(rest[:closing], _IN_COMMANDS)], closing
        for found in _PARAMETER.finditer(rest, closing):
            parts.append(self._cleaner.clean(rest[position : found.start()], _IN_COMMANDS))
            parts.append(self._parameter(found[1], found[2]))
            position = found.end()
        parts.append(self._cleaner.clean(rest[position:], _IN_COMMANDS))
        return "".join(parts)

    def _parameter(self, name: str, value: str) -> str:
        folded = lowered(name)
        if folded in _NUMBERS_STAY:
            self.kept.update(re.findall(r"[0-9]+", value))
            return f"{name}={_keep_numbers(self._cleaner, value)}"
        if folded in _XTEXT:
            new = "".join(
                self._code_point(part) if place % 2 else self._cleaner.clean(part, _IN_XTEXT)
                for place, part in enumerate(_CODE_POINT.split(value))
            )
        else:
            new = self._cleaner.clean(value, _IN_COMMANDS)
        return f"{self._cleaner.clean(name, _IN_COMMANDS)}={new}"

    def _code_point(self, text: str) -> str:
        r"""``\x{FC}``: a character in an address type that xtext is too narrow for (RFC 6533)."""
        digits = text[3:-1]
        if int(digits, 16) < 0x80 and not chr(int(digits, 16)).isalnum():
            return text
        first = _LETTERS_BY_DIGITS[len(digits)]
        return f"\\x{{{first + self._looks.stream('code point', digits, 1)[0] % 16:X}}}"

    def _proxy(self, octets: bytes) -> bytes:
        """A PROXY header of version 2: its addresses; what comes behind them is overwritten."""
        width = {1: 4, 2: 16}.get(octets[13] >> 4, 0)
        body = octets[16:]
        if not width or len(body) < 2 * width + 4:
            return octets[:16] + bytes(len(body))
        ends = [self.address(body[:width]), self.address(body[width : 2 * width])]
        ports = body[2 * width : 2 * width + 4]
        return octets[:16] + b"".join(ends) + ports + bytes(len(body) - 2 * width - 4)

    def host_address(self, host: str) -> str:
        """The look-alike of an end's address."""
        return like_address(self._looks, host) or host

    def address(self, packed: bytes) -> bytes:
        """The look-alike of a packed address."""
        like = like_address(self._looks, str(ipaddress.ip_address(packed)))
        return ipaddress.ip_address(like).packed if like else packed

    # -- credentials ------------------------------------------------------------------------------

    def _response(self, line: bytes, mechanism: str, *, first: bool) -> bytes:
        value = line.strip()
        if not value or value == b"*":
            return line
        return line.replace(value, self._credentials(value, mechanism, first=first), 1)

    def _credentials(self, value: bytes, mechanism: str, *, first: bool) -> bytes:
        """Base64 of credentials: a user gets the look-alike it has elsewhere, secrets are gone."""
        try:
            meant = base64.b64decode(value, validate=True)
        except binascii.Error:
            hidden = self._looks.secret(value.decode("latin-1")).encode("ascii")
            return bytes(new if 48 <= old < 123 and chr(old).isalnum() else old
                         for old, new in zip(value, hidden, strict=False))  # fmt: skip
        text = meant.decode("utf-8", "surrogateescape")
        if mechanism == "PLAIN" and text.count("\0") == 2:
            authzid, authcid, password = text.split("\0")
            new = "\0".join((self._who(authzid), self._who(authcid), self._looks.secret(password)))
        elif mechanism == "LOGIN" and first:
            new = self._who(text)
        elif mechanism == "CRAM-MD5" and " " in text:
            user, _, digest = text.rpartition(" ")
            new = f"{self._who(user)} {self._digest(digest)}"
        elif mechanism == "NTLM" and meant.startswith(b"NTLMSSP\0") and len(meant) > 12:
            hidden = self._looks.stream("ntlm", text, len(meant) - 12)
            return base64.b64encode(meant[:12] + hidden)
        elif mechanism.startswith(("XOAUTH", "OAUTH")):
            new = re.sub(r"(?<=Bearer )[^\x01]+", lambda one: self._looks.secret(one[0]), text)
            new = re.sub(r"(?<=user=)[^\x01]+|(?<=a=)[^\x01,]+", lambda one: self._who(one[0]), new)
            if new == text:
                new = self._looks.secret(text)
        else:
            new = self._looks.secret(text)
        return base64.b64encode(new.encode("utf-8", "surrogateescape"))

    def _who(self, text: str) -> str:
        self._looks.counts["credential"] += 1
        return self._cleaner.clean(text, CleaningManner(kind="local part"))

    def _digest(self, text: str) -> str:
        stream = self._looks.stream("digest", text, len(text.encode("utf-8", "surrogateescape")))
        return "".join("0123456789bcdf"[octet % 14] for octet in stream)

    # -- the server -------------------------------------------------------------------------------

    def server(self, octets: bytes, *, at_line_begin: bool = True) -> bytes:
        """What the server said, cleaned."""
        cleaned = []
        for number, line in enumerate(_lines(octets)):
            text = line.decode("utf-8", "surrogateescape")
            found = _REPLY.fullmatch(text) if number or at_line_begin else None
            if found is None:
                new = self._cleaner.clean(text, _IN_REPLIES)
            elif found[1] == "334" and not found[3]:
                new = found[1] + found[2] + self._challenge(found[4])
            else:
                new = found[1] + found[2] + (found[3] or "") + self._reply_text(found[1], found[4])
            cleaned.append(new.encode("utf-8", "surrogateescape"))
        return b"".join(cleaned)

    def _reply_text(self, code: str, text: str) -> str:
        keyword = _KEYWORD.match(text) if code == "250" else None
        if keyword and lowered(keyword[1]) in EHLO_KEYWORDS:
            self.kept.update(re.findall(r"[0-9]+", text))
            if lowered(keyword[1]) in ("size", "limits"):
                return keyword[1] + _keep_numbers(self._cleaner, text[keyword.end() :])
        return self._cleaner.clean(text, _IN_REPLIES)

    def _challenge(self, text: str) -> str:
        value = text.strip()
        try:
            meant = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return self._cleaner.clean(text, _IN_REPLIES)
        if not value:
            return text
        if PROMPT.fullmatch(meant):
            return text
        if meant.startswith(b"NTLMSSP\0") and len(meant) > 12:
            new = meant[:12] + self._looks.stream("ntlm", value, len(meant) - 12)
        else:
            cleaned = self._cleaner.clean(
                meant.decode("utf-8", "surrogateescape"), CleaningManner()
            )
            new = cleaned.encode("utf-8", "surrogateescape")
        return text.replace(value, base64.b64encode(new).decode("ascii"), 1)


def _keep_numbers(cleaner: TextCleaner, text: str) -> str:
    """``text`` cleaned, its numbers left."""
    words = re.split(r"([0-9]+)", text)
    return "".join(
        word if place % 2 else cleaner.clean(word, _IN_REPLIES) for place, word in enumerate(words)
    )


def _lines(octets: bytes) -> list[bytes]:
    """Lines as SMTP has them: each up to and with its LF."""
    lines = [line + b"\n" for line in octets.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]
