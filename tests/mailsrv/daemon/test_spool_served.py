"""The spool as part of a server: over reloads and restarts, and when it cannot be used."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from process import PATIENCE_S, Process, fields, http, serving

HUP = signal.SIGHUP
CONFIG = 'listen = ["127.0.0.1:0"]\ndelivery = "maildir=mail"\n'


def delivered(folder: Path) -> int:
    return len(list((folder / "new").iterdir()))


def refused(folder: Path, config: str = CONFIG) -> str:
    """What a start that ends with 2 says."""
    with serving(folder, config, (), listens=False) as running:
        assert running.process.wait(PATIENCE_S) == 2
        (line,) = running.log.rest()
    return line


def test_a_message_for_forty_recipients_keeps_its_envelope(tmp_path: Path) -> None:
    recipients = [f"user{number}@example.test" for number in range(40)]
    with serving(tmp_path, CONFIG, ()) as running:
        with running.client() as client:
            client.sendmail("a@example.org", recipients, "Subject: x\r\n\r\nhello\r\n")
        running.log.until("event=delivered")
        running.end()
    [path] = (tmp_path / "mail" / "new").iterdir()
    text = path.read_text()
    assert text.startswith(
        "Return-Path: <a@example.org>\nEnvelope-To: user0@example.test,\n\tuser1"
    )
    assert all(recipient in text for recipient in recipients)


def test_a_reload_delivers_into_the_maildir_that_it_names_and_has_the_spool_follow(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, CONFIG, ()) as running:
        running.deliver()
        running.log.until("event=delivered")
        file = tmp_path / "mailsrv.toml"
        file.write_text(CONFIG.replace("maildir=mail", "maildir=other"))
        running.ring(HUP)
        running.log.until("event=reloaded")
        running.deliver()
        running.log.until("event=delivered")
        file.write_text(CONFIG + 'spool = "elsewhere"')
        running.ring(HUP)
        assert "needs_restart" not in fields(running.log.until("event=reloaded"))
        running.deliver()
        running.log.until("event=delivered")
        running.end()
    assert (delivered(tmp_path / "mail"), delivered(tmp_path / "other")) == (2, 1)
    assert not (tmp_path / "mail.spool").exists()
    assert not (tmp_path / "other.spool").exists()
    assert (tmp_path / "elsewhere" / "spool.db").exists()


def test_what_waits_when_a_reload_names_another_maildir_is_found_at_the_next_start(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mailsrv.toml"
    other = CONFIG.replace("maildir=mail", "maildir=other")
    with serving(tmp_path, CONFIG, ()) as running:
        shutil.rmtree(tmp_path / "mail" / "tmp")
        running.deliver()
        running.log.until('event="delivery failed"')
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "tmp").touch()
        file.write_text(other)
        running.ring(HUP)
        running.log.until('event="reload refused"')
        (tmp_path / "other" / "tmp").unlink()
        running.ring(HUP)
        running.log.until("event=reloaded")
        running.process.kill()
    with serving(tmp_path, other, ()) as running:
        running.end()
    assert delivered(tmp_path / "other") == 1


def test_a_reload_that_would_lead_to_another_spool_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mailsrv.toml"
    with serving(tmp_path, CONFIG, ()) as running:
        (tmp_path / "other.spool").mkdir()
        (tmp_path / "other.spool" / "spool.db").touch()
        file.write_text(CONFIG.replace("maildir=mail", "maildir=other"))
        running.ring(HUP)
        line = fields(running.log.until('event="reload refused"'))
        where = f"{tmp_path}/mail.spool cannot be moved to {tmp_path}/other.spool"
        assert line["why"] == f"spool: {where}: Directory not empty"
        still_serves(running)
    assert delivered(tmp_path / "mail") == 1


def test_a_reload_may_begin_to_keep_mail_and_cease_to(tmp_path: Path) -> None:
    discard = CONFIG.replace("maildir=mail", "discard")
    file = tmp_path / "mailsrv.toml"
    with serving(tmp_path, discard, ()) as running:
        for config in (CONFIG, discard):
            file.write_text(config)
            running.ring(HUP)
            running.log.until("event=reloaded")
            running.deliver()
            running.log.until("event=message")
        running.end()
    assert delivered(tmp_path / "mail") == 1


def test_a_maildir_that_fails_holds_up_nobody_and_gets_its_mail_when_it_works(
    tmp_path: Path,
) -> None:
    config = CONFIG + 'metrics_listen = "127.0.0.1:0"'
    with serving(tmp_path, config, ()) as running:
        metrics = running.metrics_port()
        shutil.rmtree(tmp_path / "mail" / "tmp")
        for _ in range(3):
            running.deliver()
        line = fields(running.log.until('event="delivery failed"'))
        assert line["error"] == "No such file or directory"
        assert "\nmailsrv_spool_messages 3\n" in http(metrics, "/metrics")[1]
        (tmp_path / "mail" / "tmp").mkdir()
        running.log.until('event="delivery works again"')
        running.end()
    assert delivered(tmp_path / "mail") == 3


def test_what_waits_is_delivered_after_the_next_start(tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG, ()) as running:
        shutil.rmtree(tmp_path / "mail" / "tmp")
        running.deliver()
        running.log.until('event="delivery failed"')
        running.end()
    assert delivered(tmp_path / "mail") == 0
    with serving(tmp_path, CONFIG, ()) as running:
        running.log.until("event=delivered")
        running.end()
    assert delivered(tmp_path / "mail") == 1


def test_a_full_spool_is_a_temporary_failure(tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG + "spool_octets = 1000", ()) as running:
        with running.client() as client:
            client.ehlo("client.example")
            for octets, code in ((2000, 452), (100, 250)):
                client.mail("a@example.org")
                client.rcpt("b@example.test")
                assert client.data("x" * octets)[0] == code
        assert fields(running.log.until('event="storage failed"'))["error"].endswith(
            "the spool is full, or its disk nearly"
        )
        running.end()


def test_a_spool_that_another_server_owns_ends_the_start(tmp_path: Path) -> None:
    with serving(tmp_path, CONFIG, ()) as running:
        expected = f"mailsrv: spool: {tmp_path}/mail.spool: is in use by another server"
        assert refused(tmp_path) == expected
        still_serves(running)


def still_serves(running: Process) -> None:
    running.deliver()
    running.log.until("event=delivered")
    running.end()


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("PRAGMA user_version = 9", "has version 9, and this program writes 2"),
        ("PRAGMA application_id = 9", "is another program's database"),
        ("UPDATE total SET messages = 'many'", "is damaged: its totals are missing"),
    ],
)
def test_a_spool_of_another_version_or_a_damaged_one_ends_the_start(
    tmp_path: Path, statement: str, complaint: str
) -> None:
    with serving(tmp_path, CONFIG, ()) as running:
        running.end()
    with closing(sqlite3.connect(tmp_path / "mail.spool" / "spool.db")) as other:
        other.execute(statement)
        other.commit()
    expected = f"mailsrv: spool: {tmp_path}/mail.spool/spool.db: {complaint}"
    assert refused(tmp_path) == expected
