"""Sender pools: a retry from a neighbour is a retry, one from a stranger is not."""

from __future__ import annotations

import pytest

from mailsrv.policy.greylist import TRIPLETS_FOR_A_CLIENT, Greylist
from mailsrv.policy.sender_pools import organisation, spells_address
from mailsrv.runtime.clock import FakeClock

DELAY_S = 300
TRIPLET = ("192.0.2.1", "a@example.org", "b@example.test")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(start=12_345.678901, realtime_offset_ns=1_700_000_000_123_456_789)


@pytest.fixture
def gl(clock: FakeClock) -> Greylist:
    return Greylist(clock=clock, delay=DELAY_S)


@pytest.mark.parametrize(
    ("first_from", "retry_from", "outcome"),
    [
        ("192.0.2.1", "192.0.2.254", "PASS"),
        ("192.0.2.1", "::ffff:192.0.2.9", "PASS"),
        ("192.0.2.1", "192.0.254.254", "PASS"),
        ("192.0.2.1", "192.1.2.1", "DEFER"),
        ("2001:db8:1::1", "2001:db8:ffff:ffff::9", "PASS"),
        ("2001:db8:1::1", "2001:db9:1::1", "DEFER"),
        ("somebody", "somebody", "PASS"),
        ("somebody", "somebody else", "DEFER"),
    ],
)
def test_a_retry_may_come_from_a_neighbouring_address(
    clock: FakeClock, gl: Greylist, first_from: str, retry_from: str, outcome: str
) -> None:
    gl.check((first_from, *TRIPLET[1:]))
    clock.advance(DELAY_S)
    assert gl.check((retry_from, *TRIPLET[1:])) == outcome


# -- sender pools ---------------------------------------------------------------------------------

FAR_OFF = ("198.51.100.7", "a@example.org", "b@example.test")
POOL_NAMES = ("out1.mail.example.net", "out77.eu.mail.example.net")


@pytest.mark.parametrize(
    ("names", "outcome"),
    [
        (POOL_NAMES, "PASS"),
        (("out1.example.net", "OUT2.EXAMPLE.NET."), "PASS"),
        (("out1.example.net", "out1.example.com"), "DEFER"),
        (("out1.example.co.uk", "out1.another.co.uk"), "DEFER"),
        (("out1.example.net", ""), "DEFER"),
        (("192-0-2-1.dyn.example.net", "198-51-100-7.dyn.example.net"), "DEFER"),
        (("localhost", "localhost"), "DEFER"),
    ],
)
def test_a_retry_from_far_off_passes_by_the_organisation_in_the_reverse_name(
    clock: FakeClock, gl: Greylist, names: tuple[str, str], outcome: str
) -> None:
    first, retry = names
    gl.check(TRIPLET, reverse_name=first)
    clock.advance(DELAY_S)
    assert gl.check(FAR_OFF, reverse_name=retry) == outcome


@pytest.mark.parametrize(
    ("helos", "outcome"),
    [
        (("mx1.example.org", "mx2.example.org"), "PASS"),
        (("mx1.example.net", "mx2.example.net"), "DEFER"),  # not the sender's own
        (("[192.0.2.1]", "[192.0.2.1]"), "DEFER"),
        (("dsl-192-0-2-1.example.org", "dsl-198-51-100-7.example.org"), "DEFER"),
    ],
)
def test_a_retry_from_far_off_passes_by_the_senders_own_domain_in_the_helo_name(
    clock: FakeClock, gl: Greylist, helos: tuple[str, str], outcome: str
) -> None:
    first, retry = helos
    gl.check(TRIPLET, helo=first)
    clock.advance(DELAY_S)
    assert gl.check(FAR_OFF, helo=retry) == outcome


def test_a_helo_name_is_not_asked_where_there_is_a_reverse_name(
    clock: FakeClock, gl: Greylist
) -> None:
    gl.check(TRIPLET, helo="mx1.example.org")
    clock.advance(DELAY_S)
    outcome = gl.check(FAR_OFF, helo="mx1.example.org", reverse_name="dsl7.example.com")
    assert outcome == "DEFER"


