"""Routes: the most exact key wins, and a table that cannot be is told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailsrv.config import file as config
from mailsrv.config.deliveries import Discard, Host, ToExchangers, ToHosts, ToMaildir
from mailsrv.config.file import Config
from mailsrv.config.routes import Route
from mailsrv.config.validation import ConfigError
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.options import TlsPolicy

OPPORTUNISTIC, VERIFIED = TlsPolicy.OPPORTUNISTIC, TlsPolicy.VERIFIED


def loaded(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "mailsrv.toml"
    file.write_text(text)
    return config.load(file)


def complaints(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    prefix = f"{tmp_path / 'mailsrv.toml'}: "
    assert all(one.startswith(prefix) for one in caught.value.complaints)
    return [one.removeprefix(prefix) for one in caught.value.complaints]


def port_of(read: Config, local: str, domain: str) -> int:
    delivery = read.routing.of(MailPath(local, domain)).delivery
    return delivery.hosts[0].port if isinstance(delivery, ToHosts) else 0


def test_the_most_exact_key_wins(tmp_path: Path) -> None:
    read = loaded(
        tmp_path,
        """
        hostname = "mx.example.org"
        [routes]
        "Ann@Example.org" = "relay=10.0.0.1:1"
        "example.org" = "relay=10.0.0.1:2"
        "*.example.org" = "relay=10.0.0.1:3"
        "*.deep.example.org" = "relay=10.0.0.1:4"
        "b\u00fccher.example" = "relay=10.0.0.1:5"
        "[192.0.2.1]" = "relay=10.0.0.1:6"
        "mx.example.org" = "relay=10.0.0.1:7"
        """,
    )
    for local, domain, port in (
        ("ann", "example.org", 1),
        ('"ANN"', "EXAMPLE.org", 1),
        ("ann+lists", "example.org", 1),
        ("ann+a+b", "example.org", 1),
        ("anna", "example.org", 2),
        ("ann", "a.example.org", 3),
        ("ann", "deep.example.org", 3),
        ("ann", "a.deep.example.org", 4),
        ("ann", "a.b.deep.example.org", 4),
        ("ann", "xn--bcher-kva.example", 5),
        ("ann", "[192.0.2.1]", 6),
        ("postmaster", "", 7),
        ("ann", "notexample.org", 0),
        ("ann", "org", 0),
        ("ann", "[192.0.2.2]", 0),
    ):
        assert port_of(read, local, domain) == port, (local, domain)


def test_a_route_says_what_is_different_for_its_next_hop(tmp_path: Path) -> None:
    read = loaded(
        tmp_path,
        """
        delivery = "maildir=mail"
        relay_connections = 7
        [routes]
        "a.example" = "mx"
        "b.example" = { delivery = "mx=c.example", tls = "verified", messages_per_min = 60 }
        "d.example" = "discard"
        """,
    )
    ways = [read.routing.of(MailPath("ann", f"{name}.example")) for name in "abd"]
    assert ways == [
        Route(ToExchangers(), OPPORTUNISTIC, 7, 0),
        Route(ToExchangers("c.example"), VERIFIED, 7, 60),
        Route(Discard(), OPPORTUNISTIC, 7, 0),
    ]
    assert read.routing.default == Route(ToMaildir(tmp_path / "mail"), OPPORTUNISTIC, 7, 0)
    assert read.routing.all == {*ways, read.routing.default}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("routes = 1", "routes: takes a table"),
        ('[routes]\n"a b" = "mx"', "routes: 'a b': takes \"user@domain\""),
        ('[routes]\n"@a.example" = "mx"', "routes: '@a.example': takes"),
        ('[routes]\n"*" = "mx"', "routes: '*': takes"),
        ('[routes]\n"*.[192.0.2.1]" = "mx"', "routes: '*.[192.0.2.1]': takes"),
        ('[routes]\n"a.example" = "mx"\n"A.example" = "mx"', "'A.example': stands there twice"),
        ('[routes]\n"a.example" = 1', "routes: 'a.example': takes a text"),
        ('[routes]\n"a.example" = "smtp"', "routes: 'a.example': smtp: takes maildir=DIR"),
        ('[routes]\n"a.example" = {}', "routes: 'a.example': needs delivery"),
        ('[routes]\n"a.example" = { delivery = "mx", tsl = "off" }', "tsl: no such setting"),
        ('[routes]\n"a.example" = { delivery = "mx", tls = "on" }', 'tls: takes one of "never"'),
        ('[routes]\n"a.example" = { delivery = "mx", tls = true }', 'tls: takes one of "never"'),
        (
            '[routes]\n"a.example" = { delivery = "mx", connections = 0 }',
            "connections: 0 is out of range",
        ),
        (
            '[routes]\n"a.example" = { delivery = "discard", tls = "never" }',
            "tls: is for next hops, not for discard",
        ),
        ('relay_tls = "on"', 'relay_tls: takes one of "never", "opportunistic"'),
        ("relay_connections = 0", "relay_connections: 0 is out of range"),
    ],
)
def test_what_is_no_route_is_told_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    (found,) = complaints(tmp_path, text)
    assert complaint in found


def test_every_wrong_route_is_told_at_once(tmp_path: Path) -> None:
    text = '[routes]\n"a b" = "mx"\n"c.example" = "x"\n"d.example" = { tls = "never" }'
    assert len(complaints(tmp_path, text)) == 3


def test_the_spool_is_where_something_can_wait(tmp_path: Path) -> None:
    for text, folder in (
        ('delivery = "discard"', None),
        (
            'delivery = "maildir=/m/{local}"\ndomains = ["a.example"]\nrecipient_table = "t"',
            Path("/m.spool"),
        ),
        ('delivery = "relay=10.0.0.1"', Path("mailsrv.spool")),
        ('delivery = "discard"\n[routes]\n"a.example" = "mx"', Path("mailsrv.spool")),
        ('delivery = "mx"\nspool = "/s"', Path("/s")),
    ):
        assert loaded(tmp_path, text).spool_folder == folder


def test_folders_for_recipients_need_to_know_who_exists(tmp_path: Path) -> None:
    table, named = 'recipient_table = "t"', 'domains = ["example.org"]'
    two = 'domains = ["a.example", "b.example"]'
    for path, lines, complaint in (
        ("/m/{local}", (named, table), None),
        ("/m/{domain}/{local}", (two, table), None),
        ("/m/{local}", (two, table), "needs {domain} as well"),
        ("/m/{domain}/{local}", (named,), "needs recipient_table"),
        ("/m/{domain}/{local}", (table,), "needs domains that are named"),
        ("/m/{domain}/{local}", ('domains = ["*"]', table), "needs domains that are named"),
    ):
        text = "\n".join((f'delivery = "maildir={path}"', *lines))
        if complaint is None:
            assert loaded(tmp_path, text).delivery == ToMaildir(Path(path))
        else:
            (found,) = complaints(tmp_path, text)
            assert found.startswith(f"delivery: maildir={path}: {complaint}")


def test_a_member_elsewhere_needs_a_route_that_leads_out(tmp_path: Path) -> None:
    text = """
        domains = ["example.org"]
        [aliases]
        "team@example.org" = ["ann@example.org", "bob@elsewhere.example"]
        """
    (found,) = complaints(tmp_path, text)
    assert found == (
        "aliases: 'team@example.org': bob@elsewhere.example is in none of domains; needs "
        'elsewhere, such as elsewhere = "mx", or a route that leads to it'
    )
    read = loaded(tmp_path, text + '[routes]\n"elsewhere.example" = "relay=10.0.0.1"')
    route = read.routing.of(MailPath("bob", "elsewhere.example"))
    assert route is not None
    assert route.delivery == ToHosts("smtp", (Host("10.0.0.1", 25),))
    assert loaded(tmp_path, f'elsewhere = "mx"\n{text}').aliases


def test_mail_for_other_domains_never_ends_in_a_mailbox_of_ours(tmp_path: Path) -> None:
    named, others = 'domains = ["example.org"]', 'elsewhere = "relay=10.0.0.9"'
    stranger, ours = MailPath("sven", "sender.example"), MailPath("ann", "example.org")
    relay = ToHosts("smtp", (Host("10.0.0.1", 25),))
    smarthost = ToHosts("smtp", (Host("10.0.0.9", 25),))
    mail = ToMaildir(tmp_path / "mail")
    for lines, for_ours, for_others in (
        (('delivery = "maildir=mail"',), mail, mail),  # there are no other domains
        (('delivery = "maildir=mail"', named), mail, None),
        (('delivery = "maildir=mail"', named, others), mail, smarthost),
        (('delivery = "relay=10.0.0.1"', named), relay, relay),
        (('delivery = "relay=10.0.0.1"', named, others), relay, smarthost),
        (('delivery = "discard"', named), Discard(), Discard()),
    ):
        routing = loaded(tmp_path, "\n".join(lines)).routing
        for path, delivery in ((ours, for_ours), (stranger, for_others)):
            route = routing.of(path)
            assert (route.delivery if route else None) == delivery, lines
        postmaster = routing.of(MailPath("postmaster", ""))
        assert postmaster is not None
        assert postmaster.delivery == for_ours


def test_dsn_is_promised_where_every_sender_can_be_told_and_nothing_is_thrown_away(
    tmp_path: Path,
) -> None:
    named = 'domains = ["example.org"]'
    for text, promised in (
        ("", True),
        (named, False),
        (f'{named}\nelsewhere = "mx"', True),
        (f'{named}\ndelivery = "relay=10.0.0.1"', True),
        (f'{named}\ndelivery = "lmtp=10.0.0.1:24"', True),
        (f'{named}\ndelivery = "discard"', False),
        ('delivery = "discard"', False),
        (f'{named}\nelsewhere = "discard"', False),
        (f'{named}\nelsewhere = "mx"\n[routes]\n"a@example.org" = "discard"', False),
    ):
        assert loaded(tmp_path, text).keeps_dsn_promises == promised, text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("aliases = 1", "aliases: takes a table"),
        ('[aliases]\n"@example.org" = "a@b.example"', "aliases: '@example.org': takes"),
        ('[aliases]\n"a b" = "a@b.example"', "aliases: 'a b': takes"),
        ('[aliases]\ninfo = "ann"', "aliases: 'info': 'ann' is no address"),
        ('[aliases]\ninfo = "<a@b.example>"', "is no address"),
        ('[aliases]\ninfo = "a@b.example x"', "is no address"),
        ('[aliases]\ninfo = ["a@b.example", 5]', "'5' is no address"),
        ("[aliases]\ninfo = []", "takes an address such as"),
        ("[aliases]\ninfo = 5", "takes an address such as"),
        ('[aliases]\ninfo = "a@b.example"\nINFO = "a@b.example"', "'INFO': stands there twice"),
        ('[aliases]\na = "b@x.example"\nb = "a@x.example"', "stands for itself, by way of"),
    ],
)
def test_what_is_no_alias_is_told_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    assert any(complaint in one for one in complaints(tmp_path, text))
