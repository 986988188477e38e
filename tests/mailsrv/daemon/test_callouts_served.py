"""Recipients asked ahead, for real: a running ``mailsrv serve`` before another that knows them."""

from __future__ import annotations

import smtplib
from pathlib import Path

import pytest
from process import Process, fields, serving

DOMAINS = 'domains = ["example.test"]\n'


def next_hop_config(folder: Path) -> str:
    (folder / "recipients").write_text("bob@example.test\n")
    return DOMAINS + 'recipient_table = "recipients"\n'


def asking(port: int, use: str) -> str:
    return f'{DOMAINS}delivery = "relay=127.0.0.1:{port}"\nrecipient_callout = "{use}"\n'


def rcpt(client: smtplib.SMTP, *addresses: str) -> list[tuple[int, bytes]]:
    client.ehlo()
    client.mail("a@example.org")
    return [client.rcpt(address) for address in addresses]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    return one, other


def test_what_the_next_hop_would_refuse_is_refused_and_mail_for_the_others_gets_there(
    folders: tuple[Path, Path],
) -> None:
    behind_in, front_in = folders
    with (
        serving(behind_in, next_hop_config(behind_in), ("--listen", "127.0.0.1:0")) as behind,
        serving(front_in, asking(behind.port, "take"), ("--listen", "127.0.0.1:0")) as front,
    ):
        with front.client() as client:
            replies = rcpt(client, "eve@example.test", "bob@example.test", "EVE@example.test")
            assert [code for code, _ in replies] == [550, 250, 550]
            assert replies[0][1] == (
                b"5.1.1 Recipient address rejected by next hop: "
                b"550 5.1.1 Recipient address rejected: user unknown"
            )
            assert client.data(b"Subject: x\r\n\r\nhello\r\n")[0] == 250
        front.log.until("event=relayed")
        refused = [fields(line) for line in behind.end() if "event=refused" in line]
        assert [one["to"] for one in refused] == ["<eve@example.test>"]  # asked once
        front.end()


def test_an_alias_exists_and_is_not_asked_about(folders: tuple[Path, Path]) -> None:
    behind_in, front_in = folders
    aliases = '[aliases]\nteam = "bob@example.test"\n'
    with (
        serving(behind_in, next_hop_config(behind_in), ("--listen", "127.0.0.1:0")) as behind,
        serving(
            front_in, asking(behind.port, "take") + aliases, ("--listen", "127.0.0.1:0")
        ) as front,
    ):
        with front.client() as client:
            replies = rcpt(client, "team@example.test", "none@example.test")
            assert [code for code, _ in replies] == [250, 550]
            assert client.data(b"Subject: x\r\n\r\nhello\r\n")[0] == 250
        front.log.until("event=relayed")
        front.end()


@pytest.mark.parametrize(("use", "code"), [("take", 250), ("defer", 451)])
def test_without_a_next_hop_the_setting_decides(
    folders: tuple[Path, Path], use: str, code: int
) -> None:
    behind_in, front_in = folders
    with serving(behind_in, next_hop_config(behind_in), ("--listen", "127.0.0.1:0")) as behind:
        port = behind.port
    front: Process
    with serving(front_in, asking(port, use), ("--listen", "127.0.0.1:0")) as front:
        with front.client() as client:
            assert rcpt(client, "bob@example.test")[0][0] == code
        assert "bob@example.test" in front.log.until('event="recipient not verified"')
        front.end()