def test_nobody_outside_is_believed_to_be_the_recipients_own_organisation(
    clock: FakeClock, gl: Greylist
) -> None:
    for client, outcome in (("192.0.2.1", "DEFER"), ("198.51.100.7", "DEFER")):
        forged = (client, "boss@example.test", "b@example.test")
        assert gl.check(forged, helo="mx.example.test") == outcome
        clock.advance(DELAY_S)


def test_a_pool_that_joins_later_waits_no_longer_than_the_others(
    clock: FakeClock, gl: Greylist
) -> None:
    assert gl.check(TRIPLET) == "DEFER"  # the reverse name was slow
    clock.advance(DELAY_S - 1)
    assert gl.check(TRIPLET, reverse_name=POOL_NAMES[0]) == "DEFER"
    clock.advance(1)
    assert gl.check(FAR_OFF, reverse_name=POOL_NAMES[1]) == "PASS"


def test_a_pool_neighbour_passes_exactly_at_the_delay_and_not_a_nanosecond_before(
    clock: FakeClock, gl: Greylist
) -> None:
    due_ns = clock.monotonic_ns() + DELAY_S * 10**9
    gl.check(TRIPLET, reverse_name=POOL_NAMES[0])
    clock.advance_to_ns(due_ns - 1)
    assert gl.check(FAR_OFF, reverse_name=POOL_NAMES[1]) == "DEFER"
    clock.advance_to_ns(due_ns)
    assert gl.check(FAR_OFF, reverse_name=POOL_NAMES[1]) == "PASS"


def test_what_has_passed_passes_from_every_address_of_the_pool(
    clock: FakeClock, gl: Greylist
) -> None:
    gl.check(TRIPLET, reverse_name=POOL_NAMES[0])
    clock.advance(DELAY_S)
    gl.check(FAR_OFF, reverse_name=POOL_NAMES[1])
    third = ("203.0.113.5", *TRIPLET[1:])
    assert gl.check(third, reverse_name=POOL_NAMES[0]) == "PASS"
    assert gl.check(third) == "PASS"  # its own network has passed with it


def from_both_ends(gl: Greylist, clock: FakeClock, **names: str) -> None:
    """Enough transactions, each first tried from one end of a pool and retried from the other."""
    for number in range(TRIPLETS_FOR_A_CLIENT):
        transaction = f"{chr(97 + number)}@example.org", "b@example.test"
        assert gl.check((TRIPLET[0], *transaction), **names) == "DEFER"
        clock.advance(DELAY_S)
        assert gl.check((FAR_OFF[0], *transaction), **names) == "PASS"


def test_retries_for_a_neighbour_prove_the_client_that_makes_them(
    clock: FakeClock, gl: Greylist
) -> None:
    from_both_ends(gl, clock, reverse_name=POOL_NAMES[0])
    assert gl.check((FAR_OFF[0], "new@example.com", "new@example.test")) == "PASS"
    assert gl.check((TRIPLET[0], "new@example.com", "new@example.test")) == "DEFER"


def test_retries_that_pass_by_a_helo_name_prove_nobody(clock: FakeClock, gl: Greylist) -> None:
    from_both_ends(gl, clock, helo="mx.example.org")
    assert gl.check((FAR_OFF[0], "new@example.com", "new@example.test")) == "DEFER"


