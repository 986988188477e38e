"""Two servers: what the first one cannot keep goes to the second, notices to senders among it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from process import Process, fields, serving

FRONT = """
listen = ["127.0.0.1:0"]
hostname = "front.example.org"
domains = ["example.org"]
recipient_table = "recipients"
delivery = "maildir=mail/{{domain}}/{{local}}"
elsewhere = "relay=127.0.0.1:{port}"
[aliases]
team = ["ann@example.org", "bob@elsewhere.example", "carl@elsewhere.example"]
"""
BACK = 'listen = ["127.0.0.1:0"]\nhostname = "back.example.net"\ndelivery = "maildir=mail"\n'
MESSAGE = b"From: sven@sender.example\r\nSubject: x\r\n\r\nhello\r\n"


@contextmanager
def both(folder: Path, back: str = BACK) -> Iterator[tuple[Process, Process]]:
    (folder / "front").mkdir()
    (folder / "back").mkdir()
    (folder / "front" / "recipients").write_text("ann@example.org\n")
    with serving(folder / "back", back, ()) as second:
        config = FRONT.format(port=second.port)
        with serving(folder / "front", config, ()) as first:
            yield first, second


def send(running: Process, recipient: str, *options: str, sender: str) -> None:
    with running.client() as client:
        client.ehlo()
        client.mail(sender, ["ENVID=QQ1"])
        client.rcpt(recipient, options)
        assert client.data(MESSAGE)[0] == 250


def arrived(folder: Path) -> list[str]:
    return [path.read_text() for path in (folder / "back" / "mail" / "new").iterdir()]


def fields_of(notice: str) -> dict[str, str]:
    """The last of the fields with each name."""
    pairs = (line.partition(": ") for line in notice.splitlines())
    return {name: text for name, separator, text in pairs if separator}


def test_members_elsewhere_are_sent_on_and_learn_of_nobody_here(tmp_path: Path) -> None:
    with both(tmp_path) as (front, back):
        send(front, "team@example.org", sender="sven@sender.example")
        back.log.until("event=delivered")
        front.log.until("event=relayed")
        front.end()
        back.end()
    (copy,) = arrived(tmp_path)
    assert "Envelope-To: bob@elsewhere.example,\n\tcarl@elsewhere.example\n" in copy
    assert "ann" not in copy
    assert "team" not in copy
    (ann,) = (tmp_path / "front" / "mail" / "example.org" / "ann" / "new").iterdir()
    assert "elsewhere" not in ann.read_text()


def test_a_sender_elsewhere_gets_the_notice_that_it_asked_for(tmp_path: Path) -> None:
    with both(tmp_path) as (front, back):
        send(front, "ann@example.org", "NOTIFY=SUCCESS", sender="sven@sender.example")
        back.log.until("event=delivered")
        front.log.until("event=relayed")
        front.end()
        back.end()
    (notice,) = arrived(tmp_path)
    told = fields_of(notice)
    assert notice.startswith("Return-Path: <>\nEnvelope-To: sven@sender.example\n")
    assert (told["Action"], told["Final-Recipient"]) == ("delivered", "rfc822; ann@example.org")
    assert told["Original-Envelope-Id"] == "QQ1"


def test_a_refusal_comes_back_to_the_sender_and_names_the_address_it_wrote_to(
    tmp_path: Path,
) -> None:
    with both(tmp_path, BACK + 'domains = ["sender.example"]\n') as (front, back):
        send(front, "team@example.org", sender="sven@sender.example")
        back.log.until("event=delivered")
        front.log.until("event=relayed")
        front.end()
        back.end()
    (notice,) = arrived(tmp_path)
    told = fields_of(notice)
    assert notice.count("\nAction: failed\n") == 2
    assert told["Original-Recipient"] == "rfc822; team@example.org"
    assert told["Status"].startswith("5.7")
    assert told["Diagnostic-Code"].startswith("smtp; 550 5.7.1 ")
    assert "hello" not in notice


def test_nothing_comes_of_a_notice_that_is_refused(tmp_path: Path) -> None:
    """A forged sender: its own server does not know it."""
    with both(tmp_path, BACK + 'domains = ["other.example"]\n') as (front, back):
        send(front, "team@example.org", sender="forged@sender.example")
        message, notice = (fields(front.log.until("event=failed")) for _ in range(2))
        lines = front.end()
        assert sum("event=failed" in line for line in lines) == 2
        assert not [line for line in lines if "left waiting" in line]
        back.end()
    assert message["id"] != notice["id"]
    assert arrived(tmp_path) == []
