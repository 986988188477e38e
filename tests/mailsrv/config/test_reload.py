"""What a reload may not drop: what mail depends on stays, unless the file says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailsrv.config import file as config
from mailsrv.config.file import Config
from mailsrv.config.reload import NEVER_DROPPED, back_to_default, dropped

WHOLE = """\
listen = ["192.0.2.25:25"]
listen_tls = ["192.0.2.25:465"]
delivery = "maildir=mail"
elsewhere = "mx"
routes = { "example.net" = "relay=192.0.2.26" }
aliases = { info = "ann@example.org" }
domains = ["example.org"]
recipient_table = "table"
tls_certificate = "certificate.pem"
proxy_networks = ["10.0.0.0/8"]
metrics_listen = "127.0.0.1:9025"
idle_timeout_s = 60
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mailsrv.toml"


def read(file: Path, text: str) -> Config:
    file.write_text(text)
    return config.read(file)


def test_a_file_cut_at_any_line_is_refused_or_loses_nothing_that_mail_depends_on(
    file: Path,
) -> None:
    running = read(file, WHOLE)
    lines = WHOLE.splitlines(keepends=True)
    for number in range(len(lines) - 1):
        missing = {line.split()[0] for line in lines[number:]} & NEVER_DROPPED.keys()
        complaints = dropped(running, read(file, "".join(lines[:number])))
        if number == 0:
            assert complaints == [
                "the file is empty; the running configuration has aliases, delivery, domains, "
                "elsewhere, idle_timeout_s, listen, listen_tls, metrics_listen, proxy_networks, "
                "recipient_table, routes, tls_certificate"
            ]
        else:
            assert {one.partition(":")[0] for one in complaints} == missing
    assert dropped(running, read(file, "".join(lines[:-1]))) == []
    assert back_to_default(running, read(file, "".join(lines[:-1]))) == ["idle_timeout_s"]


@pytest.mark.parametrize("key", NEVER_DROPPED)
def test_what_the_file_names_may_change_and_what_a_complaint_proposes_is_taken(
    file: Path, key: str
) -> None:
    running = read(file, WHOLE)
    without = "".join(line for line in WHOLE.splitlines(keepends=True) if line.split()[0] != key)
    (complaint,) = dropped(running, read(file, without))
    _, _, proposed = complaint.partition(" such as ")
    assert dropped(running, read(file, f"{without}{proposed}\n")) == []


def test_a_server_without_a_word_of_configuration_may_be_told_anything(file: Path) -> None:
    assert dropped(read(file, ""), read(file, "")) == []
    assert dropped(read(file, ""), read(file, WHOLE)) == []


def test_what_the_command_line_says_stays_said(file: Path) -> None:
    options = {"listen": ["127.0.0.1:0"], "delivery": "discard"}
    running = config.with_options(read(file, ""), options)
    assert dropped(running, config.with_options(read(file, ""), options)) == []