# -- reverse-paths that change --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "then", "outcome"),
    [
        ("prvs=0123abcdef=ann", "prvs=4567fedcba=ann", "PASS"),
        ("prvs=ann/0123abcdef", "prvs=ann/4567fedcba", "PASS"),
        ("srs0=hhhh=t1=example.net=ann", "SRS0+xx=T2=example.net=ann", "PASS"),
        ("srs1=h=a.example==h=t=b.example=ann", "srs1=i=a.example==j=u=b.example=ann", "PASS"),
        ("news-1234-bob=example.test", "news-5678-bob=example.test", "PASS"),
        ("news-bounces+bob=example.test", "news-bounces", "PASS"),
        ("b.01ab23cd45ef.x", "b.99ffee881234.x", "PASS"),
        ("list-57-bob", "list-58-bob", "PASS"),
        (
            "0100018f3c7d1a2b-12ab34cd-56ef-78ab-90cd-1234567890ab-000000",
            "01000190a1b2c3d4-feedbeef-abcd-4abc-8def-0a1b2c3d4e5f-000000",
            "PASS",
        ),
        (
            "bounce-0f8fad5b-d9cb-469f-a165-70867728950e",
            "bounce-deadbeef-cafe-babe-face-70867728950e",
            "PASS",
        ),
        ("bounce-mc.us1_12345.678910-abcdef0123", "bounce-mc.us1_12345.678911-0123abcdef", "PASS"),
        ("msgid.x7k2p9qa.bob", "msgid.q1w2e3zz.bob", "PASS"),
        ("em1234567.bob", "em1234568.bob", "PASS"),
        ("0f8fad5bd9cb469fa16570867728950e", "7c9e6679742540de944be07fc1f90ae7", "PASS"),
        ("x7k2p9qa.ann", "q1w2e3zz.eve", "DEFER"),
        ("prvs=0123abcdef=ann", "prvs=4567fedcba=eve", "DEFER"),
        ("srs0=hh=t1=example.net=ann", "srs0=hh=t1=example.net=eve", "DEFER"),
        ("srs1=h=a.example==h=t=b.example=ann", "srs1=h=x.example==h=t=b.example=ann", "DEFER"),
        ("sender1", "sender2", "DEFER"),
        ("room-1", "room-2", "DEFER"),
        ("100234567", "100234568", "DEFER"),  # some providers number people
        ("qwert", "asdfg", "DEFER"),
    ],
)
def test_a_sender_is_known_by_what_stays_the_same_in_its_reverse_path(
    clock: FakeClock, gl: Greylist, first: str, then: str, outcome: str
) -> None:
    gl.check((TRIPLET[0], f"{first}@example.org", TRIPLET[2]))
    clock.advance(DELAY_S)
    assert gl.check((TRIPLET[0], f"{then}@example.org", TRIPLET[2])) == outcome


def test_the_null_reverse_path_is_a_sender_like_others(clock: FakeClock, gl: Greylist) -> None:
    bounce = (TRIPLET[0], "", TRIPLET[2])
    assert gl.check(bounce) == "DEFER"
    clock.advance(DELAY_S)
    assert gl.check(bounce) == "PASS"
    assert gl.check((TRIPLET[0], "", "other@example.test")) == "DEFER"
    assert gl.check((FAR_OFF[0], "", TRIPLET[2]), helo="mx.example.test") == "DEFER"


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("a.b.Example.ORG.", "example.org"),
        ("example.org", "example.org"),
        ("mx.example.co.uk", "example.co.uk"),
        ("co.uk", ""),
        ("mx.gmx.de", "gmx.de"),
        ("localhost", ""),
        ("192.0.2.1", ""),
        ("[192.0.2.1]", ""),
        ("a..b", ""),
        ("", ""),
    ],
)
def test_the_organisation_is_told_by_the_form_of_a_name(name: str, domain: str) -> None:
    assert organisation(name) == domain


@pytest.mark.parametrize(
    ("name", "client", "spelt"),
    [
        ("c-73-1-2-3.hsd1.example.net", "73.1.2.3", True),
        ("3.2.1.73.bc.example.net", "73.1.2.3", True),
        ("h073001002003.example.net", "73.1.2.3", True),
        ("p5B0A1C2D.dip0.example.net", "91.10.28.45", True),
        ("c-73-1-2-3.hsd1.example.net", "::ffff:73.1.2.3", True),
        ("a8-28.smtp-out.example.net", "54.240.8.28", False),
        ("c-73-1-2-4.example.net", "73.1.2.3", False),
        ("1-2-3.example.net", "73.1.2.3", False),
        ("c-73-1-2-3.example.net", "2001:db8::1", False),
        ("c-73-1-2-3.example.net", "somebody", False),
        ("9" * 5000 + ".example.net", "73.1.2.3", False),
    ],
)
def test_a_name_that_spells_its_address_is_a_providers_line(
    name: str, client: str, spelt: bool
) -> None:
    assert spells_address(name, client) is spelt
