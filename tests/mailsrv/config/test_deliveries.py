"""Deliveries as the configuration writes them: each is parsed once, and what is none is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailsrv.config.deliveries import (
    Delivery,
    Discard,
    Host,
    ToExchangers,
    ToHosts,
    ToMaildir,
    delivery_needs_dns,
    parse_delivery,
)
from mailsrv.config.validation import ConfigError

HERE = Path("/etc/mailsrv")


@pytest.mark.parametrize(
    ("text", "delivery"),
    [
        ("discard", Discard()),
        ("maildir=mail", ToMaildir(HERE / "mail")),
        ("maildir=/var/mail/{domain}/{local}", ToMaildir(Path("/var/mail/{domain}/{local}"))),
        ("relay=10.0.0.1", ToHosts("smtp", (Host("10.0.0.1", 25),))),
        ("relay=Mail.example.org", ToHosts("smtp", (Host("mail.example.org", 25),))),
        ("relay=[2001:db8::1]", ToHosts("smtp", (Host("2001:db8::1", 25),))),
        (
            "relay=a.example, b.example:2525,[::1]:26",
            ToHosts("smtp", (Host("a.example", 25), Host("b.example", 2525), Host("::1", 26))),
        ),
        ("lmtp=127.0.0.1:24", ToHosts("lmtp", (Host("127.0.0.1", 24),))),
        ("mx", ToExchangers()),
        ("mx=Example.org", ToExchangers("example.org")),
    ],
)
def test_a_delivery_is_what_its_text_says(text: str, delivery: Delivery) -> None:
    parsed = parse_delivery(text, HERE)
    assert parsed == delivery
    assert parse_delivery(str(parsed), Path("/elsewhere")) == parsed


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "takes maildir=DIR, relay="),
        ("maildir", "takes maildir=DIR"),
        ("maildir=", "takes maildir=DIR"),
        ("discard=x", "takes maildir=DIR"),
        ("mx=", "takes maildir=DIR"),
        ("smtp=a.example", "takes maildir=DIR"),
        ("maildir=/m/{user}", "{user} is no folder"),
        ("maildir=/m/{local}@{domain}", "is no folder"),
        ("maildir=/m/{local", "is no folder"),
        ("maildir=/m/{domain}", "{domain} needs {local}"),
        ("maildir=/m/{local}/{local}", "twice"),
        ("maildir=/m/{domain}/../{local}", "cannot stand behind {domain}"),
        ("lmtp=127.0.0.1", "127.0.0.1 is no HOST:PORT"),
        ("lmtp=[::1]", r"[::1] is no HOST:PORT"),
        ("relay=a.example:0", "from 1 to 65535"),
        ("relay=a.example:65536", "from 1 to 65535"),
        ("relay=a.example:٢٥", "from 1 to 65535"),
        ("relay=a.example:", "is no HOST or HOST:PORT"),
        ("relay=2001:db8::1", "is no HOST or HOST:PORT"),
        ("relay=[fe80::1%eth0]", "is no HOST or HOST:PORT"),
        ("relay=10.0.0.256", "is no HOST or HOST:PORT"),
        ("relay=a.example,,b.example", "is no HOST or HOST:PORT"),
        ("relay=a.example,A.example:25", "has a host twice"),
        ("relay=" + ",".join(f"h{n}.example" for n in range(17)), "16 hosts at most"),
        ("mx=[192.0.2.1]", "takes a domain"),
        ("mx=bücher.example", "takes a domain in ASCII"),
    ],
)
def test_what_is_no_delivery_is_told_with_what_is_allowed(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_delivery(text, HERE)
    assert str(caught.value).startswith(f"{text}: ")
    assert complaint in str(caught.value)


@given(st.text(max_size=60), st.sampled_from(["", "maildir=", "relay=", "lmtp=", "mx="]))
def test_any_text_is_a_delivery_or_a_complaint(text: str, how: str) -> None:
    try:
        delivery = parse_delivery(how + text, HERE)
    except ConfigError:
        return
    assert parse_delivery(str(delivery), HERE) == delivery


def test_what_lies_above_recipients_folders_is_known() -> None:
    assert ToMaildir(Path("/var/mail/{domain}/{local}/Maildir")).root == Path("/var/mail")
    assert ToMaildir(Path("/home/{local}/Maildir")).root == Path("/home")
    assert ToMaildir(Path("/var/mail")).root == Path("/var/mail")


def test_names_are_looked_up_and_addresses_are_not() -> None:
    needing = ["relay=a.example", "relay=10.0.0.1,a.example", "mx", "mx=example.org"]
    others = ["relay=10.0.0.1,[::1]", "lmtp=127.0.0.1:24", "maildir=mail", "discard"]
    assert all(delivery_needs_dns(parse_delivery(text, HERE)) for text in needing)
    assert not any(delivery_needs_dns(parse_delivery(text, HERE)) for text in others)
