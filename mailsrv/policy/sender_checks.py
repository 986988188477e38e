"""The checks of a sender: what speaks against a sender's domain, a HELO name, a client's address.

Each is a generator that reads straight down (see ``mailsrv.policy.effects``) and returns a
``SenderFault``, or None where all is well.  What becomes of it, nothing, a score or a refusal, is
the policy's business.  A DNS failure is not the sender's fault: such a finding says so, and counts
in no score.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from mailsrv.policy.effects import AllOf, Deliberation, look_up
from mailsrv.policy.lookups import DnsAnswer, DnsStatus
from mailsrv.smtp import reply
from mailsrv.smtp.events import Question
from mailsrv.smtp.path import is_address_literal, is_domain
from mailsrv.smtp.reply import Reply

REVERSE_NAMES_MAX = 5
"""Reverse names of one address that are looked up; an honest one has one or two."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class SenderFault(NamedTuple):
    """What speaks against a sender: the refusal that says it; and whether it is only that DNS
    did not answer."""

    refusal: Reply
    trouble: bool = False


class ReverseName(NamedTuple):
    """A client's reverse name that leads back to it, "" for none; and what speaks against it."""

    name: str
    finding: SenderFault | None


def parse_address(client: str) -> IPAddress | None:
    """``client`` as an address, an IPv4 one where it is mapped into IPv6; None if it is none."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


# -- the sender's domain --------------------------------------------------------------------------


def sender_domain(question: Question) -> Deliberation[SenderFault | None]:
    """The sender's domain must be able to take replies: MX, else A or AAAA (RFC 5321 section 5.1).

    A null MX says that it never will (RFC 7505 section 4.2).
    """
    domain = question.reverse_path.domain
    if not domain or domain.startswith("["):
        return None  # the null reverse-path, and address literals, need no DNS
    for rtype in ("MX", "A", "AAAA"):
        answer = yield from look_up(domain, rtype)
        if answer.status is DnsStatus.NXDOMAIN:
            return SenderFault(reply.SENDER_DOMAIN_UNKNOWN)
        if answer.status is not DnsStatus.NOERROR:
            return SenderFault(reply.RESOLVER_TROUBLE, trouble=True)
        if rtype == "MX" and [record.split()[1:] for record in answer.records] == [["."]]:
            return SenderFault(reply.SENDER_NULL_MX)
        if answer.records:
            return None
    return SenderFault(reply.SENDER_DOMAIN_UNKNOWN)


# -- the HELO name --------------------------------------------------------------------------------


def helo(question: Question, hostname: str) -> Deliberation[SenderFault | None]:
    """The name given with HELO or EHLO must be the client's: not ``hostname``, which is ours; a
    fully qualified name that exists, or the client's own address literal (RFC 5321 section
    4.1.4).

    That it leads to the client's address is not asked: large senders say one name from many
    addresses.  Neither is an A record: some say their mail domain, which has only MX.
    """
    name = question.helo.removesuffix(".").lower()
    if is_address_literal(name):
        own = parse_address(question.client)
        claimed = parse_address(name[1:-1].removeprefix("ipv6:"))
        return None if claimed == own else SenderFault(reply.HELO_NOT_YOURS)
    if name == hostname.lower():
        return SenderFault(reply.HELO_OURS)
    if not _is_full_name(name):
        return SenderFault(reply.HELO_NOT_A_NAME)
    for rtype in ("A", "AAAA", "MX"):
        answer = yield from look_up(name, rtype)
        if answer.status is DnsStatus.NXDOMAIN:
            break
        if answer.status is not DnsStatus.NOERROR:
            return SenderFault(reply.HELO_TROUBLE, trouble=True)
        if answer.records:
            return None
    return SenderFault(reply.HELO_UNKNOWN)


def _is_full_name(name: str) -> bool:
    """Whether ``name`` is a domain name of two labels at least; no bare address, whose last
    label is a number, as no top-level domain is (RFC 3696 section 2)."""
    return is_domain(name) and "." in name and not name.rpartition(".")[2].isdigit()


# -- the client's reverse name --------------------------------------------------------------------


def reverse_name(client: str) -> Deliberation[ReverseName]:
    """The client's address must have a name, and one of its names must lead back to it
    (RFC 8601 section 2.7.3 calls that "iprev")."""
    address = parse_address(client)
    if address is None:
        return ReverseName("", SenderFault(reply.REVERSE_NAME_MISSING))
    answer = yield from look_up(address.reverse_pointer, "PTR")
    if answer.status not in (DnsStatus.NOERROR, DnsStatus.NXDOMAIN):
        return ReverseName("", SenderFault(reply.REVERSE_NAME_TROUBLE, trouble=True))
    texts = [record.removesuffix(".").lower() for record in answer.records[:REVERSE_NAMES_MAX]]
    names = [text for text in texts if text.isascii() and is_domain(text)]
    if not names:
        return ReverseName("", SenderFault(reply.REVERSE_NAME_MISSING))
    rtype = "A" if address.version == 4 else "AAAA"
    answers: list[DnsAnswer] = yield AllOf(tuple(look_up(name, rtype) for name in names))
    for name, forward in zip(names, answers, strict=True):
        if any(parse_address(record) == address for record in forward.records):
            return ReverseName(name, None)
    certain = all(one.status in (DnsStatus.NOERROR, DnsStatus.NXDOMAIN) for one in answers)
    if certain:
        return ReverseName("", SenderFault(reply.REVERSE_NAME_UNCONFIRMED))
    return ReverseName("", SenderFault(reply.REVERSE_NAME_TROUBLE, trouble=True))
