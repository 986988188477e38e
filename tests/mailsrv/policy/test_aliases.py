"""Aliases: what an address stands for, with bounds, and circles told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.policy.aliases import DEPTH_MAX, MEMBERS_MAX, AliasError, Aliases
from mailsrv.policy.recipients import Directory, table_key
from mailsrv.smtp.path import MailPath


def path(text: str) -> MailPath:
    local, _, domain = text.rpartition("@")
    return MailPath(local, domain) if local else MailPath(text, "")


def aliases(**by_key: str) -> Aliases:
    table = {table_key(key): tuple(map(path, members.split())) for key, members in by_key.items()}
    return Aliases(table, Directory(["example.org", "example.net"]), "+", "mx.example.org")


def members(which: Aliases, address: str) -> list[str]:
    return [str(member) for member in which.members(path(address))]


TABLE = {
    "team@example.org": "ann@example.org bob@elsewhere.example",
    "all@example.org": "team@example.org carl@example.org ANN@example.org",
    "info": "ann@example.org",
    "dora@example.org": "dora@example.org eve@example.net",
    "postmaster": "info@example.net",
}


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("ann@example.org", "ann@example.org"),
        ("team@example.org", "ann@example.org bob@elsewhere.example"),
        ('"TEAM"@Example.ORG', "ann@example.org bob@elsewhere.example"),
        ("team+x@example.org", "ann@example.org bob@elsewhere.example"),
        ("team@example.net", "team@example.net"),
        ("all@example.org", "ann@example.org bob@elsewhere.example carl@example.org"),
        ("info@example.org", "ann@example.org"),
        ("info@example.net", "ann@example.org"),
        ("info@elsewhere.example", "info@elsewhere.example"),
        ("dora@example.org", "dora@example.org eve@example.net"),
        ("Postmaster", "ann@example.org"),
        ("postmaster@example.net", "ann@example.org"),
    ],
)
def test_an_address_stands_for_what_the_table_says(address: str, found: str) -> None:
    assert members(aliases(**TABLE), address) == found.split()


def test_a_table_without_circles_is_good() -> None:
    aliases(**TABLE).check()


@pytest.mark.parametrize(
    "by_key",
    [
        {"a": "b@example.org", "b": "a@example.org"},
        {"a@example.org": "b@example.org", "b": "c@example.org", "c": "A@example.org"},
        {"a": "b@example.org", "b": "a+x@example.org"},
    ],
)
def test_a_circle_is_an_error(by_key: dict[str, str]) -> None:
    with pytest.raises(AliasError, match="stands for itself, by way of"):
        aliases(**by_key).check()


def test_depth_is_bounded() -> None:
    chain = {f"a{n}": f"a{n + 1}@example.org" for n in range(DEPTH_MAX)}
    aliases(**chain).check()
    with pytest.raises(AliasError, match=f"an alias within {DEPTH_MAX} others"):
        aliases(**chain, **{f"a{DEPTH_MAX}": "end@example.org"}).check()


def test_the_number_of_members_is_bounded() -> None:
    lists = {f"l{n}": " ".join(f"u{n}x{m}@example.org" for m in range(100)) for n in range(11)}
    whole = {"all": " ".join(f"l{n}@example.org" for n in range(MEMBERS_MAX // 100))}
    aliases(**lists, **whole).check()
    with pytest.raises(AliasError, match="stands for more than 1,000 addresses"):
        aliases(**lists, all=whole["all"] + " one@example.org").check()


def test_lists_of_the_same_lists_cost_no_more_than_their_entries() -> None:
    width = 300
    levels = {
        f"l{level}x{n}": " ".join(f"l{level + 1}x{m}@example.org" for m in range(width))
        for level in range(4)
        for n in range(width if level else 1)
    }
    assert len(members(aliases(**levels), "l0x0@example.org")) == width


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.lists(st.sampled_from([f"{c}@example.org" for c in "abcdefgh"]), min_size=1),
        max_size=6,
    )
)
def test_an_alias_is_refused_or_ends_in_addresses_each_of_them_once(
    by_key: dict[str, list[str]],
) -> None:
    which = aliases(**{key: " ".join(one) for key, one in by_key.items()})
    try:
        which.check()
    except AliasError:
        return
    for key in "abcdef":
        found = members(which, f"{key}@example.org")
        assert len(found) == len(set(found)) >= 1
        for one in found:  # it is no alias, or an alias that keeps a copy
            assert one[0] not in by_key or one in by_key[one[0]]
