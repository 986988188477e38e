"""Look-alikes under a key: values of the same length and shape that stand in for real ones.

The same value under the same key is always the same look-alike, in whatever file it stands, so
that what belonged together still does; without the key there is no way from one to the other
(HMAC-SHA-256, RFC 2104).  Two values never get one look-alike in one run, unless there are
more of them than look-alikes of that shape; then ``merged`` counts.

Letters become letters of ``LETTERS``, which has no vowel and no hexadecimal digit: no look-alike
is a word, a command, or an escape.  Case, digits, punctuation and the number of octets of every
character stay, and octets that are not UTF-8 stay such.

Text is a ``str`` decoded with surrogateescape, so that all octets have a place in it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Iterator

from replay.sanitize.vocabulary import HOSTS, KEPT_ENDINGS, RESERVED_ENDINGS

LETTERS = "ghjklmnpqrstvwxz"
MORE_LETTERS = "ghjklmnpqrstvwxzbcdfyaeiou"
"""For values so short that ``LETTERS`` are too few."""

PROBES_MAX = 200
"""How often another look-alike is tried for a value whose first one is taken."""

BLOB_MIN_CHARACTERS = 20
"""From this length on, letters and digits in a mixture are taken for encoded octets, of which not
even the kind of each character is kept: it would tell a guess from the truth."""
HASH_MIN_CHARACTERS = 16

EXAMPLES_MAX = 5
"""Look-alikes of each kind that are remembered for the report."""

_TOP_LEVEL = {2: "zz", 3: "alt", 4: "test", 7: "example", 8: "internal"}
"""Reserved or never to be registered, by length: ISO 3166 leaves zz to users; RFC 9476; RFC 6761;
ICANN's resolution of 2024 for internal."""

_CYRILLIC = "бвгджзклмнпрстфх"
_INVALID = (0xC0, 0xC1, *range(0xF5, 0x100))
"""Octets that no UTF-8 text holds (RFC 3629 section 1)."""
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_HEX = re.compile(r"(?=.*[0-9])(?=.*[a-f])[0-9a-f]{6,}")
_BLOB = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9+/_-])[A-Za-z0-9+/_-]+={0,2}")


class Lookalikes:
    """The look-alikes under one ``key``; ``avoid`` holds words (in lower case) that none of them
    may be."""

    def __init__(self, key: bytes, avoid: Container[str] = frozenset()) -> None:
        self._key = hashlib.sha256(key).digest()
        self._avoid = avoid
        self._given: dict[tuple[str, str], str] = {}
        self._taken: dict[tuple[str, str], str] = {}
        self.counts: Counter[str] = Counter()
        """How many places were replaced, by kind."""
        self.examples: dict[str, list[str]] = {}
        """A few look-alikes of each kind."""
        self.merged = 0
        """Values that had to share a look-alike with another one."""
        self.unreserved: set[str] = set()
        """Top-level look-alikes that are not in use, though nothing reserves them."""

    # -- where they come from ---------------------------------------------------------------------

    def stream(self, kind: str, value: str, octets: int, again: int = 0) -> bytes:
        """Pseudorandom octets for ``value``; other ones each time it is done ``again``."""
        message = f"{kind}\0{again}\0{value}".encode("utf-8", "surrogateescape")
        return hashlib.shake_256(hmac.digest(self._key, message, "sha256")).digest(octets)

    def one(self, kind: str, value: str, attempts: Iterator[str], scope: str) -> str:
        """The look-alike of ``value``: the first of ``attempts`` that is not taken."""
        given = self._given.get((scope, value))
        if given is not None:
            return given
        candidate = value
        for attempt in attempts:
            candidate = attempt
            if (
                candidate != value
                and not self.avoids(words(candidate))
                and (scope, candidate) not in self._taken
            ):
                break
        else:
            self.merged += 1
        self._taken.setdefault((scope, candidate), value)
        self._given[scope, value] = candidate
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES_MAX:
            examples.append(candidate)
        return candidate

    def avoids(self, found: Iterable[str], besides: Container[str] = ()) -> bool:
        """Whether one of the words must not be in anything new."""
        return any(word in self._avoid and word not in besides for word in found)

    # -- words and what is like them ------------------------------------------------------------

    def word(self, text: str, kind: str = "name", scope: str = "") -> str:
        """A name, an id, a number: the same everywhere, whatever its case."""
        self.counts[kind] += 1
        if len(text) >= BLOB_MIN_CHARACTERS and _BLOB.fullmatch(text):
            return self.base64(text, kind)
        folded = lowered(text)
        attempts = (
            self.filled(folded, self.stream("word" + scope, folded, 2 * len(folded), again), again)
            for again in range(PROBES_MAX)
        )
        return _with_case(self.one(kind, folded, attempts, "word" + scope), text)

    def filled(self, text: str, stream: bytes, again: int = 0) -> str:
        """``text`` with each letter and digit replaced, as ``stream`` says (two octets each)."""
        alphabet = LETTERS if again < PROBES_MAX // 2 else MORE_LETTERS
        if _HEX.fullmatch(text):
            if len(text) >= HASH_MIN_CHARACTERS:
                return "".join("0123456789bcdf"[octet % 14] for octet in stream[: len(text)])
            alphabet = "bcdf"
        return "".join(
            _character(character, alphabet, stream[2 * place], stream[2 * place + 1])
            for place, character in enumerate(text)
        )

    def base64(self, text: str, kind: str = "encoded octets") -> str:
        """Other base64 of the same length and padding (RFC 4648 section 4), or base64url."""
        for again in range(PROBES_MAX):
            stream = self.stream("base64", text, len(text), again)
            changed = _base64_filled(text, stream)
            if not self.avoids(words(changed)):
                break
        if kind == "encoded octets":
            self.counts[kind] += 1
        return changed

    def secret(self, text: str) -> str:
        """Letters and digits of which not even the kind is kept."""
        self.counts["credential"] += 1
        for again in range(PROBES_MAX):
            stream = self.stream(
                "secret", text, len(text.encode("utf-8", "surrogateescape")), again
            )
            changed = "".join((LETTERS + "23456789")[octet % 24] for octet in stream)
            if changed not in self._avoid:
                break
        return changed

    # -- names of hosts and mailboxes -----------------------------------------------------------

    def domain(self, text: str) -> str:
        """A domain name: what is under one domain stays under one."""
        if is_reserved(text):
            return text
        if "." not in text.strip("."):
            return self.word(text, "host name")
        self.counts["domain"] += 1
        labels = text.split(".")
        suffix = mapped = ""
        changed: list[str] = []
        last = len(labels) - (2 if text.endswith(".") else 1)
        for place in range(len(labels) - 1, -1, -1):
            label = labels[place]
            if not label:
                changed.insert(0, label)
                continue
            if f"{lowered(label)}.{suffix}".rstrip(".") in KEPT_ENDINGS or label == "arpa":
                new = label
            elif place == last:
                new = self._top_level(label)
            else:
                new = self._label(label, suffix, mapped)
            suffix, mapped = f"{lowered(label)}.{suffix}", f"{lowered(new)}.{mapped}"
            changed.insert(0, new)
        return ".".join(changed)

    def _top_level(self, label: str) -> str:
        folded = lowered(label)
        reserved = _TOP_LEVEL.get(len(folded)) if folded.isascii() else None
        if reserved is not None:
            return _with_case(reserved, label)
        new = self.filled(folded, self.stream("top level", folded, 2 * len(folded)))
        self.unreserved.add(new)
        return _with_case(new, label)

    def _label(self, label: str, suffix: str, mapped: str) -> str:
        folded = lowered(label)
        kept = 4 if folded.startswith("xn--") else 0
        whole = f"{folded}.{suffix}"
        attempts = (
            folded[:kept]
            + self.filled(folded[kept:], self.stream("label", whole, 2 * len(folded), again), again)
            + f".{mapped}"
            for again in range(PROBES_MAX)
        )
        new = self.one("domain", whole, attempts, "domain")
        return _with_case(new.partition(".")[0], label)


