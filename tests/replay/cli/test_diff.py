"""``replay diff`` as its users meet it: exit status, sum, partings, JSON; and two real servers."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import CAPTURES, TO_POSTFIX, replay, write

from mailsrv.delivery.discard import DiscardCourier
from mailsrv.policy.lookups import NoResolver
from mailsrv.runtime.clock import SystemClock
from mailsrv.runtime.listener import bind
from mailsrv.runtime.poll import SystemPoll
from mailsrv.server import Server, ServerBackends
from mailsrv.settings import Settings
from mailsrv.telemetry.event_log import EventLog
from replay.transcript import transcript

SLOW = CAPTURES / "slow"
IDLE = ("--policy", "idle_timeout_s = 300", "--policy", "idle_timeout_s = 60")


def senders_of(folder: Path) -> int:
    """The connections of all transcripts in a folder."""
    return sum(len(transcript.load(path).connections) for path in folder.glob("*.smtp"))


# -- exit status ----------------------------------------------------------------------------------


def test_status_0_when_nothing_parts_and_a_word_about_it() -> None:
    ran = replay("diff", SLOW, "--policy", "idle_timeout_s = 60", "--policy", "idle_timeout_s = 60")
    assert (ran.status, ran.err) == (0, "")
    assert f"{senders_of(SLOW)} senders: all the same (messages accepted: " in ran.out


def test_status_1_when_something_does() -> None:
    assert replay("diff", SLOW, *IDLE).status == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--policy", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--policy", "idle = 60"], "--policy: idle: no such setting"),
        (["--policy", "a = 1", "--policy", "a = 1", "--policy", "a = 1"], "once or twice"),
        (["--target", "127.0.0.1:1"], "diff takes --target twice"),
        (["--target", "x", "--target", "y"], "a target is HOST:PORT"),
        (["--target", "h:1", "--target", "h:2", "--keep-own"], "--keep-own is about --policy"),
        (["--policy", "idle_timeout_s = 1", "--speed", "2"], "--speed and --max-wait"),
    ],
)
def test_wrong_use_is_status_2_and_one_sentence(arguments: list[str], complaint: str) -> None:
    ran = replay("diff", SLOW, *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("replay: ")
    assert complaint in ran.err
    assert ran.err.count("\n") == 1


def test_neither_policies_nor_servers_or_both_is_wrong_use() -> None:
    assert replay("diff", SLOW).status == 2
    assert replay("diff", SLOW, "--policy", "a = 1", "--target", "h:1").status == 2


def test_what_cannot_be_read_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    write(tmp_path / "good.smtp")
    broken = write(tmp_path / "broken.smtp", "@0 opne")
    world = write(tmp_path / "world.smtp", header="[world]\nmoon = 1\n")
    noise = tmp_path / "noise.pcap"
    noise.write_bytes(b"no capture at all")
    ran = replay("diff", tmp_path, noise, "--policy", "idle_timeout_s = 60")
    assert ran.status == 2
    assert "1 sender: all the same" in ran.out
    for path in (broken, world, noise):
        assert f"replay: {path}" in ran.err
    assert "Traceback" not in ran.err


# -- what people see ------------------------------------------------------------------------------


def test_the_greatest_harm_comes_first_with_both_sides_and_instants() -> None:
    lines = replay("diff", SLOW, *IDLE).out.splitlines()
    assert lines[:2] == ["A  idle_timeout_s = 300", "B  idle_timeout_s = 60"]
    verdicts = [line.split(maxsplit=1) for line in lines[4:8]]
    assert [words for _, words in verdicts] == [
        "cut off, and loses mail",
        "cut off",
        "cut off sooner",
        "the same",
    ]
    at = lines.index("slow/silent-for-ninety-seconds: cut off, and loses mail (limit: idle)")
    assert (
        lines[at + 1]
        == "  reply 2, to HELO slow.example; in B after 0 octets sent and 1 reply heard"
    )
    assert lines[at + 2].startswith(r"  A @90s 250 mx.example.test\r\n")
    assert "B @60s 421 4.4.2 mx.example.test Error: timeout exceeded" in lines[at + 2]


def test_a_deferral_is_told_as_one_and_what_it_does_not_prove() -> None:
    out = replay("diff", CAPTURES / "mta" / "postfix.smtp", "--policy", "greylist = true").out
    assert "would have to come again (check: greylist)" in out
    assert "its transcript does not say" in " ".join(out.split())


def test_what_is_left_out_of_a_policy_and_what_rests_on_dns_is_told() -> None:
    policy = 'listen = ["[::]:25"]\nsender_domain_check = "reject"'
    out = replay("diff", SLOW, "--policy", policy).out
    assert "left out, since senders here meet nothing of it: listen" in out
    assert "sender_domain_check: DNS is each transcript's own" in out


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_what_is_wrapped_fits_the_terminal(columns: int) -> None:
    out = replay("diff", SLOW, *IDLE, COLUMNS=str(columns)).out
    wide = [line for line in out.splitlines() if len(line) > columns and line.startswith("  ")]
    assert wide == []
    assert any(" B @60s" in line and "  A @" in line for line in out.splitlines()) == (
        columns >= 120
    )


def test_a_pipe_gets_no_escape_codes_and_no_progress() -> None:
    command = [sys.executable, "-m", "replay", "diff", str(SLOW), *IDLE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "\x1b" not in done.stdout


def test_many_senders_that_part_alike_are_told_together_and_all_if_asked() -> None:
    arguments = ("diff", CAPTURES / "client", "--policy", "greet_wait_s = 5")
    some, every = replay(*arguments).out, replay(*arguments, "--all").out
    assert "senders: slower by 5.0 s" in some
    assert "more (--all shows them)" in some
    assert "--all" not in every
    assert all(path.stem in every for path in (CAPTURES / "client").glob("*.smtp"))


def test_names_and_octets_cannot_steer_the_terminal(tmp_path: Path) -> None:
    body = "@0 open from 192.0.2.1\n* S? 220\n+90s C: \\x1b[2J\\r\\n\n* S? 500\n+0 close\n"
    write(tmp_path / "a\x1b[2J.smtp", body)
    ran = replay("diff", tmp_path, *IDLE)
    assert ran.status == 1
    assert "\x1b" not in ran.out


def test_a_capture_is_imported_as_it_is_played() -> None:
    ran = replay("diff", TO_POSTFIX, "--policy", "message_octets = 10")
    assert ran.status == 1
    assert "data/swaks-to-postfix: refused, and loses mail (check: size)" in ran.out


# -- JSON -----------------------------------------------------------------------------------------


def test_json_has_every_sender_the_greatest_harm_first(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    assert replay("diff", SLOW, *IDLE, "--json", file).status == 1
    whole = json.loads(file.read_text())
    assert whole["senders"] == len(whole["partings"]) == senders_of(SLOW)
    assert (whole["lose_mail"], whole["verdicts"]["cut off sooner"]) == (1, 2)
    first = whole["partings"][0]
    assert (first["scenario"], first["verdict"]) == ("slow/silent-for-ninety-seconds", "cut off")
    assert (first["loses_mail"], first["lost"], first["why"]) == (True, 1, "limit: idle")
    assert (first["a"]["at_ns"], first["b"]["at_ns"]) == (90_000_000_000, 60_000_000_000)


def test_json_on_standard_output_is_alone_there() -> None:
    assert json.loads(replay("diff", SLOW, *IDLE, "--json", "-").out)["b"] == "idle_timeout_s = 60"


# -- two real servers -----------------------------------------------------------------------------


class _Doorbell:
    """Ends a server from another thread."""

    number = -1

    def __init__(self, server: Server, bell: socket.socket) -> None:
        self._server, self._bell = server, bell

    def ready(self, events: int) -> None:
        self._server.loop.poll.forget(self._bell)
        self._server.stop()
        self._server.end_all()


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The real server in a thread; gives its HOST:PORT."""
    clock = SystemClock()
    server = Server(
        settings,
        ServerBackends(resolver=NoResolver(), courier=DiscardCourier()),
        clock=clock,
        poll=SystemPoll(clock),
        random=random.Random(1),
        event_log=EventLog(clock, lambda _: None),
    )
    sock = bind("127.0.0.1", 0)
    port = sock.getsockname()[1]
    server.listen(sock)
    bell, rope = socket.socketpair()
    with bell, rope:
        server.loop.poll.watch(bell, 1, _Doorbell(server, bell))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            rope.send(b"x")
            thread.join()


