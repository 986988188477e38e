"""Reading DNS messages: whatever the octets, a judgement and no exception."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.policy.lookups import DnsAnswer, DnsStatus
from mailsrv.resolver.bounds import LABELS_MAX, RECORDS_MAX, bounded
from mailsrv.resolver.message import DnsQuery, DnsResponse, InvalidResponse, parse_name

ID = 0x1234
QUERY = DnsQuery(parse_name("a.example"), "MX", ID)


def reply() -> bytes:
    message = dns.message.make_response(dns.message.from_wire(QUERY.octets))
    message.answer = [
        dns.rrset.from_text("a.example.", 9, "IN", "CNAME", "b.example."),
        dns.rrset.from_text("b.example.", 9, "IN", "MX", "10 mx.example."),
    ]
    message.authority = [dns.rrset.from_text("example.", 9, "IN", "NS", "ns.example.")]
    return message.to_wire()


REPLY = reply()
TOLD = DnsResponse(DnsAnswer(DnsStatus.NOERROR, ("10 mx.example.",)), 9)


def test_a_query_asks_for_recursion_and_nothing_else() -> None:
    assert QUERY.octets == (
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x0f\x00\x01"
    )


def test_a_reply_is_read_with_and_without_octets_behind_it() -> None:
    assert QUERY.read(REPLY) == QUERY.read(REPLY + b"junk") == TOLD


def test_no_beginning_of_a_reply_is_an_answer() -> None:
    for end in range(len(REPLY)):
        assert QUERY.read(REPLY[:end]) is (
            InvalidResponse.STRAY if end < 12 else InvalidResponse.BAD
        )


@pytest.mark.parametrize("rdata", [b"", b"\x00", b"\x00\x0a", b"\x00\x0a\x02m", b"\x00\x0a\xc0"])
def test_an_mx_record_too_short_to_be_one_is_no_answer(rdata: bytes) -> None:
    """Postfix read past its end (20260623); here it is as if the server had failed."""
    owner, mx_in, ttl = b"\xc0\x0c", b"\x00\x0f\x00\x01", b"\x00\x00\x00\x09"
    record = owner + mx_in + ttl + len(rdata).to_bytes(2, "big") + rdata
    header = ID.to_bytes(2, "big") + b"\x81\x80" + b"\x00\x01\x00\x01\x00\x00\x00\x00"
    question = QUERY.octets[12:]
    assert QUERY.read(header + question + record) is InvalidResponse.BAD
    assert (
        QUERY.read(header + question + record + bytes(512)) is InvalidResponse.BAD
    )  # none to borrow


@given(st.data())
def test_a_reply_with_damage_is_judged(data: st.DataObject) -> None:
    octets = bytearray(REPLY)
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(QUERY.read(bytes(octets)), DnsResponse | InvalidResponse)


@given(st.binary(max_size=64))
def test_any_octets_are_judged(octets: bytes) -> None:
    assert isinstance(QUERY.read(octets), InvalidResponse)
    header = ID.to_bytes(2, "big") + b"\x80\x00"
    assert isinstance(QUERY.read(header + octets), DnsResponse | InvalidResponse)
    assert isinstance(QUERY.read(REPLY[:12] + octets), DnsResponse | InvalidResponse)


def test_the_letters_of_the_question_may_come_back_in_another_case() -> None:
    assert QUERY.read(REPLY.replace(b"\x01a\x07", b"\x01A\x07")) == TOLD


def test_only_so_many_records_are_taken() -> None:
    message = dns.message.make_response(dns.message.from_wire(QUERY.octets))
    hosts = {f"10 mx{number}.example." for number in range(RECORDS_MAX + 1)}
    message.answer = [dns.rrset.from_text("a.example.", 9, "IN", "MX", *hosts)]
    told = QUERY.read(message.to_wire())
    assert isinstance(told, DnsResponse)
    assert len(told.answer.records) == RECORDS_MAX
    assert hosts.issuperset(told.answer.records)


# -- what an answer of the sender's choosing may cost ---------------------------------------------


def crafted(count: int, record: Callable[[int, int], bytes]) -> bytes:
    """An answer with ``count`` records, each made from its number and its offset."""
    octets = bytearray(QUERY.octets[:2] + b"\x81\x80" + struct.pack("!4H", 1, count, 0, 0))
    octets += QUERY.octets[12:]
    for number in range(count):
        octets += record(number, len(octets))
    return bytes(octets)


def mx(number: int, host: bytes) -> bytes:
    data = struct.pack("!H", number) + host
    return b"\xc0\x0c" + struct.pack("!HHIH", 15, 1, 60, len(data)) + data


def test_names_that_unfold_to_hundreds_of_labels_are_not_read() -> None:
    """Two octets each stand for a name of 120 labels: most of a second, were they parsed."""
    long = b"\x01a" * 120 + b"\0"
    first_at = len(crafted(0, lambda number, at: b"")) + 14

    def record(number: int, at: int) -> bytes:
        return mx(number, long if not number else struct.pack("!H", 0xC000 | first_at))

    assert counts(bounded(crafted(200, record))) == (1, 0, 0, 0)


def test_labels_are_bounded_in_all() -> None:
    def record(number: int, at: int) -> bytes:
        return mx(number, b"\x01a" * 30 + b"\xc0\x0c")

    read = counts(bounded(crafted(30, record)))[1]
    assert read == LABELS_MAX // (30 + 2 + 2)
    told = QUERY.read(crafted(30, record))
    assert isinstance(told, DnsResponse)
    assert 0 < len(told.answer.records) <= read


def test_records_of_another_kind_are_not_read() -> None:
    def record(number: int, at: int) -> bytes:
        if number == 1:
            return b"\xc0\x0c" + struct.pack("!HHIH", 33, 1, 60, 4) + b"\0" * 4  # SRV
        return mx(number, b"\xc0\x0c")

    assert counts(bounded(crafted(3, record))) == (1, 1, 0, 0)


def test_an_alias_that_a_dname_makes_leads_to_its_records() -> None:
    """RFC 6672 section 3.1: the DNAME stands first, then the CNAME that was made from it."""
    message = dns.message.make_response(dns.message.from_wire(QUERY.octets))
    signature = "CNAME 8 2 9 20300101000000 20200101000000 1 example. AAAA"
    message.answer = [
        dns.rrset.from_text("example.", 9, "IN", "DNAME", "new.example."),
        dns.rrset.from_text("a.example.", 9, "IN", "CNAME", "a.new.example."),
        dns.rrset.from_text("a.example.", 9, "IN", "RRSIG", signature),
        dns.rrset.from_text("a.new.example.", 9, "IN", "MX", "10 mx.new.example."),
    ]
    told = QUERY.read(message.to_wire())
    assert told == DnsResponse(DnsAnswer(DnsStatus.NOERROR, ("10 mx.new.example.",)), 9)


def test_an_answer_of_which_nothing_was_read_is_not_an_empty_one() -> None:
    """Else a sender's domain would be told to be none."""
    unread = crafted(2, lambda number, at: mx(number, b"\x01a" * 60 + b"\0"))
    assert counts(bounded(unread)) == (1, 0, 0, 0)
    assert QUERY.read(unread) is InvalidResponse.BAD


