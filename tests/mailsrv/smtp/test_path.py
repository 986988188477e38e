"""Paths as senders write them: right, odd, and hostile."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.smtp.path import (
    MailPath,
    is_address_literal,
    is_domain,
    needs_smtputf8,
    parse_forward_path,
    parse_reverse_path,
)

Parser = Callable[[str], tuple[MailPath, str] | None]
PARSERS: tuple[Parser, ...] = (parse_reverse_path, parse_forward_path)

LABEL_63 = "a" * 63
DOMAIN_255 = ".".join([LABEL_63] * 3 + ["b" * 61, "c"])

ACCEPTED = [
    ("<a@example.org>", MailPath("a", "example.org")),
    ("<a.b+tag@Example.ORG>", MailPath("a.b+tag", "Example.ORG")),
    ("<!#$%&'*+-/=?^_`{|}~@x.org>", MailPath("!#$%&'*+-/=?^_`{|}~", "x.org")),
    ("<a@xn--bcher-kva.example>", MailPath("a", "xn--bcher-kva.example")),
    ("<a@my_host.example>", MailPath("a", "my_host.example")),
    ("<a@localhost>", MailPath("a", "localhost")),
    ("<a@1.2.3.4>", MailPath("a", "1.2.3.4")),
    ("  <a@example.org>", MailPath("a", "example.org")),
    ("a@example.org", MailPath("a", "example.org")),
    (" a@example.org", MailPath("a", "example.org")),
    ('"a b"@example.org', MailPath('"a b"', "example.org")),
    ("<@relay.example:a@example.org>", MailPath("a", "example.org")),
    ("<@one.example,@two.example,@three.example:a@example.org>", MailPath("a", "example.org")),
    ('<"a b"@example.org>', MailPath('"a b"', "example.org")),
    ('<"a\\"b\\\\"@example.org>', MailPath('"a\\"b\\\\"', "example.org")),
    ('<"a@b>"@example.org>', MailPath('"a@b>"', "example.org")),
    ('<""@example.org>', MailPath('""', "example.org")),
    ("<a@[192.0.2.1]>", MailPath("a", "[192.0.2.1]")),
    ("<a@[IPv6:2001:db8::1]>", MailPath("a", "[IPv6:2001:db8::1]")),
    ("<a@[ipv6:::ffff:192.0.2.1]>", MailPath("a", "[ipv6:::ffff:192.0.2.1]")),
    ("<δοκιμή@παράδειγμα.example>", MailPath("δοκιμή", "παράδειγμα.example")),
    ("<用户@例子.example>", MailPath("用户", "例子.example")),
    ("<a@हिन्दी.example>", MailPath("a", "हिन्दी.example")),
    ('<"é è"@x.org>', MailPath('"é è"', "x.org")),
    (f"<{'l' * 65}@x.org>", MailPath("l" * 65, "x.org")),
    (f"<{'l' * 504}@x.org>", MailPath("l" * 504, "x.org")),
    (f"<{'é' * 252}@x.org>", MailPath("é" * 252, "x.org")),
    ("<.a@b>", MailPath(".a", "b")),
    ("<a.@b>", MailPath("a.", "b")),
    ("<a..b@c>", MailPath("a..b", "c")),
    ("<.@c>", MailPath(".", "c")),
    ("</G=a/S=b./@c>", MailPath("/G=a/S=b./", "c")),
    ("<a@b.example.>", MailPath("a", "b.example")),
    ("a@b.", MailPath("a", "b")),
    (f"<a@{DOMAIN_255}>", MailPath("a", DOMAIN_255)),
    (f"<a@{DOMAIN_255}.>", MailPath("a", DOMAIN_255)),
    (f"<@{DOMAIN_255}:a@b>", MailPath("a", "b")),
    (f"<a@{LABEL_63}.org>", MailPath("a", f"{LABEL_63}.org")),
    (f"<{'l' * 58}@{'.'.join([LABEL_63] * 3 + ['xyz'])}>",
     MailPath("l" * 58, ".".join([LABEL_63] * 3 + ["xyz"]))),
]  # fmt: skip

REFUSED = [
    "",
    " ",
    "<",
    ">",
    "<<>>",
    "< >",
    "<a>",
    "a",
    "<@>",
    "<a@>",
    "<@b>",
    "<a@b",
    "a@b>",
    "<a@b>>",
    "<<a@b>",
    "<a@b>SIZE=1",
    "<a@b>;",
    "<;cmd;>",
    "<;cmd;@b>",
    "<$(cmd)@b>",
    "<a b@c>",
    "< a@b>",
    "<a@b >",
    "<a@b..c>",
    "<..@b>",
    "<...@b>",
    "<../a@b>",
    "<a/../b@c>",
    '<".."@b>',
    '<"../a"@b>',
    '<".\\./a"@b>',
    '<"\\.\\."@b>',
    "<a@.b>",
    "<a@b..>",
    "<a@.>",
    "<a@[192.0.2.1].>",
    "<@a.:b@c>",
    "<a\u202eb@c>",
    "<a\u200b@b>",
    "<a\u200d@b>",
    "<a\ufeff@b>",
    "<a@b\u2066c>",
    "<a@b\xadc>",
    "<a\uff20b@c>",
    "<a\uff05b@c>",
    "<a@b\uff20c>",
    '<"a\u202eb"@c>',
    "<a@-b>",
    "<a@b->",
    "<a@b-.c>",
    "<a@b@c>",
    "<a@b,c>",
    "<a@b!c>",
    '<"a@b>',
    '<a"@b>',
    '<"a"b@c>',
    '<"a\\"@b>',
    '<"a""b"@c>',
    '<"a\x01b"@c>',
    '<"a\\\x07"@c>',
    "<a\x00@b>",
    "<a\r@b>",
    "<a\n@b>",
    "<a@b>\n",
    "<a@b\x7f>",
    "<a\x85@b>",
    "<a\xa0b@c>",
    "<a\u2028b@c>",
    "<a@b\u3002c>",
    "<a\ud800@b>",
    "<a@[192.0.2.256]>",
    "<a@[192.0.2]>",
    "<a@[]>",
    "<a@[IPv6:2001:db8::1::2]>",
    "<a@[IPv6:fe80::1%eth0]>",
    "<a@[2001:db8::1]>",
    "<a@[tag:text]>",
    "<a@[192.0.2.1>",
    "<@a:b>",
    "<@a,b:c@d>",
    "<@a:@b:c@d>",
    "@a:b@c",
    "<@:a@b>",
    f"<{'l' * 505}@x.org>",
    f"<{'é' * 253}@x.org>",
    f"<a@{LABEL_63}a.org>",
    f"<a@{DOMAIN_255}d>",
]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(("argument", "path"), ACCEPTED)
@pytest.mark.parametrize("parameters", ["", "SIZE=1", "SIZE=1 BODY=8BITMIME"])
def test_a_path_is_read_and_the_parameters_are_left(
    parse: Parser, argument: str, path: MailPath, parameters: str
) -> None:
    assert parse(f"{argument} {parameters}") == (path, parameters)
    assert parse(f"{argument}") == (path, "")


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("argument", REFUSED)
def test_what_is_no_path_is_refused(parse: Parser, argument: str) -> None:
    assert parse(argument) is None


def test_the_null_path_is_a_reverse_path_only() -> None:
    assert parse_reverse_path("<>") == (MailPath("", ""), "")
    assert parse_reverse_path(" <>  SIZE=3") == (MailPath("", ""), "SIZE=3")
    assert parse_reverse_path("<>SIZE=3") is None
    assert parse_forward_path("<>") is None


def test_postmaster_without_a_domain_is_a_forward_path_only() -> None:
    assert parse_forward_path("<postmaster>") == (MailPath("postmaster", ""), "")
    assert parse_forward_path("<PostMaster> X=1") == (MailPath("PostMaster", ""), "X=1")
    assert parse_forward_path("postmaster") == (MailPath("postmaster", ""), "")
    assert parse_forward_path("<postmasters>") is None
    assert parse_forward_path("<po\u017ftmaster>") is None  # a long s is no s of ASCII
    assert parse_forward_path("<postmaster") is None
    assert parse_reverse_path("<postmaster>") is None


def test_a_path_is_shown_as_people_write_it() -> None:
    assert str(MailPath("a", "example.org")) == "a@example.org"
    assert str(MailPath("", "")) == ""
    assert str(MailPath("postmaster", "")) == "postmaster"


@pytest.mark.parametrize(
    ("path", "needed"),
    [
        (MailPath("a", "b.org"), False),
        (MailPath("", ""), False),
        (MailPath("é", "b.org"), True),
        (MailPath("a", "é.org"), True),
    ],
)
def test_only_a_path_beyond_ascii_needs_smtputf8(path: MailPath, needed: bool) -> None:
    assert needs_smtputf8(path) is needed


@pytest.mark.parametrize(
    "text", ["a", "localhost", "MY_PC", "mx-1.example.org", "192.0.2.1", "é.org", DOMAIN_255]
)
def test_a_helo_argument_is_a_domain(text: str) -> None:
    assert is_domain(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", "-a", "a b", "a)", "a\r", "a\n", "(a", "a/b", "[a]", "a@b", DOMAIN_255 + "d",
     "a" * 64],
)  # fmt: skip
def test_a_helo_argument_is_no_domain(text: str) -> None:
    assert not is_domain(text)


@pytest.mark.parametrize("text", ["[192.0.2.1]", "[IPv6:::1]", "[ipV6:2001:DB8::1]"])
def test_an_address_literal_holds_an_address(text: str) -> None:
    assert is_address_literal(text)


@pytest.mark.parametrize(
    "text",
    ["192.0.2.1", "[192.0.2.1", "[192.0.2.1]\n", "[999.0.2.1]", "[IPv6:1]", "[::1]", "[]", "",
     "[IPv6:" + ":" * 45 + "]", "[127.0.0.01]"],
)  # fmt: skip
def test_an_address_literal_without_an_address_is_refused(text: str) -> None:
    assert not is_address_literal(text)


HOSTILE_OCTETS = 100_000


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "unit",
    ["a", "a.", ".", "-", "a-", '"', '\\"', '"\\', "@", "@a,", "<", " ", "é", "é.", "[", ":"],
)
@pytest.mark.parametrize(
    "frame", ["<{}", "<{}>", "<{}@", "<a@{}", '<"{}', '<"{}"@x', "<@{}", " {}"]
)
def test_a_hostile_line_takes_time_in_proportion_to_its_length(
    parse: Parser, unit: str, frame: str
) -> None:
    """Were the time quadratic, this test would take hours."""
    parse(frame.format(unit * (HOSTILE_OCTETS // len(unit))))
    is_domain(unit * HOSTILE_OCTETS)
    is_address_literal("[" + unit * HOSTILE_OCTETS)


atoms = st.text("abcXYZ019!#$%&'*+-/=?^_`{|}~é用", min_size=1, max_size=8)
dot_strings = st.lists(atoms, min_size=1, max_size=3).map(".".join)
quoted_strings = st.lists(
    st.one_of(
        st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"\\'),
        st.characters(min_codepoint=0x20, max_codepoint=0x7E).map(lambda c: "\\" + c),
    ),
    max_size=20,
).map(lambda parts: f'"{"".join(parts)}"')
labels = st.from_regex(r"[a-z0-9é]([a-z0-9é-]{0,20}[a-z0-9é])?", fullmatch=True)
domains = st.lists(labels, min_size=1, max_size=4).map(".".join)


@given(st.one_of(dot_strings, quoted_strings), domains, domains, st.booleans(), st.booleans())
def test_every_path_of_the_grammar_comes_back_as_it_was_written(
    local: str, domain: str, relay: str, routed: bool, bare: bool
) -> None:
    mailbox = f"{local}@{domain}"
    text = mailbox if bare else f"<@{relay}:{mailbox}>" if routed else f"<{mailbox}>"
    for parse in PARSERS:
        assert parse(f"{text} REST=1") == (MailPath(local, domain), "REST=1")


@given(st.text(st.sampled_from('<>@."\\ab-:, []é\r\n\t;'), max_size=12))
def test_what_is_accepted_can_be_written_back_and_read_again(text: str) -> None:
    for parse in PARSERS:
        parsed = parse(text)
        if parsed is not None:
            path, _ = parsed
            assert not set(str(path)) & set("\r\n\t")
            again = parse(f"<{path}>")
            assert again == (path, "")