def is_reserved(name: str) -> bool:
    """Whether a host name belongs to no one (RFC 2606)."""
    folded = name.lower().rstrip(".")
    return (
        folded in HOSTS
        or folded.endswith(tuple("." + ending for ending in RESERVED_ENDINGS))
        or folded in RESERVED_ENDINGS
    )


_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> Iterator[str]:
    """The runs of letters and digits in ``text``, in lower case."""
    return (lowered(found[0]) for found in _WORD.finditer(text))


def lowered(text: str) -> str:
    """Lower case, without a change of length."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(low if len(low := one.lower()) == 1 else one for one in text)


def _with_case(new: str, like: str) -> str:
    """``new``, which is in lower case, with the capitals where ``like`` has them."""
    if like.islower():
        return new
    if like.isupper():
        return new.upper()
    return "".join(
        one.upper() if old.isupper() else one for one, old in zip(new, like, strict=True)
    )


def _character(character: str, letters: str, octet: int, other: int) -> str:
    if "a" <= character <= "z":
        return letters[octet % len(letters)]
    if "A" <= character <= "Z":
        return letters[octet % len(letters)].upper()
    if character.isascii():
        return "0123456789"[octet % 10] if character.isdigit() else character
    if "\udc80" <= character <= "\udcff":
        return chr(0xDC00 + _INVALID[octet % len(_INVALID)])
    kind = unicodedata.category(character)
    length = len(character.encode("utf-8"))
    if kind[0] not in "LMN" and not (length == 4 or kind in ("So", "Co", "Cn")):
        return character
    if length == 2:
        found = _CYRILLIC[octet % 16]
        return found.upper() if character.isupper() else found
    # Ideographs: letters without case, of which there are enough for both lengths.
    return chr((0x4E00 if length == 3 else 0x20000) + 256 * (octet % 80) + other)


def _base64_filled(text: str, stream: bytes) -> str:
    """Each character by any other; the last before a padding one that leaves no bit over."""
    url = "-" in text or "_" in text
    alphabet = _BASE64[:-2] + "-_" if url else _BASE64
    changed = [
        alphabet[octet % 64] if old != "=" else "=" for octet, old in zip(stream, text, strict=True)
    ]
    padding = len(text) - len(text.rstrip("="))
    if 0 < padding <= 2 < len(text):
        place = len(text) - padding - 1
        step = 16 if padding == 2 else 4
        if alphabet.find(text[place]) % step == 0:
            changed[place] = alphabet[stream[place] % 64 // step * step]
    return "".join(changed)
