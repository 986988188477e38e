"""The claims of a transcript, their text (docs/understand/claims.md).

must    [RFC 5321 4.2.1] reply 250, or 5yz then end
may     reply 250 451 5yz
should  [RFC 5321 4.5.3.2.7] no end within 300s
must    [CVE-2023-51764] accept at most 1
"""

from __future__ import annotations

import re
from collections.abc import Callable

from replay.transcript import duration
from replay.transcript.claims.claim import (
    Accepts,
    Alternative,
    Bound,
    Claim,
    ContentHas,
    Ends,
    RepliesAsExpected,
    RepliesNoMore,
    RepliesWith,
    ShakesHands,
    Statement,
    StaysOpen,
    Strength,
    Then,
)
from replay.transcript.notation import VERSION
from replay.transcript.octets import OctetsError, to_octets, to_text

WORDS = {strength.value: strength for strength in Strength}
"""What these lines begin with, in the place of a time."""
BASES_MAX = 8
CODES_MAX = 32
CLAIMS_MAX = 10_000
"""In a text."""
MESSAGES_MAX = 1_000_000
TIMEOUT = "timeout"

_ITEM = re.compile(r"(?:\[(?P<basis>[^\]]*)\][ \t]+)?(?P<statement>\S.*)")
_BASIS = re.compile(r"RFC [0-9]{3,5} [0-9A-Z]{1,3}(?:\.[0-9]{1,3}){0,6}|CVE-[0-9]{4}-[0-9]{4,7}")
_CODE = re.compile(r"[2-5](?:[0-9][0-9z]|yz)")
_ACCEPT = re.compile(r"accept (?P<how>at most|at least|exactly) (?P<count>[0-9]{1,12})")
_CONTENT = re.compile(r"content (?P<how>has|lacks): (?P<octets>.*)")
_REMARK = re.compile(r"[ \t]+#.*")

_STATEMENTS = (
    "reply CODES, no reply, replies as expected, end, no end, tls, tls-refused, "
    "accept at most N, accept at least N, accept exactly N, content has: OCTETS, "
    "content lacks: OCTETS"
)
_ALTERNATIVES = "reply takes codes such as 250, 55z or 5yz: reply 250 451, or 5yz then end, or end"
_BASES = "[RFC 5321 4.1.1.4], [CVE-2023-51764], or several with a comma between"


