"""Cleans the content of messages and keeps how it is built: fields, parts, encodings, line ends.

The names of header fields stay where they are common ones, and of their values what a rule puts
there; dates stay (the capture's own times do).  Boundaries stay boundaries, base64 stays base64 of
the same length, quoted-printable stays such.  A line is cleaned for itself, so that none changes
its length, and whatever stands alone on one (a dot, a bare CR) stays.
"""

from __future__ import annotations

import re

from replay.sanitize.lookalikes import lowered
from replay.sanitize.text_cleaner import CleaningManner, TextCleaner
from replay.sanitize.vocabulary import (
    CALENDAR,
    COMMANDS,
    FIELD_WORDS,
    FILE_KINDS,
    HEADER_FIELDS,
    MIME_WORDS,
    SCHEMES,
    terms,
)

BOUNDARIES_MAX = 200
"""Of one message; the lines of further ones are taken for text."""

_FIELD = re.compile(r"([!-9;-~]{1,200})([ \t]*:)(.*)", re.DOTALL)
_LINE_END = re.compile(r"[\r\n]*\Z")
_BOUNDARY = re.compile(r"(?i)(\bboundary\s*=\s*)(\"[^\"\r\n]*\"?|[^\s;]+)")
_FILE_NAME = re.compile(r"(?i)((?:file)?name\*?[0-9]{0,3}\*?\s*=\s*)(\"[^\"\r\n]*\"?|[^\s;]+)")
_CHARSET = re.compile(
    r"(?i)(?<=charset=)\"?(?:utf|iso|us-ascii|ascii|windows|cp|koi8|gb|big5|euc|shift|ks_c|tis|"
    r"mac|x-)[A-Za-z0-9_.:-]{0,30}\"?|(?:utf-8|iso-8859-[0-9]{1,2}|windows-12[0-9]{2})(?='[a-z-]*')"
)
_ENCODING = re.compile(r"(?i)\s*([A-Za-z0-9-]{1,40})")
_HOLDS_FIELDS = re.compile(
    r"(?i)\s*(?:message/(?:rfc822|global|delivery-status|disposition-notification|feedback-report"
    r"|global-headers|global-delivery-status)|text/rfc822-headers)\b"
)
_BASE64_LINE = re.compile(r"[A-Za-z0-9+/]+={0,2}")
BASE64_LINE_MIN_CHARACTERS = 40
"""A line of nothing else is taken for base64 from this length on, whatever is said of its part."""
_UUENCODE = re.compile(r"begin [0-7]{3,4} \S")
_COMMAND_ALONE = re.compile(rf"(?i)(?:{'|'.join(sorted(COMMANDS))})[ \t]*")

_DATES = terms(
    "date resent-date delivery-date arrival-date last-attempt-date received expires x-received"
    " x-originalarrivaltime"
)
_MIME_FIELDS = terms("mime-version content-language")
_TEXT_FIELDS = terms("subject comments keywords thread-topic content-description organization")
_SMALL_FIELDS = terms(
    "x-priority x-msmail-priority importance priority precedence sensitivity auto-submitted"
    " x-auto-response-suppress lines content-length x-spam-flag x-spam-status x-spam-score"
)

_MIME = CleaningManner(MIME_WORDS | FIELD_WORDS, short_numbers=True)
_FILE = CleaningManner(FILE_KINDS | frozenset(["utf-8"]))
_FIELDS = CleaningManner(FIELD_WORDS)
_SMALL = CleaningManner(FIELD_WORDS | MIME_WORDS, short_numbers=True)
_DATED = CleaningManner(FIELD_WORDS | CALENDAR, dates=True)
_TEXT = CleaningManner(frozenset(["re", "fw", "fwd"]) | SCHEMES, joins=False)
_BODY = CleaningManner(SCHEMES, joins=False)
_QUOTED_PRINTABLE = CleaningManner(SCHEMES, joins=False, escape="=")


