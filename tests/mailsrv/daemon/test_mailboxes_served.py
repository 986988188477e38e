"""A server with mailboxes, aliases and notices, as a process."""

from __future__ import annotations

import signal
import smtplib
from pathlib import Path

import pytest
from process import Process, fields, serving

MANY = """
listen = ["127.0.0.1:0"]
hostname = "mx.example.org"
domains = ["example.org"]
recipient_table = "recipients"
delivery = "maildir=mail/{domain}/{local}"
[aliases]
team = ["ann@example.org", "bob@example.org"]
info = "ann@example.org"
"""
ALL = 'listen = ["127.0.0.1:0"]\nhostname = "mx.example.org"\ndelivery = "maildir=mail"\n'
MESSAGE = b"From: sven@sender.example\r\nSubject: x\r\n\r\nhello\r\n"


def copies(folder: Path) -> list[str]:
    new = folder / "new"
    return sorted(path.read_text() for path in new.iterdir()) if new.exists() else []


def send(
    running: Process, *recipients: str, options: tuple[str, ...] = (), mail: tuple[str, ...] = ()
) -> None:
    with running.client() as client:
        client.ehlo()
        client.mail("sven@example.org", mail)
        for recipient in recipients:
            code, answer = client.rcpt(recipient, options)
            if code != 250:
                raise smtplib.SMTPRecipientsRefused({recipient: (code, answer)})
        assert client.data(MESSAGE)[0] == 250


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipients").write_text("ann@example.org\nbob@example.org\nsven@example.org\n")
    return tmp_path


def test_an_alias_reaches_each_mailbox_and_nobody_learns_of_another(folder: Path) -> None:
    with serving(folder, MANY, ()) as running:
        send(running, "team@example.org", "Ann+x@example.org", "info@example.org")
        running.log.until("event=delivered")
        running.end()
    (ann,) = copies(folder / "mail" / "example.org" / "ann")
    (bob,) = copies(folder / "mail" / "example.org" / "bob")
    assert "\nDelivered-To: Ann+x@example.org\n" in ann
    assert "\nDelivered-To: bob@example.org\n" in bob
    for text, strangers in ((ann, ("bob", "team", "info")), (bob, ("ann", "team", "info"))):
        assert not [name for name in strangers if name in text.lower()]


def test_who_does_not_exist_is_refused_and_has_no_folder(folder: Path) -> None:
    with serving(folder, MANY, ()) as running:
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="550"):
            send(running, "ghost@example.org")
        send(running, "ann@example.org")
        running.log.until("event=delivered")
        running.end()
    assert [path.name for path in (folder / "mail" / "example.org").iterdir()] == ["ann"]


def test_a_reload_takes_other_aliases_and_recipients(folder: Path) -> None:
    with serving(folder, MANY, ()) as running:
        send(running, "info@example.org")
        running.log.until("event=delivered")
        (folder / "mailsrv.toml").write_text(
            MANY.replace('"ann@example.org"\n', '"bob@example.org"\n')
        )
        running.ring(signal.SIGHUP)
        running.log.until("event=reloaded")
        send(running, "info@example.org")
        running.log.until("event=delivered")
        running.end()
    assert len(copies(folder / "mail" / "example.org" / "ann")) == 1
    assert len(copies(folder / "mail" / "example.org" / "bob")) == 1


def test_a_sender_who_asks_is_told_of_the_alias_and_of_the_mailbox(folder: Path) -> None:
    config = MANY.replace("[aliases]", 'elsewhere = "relay=127.0.0.1:1"\n[aliases]')
    with serving(folder, config, ()) as running:
        with running.client() as client:
            client.ehlo()
            assert client.has_extn("dsn")
        options, mail = ("NOTIFY=SUCCESS,FAILURE",), ("ENVID=QQ1",)
        send(running, "team@example.org", "info@example.org", options=options, mail=mail)
        for _ in range(3):  # the message, and two notices about it
            running.log.until("event=delivered")
        running.end()
    told = copies(folder / "mail" / "example.org" / "sven")
    actions = sorted(
        (line.partition(": ")[2], text.partition("Final-Recipient: ")[2].partition("\n")[0])
        for text in told
        for line in text.splitlines()
        if line.startswith("Action: ")
    )
    assert actions == [
        ("delivered", "rfc822; ann@example.org"),
        ("expanded", "rfc822; team@example.org"),
    ]
    for text in told:
        assert text.startswith("Return-Path: <>\nDelivered-To: sven@example.org\n")
        assert "\nOriginal-Envelope-Id: QQ1\n" in text
        assert "\nAuto-Submitted: auto-replied\n" in text
        assert "hello" not in text
    assert len(copies(folder / "mail" / "example.org" / "bob")) == 1


def test_a_sender_who_is_an_alias_is_told_where_its_mail_goes(folder: Path) -> None:
    config = MANY.replace("[aliases]", 'elsewhere = "relay=127.0.0.1:1"\n[aliases]')
    with serving(folder, config, ()) as running:
        with running.client() as client:
            client.ehlo()
            client.mail("info@example.org")
            client.rcpt("bob@example.org", ["NOTIFY=SUCCESS"])
            client.data(MESSAGE)
        running.log.until("event=delivered")
        running.log.until("event=delivered")
        running.end()
    (notice,) = copies(folder / "mail" / "example.org" / "ann")
    assert "\nTo: <info@example.org>\n" in notice
    assert not (folder / "mail" / "example.org" / "info").exists()


def test_without_a_configuration_a_promise_is_kept_too(folder: Path) -> None:
    with serving(folder, ALL, ()) as running:
        with running.client() as client:
            client.ehlo()
            assert client.has_extn("dsn")
        send(running, "ann@anywhere.example", options=("NOTIFY=SUCCESS",))
        running.log.until("event=delivered")
        running.log.until("event=delivered")
        running.end()
    notice, message = sorted(copies(folder / "mail"), key=lambda text: "hello" in text)
    assert "hello" in message
    assert notice.startswith("Return-Path: <>\nEnvelope-To: sven@example.org\n")
    assert "\nAction: delivered\n" in notice


@pytest.mark.parametrize(
    "config",
    [
        ALL.replace("maildir=mail", "discard"),
        ALL + 'domains = ["example.org"]\n',
        ALL + '[routes]\n"x.example" = "discard"\n',
    ],
)
def test_what_cannot_be_kept_is_not_promised(folder: Path, config: str) -> None:
    with serving(folder, config, ()) as running:
        with running.client() as client:
            client.ehlo()
            assert not client.has_extn("dsn")
            # what it is told all the same is taken
            assert client.mail("sven@example.org", ("RET=HDRS",))[0] == 250
        running.end()


def test_a_folder_of_somebody_else_in_the_way_has_only_its_own_mail_wait(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (folder / "mail" / "example.org").mkdir(parents=True)
    (folder / "mail" / "example.org" / "ann").symlink_to(elsewhere)
    with serving(folder, MANY, ()) as running:
        send(running, "team@example.org")
        line = fields(running.log.until("event=deferred"))
        running.end()
    assert line["recipients"] == "<ann@example.org>"
    assert line["reply"] == "a folder on the way is a link, or none"
    assert list(elsewhere.iterdir()) == []
    assert len(copies(folder / "mail" / "example.org" / "bob")) == 1