class ClaimError(ValueError):
    """An item that is no claim; ``offset`` counts its characters from 0."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


class ClaimLines:
    """The claims of a text as its lines are read: ``by_connection``, and under "" those about all
    connections."""

    def __init__(self) -> None:
        self.by_connection: dict[str, list[Claim]] = {}
        self._count = 0

    def read(self, word: str, item: str, line: int, version: int) -> Claim:
        """The claim of the line with this index, in a text of this version.  Raises ClaimError."""
        if version < VERSION:
            raise ClaimError(0, f"claims need notation = {VERSION} in the header")
        self._count += 1
        if self._count > CLAIMS_MAX:
            raise ClaimError(0, f"too many claims; {CLAIMS_MAX} are allowed")
        return read_claim(word, item, 0, line + 1)

    def add(self, connection: str, claim: Claim) -> None:
        """Keep a claim."""
        self.by_connection.setdefault(connection, []).append(claim)


def read_claim(word: str, item: str, after: int, line: int) -> Claim:
    """The claim of a line: ``word`` is one of ``WORDS``.  Raises ClaimError."""
    strength = WORDS[word]
    match = _ITEM.fullmatch(item)
    if match is None:
        raise ClaimError(0, f"expected {_BASES}, and then a claim: {_STATEMENTS}")
    basis = _basis(match["basis"], strength)
    start = match.start("statement")
    statement = _statement(match["statement"], start)
    if strength is Strength.MAY and not isinstance(statement, RepliesWith):
        raise ClaimError(start, "may says which replies the sender goes on after: may reply CODES")
    return Claim(strength, basis, statement, after, line)


def _basis(text: str | None, strength: Strength) -> tuple[str, ...]:
    bases = tuple(text.split(", ")) if text is not None else ()
    if not bases and strength is not Strength.MAY:
        raise ClaimError(0, f"what a server {strength.value} do has its basis: {_BASES}")
    if len(bases) > BASES_MAX or not all(map(_BASIS.fullmatch, bases)):
        raise ClaimError(0, f"a basis is {_BASES}; {BASES_MAX} at most")
    return bases


def _statement(text: str, start: int) -> Statement:
    if match := _CONTENT.fullmatch(text):
        return _content(match, start)
    text = _REMARK.sub("", text).rstrip(" \t")
    if match := _ACCEPT.fullmatch(text):
        count = int(match["count"])
        if count > MESSAGES_MAX:
            raise ClaimError(start + match.start("count"), f"at most {MESSAGES_MAX} messages")
        at_most, at_least = match["how"] != "at least", match["how"] != "at most"
        return Accepts(count if at_least else 0, count if at_most else None)
    words, within = _within(text, start)
    if words.startswith("reply "):
        return RepliesWith(_alternatives(words.removeprefix("reply "), start), within)
    make = _PLAIN.get(words)
    if make is None:
        raise ClaimError(start, f"expected a claim: {_STATEMENTS}")
    statement = make(within)
    if within is not None and not isinstance(statement, Ends | StaysOpen):
        raise ClaimError(start, "reply, end and no end take within; other claims do not")
    return statement


_PLAIN: dict[str, Callable[[Bound | None], Statement]] = {
    "no reply": lambda _: RepliesNoMore(),
    "replies as expected": lambda _: RepliesAsExpected(),
    "end": Ends,
    "no end": StaysOpen,
    "tls": lambda _: ShakesHands(),
    "tls-refused": lambda _: ShakesHands(refused=True),
}


def _content(match: re.Match[str], start: int) -> ContentHas:
    try:
        octets = to_octets(match["octets"])
    except OctetsError as error:
        raise ClaimError(start + match.start("octets") + error.offset, str(error)) from None
    if not octets:
        raise ClaimError(start + match.start("octets"), "octets are missing here")
    return ContentHas(octets, match["how"] == "lacks")


def _within(text: str, start: int) -> tuple[str, Bound | None]:
    words, found, length = text.partition(" within ")
    if not found:
        return text, None
    if length == TIMEOUT:
        return words, Bound(is_timeout=True)
    try:
        return words, Bound(duration.parse(length))
    except ValueError as error:
        place = start + len(words + found)
        raise ClaimError(place, f"{error}; or {TIMEOUT}, the server's own") from None


def _alternatives(text: str, start: int) -> tuple[Alternative, ...]:
    found = []
    for part in text.split(", or "):
        words, _, then = part.partition(" then ")
        codes = tuple(words.split(" "))
        if part == "end":
            found.append(Alternative((), Then.END))
        elif all(map(_CODE.fullmatch, codes)) and (not _ or then in ("end", "stop")):
            found.append(Alternative(codes, Then(then)))
        else:
            raise ClaimError(start, _ALTERNATIVES)
    if sum(len(one.codes) for one in found) > CODES_MAX or len(found) > CODES_MAX:
        raise ClaimError(start, f"at most {CODES_MAX} codes")
    return tuple(found)


def claim_item(claim: Claim) -> str:
    """The item of ``claim``; its strength stands in the place of the time."""
    basis = f"[{', '.join(claim.basis)}] " if claim.basis else ""
    return basis + statement_text(claim.statement)


def statement_text(statement: Statement) -> str:
    """What a claim says, without strength and basis."""
    match statement:
        case RepliesWith(alternatives, within):
            return f"reply {', or '.join(map(_alternative, alternatives))}{_bound(within)}"
        case RepliesNoMore():
            return "no reply"
        case RepliesAsExpected():
            return "replies as expected"
        case Ends(within):
            return f"end{_bound(within)}"
        case StaysOpen(within):
            return f"no end{_bound(within)}"
        case ShakesHands(refused):
            return "tls-refused" if refused else "tls"
        case Accepts(least, most):
            how = "at least" if most is None else "exactly" if 0 < least == most else "at most"
            return f"accept {how} {least if most is None else most}"
        case ContentHas(octets, lacks):
            return f"content {'lacks' if lacks else 'has'}: {to_text(octets)}"


def _alternative(one: Alternative) -> str:
    if not one.codes:
        return "end"
    then = f" then {one.then.value}" if one.then is not Then.GO_ON else ""
    return " ".join(one.codes) + then


def _bound(within: Bound | None) -> str:
    if within is None:
        return ""
    return f" within {TIMEOUT if within.is_timeout else duration.format_ns(within.ns)}"


def claim_fault(claim: Claim) -> str:
    """Why no text says ``claim``, made by a program; empty if one does."""
    try:
        again = read_claim(claim.strength.value, claim_item(claim), claim.after, claim.line)
    except ClaimError as error:
        return str(error)
    return "" if again == claim else f"no claim: {claim_item(claim)}"