SENDERS = [CAPTURES / "client" / f"{name}.smtp" for name in ("curl", "swaks-pipeline", "smtplib")]
PATIENT = ("--tolerance", "5", "--speed", "1000")
"""For a machine that is busy with other things."""


def test_two_servers_that_differ_in_name_and_ids_alone_are_the_same() -> None:
    names = (Settings(hostname="mx.example.test"), Settings(hostname="other.example"))
    with serving(names[0]) as a, serving(names[1]) as b:
        ran = replay("diff", *SENDERS, "--target", a, "--target", b, *PATIENT)
    assert (ran.status, ran.err) == (0, "")
    assert "3 senders: all the same (messages accepted: 4 in A, 4 in B)" in ran.out


def test_a_server_that_takes_less_is_told_with_both_replies() -> None:
    mutt = CAPTURES / "client" / "mutt.smtp"  # does not say SIZE, so hears it last of all
    with serving(Settings()) as a, serving(Settings(message_octets=20)) as b:
        ran = replay("diff", mutt, "--target", a, "--target", b, *PATIENT)
    assert ran.status == 1
    assert "client/mutt: refused, and loses mail" in ran.out
    assert "552 5.3.4 Error: message exceeds 20 octets" in ran.out


def test_a_server_that_is_not_there_is_wrong_use_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    with serving(Settings()) as a:
        ran = replay("diff", *SENDERS, "--target", a, "--target", nobody, *PATIENT)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"replay: {nobody}: ")
