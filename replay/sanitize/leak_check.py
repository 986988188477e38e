"""Looks for anything of an original in what is to take its place.

It shares no parsing with what cleans: it knows words, names and addresses by their characters
alone, and looks for each of them in what was written, also behind base64, quoted-printable,
percent signs, xtext and UTF-16.  What may remain is ``vocabulary.ANYWHERE``, names and addresses
that belong to no one, and numbers that count something.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from replay.sanitize.ip_lookalikes import is_unassigned
from replay.sanitize.lookalikes import is_reserved, lowered, words
from replay.sanitize.vocabulary import ANYWHERE, PROMPT
from replay.smtp.proxy_header import V2_SIGNATURE, header_octets

WORD_MIN_CHARACTERS = 4
"""Shorter words are not looked for: by chance they are everywhere."""
DECODED_WORD_MIN_CHARACTERS = 6
"""The same in what was decoded, most of which is noise."""
NUMBER_MIN_DIGITS = 6
NAME_MIN_CHARACTERS = 4
EXACT_MIN_CHARACTERS = 8
"""Shorter names and addresses are looked for as wholes only, not as parts of something longer."""
TOKENS_MAX = 500_000
"""Words of one capture; with more it is not sanitised."""
FINDINGS_MAX = 50
UNDECODED_VIEWS = 3
"""Of those that ``views`` gives, the first so many are not decoded from base64."""

_MAILBOX = re.compile(
    r"[^\s<>()\[\]:;,@\"\\\x00-\x1f\x7f]{1,64}@([\w-]{1,63}(?:\.[\w-]{1,63}){0,20})"
)
_HOST = re.compile(r"(?<![\w.-])(?:[A-Za-z0-9_][\w-]{0,62}\.){1,20}[A-Za-z]{2,63}(?![\w-])")
_IP = re.compile(
    r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])"
    r"|(?:(?<=[Pp][Vv]6:)|(?<![\w:.]))(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)"
    r"[0-9A-Fa-f:]{3,39}(?![\w:])"
)
_GREETING = re.compile(r"(?im)^(?:EHLO|HELO|LHLO)[ \t]+([^\s\[\]]{1,255})")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{8,}={0,2}")
_ESCAPED = re.compile(rb"(?<!SIZE)(?<!size)(?<!BODY)(?<!body)[=%+]([0-9A-Fa-f]{2})")
_BASE64_LINE = re.compile(rb"(?m)^[A-Za-z0-9+/]{16,}={0,2}(?=\r?$)")
_CODE = re.compile(r"(?m)^([2-5][0-9][0-9])-")
_CHALLENGE = re.compile(rb"(?m)^(334[ -])([A-Za-z0-9+/]{2,80}={0,2})(?=[ \t]*\r?$)")
_SOFT_BREAK = re.compile(rb"=[ \t]*\r?\n")
_WIDE = re.compile(rb"(?:[\x20-\x7e]\x00){3,}|(?:\x00[\x20-\x7e]){3,}")


_NTLM = b"\n".join(base64.b64encode(b"NTLMSSP\0" + bytes([kind, 0, 0, 0])) for kind in (1, 2, 3))


class Leak(NamedTuple):
    """Something of the original: ``what`` it is, and where it was found."""

    what: str
    token: str
    where: str


class TooMuch(Exception):
    """The original has more words than are kept in mind."""


class Originals:
    """What must not remain."""

    def __init__(self) -> None:
        self.words: set[str] = set()
        """Words of all kinds, and numbers."""
        self.names: set[str] = set()
        """Those of them that are part of a name: of a mailbox or a host."""
        self.exact: set[str] = set()
        """Addresses and host names as a whole."""
        self.packed: set[bytes] = set()
        """Addresses of packets."""
        self._unassigned: set[str] = set()

    def add(self, octets: bytes) -> None:
        """Take in what one side said.  Raises TooMuch."""
        octets, _ = _without_prompts(octets)
        for number, view in enumerate(views(octets)):
            least = WORD_MIN_CHARACTERS if number == 0 else DECODED_WORD_MIN_CHARACTERS
            self.words.update(word for word in words(view) if _counts(word, least))
            if _is_text(number, view):
                self._names(view)
            if len(self.words) > TOKENS_MAX:
                raise TooMuch(f"it has more than {TOKENS_MAX} different words")

    def _names(self, view: str) -> None:
        for found in _MAILBOX.finditer(view):
            if not is_reserved(found[1]):
                self.exact.add(lowered(found[0]))
            self.names.update(word for word in words(found[0]) if _counts(word))
        for found in _HOST.finditer(view):
            if is_reserved(found[0]):
                self._unassigned.update(words(found[0]))
            else:
                self.exact.add(lowered(found[0]))
                self.names.update(word for word in words(found[0]) if _counts(word))
        for found in _GREETING.finditer(view):
            self.names.update(word for word in words(found[1]) if _counts(word))
        for found in _IP.finditer(view):
            try:
                unassigned = is_unassigned(found[0])
            except ValueError:
                continue
            if unassigned:
                self._unassigned.update(words(found[0]))
            else:
                self.exact.add(lowered(found[0]))

    def allow(self, kept: Set[str]) -> None:
        """Let these words remain, and those of names that belong to no one."""
        for view in views(_NTLM):  # these octets are kept, whatever they look like
            self._unassigned.update(words(view))
        self.words -= kept | self._unassigned
        self.names -= kept | self._unassigned

    # -- looking ----------------------------------------------------------------------------------

    def find(self, octets: bytes, where: str) -> list[Leak]:
        """What of the original is in ``octets``; prompts of AUTH may stay unless they name
        somebody."""
        octets, prompts = _without_prompts(octets)
        found: dict[str, Leak] = {}
        for word in words(" ".join(prompts)):
            if word in self.names:
                found[word] = Leak("word, in a prompt of AUTH", word, where)
        for number, view in enumerate(views(octets)):
            what = "word" if number == 0 else "word, encoded"
            least = WORD_MIN_CHARACTERS if number == 0 else DECODED_WORD_MIN_CHARACTERS
            for word in words(view):
                if len(word) >= least and word in self.words:
                    found.setdefault(word, Leak(what, word, where))
        return [*self.find_exact(octets, where), *found.values()][:FINDINGS_MAX]

    def find_exact(self, octets: bytes, where: str) -> list[Leak]:
        """Whole addresses and host names only: for what holds words of others too."""
        found: list[Leak] = []
        for number, view in enumerate(views(octets)):
            if not _is_text(number, view):
                continue
            folded = lowered(view)
            candidates = {lowered(one[0]) for one in _MAILBOX.finditer(view)}
            candidates |= {lowered(one[0]) for one in _HOST.finditer(view)}
            candidates |= {lowered(one[0]) for one in _IP.finditer(view)}
            found += [
                Leak("address or host name", token, where)
                for token in self.exact
                if token in candidates or (len(token) >= EXACT_MIN_CHARACTERS and token in folded)
            ]
        return found[:FINDINGS_MAX]

    def find_names(self, text: str, where: str) -> list[Leak]:
        """Parts of names: for what its author wrote, in words of his own."""
        found = [Leak("name", word, where) for word in words(text) if word in self.names]
        return found + self.find_exact(text.encode("utf-8"), where)

    def find_packed(self, packet: bytes, number: int) -> list[Leak]:
        """Addresses in the address fields of an IP packet."""
        is_ipv6 = packet[:1] and packet[0] >> 4 == 6
        fields = (packet[8:24], packet[24:40]) if is_ipv6 else (packet[12:16], packet[16:20])
        return [
            Leak("address", str(ipaddress.ip_address(one)), f"packet {number} of the new capture")
            for one in fields
            if one in self.packed
        ]


def _is_text(number: int, view: str) -> bool:
    """Whether names are looked for in a view: what base64 stands for is mostly noise."""
    return number < UNDECODED_VIEWS or view.replace("\0", " ").isprintable()


def _counts(word: str, least: int = NAME_MIN_CHARACTERS) -> bool:
    """Whether ``word`` could tell anything."""
    if word.isdigit():
        return len(word) >= max(NUMBER_MIN_DIGITS, least)
    return len(word) >= least and word not in ANYWHERE


def views(octets: bytes) -> Iterator[str]:
    """``octets`` as they are, and as what they may be the writing of."""
    octets = _behind_proxy_header(octets)
    yield _text(octets)
    unfolded = _SOFT_BREAK.sub(b"", octets)
    yield _text(_ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), unfolded))
    yield _text(b"\n".join(one.replace(b"\0", b"") for one in _WIDE.findall(octets)))
    runs = {run for run in _BASE64.findall(octets) if run.decode().lower() not in ANYWHERE}
    whole = b"".join(one.rstrip(b"=") for one in _BASE64_LINE.findall(octets))
    # Lines of base64 continue one another; a word may begin at any of the four places.
    for run in (*sorted(runs), whole):
        for skip in range(4) if len(run) < 2000 else (0,):
            part = run[skip:].rstrip(b"=")
            decoded = base64.b64decode(part[: len(part) // 4 * 4] + _filled(part))
            yield _text(decoded)
            if wide := _WIDE.findall(decoded):
                yield _text(b"\n".join(one.replace(b"\0", b"") for one in wide))


def _without_prompts(octets: bytes) -> tuple[bytes, list[str]]:
    """``octets`` without what a server asks for in AUTH LOGIN, which is protocol; and that."""
    prompts: list[str] = []

    def looked_at(line: re.Match[bytes]) -> bytes:
        try:
            meant = base64.b64decode(line[2], validate=True)
        except ValueError:
            return line[0]
        if not PROMPT.fullmatch(meant):
            return line[0]
        prompts.append(meant.decode("utf-8", "surrogateescape"))
        return line[1]

    return _CHALLENGE.sub(looked_at, octets), prompts


def _filled(part: bytes) -> bytes:
    """The last group of base64 without padding, padded."""
    rest = part[len(part) // 4 * 4 :]
    return rest + b"=" * (4 - len(rest)) if len(rest) > 1 else b""


def _text(octets: bytes) -> str:
    return _CODE.sub(r"\1 ", octets.decode("utf-8", "surrogateescape"))


def _behind_proxy_header(octets: bytes) -> bytes:
    """A binary PROXY header ends in a port, which would be taken for a part of the next word."""
    if not octets.startswith(V2_SIGNATURE):
        return octets
    end = header_octets(octets)
    return octets[:end] + b"\n" + octets[end:]


def told(findings: Iterable[Leak]) -> str:
    """The findings in a sentence."""
    shown = [f"{one.what} {one.token!r} in {one.where}" for one in findings]
    more = f", and {len(shown) - 5} more" if len(shown) > 5 else ""
    return ", ".join(shown[:5]) + more
