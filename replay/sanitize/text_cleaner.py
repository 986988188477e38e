"""Cleans text: finds addresses, names, ids and words in it, and puts look-alikes in their place.

What is found depends on nothing but the characters, so that a name is found wherever it stands;
what is *kept* depends on where it stands: ``keep`` are the words that may stay there.

Identifiers (addresses, host names, ids, and where ``joins`` is set every word) become the same
look-alike everywhere.  The words of message text do not: a word for a word is a code that counting
breaks.  They hang on the whole line they stand in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import dataclass

from replay.sanitize.ip_lookalikes import like_address
from replay.sanitize.lookalikes import Lookalikes, lowered, words
from replay.sanitize.vocabulary import MAILBOXES

NOTHING: frozenset[str] = frozenset()

SHORT_NUMBER_DIGITS = 5
"""Longer numbers may be personal; shorter ones in a reply are limits and seconds."""

IDENTIFIER_MIN_CHARACTERS = 6
"""Letters and digits in a mixture are an id from this length on, in message text too."""

TRIES_MAX = 20
"""How often a line of text is cleaned anew that has come out with a word of the original."""

_ADDRESS = re.compile(
    r"(?:(?<=[Ii][Pp][Vv]6:)|(?<![\w:.]))"
    r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.\w)"
    r"|(?=[0-9A-Fa-f]{0,4}:)(?:[0-9A-Fa-f]{0,4}:){2,7}"
    r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4})(?![\w:]))"
)
_TOKEN = re.compile(
    r"(?P<utf16>(?:[\x20-\x7e]\x00){4,}|(?:\x00[\x20-\x7e]){4,})"
    r"|(?P<iso2022>\x1b\$\(?[@-D][\x21-\x7e]*)"
    r"|(?P<encoded>=\?[!->@-~]{1,60}\?[BbQq]\?[^?\s]{0,1000}\?=)"
    r"|(?P<chunk>[^\s<>()\[\]{},;:\"'\x00-\x1f\x7f|`\\&?!*$#]+)"
)
_DOMAIN = re.compile(
    r"(?<![\w.-])(?:[^\W_][\w-]{0,62}\.){1,126}(?:xn--[A-Za-z0-9-]{1,59}|[^\W\d_]{2,63})(?![\w-])"
)
_WORD = re.compile(r"(?:[^\W_]|[^\x00-\xa0\s])+")
_BLOB = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
_COMPOUND = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]++(?:[-/.'+][A-Za-z0-9]++)+")
_ESCAPES = {
    mark: re.compile(rf"(?:{re.escape(mark)}[0-9A-Fa-f]{{2}})+") for mark in ("=", "%", "+")
}
CHARSET = re.compile(
    r"(?i)(?:utf|iso|us-ascii|ascii|windows|cp|koi8|gb|big5|euc|shift|ks_c|tis|mac|x-)"
    r"[A-Za-z0-9_.:*-]{0,30}\Z"
)
"""What names a set of characters."""
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DATE = re.compile(
    r"(?:\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),?\s+)?"
    rf"\b(?:[0-9]{{1,2}}\s+{_MONTH}\s+[0-9]{{2,4}}|{_MONTH}\s+[0-9]{{1,2}})"
    r"\s+[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?:\s+[0-9]{4}(?!\w))?"
    r"(?:\s+(?:[+-][0-9]{4}|GMT|UTC)(?!\w))?(?:\s+[0-9]{4}(?!\w))?"
)


@dataclass(frozen=True, slots=True)
class CleaningManner:
    """How a stretch of text is cleaned."""

    keep: Container[str] = NOTHING
    """Words that stay, in lower case."""
    joins: bool = True
    """Whether each word is replaced by itself, not with its line."""
    escape: str = ""
    """``=`` in quoted-printable and ``+`` in xtext: what marks an octet written as two digits."""
    short_numbers: bool = False
    """Whether numbers of up to five digits stay."""
    dates: bool = False
    """Whether dates stay."""
    kind: str = "name"
    """What the report calls the words."""


class TextCleaner:
    """Cleans text with the look-alikes of ``looks``.

    ``key`` is what words hang on that are replaced with their line: the line, and the place in it.
    It is empty where they are replaced by themselves.
    """

    def __init__(self, looks: Lookalikes) -> None:
        self.looks = looks

    def clean(self, text: str, manner: CleaningManner) -> str:
        """``text`` cleaned, as long as before in octets and in characters."""
        if manner.dates:
            whole = CleaningManner(manner.keep, manner.joins, manner.escape, manner.short_numbers)
            return _split(_DATE, text, lambda one: one[0], lambda rest, _: self.clean(rest, whole))
        if manner.joins:
            return self._between_addresses(text, manner, "")
        for again in range(TRIES_MAX):
            key = self.looks.stream("line", text, 16, again).hex()
            changed = self._between_addresses(text, manner, key)
            if not self.looks.avoids(words(changed), besides=manner.keep):
                break
        return changed

    def _between_addresses(self, text: str, manner: CleaningManner, key: str) -> str:
        return _split(
            _ADDRESS,
            text,
            lambda address: like_address(self.looks, address[0]),
            lambda rest, place: self._tokens(rest, manner, _at(key, place)),
        )

    def _tokens(self, text: str, manner: CleaningManner, key: str) -> str:
        def cleaned(found: re.Match[str]) -> str:
            token, here = found[0], _at(key, found.start())
            match found.lastgroup:
                case "utf16":
                    self.looks.counts["encoded text"] += 1
                    stream = self.looks.stream("utf-16", here + token, 2 * len(token))
                    return self.looks.filled(token, stream)
                case "iso2022":
                    return self._iso_2022(token, here)
                case "encoded":
                    return self._encoded_word(token)
            return self._chunk(token, manner, here)

        return _TOKEN.sub(cleaned, text)

    def _iso_2022(self, text: str, key: str) -> str:
        """Characters of two printable octets each, behind an escape sequence (RFC 1468)."""
        self.looks.counts["encoded text"] += 1
        head = 4 if text[2] == "(" else 3
        stream = self.looks.stream("iso-2022", key + text, len(text) - head)
        return text[:head] + "".join(chr(0x30 + octet % 31) for octet in stream)

    def _encoded_word(self, text: str) -> str:
        """``=?charset?B?...?=`` (RFC 2047)."""
        _, charset, encoding, payload, _ = text.split("?", 4)
        if not CHARSET.match(charset):
            charset = self._chunk(charset, CleaningManner(), "")
        if encoding in "Bb":
            payload = self.looks.base64(payload)
        else:
            payload = self._chunk(payload, CleaningManner(escape="="), "")
        return f"=?{charset}?{encoding}?{payload}?="

    # -- chunks: what stands between spaces and brackets ----------------------------------------

    def _chunk(self, text: str, manner: CleaningManner, key: str) -> str:
        if lowered(text) in manner.keep:
            return text
        if "@" in text:
            local, _, domain = text.rpartition("@")
            return f"{self.local_part(local, manner)}@{self.host(domain, manner)}"
        if _BLOB.fullmatch(text) and text.lower() != text != text.upper():
            return self.looks.base64(text)
        return _split(
            _DOMAIN,
            text,
            lambda name: None if lowered(name[0]) in manner.keep else self.looks.domain(name[0]),
            lambda rest, place: self._words(rest, manner, _at(key, place)),
        )

    def local_part(self, text: str, manner: CleaningManner) -> str:
        """A mailbox's name, piece by piece; a domain behind ``=`` is one (VERP)."""
        if lowered(text) in MAILBOXES:
            return text
        pieces = CleaningManner(escape=manner.escape, kind="local part")
        head, equals, tail = text.rpartition("=")
        if equals and _DOMAIN.fullmatch(tail):
            return f"{self._words(head, pieces, '')}={self.looks.domain(tail)}"
        return self._words(text, pieces, "")

    def host(self, text: str, manner: CleaningManner) -> str:
        """What stands where a host's name belongs."""
        if text.replace("-", "").isalnum():
            return self.looks.domain(text)
        pieces = CleaningManner(escape=manner.escape, kind="host name")
        return _split(
            _DOMAIN,
            text,
            lambda name: self.looks.domain(name[0]),
            lambda rest, _: self._words(rest, pieces, ""),
        )

    def _words(self, text: str, manner: CleaningManner, key: str) -> str:
        mark = manner.escape or "%"
        if mark not in text:
            return self._compounds(text, manner, key)
        return _split(
            _ESCAPES[mark],
            text,
            lambda found: self._escaped(found[0], mark, key),
            lambda rest, place: self._compounds(rest, manner, _at(key, place)),
        )

    def _escaped(self, text: str, mark: str, key: str) -> str:
        """Octets written with escapes: what they stand for is cleaned, and written so again."""
        octets = bytes.fromhex(text.replace(mark, ""))
        meant = octets.decode("utf-8", "surrogateescape")
        stream = self.looks.stream("escaped", key + text, 2 * len(meant))
        new = self.looks.filled(meant, stream).encode("utf-8", "surrogateescape")
        hexadecimal = "x" if text == text.lower() != text.upper() else "X"
        return "".join(
            text[3 * place : 3 * place + 3] if old == other else f"{mark}{other:02{hexadecimal}}"
            for place, (old, other) in enumerate(zip(octets, new, strict=True))
        )

    def _compounds(self, text: str, manner: CleaningManner, key: str) -> str:
        return _split(
            _COMPOUND,
            text,
            lambda found: found[0] if lowered(found[0]) in manner.keep else None,
            lambda rest, place: self._single_words(rest, manner, _at(key, place)),
        )

    def _single_words(self, text: str, manner: CleaningManner, key: str) -> str:
        def replaced(found: re.Match[str]) -> str:
            word = found[0]
            if lowered(word) in manner.keep:
                return word
            if manner.short_numbers and word.isdigit() and len(word) <= SHORT_NUMBER_DIGITS:
                return word
            mixed = word.isalnum() and not word.isalpha() and not word.isdigit()
            if manner.joins or (mixed and len(word) >= IDENTIFIER_MIN_CHARACTERS):
                return self.looks.word(word, "identifier" if mixed else manner.kind)
            self.looks.counts["word of text"] += 1
            stream = self.looks.stream("text", _at(key, found.start()), 2 * len(word))
            return self.looks.filled(word, stream)

        return _WORD.sub(replaced, text)


def _at(key: str, place: int) -> str:
    return f"{place}\0{key}" if key else ""


def _split(
    pattern: re.Pattern[str],
    text: str,
    found: Callable[[re.Match[str]], str | None],
    between: Callable[[str, int], str],
) -> str:
    """``text`` with each match replaced by what ``found`` makes of it (None: it is none), and
    what lies between by what ``between`` makes of it and its place."""
    parts, position = [], 0
    for match in pattern.finditer(text):
        new = found(match)
        if new is None:
            continue
        parts += [between(text[position : match.start()], position), new]
        position = match.end()
    parts.append(between(text[position:], position))
    return "".join(parts)
