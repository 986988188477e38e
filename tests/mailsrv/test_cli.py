"""The command line: what wrong use is told, and one real life from start to SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailsrv.cli import main
from mailsrv.runtime.listener import bind

PATIENCE_S = 20
"""A bound for a machine that is busy; the runs take a fraction of a second."""


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["check-config", "--help"]])
def test_help_is_no_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert "usage: mailsrv" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["serve", "--no-such"], ["serve", "--listen"], ["check-config"], ["serve", "x"]],
)
def test_wrong_options_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["serve", "--lisen", "127.0.0.1:2525"],
            "mailsrv serve: error: unknown option --lisen; did you mean --listen? "
            "see 'mailsrv serve --help'",
        ),
        (["serve", "--conf=x"], "unknown option --conf; did you mean --config? see"),
        (["check-config", "--zzz", "x"], "unknown option --zzz; see 'mailsrv check-config --help'"),
        (["serve", "x"], "mailsrv serve: error: unexpected argument x; see"),
        ([], "required: COMMAND; see 'mailsrv --help'"),
    ],
)
def test_wrong_options_are_told_with_their_command_and_the_way_to_its_help(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert complaint in capsys.readouterr().err


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that ``main`` refuses with."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mailsrv: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--listen", "nonsense"], "nonsense: takes ADDRESS:PORT"),
        (["--listen", "127.0.0.1:99999"], "port from 0 to 65535"),
        (["--listen", "192.0.2.1:0"], "domains: who listens on 192.0.2.1:0 must say"),
        (["--delivery", "pigeon"], "delivery: pigeon: takes maildir=DIR, relay="),
        (["--delivery", "maildir="], "takes maildir=DIR"),
        (["--delivery", "discard=x"], "takes maildir=DIR"),
        (
            ["--listen", "127.0.0.1:0", "--delivery", "maildir=/dev/null/x"],
            "delivery maildir=/dev/null/x: Not a directory",
        ),
        (["--config", "/nonexistent.toml"], "/nonexistent.toml: cannot be read: No such file"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    delivery = [] if "--delivery" in options else ["--delivery", f"maildir={tmp_path}"]
    assert complaint in refused(["serve", *options, *delivery], capsys)


def test_an_address_that_is_not_ours_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mailsrv.toml"
    file.write_text('listen = ["192.0.2.1:0"]\ndomains = ["example.org"]\ndelivery = "discard"')
    complaint = refused(["serve", "--config", str(file)], capsys)
    assert "cannot listen on 192.0.2.1:0: Cannot assign" in complaint


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = ["serve", "--listen", address, "--delivery", f"maildir={tmp_path}"]
        complaint = refused(arguments, capsys)
    assert complaint == f"mailsrv: cannot listen on {address}: Address already in use\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("idel_timeout_s = 5", "idel_timeout_s: no such setting"),
        ('listen = ["x"]', "x: takes ADDRESS:PORT"),
        ('resolvers = ["dns.example:53"]', "dns.example:53: takes ADDRESS:PORT"),
        ('delivery = "pigeon"', "takes maildir=DIR, relay="),
    ],
)
def test_a_bad_configuration_is_refused_by_check_config_and_by_serve(
    text: str, complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mailsrv.toml"
    file.write_text(text)
    assert complaint in refused(["check-config", str(file)], capsys)
    assert complaint in refused(["serve", "--config", str(file)], capsys)


def test_a_good_configuration_is_called_good(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mailsrv.toml"
    file.write_text('listen = ["127.0.0.1:2525"]\nidle_timeout_s = 60')
    assert main(["check-config", str(file)]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert (first, second) == (f"{file}: good", "  listens on 127.0.0.1:2525")


# -- a real life ----------------------------------------------------------------------------------


@contextmanager
def served(directory: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A running server and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mailsrv", "serve", "--listen", "127.0.0.1:0", *options],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.fullmatch(r"mailsrv: listening on 127\.0\.0\.1:(\d+)\n", first)
        assert found is not None, first
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def test_a_message_is_served_and_stored_and_sigterm_ends_with_0(tmp_path: Path) -> None:
    with served(tmp_path) as (process, port):
        assert process.stdout is not None
        second = process.stdout.readline()
        assert second == f"mailsrv: mail goes to the Maildir {tmp_path / 'mail'}\n"
        third = process.stdout.readline()
        assert third == f"mailsrv: the spool is {tmp_path / 'mail.spool'}\n"
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE_S) as client:
            client.sendmail(
                "a@example.org", ["b@example.test"], "Subject: x\r\n\r\n.dot\r\nhello\r\n"
            )
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE_S)
    (stored,) = (tmp_path / "mail" / "new").iterdir()
    assert stored.read_bytes().endswith(b"Subject: x\n\n.dot\nhello\n")
    assert process.returncode == 0
    assert "event=message" in err
    assert "Traceback" not in err


def test_a_signal_at_the_first_sign_of_life_is_an_orderly_stop(tmp_path: Path) -> None:
    with served(tmp_path, "--delivery", "discard") as (process, _):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert re.findall(r"event=(\w+)", err) == ["started", "stopping", "stopped"]


def test_two_signals_at_once_hurry_the_stop(tmp_path: Path) -> None:
    with (
        served(tmp_path, "--delivery", "discard") as (process, port),
        smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE_S) as client,
    ):
        client.ehlo("client.example")
        assert client.mail("a@example.org")[0] == 250
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        assert client.getreply()[0] == 421
        client.close()
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("listen = []", "listen: takes one address at least"),
        ('listen = ["nowhere"]', "listen: nowhere: takes ADDRESS:PORT"),
        ('delivery = "pigeon"', "delivery: pigeon: takes maildir=DIR, relay="),
        ("reputation_threshold = 5", "reputation_threshold: nothing adds to the score"),
    ],
)
def test_check_config_refuses_what_could_not_be_served_and_names_file_and_key(
    text: str, complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mailsrv.toml"
    file.write_text(text)
    assert f"{file}: {complaint}" in refused(["check-config", str(file)], capsys)


def test_a_port_in_use_is_found_before_a_maildir_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with bind("127.0.0.1", 0) as taken:
        address = "{}:{}".format(*taken.getsockname())
        maildir = tmp_path / "new"
        options = ["serve", "--listen", address, "--delivery", f"maildir={maildir}"]
        assert f"cannot listen on {address}" in refused(options, capsys)
    assert not maildir.exists()