class MessageCleaner:
    """Cleans one message, line by line; ``stuffed`` where dots were doubled (RFC 5321 section
    4.5.2)."""

    def __init__(self, cleaner: TextCleaner, *, stuffed: bool) -> None:
        self._cleaner = cleaner
        self._stuffed = stuffed
        self._boundaries: set[str] = set()
        self._in_fields = True
        self._field = ""
        self._encoding = ""
        self._holds_fields = False
        self._uuencoded = False

    def line(self, line: str) -> str:
        """The next line cleaned; its end stays."""
        end = _LINE_END.search(line)
        assert end is not None
        text = line[: end.start()]
        if self._stuffed and text.startswith("."):
            return "." + self._content(text[1:]) + end[0]
        return self._content(text) + end[0]

    def _content(self, text: str) -> str:
        if text.startswith("--") and (boundary := self._boundary_line(text)):
            return boundary
        if not text:
            self._blank()
            return text
        if _COMMAND_ALONE.fullmatch(text):
            return text  # perhaps meant as one, where the server had refused to take content
        if self._in_fields:
            if text[0] in " \t" and self._field:
                return self._value(self._field, text)
            if found := _FIELD.fullmatch(text):
                self._field = lowered(found[1])
                return self._name(found[1]) + found[2] + self._value(self._field, found[3])
            if not text.startswith(("From ", ">From ")):
                self._in_fields = False
        return self._body(text)

    # -- parts ------------------------------------------------------------------------------------

    def _blank(self) -> None:
        """An empty line: fields end, unless what they announce begins with fields itself."""
        if self._in_fields and self._field:
            self._in_fields = self._holds_fields
            self._field, self._holds_fields = "", False
        else:
            self._in_fields = self._in_fields and bool(self._field)

    def _boundary_line(self, text: str) -> str:
        """``--BOUNDARY`` or ``--BOUNDARY--`` (RFC 2046 section 5.1.1), if that is one."""
        stripped = text[2:].rstrip(" \t")
        for ending in ("", "--"):
            name = stripped.removesuffix(ending) if ending else stripped
            if name in self._boundaries and stripped == name + ending:
                self._in_fields, self._field = not ending, ""
                self._encoding, self._holds_fields, self._uuencoded = "", False, False
                return "--" + self._boundary(name) + text[2 + len(name) :]
        return ""

    def _boundary(self, name: str) -> str:
        return self._cleaner.clean(name, CleaningManner(kind="boundary"))

    # -- fields -----------------------------------------------------------------------------------

    def _name(self, name: str) -> str:
        if lowered(name) in HEADER_FIELDS:
            return name
        kept = CleaningManner(HEADER_FIELDS | frozenset(["x"]), kind="header field")
        return self._cleaner.clean(name, kept)

    def _value(self, field: str, text: str) -> str:
        if field in ("content-type", "content-disposition"):
            if field == "content-type" and _HOLDS_FIELDS.match(text):
                self._holds_fields = True
            return self._parameters(text)
        if field == "content-transfer-encoding":
            if found := _ENCODING.match(text):
                self._encoding = lowered(found[1])
            return self._cleaner.clean(text, _MIME)
        if field in _MIME_FIELDS:
            return self._cleaner.clean(text, _MIME)
        if field in _DATES:
            return self._cleaner.clean(text, _DATED)
        if field in _SMALL_FIELDS:
            return self._cleaner.clean(text, _SMALL)
        return self._cleaner.clean(text, _TEXT if field in _TEXT_FIELDS else _FIELDS)

    def _parameters(self, text: str) -> str:
        """A media type with its parameters (RFC 2045 section 5.1, RFC 2231)."""
        parts, position = [], 0
        places = sorted(
            [(one.start(2), one.end(2), "boundary") for one in _BOUNDARY.finditer(text)]
            + [(one.start(2), one.end(2), "name") for one in _FILE_NAME.finditer(text)]
            + [(one.start(), one.end(), "charset") for one in _CHARSET.finditer(text)]
        )
        for start, end, kind in places:
            if start < position:
                continue
            parts.append(self._cleaner.clean(text[position:start], _MIME))
            value = text[start:end]
            if kind == "boundary":
                name = value.strip('"')
                if len(self._boundaries) < BOUNDARIES_MAX and name:
                    self._boundaries.add(name)
                value = value.replace(name, self._boundary(name), 1) if name else value
            elif kind == "name":
                value = self._file_name(value)
            parts.append(value)
            position = end
        parts.append(self._cleaner.clean(text[position:], _MIME))
        return "".join(parts)

    def _file_name(self, value: str) -> str:
        """A file's name; its ending stays if it is a common one."""
        stem, dot, ending = value.rpartition(".")
        bare = lowered(ending).strip('"')
        if dot and bare in FILE_KINDS:
            return self._cleaner.clean(stem, _FILE) + dot + ending
        return self._cleaner.clean(value, _FILE)

    # -- bodies -----------------------------------------------------------------------------------

    def _body(self, text: str) -> str:
        if self._uuencoded:
            return self._uuencoded_line(text)
        if _UUENCODE.match(text):
            self._uuencoded = True
            words = text.split(" ", 2)
            return f"begin {words[1]} {self._file_name(words[2])}"
        is_base64 = self._encoding == "base64" or len(text) >= BASE64_LINE_MIN_CHARACTERS
        if is_base64 and _BASE64_LINE.fullmatch(text):
            return self._cleaner.looks.base64(text)
        if self._encoding == "quoted-printable":
            return self._cleaner.clean(text, _QUOTED_PRINTABLE)
        return self._cleaner.clean(text, _BODY)

    def _uuencoded_line(self, text: str) -> str:
        """The first character counts; the others stand for six bits each."""
        if text == "end":
            self._uuencoded = False
        if len(text) <= 1 or text == "end":
            return text
        looks = self._cleaner.looks
        looks.counts["encoded octets"] += 1
        stream = looks.stream("uuencode", text, len(text) - 1)
        return text[0] + "".join(chr(0x21 + octet % 64) for octet in stream)
