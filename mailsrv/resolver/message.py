"""DNS messages: a question as octets, and what the octets that come back are worth.

dnspython builds and parses; what it makes of hostile octets is judged here.  A question is plain
DNS without extensions (RFC 1035): an answer of up to 512 octets comes in one datagram that
is never fragmented, and a longer one, rare for the types asked here, over TCP.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from mailsrv.policy.lookups import DnsAnswer, DnsStatus
from mailsrv.resolver.bounds import HEADER_OCTETS, bounded

ID_BITS = 16
_QR = 0x80  # in the third octet of the header: a response
_TC = 0x02  # there too: cut short
_ANSWERS = slice(6, 8)  # the count of answer records
_NO_DATA = DnsAnswer(DnsStatus.NOERROR)


class NoSuchName(ValueError):
    """A text that can be no name in DNS: a label over 63 octets, more than 255 in all."""


class InvalidResponse(Enum):
    """Why octets are no answer."""

    STRAY = "not for this question: another's answer, or a forger's guess"
    CUT = "cut short to fit a datagram: ask over TCP"
    BAD = "the server failed, or cannot be understood"


@dataclass(frozen=True, slots=True)
class DnsResponse:
    """A server's answer, and for how many seconds it holds."""

    answer: DnsAnswer
    ttl_s: int


Name = dns.name.Name


def parse_name(text: str) -> Name:
    """``text`` as an absolute name.  Raises NoSuchName."""
    try:
        return dns.name.from_text(text)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise NoSuchName(str(error)) from None


class DnsQuery:
    """One question under one id (0 to 65,535); ``octets`` is what to send."""

    __slots__ = ("_message", "octets")

    def __init__(self, name: Name, rtype: str, id_: int) -> None:
        self._message = dns.message.make_query(name, rtype, id=id_)
        self.octets = self._message.to_wire()

    def read(self, octets: bytes) -> DnsResponse | InvalidResponse:
        """Judge what came back.  Never raises."""
        if len(octets) < HEADER_OCTETS or octets[:2] != self.octets[:2] or not octets[2] & _QR:
            return InvalidResponse.STRAY  # not worth parsing
        if octets[2] & _TC:
            return InvalidResponse.CUT
        try:
            read = bounded(octets)
            response = self._judge(dns.message.from_wire(read, ignore_trailing=True))
        except Exception:  # whatever a parser of hostile octets may yet stumble over
            return InvalidResponse.BAD
        if (
            isinstance(response, DnsResponse)
            and response.answer == _NO_DATA
            and read[_ANSWERS] != octets[_ANSWERS]
        ):
            return InvalidResponse.BAD  # what was left out may have been the answer
        return response

    def failure(self, octets: bytes) -> str:
        """Why ``octets``, which are no answer, are none, in words."""
        rcode = octets[3] & 0x0F if len(octets) > 3 else 0
        return dns.rcode.to_text(dns.rcode.Rcode.make(rcode)) if rcode else "malformed answer"

    def _judge(self, message: dns.message.Message) -> DnsResponse | InvalidResponse:
        if not self._message.is_response(message):
            return InvalidResponse.STRAY
        rcode = message.rcode()
        if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return InvalidResponse.BAD
        assert isinstance(message, dns.message.QueryMessage)
        chain = message.resolve_chaining()  # bounded by dns.message.MAX_CHAIN
        if chain.answer is not None:
            records = tuple(record.to_text() for record in chain.answer)
            return DnsResponse(DnsAnswer(DnsStatus.NOERROR, records), chain.minimum_ttl)
        known_by = {rrset.rdtype for rrset in message.authority}
        has_soa = dns.rdatatype.SOA in known_by
        if rcode == dns.rcode.NXDOMAIN:
            status = DnsStatus.NXDOMAIN
        elif dns.rdatatype.NS in known_by and not has_soa and not message.flags & dns.flags.AA:
            return (
                InvalidResponse.BAD
            )  # a referral (RFC 2308 section 2.2.1): it does not recurse for us
        else:
            status = DnsStatus.NOERROR
        # Without SOA nothing says how long (RFC 2308 section 5): as short as can be.
        return DnsResponse(DnsAnswer(status), chain.minimum_ttl if has_soa else 0)