def test_pointers_to_pointers_are_not_followed_to_their_end() -> None:
    """A chain in a text, and names that begin at its end: 8 ms for 4 KiB, were it followed."""

    def text(number: int, at: int) -> bytes:
        begins = at + 2 + 10 + 1
        links = [12, *range(begins, begins + 2 * 100, 2)]
        chain = b"".join(struct.pack("!H", 0xC000 | link) for link in links)
        data = bytes([len(chain)]) + chain
        return b"\xc0\x0c" + struct.pack("!HHIH", 16, 1, 60, len(data)) + data

    chained = crafted(1, text)
    last = struct.pack("!H", 0xC000 | (len(chained) - 2))
    with pytest.raises(ValueError, match="pointers to pointers"):
        bounded(crafted(2, lambda number, at: mx(1, last) if number else text(0, at)))


def test_a_negative_answer_keeps_its_soa() -> None:
    message = dns.message.make_response(dns.message.from_wire(QUERY.octets))
    soa = "ns.example. host.example. 1 2 3 4 77"
    message.authority = [dns.rrset.from_text("example.", 99, "IN", "SOA", soa)]
    told = QUERY.read(message.to_wire())
    assert told == DnsResponse(DnsAnswer(DnsStatus.NOERROR), 77)


@given(st.binary(max_size=200))
def test_what_is_malformed_is_a_bad_answer(octets: bytes) -> None:
    with contextlib.suppress(ValueError, IndexError, struct.error):
        assert len(bounded(QUERY.octets[:12] + octets)) == 12 + len(octets)
    assert not isinstance(QUERY.read(b""), DnsResponse)


def counts(octets: bytes) -> tuple[int, ...]:
    return struct.unpack_from("!4H", octets, 4)
