"""check-config: what it says of a good file, and that it names all that is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailsrv.config.validation import ConfigError
from mailsrv.daemon.check_config import certificate_doubt, inspect
from replay.play.tls_client import CERTIFICATE, KEY

ANY = 'listen = ["127.0.0.1:0"]\n'
AS_ROOT = ["mind: runs as root where others can reach it; set user"] if os.geteuid() == 0 else []
"""Where a test listens on a public address."""
EXPIRED = Path(__file__).parents[1] / "data" / "expired.crt.pem"
"""For KEY and mx.example.test, of January 2001."""


def inspected(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "mailsrv.toml"
    file.write_text(text)
    first, *rest = inspect(file)
    assert first == f"{file}: good"
    return [line.strip() for line in rest]


def complaints(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "mailsrv.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        inspect(file)
    assert all(one.startswith(f"{file}: ") for one in caught.value.complaints)
    return [one.removeprefix(f"{file}: ") for one in caught.value.complaints]


def test_a_file_that_names_an_address_alone_means_a_first_try(tmp_path: Path) -> None:
    assert inspected(tmp_path, 'listen = ["127.0.0.1:0"]') == [
        "listens on 127.0.0.1:0",
        "takes mail for every domain, on this machine only",
        f"delivers to the Maildir {Path('mail').absolute()}",
        f"spools it in {Path('mail.spool').absolute()}",
        "checks: none",
        "logs text to standard error",
    ]


def test_a_whole_configuration_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "recipients").write_text("ann@example.org\nbob\n")
    text = f"""
        listen = ["0.0.0.0:0"]
        listen_tls = ["[::]:0"]
        hostname = "mx.example.test"
        domains = ["example.org", "b\u00fccher.example"]
        delivery = "maildir=mail"
        resolvers = ["127.0.0.1:53"]
        tls_certificate = "{CERTIFICATE}"
        tls_key = "{KEY}"
        recipient_table = "recipients"
        greylist_database = "greylist.sqlite"
        log_file = "log"
        log_format = "json"
        metrics_listen = "127.0.0.1:0"
        proxy_networks = ["10.0.0.0/8"]
        greet_wait_s = 2.5
        sender_domain_check = "reject"
        helo_check = "score"
        greylist = true
        reputation_threshold = 10
        [dns_lists]
        "zen.example" = {{ "127.0.0.2" = 8, "127.0.0.10/31" = 3 }}
        "white.example" = -5
    """
    assert inspected(tmp_path, text) == [
        "listens on 0.0.0.0:0",
        "listens with TLS from the first octet on [::]:0",
        "takes the client's address from proxies in 10.0.0.0/8",
        f"offers STARTTLS with {CERTIFICATE}",
        "takes mail for example.org, b\u00fccher.example",
        f"knows who exists from {tmp_path}/recipients, entries: 2",
        f"delivers to the Maildir {tmp_path}/mail",
        f"spools it in {tmp_path}/mail.spool",
        "checks: 2.5 s of silence before the greeting, sender domain (refuse), "
        "HELO name (score 5), greylist (300 s)",
        "asks the list zen.example: 127.0.0.2 scores 8, 127.0.0.10/31 scores 3",
        "asks the list white.example: 127.0.0.0/8 scores -5",
        "refuses a client from a score of 10 on",
        "asks DNS at 127.0.0.1:53",
        f"logs json to {tmp_path}/log",
        "gives metrics at http://127.0.0.1:0/metrics",
        *AS_ROOT,
    ]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mailsrv.toml", "recipients"]


def test_all_that_is_not_there_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not PEM")
    text = """
        listen = ["0.0.0.0:0"]
        delivery = "maildir=file/mail"
        tls_certificate = "file"
        recipient_table = "file"
        greylist = true
        greylist_database = "nowhere/greylist"
        log_file = "."
        user = "no such user"
    """
    first, *others = complaints(tmp_path, text)
    assert first.startswith("domains: who listens on 0.0.0.0:0 must say")
    assert [one.partition(": ")[::2] for one in others] == [
        (
            "recipient_table",
            f"{tmp_path}/file:1: 'not PEM': takes user@domain, @domain or user",
        ),
        ("tls_certificate", f"{tmp_path}/file: holds no certificate in PEM form"),
        ("user", "no such user: there is no such user"),
        (
            "greylist_database",
            f"{tmp_path}/nowhere/greylist: there is no directory {tmp_path}/nowhere",
        ),
        ("log_file", f"{tmp_path}: is a directory"),
        ("delivery", f"{tmp_path}/file: is not a directory"),
        ("spool", f"{tmp_path}/file: is not a directory"),
    ]


def test_a_key_that_is_none_is_named_by_its_own_key(tmp_path: Path) -> None:
    text = f'tls_certificate = "{CERTIFICATE}"\ntls_key = "{EXPIRED}"'
    assert complaints(tmp_path, text) == [f"tls_key: {EXPIRED}: holds no private key in PEM form"]


def test_values_that_make_no_sense_are_named_before_anything_is_tried(tmp_path: Path) -> None:
    found = complaints(tmp_path, 'nonsense = 1\nlog_format = 5\nuser = "no such user"')
    assert [one.partition(":")[0] for one in found] == ["nonsense", "log_format"]


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        (
            'listen = ["0.0.0.0:0"]\ndomains = ["*"]',
            "hostname: localhost is no name to greet the internet with",
        ),
        (
            'listen = ["0.0.0.0:0"]\nhostname = "mx.example.org"\ndomains = ["example.org"]\n'
            'delivery = "relay=10.0.0.1"\nspool = "spool"\nelsewhere = "mx"',
            "delivery: what the next hop refuses is returned to senders who may be forged; set "
            "recipient_callout, or recipient_table",
        ),
        (
            'listen = ["127.0.0.1:0"]\nmetrics_listen = "[::]:0"',
            "metrics_listen: everybody who reaches [::]:0 can read them",
        ),
        (
            f'{ANY}reputation_threshold = 9\nhelo_check = "score"\n[dns_lists]\n'
            '"zen.example" = 3\n"white.example" = -9',
            "reputation_threshold: all scores together make 8, so nobody is refused",
        ),
        (
            f'{ANY}domains = ["example.org"]\nrecipient_table = "table"',
            "recipient_table: addresses in none of domains: 2, such as @a.example",
        ),
        (
            f'{ANY}hostname = "mx.example.org"\n'
            f'tls_certificate = "{CERTIFICATE}"\ntls_key = "{KEY}"',
            "tls_certificate: Hostname mismatch, certificate is not valid for 'mx.example.org'.",
        ),
        (
            f'{ANY}hostname = "mx.example.test"\ntls_certificate = "{EXPIRED}"\ntls_key = "{KEY}"',
            "tls_certificate: certificate has expired",
        ),
    ],
)
def test_what_is_probably_not_meant_is_said(tmp_path: Path, text: str, doubt: str) -> None:
    (tmp_path / "table").write_text("bob\nann@example.org\nx@other.example\n@a.example\n")
    doubts = [line for line in inspected(tmp_path, text) if line.startswith("mind: ")]
    assert doubts == [f"mind: {doubt}", *(AS_ROOT if "0.0.0.0" in text else ())]


def test_a_good_certificate_leaves_no_doubt() -> None:
    assert certificate_doubt(CERTIFICATE, KEY, "mx.example.test") == ""


def test_routes_and_aliases_are_told_in_words(tmp_path: Path) -> None:
    text = """
        domains = ["example.org"]
        delivery = "relay=10.0.0.1,mail.example.org:2525"
        relay_messages_per_min = 600
        elsewhere = "mx"
        spool = "spool"
        recipient_table = "recipients"
        [routes]
        "a.example" = "discard"
        "*.b.example" = { delivery = "mx", tls = "verified", messages_per_min = 0 }
        "ann@example.org" = "maildir=mail/{domain}/{local}"
        [aliases]
        info = ["ann@example.org", "bob@a.example"]
    """
    (tmp_path / "recipients").write_text("ann@example.org")
    lines = inspected(tmp_path, ANY + text)
    assert lines[3:12] == [
        "relays to 10.0.0.1:25, mail.example.org:2525 by SMTP, TLS: opportunistic, "
        "connections: 20, messages a minute: 600",
        "delivers by other routes, of addresses and domains: 3",
        "a.example: throws accepted mail away",
        "*.b.example: relays to the mail exchangers of the recipient, TLS: verified, "
        "connections: 20",
        f"ann@example.org: delivers to a Maildir for each recipient, {tmp_path}/mail/"
        "{domain}/{local}",
        "for other domains relays to the mail exchangers of the recipient, TLS: opportunistic, "
        "connections: 20, messages a minute: 600",
        "knows aliases, addresses that stand for others: 1",
        "info: ann@example.org, bob@a.example",
        f"spools it in {tmp_path}/spool",
    ]


def test_what_is_done_about_recipients_is_told_in_words(tmp_path: Path) -> None:
    text = f'{ANY}delivery = "relay=10.0.0.1"\nspool = "spool"\nrecipient_callout = "defer"'
    assert inspected(tmp_path, text)[2] == (
        "asks the next hop who exists, and defers a recipient on whom it does not answer"
    )


def test_of_many_routes_the_first_are_told_and_how_many_more_there_are(tmp_path: Path) -> None:
    routes = "".join(f'"d{n}.example" = "discard"\n' for n in range(60))
    lines = inspected(tmp_path, f"{ANY}[routes]\n{routes}")
    assert "d49.example: throws accepted mail away" in lines
    assert "d50.example: throws accepted mail away" not in lines
    assert "and 10 more, as the file has them" in lines


def test_a_member_of_an_alias_who_does_not_exist_is_told(tmp_path: Path) -> None:
    (tmp_path / "recipients").write_text("ann@example.org")
    text = """
        domains = ["example.org"]
        recipient_table = "recipients"
        [aliases]
        info = ["ann+x@example.org", "team@example.org"]
    """
    aliases = 'team = "{}@example.org"'
    doubt = "mind: aliases: team: bob@example.org does not exist"
    assert doubt in inspected(tmp_path, ANY + text + aliases.format("bob"))
    assert doubt not in inspected(tmp_path, ANY + text + aliases.format("ann"))


def test_an_alias_that_no_mail_comes_to_is_named_with_its_line(tmp_path: Path) -> None:
    text = """
        domains = ["example.org"]
        hostname = "MX.example.net"
        delivery = "relay=10.0.0.1"
        elsewhere = "mx"
        spool = "spool"
        recipient_callout = "take"
        [routes]
        "away@other.example" = "discard"
        [aliases]
        # "Info@Other.example" is on line 15
        "postmaster@mx.example.NET" = "ann@example.org"
        info = "ann@example.org"
        "sales@EXAMPLE.org" = "team+x@other.example"
        "Info@Other.example" = "ann@example.org"
        "team@other.example" = "ann@example.org"
        'away@other.example' = "ann@example.org"
    """
    doubts = [line for line in inspected(tmp_path, ANY + text) if line.startswith("mind: ali")]
    rest = 'no mail comes for it, in none of domains; takes "user@example.org", or "user" for each'
    assert doubts == [
        f"mind: aliases: 'info@other.example' (line 16): {rest} of domains",
        f"mind: aliases: 'away@other.example' (line 18): {rest} of domains",
    ], "a member of another alias is used"
    every = text.replace('["example.org"]', '["*"]').replace('elsewhere = "mx"', "")
    assert not any("no mail comes" in line for line in inspected(tmp_path, ANY + every))


def test_of_many_unused_aliases_the_first_are_told(tmp_path: Path) -> None:
    aliases = "".join(f'"u{n}@other.example" = "ann@example.org"\n' for n in range(60))
    text = f'{ANY}domains = ["example.org"]\ndelivery = "maildir=mail"\n[aliases]\n{aliases}'
    doubts = [line for line in inspected(tmp_path, text) if line.startswith("mind: ali")]
    assert len(doubts) == 51 and doubts[-1] == "mind: aliases: 10 more of this kind"


@pytest.mark.parametrize(
    ("spool", "maildir", "is_doubtful"),
    [
        ("mail/new", "mail", True),
        ("mail", "mail", True),
        ("spool", "spool/content", True),
        ("mail/spool", "mail/{domain}/{local}", True),
        ("mail.spool", "mail", False),
        ("mail/../other/spool", "mail", False),
        ("spool", "mail", False),
    ],
)
def test_a_spool_and_a_maildir_in_one_another_are_doubtful(
    tmp_path: Path, spool: str, maildir: str, is_doubtful: bool
) -> None:
    (tmp_path / "table").write_text("ann@example.org")
    text = f"""
        domains = ["example.org"]
        recipient_table = "table"
        spool = "{spool}"
        delivery = "maildir={maildir}"
    """
    doubts = [line for line in inspected(tmp_path, ANY + text) if line.startswith("mind: spool")]
    assert len(doubts) == is_doubtful
    assert all(line.endswith("share a folder; takes one of its own") for line in doubts)
