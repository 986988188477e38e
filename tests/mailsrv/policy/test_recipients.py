"""Whose mail is taken: each way to write an address that is ours, and each that is not."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.policy.recipients import Directory, domain_key, local_key, table_key
from mailsrv.settings import Settings
from mailsrv.smtp import reply
from mailsrv.smtp.path import MailPath, parse_forward_path
from mailsrv.smtp.reply import Reply

DOMAINS = ("example.test", "b\u00fccher.example", "[192.0.2.25]", "[IPv6:2001:db8::25]")
HOSTNAME = "mx.example.test"

ANY = Directory(DOMAINS, hostname=HOSTNAME)
"""Every address in our domains exists."""
LISTED = Directory(
    DOMAINS,
    {
        *map(
            table_key,
            [
                "ann@example.test",
                "Bob.Jones@Example.Test",
                '"john doe"@example.test',
                "sales-team@example.test",
                "100%real@example.test",
                "j\u00fcrgen@example.test",
                "everywhere",
                "@b\u00fccher.example",
            ],
        )
    },
    hostname=HOSTNAME,
)


def verdict(directory: Directory, address: str) -> Reply | None:
    """What is said to ``RCPT TO:<address>``, which must be an address."""
    parsed = parse_forward_path(f"<{address}>")
    assert parsed is not None, address
    return directory.check(parsed[0])


# -- domains --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "ann@example.test",
        "ann@EXAMPLE.Test",
        "ann@b\u00fccher.example",
        "ann@B\u00dcCHER.example",
        "ann@bu\u0308cher.example",
        "ann@xn--bcher-kva.example",
        "ann@XN--BCHER-KVA.example",
        "ann@[192.0.2.25]",
        "ann@[ipv6:2001:DB8:0:0::25]",
        "@relay.example:ann@example.test",
        "ann@example.test",
    ],
)
def test_mail_for_our_domains_is_taken_however_they_are_written(address: str) -> None:
    assert verdict(ANY, address) is None


@pytest.mark.parametrize(
    "address",
    [
        "ann@other.example",
        "ann@sub.example.test",
        "ann@test",
        "ann@example.test.other.example",
        "ann@notexample.test",
        "ann@bucher.example",
        "ann@xn--bcher-kvb.example",
        "ann@mx.example.test",
        "ann@[192.0.2.26]",
        "ann@[127.0.0.1]",
        "ann@[IPv6:2001:db8::26]",
        "ann@[IPv6:::ffff:192.0.2.25]",
        "@example.test:ann@other.example",
        "postmaster@other.example",
    ],
)
def test_mail_for_nobody_of_ours_is_refused_as_relaying(address: str) -> None:
    for directory in (ANY, LISTED):
        said = verdict(directory, address)
        assert said is reply.RELAY_DENIED
        assert (str(said), said.check) == ("550 5.7.1 Relay access denied", "relay")


def test_a_letter_that_only_looks_like_ours_is_another() -> None:
    assert verdict(Directory(["kiosk.example"]), "ann@\u212aiosk.example") is reply.RELAY_DENIED
    assert verdict(Directory(["strasse.example"]), "ann@stra\u00dfe.example") is reply.RELAY_DENIED
    assert verdict(Directory(["stra\u00dfe.example"]), "ann@xn--strae-oqa.example") is None


def test_without_domains_or_with_a_star_every_domain_is_ours() -> None:
    for domains in ([], ["*"]):
        directory = Directory(domains)
        assert directory.takes_all
        for address in ("ann@example.test", "ann%other.example@x", "ann@[192.0.2.1]"):
            assert verdict(directory, address) is None
    assert not ANY.takes_all
    assert not Directory([], set()).takes_all


def test_a_table_without_domains_tells_who_exists_in_each_domain() -> None:
    directory = Directory([], {"ann@example.test", "bob"})
    assert verdict(directory, "ann@example.test") is None
    assert verdict(directory, "bob@other.example") is None
    assert verdict(directory, "ann@other.example") is reply.UNKNOWN_RECIPIENT


# -- routes in the local-part ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "local",
    [
        "user%other.example",
        "user%other.example%example.test",
        "user%example.test%other.example",
        "other.example!user",
        "example.test!other.example!user",
        "other.example!user%example.test",
        "example.test!user%other.example",
        '"user@other.example"',
        '"user\\@other.example"',
        '"user%other.example"',
        '"@example.test,@other.example:user"',
        '"@other.example:user"',
        "user%",
        "!user",
        "user%[192.0.2.1]",
        '"user@[IPv6:nonsense"',
    ],
)
def test_a_local_part_that_names_a_further_host_is_refused_as_relaying(local: str) -> None:
    for directory in (ANY, LISTED):
        for domain in ("example.test", "b\u00fccher.example", "[192.0.2.25]"):
            assert directory.check(MailPath(local, domain)) is reply.RELAY_DENIED
    assert LISTED.check(MailPath("ann+%other.example", "example.test")) is reply.RELAY_DENIED


@pytest.mark.parametrize(
    "local", ["user%example.test", "example.test!user", '"user@example.test"', "EXAMPLE.TEST!u"]
)
def test_a_local_part_that_names_one_of_our_own_hosts_leads_nowhere_else(local: str) -> None:
    assert ANY.check(MailPath(local, "example.test")) is None
    assert LISTED.check(MailPath(local, "example.test")) is reply.UNKNOWN_RECIPIENT


def test_an_address_in_the_table_may_hold_any_mark() -> None:
    assert verdict(LISTED, "100%real@example.test") is None
    assert verdict(ANY, "100%real@example.test") is reply.RELAY_DENIED


def test_a_local_part_that_looks_like_an_entry_of_the_table_is_not_that_entry() -> None:
    table = {"ann@other.example", "@b\u00fccher.example", "@xn--bcher-kva.example"}
    directory = Directory(["example.test"], table)
    for local in ('"ann@other.example"', '"@b\u00fccher.example"', '"@xn--bcher-kva.example"'):
        assert directory.check(MailPath(local, "example.test")) is reply.RELAY_DENIED
    assert verdict(directory, "ann@other.example") is reply.RELAY_DENIED


# -- recipients -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "ann@example.test",
        "ANN@example.test",
        '"ann"@example.test',
        '"a\\nn"@example.test',
        "bob.jones@example.test",
        '"John Doe"@example.test',
        '"John\\ Doe"@example.test',
        "ju\u0308rgen@example.test",
        "J\u00dcRGEN@example.test",
        "everywhere@example.test",
        "everywhere@[192.0.2.25]",
        "anybody@b\u00fccher.example",
        "anybody@xn--bcher-kva.example",
        "ann+lists@example.test",
        "ann+lists+more@example.test",
        "ann+@example.test",
        "everywhere+x@example.test",
    ],
)
def test_who_is_in_the_table_exists(address: str) -> None:
    assert verdict(LISTED, address) is None


@pytest.mark.parametrize(
    "address",
    [
        "nobody@example.test",
        "an@example.test",
        "annn@example.test",
        "ann@[192.0.2.25]",
        "bobjones@example.test",
        "+ann@example.test",
        "+@example.test",
        "lists+ann@example.test",
        "ann-lists@example.test",
        "jurgen@example.test",
        "example.test@example.test",
    ],
)
def test_who_is_not_in_the_table_does_not_exist(address: str) -> None:
    said = verdict(LISTED, address)
    assert said is reply.UNKNOWN_RECIPIENT
    assert str(said) == "550 5.1.1 Recipient address rejected: user unknown"
    assert said.check == "recipient"


def test_without_a_table_everybody_exists() -> None:
    assert verdict(ANY, "whoever+x@example.test") is None


def test_the_delimiter_is_as_configured() -> None:
    table = {"ann@example.test", "sales-team@example.test"}
    minus = Directory(DOMAINS, table, delimiter="-")
    assert verdict(minus, "ann-lists@example.test") is None
    assert verdict(minus, "sales-team-lists@example.test") is None
    assert verdict(minus, "sales@example.test") is reply.UNKNOWN_RECIPIENT
    assert verdict(minus, "ann+lists@example.test") is reply.UNKNOWN_RECIPIENT
    none = Directory(DOMAINS, table, delimiter="")
    assert verdict(none, "ann+lists@example.test") is reply.UNKNOWN_RECIPIENT
    assert verdict(none, "ann@example.test") is None


def test_the_postmaster_can_always_be_written_to() -> None:
    empty = Directory(DOMAINS, set(), hostname=HOSTNAME)
    for address in (
        "postmaster",
        "PostMaster",
        "postmaster@example.test",
        "POSTMASTER@Example.Test",
        '"postmaster"@example.test',
        "postmaster@b\u00fccher.example",
        "postmaster@[192.0.2.25]",
        "postmaster@mx.example.test",
        "postmaster+x@example.test",
    ):
        assert verdict(empty, address) is None, address
    assert verdict(empty, "abuse@example.test") is reply.UNKNOWN_RECIPIENT
    assert verdict(empty, "po\u017ftmaster@example.test") is reply.UNKNOWN_RECIPIENT


def test_a_directory_is_made_of_settings() -> None:
    settings = Settings(
        domains=("example.test",), recipient_delimiter="-", hostname="mx.example.test"
    )
    directory = Directory.of(settings, {"ann"})
    assert verdict(directory, "ann-x@example.test") is None
    assert verdict(directory, "ann+x@example.test") is reply.UNKNOWN_RECIPIENT
    assert verdict(directory, "postmaster@mx.example.test") is None
    assert verdict(directory, "ann@other.example") is reply.RELAY_DENIED
    assert Directory.of(Settings()).takes_all


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Ann@Example.Test", "ann@example.test"),
        ('"Ann"@example.test', "ann@example.test"),
        ("@Example.Test", "@example.test"),
        ("@[192.0.2.25]", "@[192.0.2.25]"),
        ("@b\u00fccher.example", "@xn--bcher-kva.example"),
        ("Ann", "ann"),
        ("ann.b+c", "ann.b+c"),
        ('"john doe"', "john doe"),
        ("postmaster", "postmaster"),
        ("a@[IPv6:2001:0DB8::1]", "a@[ipv6:2001:db8::1]"),
    ],
)
def test_a_table_takes_addresses_domains_and_users(text: str, key: str) -> None:
    assert table_key(text) == key


@pytest.mark.parametrize(
    "text",
    ["", "@", "a@", "a@b@c", "a b", "a@b c", "<a@b>", " a@b", "@a b", "..", "../a", "@.", "a@-b",
     '"a', '"a@b"', '""', '""@b', "a@[1.2.3]", "a@[IPv6:x]",
     "a" * 512, "a@" + "b" * 64, "<>", "\x00", "a@b\n", "@@"],
)  # fmt: skip
def test_what_is_none_of_them_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="takes user@domain, @domain or user"):
        table_key(text)


@given(
    st.text(min_size=1, max_size=30),
    st.sampled_from(["example.test", "\u00e4.example", "[192.0.2.25]"]),
)
def test_whoever_is_put_into_a_table_is_found_in_it(local: str, domain: str) -> None:
    address = f"{local}@{domain}"
    try:
        key = table_key(address)
    except ValueError:
        return
    assert verdict(Directory(["*"], {key}), address) is None
    assert verdict(Directory([domain], {table_key(f"@{domain}"), key}), address) is None


@given(st.text(min_size=1, max_size=64), st.text(min_size=1, max_size=60))
def test_every_path_gets_an_answer(local: str, domain: str) -> None:
    parsed = parse_forward_path(f"<{local}@{domain}>")
    if parsed is not None:
        for directory in (ANY, LISTED):
            assert directory.check(parsed[0]) in (
                None,
                reply.RELAY_DENIED,
                reply.UNKNOWN_RECIPIENT,
            )


def test_nothing_beyond_ascii_is_ever_taken_for_ascii() -> None:
    for number in range(0x80, sys.maxunicode + 1):
        character = chr(number)
        if unicodedata.category(character) != "Cs":
            assert not local_key(character).isascii(), hex(number)
    assert domain_key("\u212a.example") not in ("k.example", "xn--k.example")
