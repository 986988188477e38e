"""DNS block lists and allow lists: a client's score from what they say of it (RFC 5782).

A list is asked for the client's address, reversed, within its zone; an A record means that the
client is listed, and its address says as what.  All lists are asked side by side.

Lists fail, in ways that must not stop mail:

* One that does not answer counts nothing, and the log says so when it begins.  Until it answers
  again it is asked by a few clients at a time; the others do not wait for it.
* One that is asked too much, or was given up by its owner, may say that everybody is listed.  It
  must never list 127.0.0.1 (RFC 5782 section 5); so whenever a list lists a client, it is asked
  for that too, and one that lists it counts nothing.  The resolver's cache makes that cheap.
* An answer outside 127.0.0.0/8 comes from another owner, such as a buyer of the domain, and one
  in 127.255.255.0/24 means by custom that the question was refused: neither counts.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from mailsrv.policy.effects import AllOf, Deliberation, LogNote, look_up
from mailsrv.policy.lookups import DnsStatus, Rating
from mailsrv.policy.sender_checks import parse_address
from mailsrv.settings import DnsList

QUESTIONS_MAX = 64
"""Clients' questions under way to all lists together: half of what the resolver takes, so that
lists never keep the other checks from theirs."""
PROBES_MAX = 2
"""Questions under way to a list that did not answer lately."""

_LISTED = ipaddress.IPv4Network("127.0.0.0/8")
_REFUSED = ipaddress.IPv4Network("127.255.255.0/24")
_NEVER_LISTED = {4: "127.0.0.1", 6: "::ffff:127.0.0.1"}


class Listing(NamedTuple):
    """That a list has the client, with this answer, and what that counts."""

    zone: str
    answer: str
    score: int

    def __str__(self) -> str:
        return f"{self.score:+} {self.zone} ({self.answer})"


class DnsLists:
    """The lists that the settings name."""

    def __init__(self, lists: Iterable[DnsList]) -> None:
        self._scores: dict[str, list[tuple[ipaddress.IPv4Network, int]]] = {}
        for one in lists:
            weights = self._scores.setdefault(one.zone, [])
            weights.append((ipaddress.IPv4Network(one.answers), one.score))
        self._asking: Counter[str] = Counter()
        self._silent: set[str] = set()
        self._odd: set[str] = set()
        self._share = max(PROBES_MAX, QUESTIONS_MAX // max(1, len(self._scores)))

    def __bool__(self) -> bool:
        return bool(self._scores)

    def rate(self, client: str) -> Deliberation[Rating]:
        """Ask all lists about ``client`` and add up what they say."""
        address = parse_address(client)
        if address is None:
            return Rating(0)
        answers: list[list[Listing]] = yield AllOf(
            tuple(self._listings(zone, str(address)) for zone in self._scores)
        )
        listings = [one for of_a_list in answers for one in of_a_list]
        return Rating(sum(one.score for one in listings), tuple(map(str, listings)))

    def _listings(self, zone: str, client: str) -> Deliberation[list[Listing]]:
        """What ``zone`` says of ``client``."""
        answers = yield from self._ask(zone, client)
        listings = [
            Listing(zone, str(answer), score)
            for network, score in self._scores[zone]
            for answer in [next((one for one in answers if one in network), None)]
            if answer is not None
        ]
        if listings:
            control = _NEVER_LISTED[ipaddress.ip_address(client).version]
            if (yield from self._ask(zone, control)):
                yield from self._note_odd(zone, "list lists the world", listings[0].answer)
                return []
        return listings

    def _ask(self, zone: str, client: str) -> Deliberation[list[ipaddress.IPv4Address]]:
        """The addresses in the answer of ``zone``, as far as they mean "listed"."""
        if self._asking[zone] >= (PROBES_MAX if zone in self._silent else self._share):
            yield from self._note_silent(zone, "too many questions")
            return []
        self._asking[zone] += 1
        try:
            answer = yield from look_up(question_name(client, zone), "A")
        finally:  # also when the client has gone before the answer
            self._asking[zone] -= 1
        if answer.status not in (DnsStatus.NOERROR, DnsStatus.NXDOMAIN):
            yield from self._note_silent(zone, answer.status)
            return []
        if zone in self._silent:
            self._silent.remove(zone)
            yield LogNote("list answers again", {"list": zone})
        addresses = [parse_address(record) for record in answer.records]
        found = [one for one in addresses if isinstance(one, ipaddress.IPv4Address)]
        good = [one for one in found if one in _LISTED and one not in _REFUSED]
        if len(good) < len(answer.records):
            yield from self._note_odd(zone, "list gives an answer that is none", answer.records[0])
        return good

    def _note_silent(self, zone: str, why: str) -> Deliberation[None]:
        """Note when silence begins, not each time."""
        if zone not in self._silent:
            self._silent.add(zone)
            yield LogNote("list does not answer", {"list": zone, "why": why})

    def _note_odd(self, zone: str, event: str, answer: str) -> Deliberation[None]:
        """Note once what is the list's lasting oddity."""
        if zone not in self._odd:
            self._odd.add(zone)
            yield LogNote(event, {"list": zone, "answer": answer})


def question_name(client: str, zone: str) -> str:
    """The name to ask ``zone`` for (RFC 5782 sections 2.1 and 2.4): an IPv4 address with its
    octets reversed, an IPv6 one with its nibbles."""
    reversed_address = ipaddress.ip_address(client).reverse_pointer
    return f"{reversed_address.removesuffix('.in-addr.arpa').removesuffix('.ip6.arpa')}.{zone}"
