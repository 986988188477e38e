"""Folders of recipients: safe names, one for each, whatever a sender writes."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailsrv.config.deliveries import ToMaildir
from mailsrv.delivery.mailbox.folders import NAME_OCTETS_MAX, folder_name, maildir_path
from mailsrv.policy.recipients import Directory, Mailbox
from mailsrv.smtp.path import MailPath, parse_forward_path

MANY = ToMaildir(Path("/var/mail/{domain}/{local}"))
SAFE = frozenset(string.ascii_lowercase + string.digits + "_+=.-%" + "ABCDEF")
KEYS = st.text(max_size=300) | st.text("./%@aA\\\0 é\u0130", max_size=12)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ann", "ann"),
        ("ann.b-c_d+e=f", "ann.b-c_d+e=f"),
        ("ann/../../etc", "ann%2F..%2F..%2Fetc"),
        ("..", "%2E."),
        (".", "%2E"),
        (".hidden", "%2Ehidden"),
        ("", "%"),
        ("a b", "a%20b"),
        ("50%", "50%25"),
        ("%41", "%2541"),
        ("a\0b", "a%00b"),
        ("@", "%40"),
        ("Ann", "%41nn"),
        ("müller", "m%C3%BCller"),
        ("[192.0.2.1]", "%5B192.0.2.1%5D"),
        ("cur", "cur"),
    ],
)
def test_a_name_shows_its_key_and_escapes_the_rest(key: str, name: str) -> None:
    assert folder_name(key) == name


@given(KEYS)
@example("a" * 10_000)
@example("\ud800")
def test_a_name_is_one_safe_component(key: str) -> None:
    name = folder_name(key)
    assert set(name) <= SAFE
    assert 0 < len(name) <= NAME_OCTETS_MAX
    assert not name.startswith(".")
    assert Path("/x", name).parent == Path("/x")


@given(KEYS, KEYS)
@example("a" * 300, "a" * 301)
@example("é" * 100, "é" * 101)
@example("%", "")
@example("A", "a")
@example("%%", "%%" + "0" * 64)
def test_two_keys_have_two_names_even_where_case_is_not_told_apart(one: str, other: str) -> None:
    if one != other:
        assert folder_name(one).casefold() != folder_name(other).casefold()


def test_the_longest_keys_have_names_of_their_own() -> None:
    keys = ["x" * NAME_OCTETS_MAX, "x" * (NAME_OCTETS_MAX + 1), "x" * 500 + "a", "x" * 500 + "b"]
    names = [folder_name(key) for key in keys]
    assert names[0] == keys[0]
    assert len(set(names)) == 4


def test_a_name_that_looks_like_a_digest_is_no_digest() -> None:
    long = folder_name("é" * 300)
    assert "%%" in long
    assert folder_name(long) != long
    assert "%%" not in folder_name(long)[:-66]


def test_each_placeholder_is_replaced_by_its_own_part() -> None:
    ann = Mailbox("ann", "example.org")
    assert maildir_path(MANY, ann) == Path("/var/mail/example.org/ann")
    home = ToMaildir(Path("/home/{local}/Maildir"))
    assert maildir_path(home, ann) == Path("/home/ann/Maildir")
    tricky = Mailbox("{domain}", "{local}")
    assert maildir_path(MANY, tricky) == Path("/var/mail/%7Blocal%7D/%7Bdomain%7D")


@given(KEYS, KEYS)
def test_no_mailbox_lies_outside_of_the_path_or_within_another(local: str, domain: str) -> None:
    path = maildir_path(MANY, Mailbox(local, domain))
    assert path.parts[:3] == ("/", "var", "mail")
    assert len(path.parts) == 5
    assert ".." not in path.parts


# -- whose mailbox it is --------------------------------------------------------------------------

DIRECTORY = Directory(
    ["example.org", "example.net"],
    {"ann@example.org", "ann+vip@example.org", "info", "@example.net", "m\u00fcller@example.org"},
    hostname="mx.example.org",
)


@pytest.mark.parametrize(
    ("address", "mailbox"),
    [
        ("ann@example.org", "ann example.org"),
        ('"ANN"@EXAMPLE.ORG', "ann example.org"),
        ("ann+lists@example.org", "ann example.org"),
        ("ann+vip@example.org", "ann+vip example.org"),
        ("ann+vip+x@example.org", "ann+vip example.org"),
        ("info@example.org", "info example.org"),
        ("info@example.net", "info example.net"),
        ("anyone@example.net", " example.net"),
        ("another+x@example.net", " example.net"),
        ("postmaster@example.org", "postmaster example.org"),
        ("postmaster", "postmaster mx.example.org"),
        ("M\u00dcLLER@example.org", "m\u00fcller example.org"),
        ("mu\u0308ller@example.org", "m\u00fcller example.org"),
        ("bob@example.org", None),
        ("info@elsewhere.example", None),
        ("postmaster@elsewhere.example", None),
        ("postmaster@mx.example.org", "postmaster mx.example.org"),
        ("info@mx.example.org", None),
    ],
)
def test_a_mailbox_is_that_of_the_entry_in_the_table(address: str, mailbox: str | None) -> None:
    local, _, domain = address.rpartition("@")
    path = MailPath(local, domain) if local else MailPath(address, "")
    wanted = None if mailbox is None else Mailbox(*mailbox.split(" "))
    assert DIRECTORY.mailbox(path) == wanted


@given(st.from_regex(r'\A(?:[a-z.+/]{1,6}|"[ -~]{0,6}")@(?:example\.(?:org|net)|x\.example)\Z'))
def test_a_sender_makes_no_mailbox_by_writing_to_it(address: str) -> None:
    parsed = parse_forward_path(f"<{address}>")
    if parsed is None:
        return
    listed = {"ann", "ann+vip", "info", "m\u00fcller", "postmaster", ""}
    mailbox = DIRECTORY.mailbox(parsed[0])
    assert mailbox is None or mailbox.local in listed


WORDS = st.lists(
    st.sampled_from(
        [
            "ann",
            "+",
            "vip",
            "info",
            "postmaster",
            "%",
            "@",
            "!",
            '\\"',
            " ",
            "example.org",
            "x.example",
        ]
    ),
    min_size=1,
    max_size=5,
).map("".join)


@given(WORDS, st.booleans(), st.sampled_from(["example.org", "example.net", "mx.example.org", ""]))
def test_who_is_accepted_has_a_mailbox(local: str, quoted: bool, domain: str) -> None:
    """Or else a forged sender would be sent a notice."""
    text = f'"{local}"' if quoted else local
    parsed = parse_forward_path(f"<{text}@{domain}>" if domain else f"<{text}>")
    if parsed is not None and DIRECTORY.check(parsed[0]) is None:
        assert DIRECTORY.mailbox(parsed[0]) is not None


def test_without_a_table_there_are_no_mailboxes() -> None:
    everybody = Directory([])
    assert everybody.mailbox(MailPath("ann", "example.org")) is None
