"""``mailsrv queue``: what it shows and changes, beside a running server and without one."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest
from process import PATIENCE_S, ROOT, Process, serving
from spooling import envelope, spool_in

from mailsrv.delivery.queue.progress import Progress
from mailsrv.delivery.spool.rows import QueueRow
from mailsrv.operate.listing import Listing, duration, escaped, size
from mailsrv.operate.queued_message import QueuedMessage, Recipient
from mailsrv.smtp.path import MailPath
from mailsrv.smtp.sending.outcome import Outcome, OutcomeKind
from mailsrv.units import NS_PER_S

CONFIG = 'listen = ["127.0.0.1:0"]\ndelivery = "maildir=mail"\n'
_PROGRAM = "import sys; from mailsrv.cli import main; sys.exit(main())"


def queue(
    folder: Path, *arguments: str, code: int = 0, output: IO[str] | int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """``mailsrv queue`` with the spool in ``folder``."""
    verb, *rest = arguments
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "queue", verb, "--spool", str(folder), *rest],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done


def listed(folder: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    return listed_by(queue(folder, "list", "--json", *arguments))


def listed_by(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    told = json.loads(done.stdout)
    assert told["schema"] == 1
    return {one["id"]: one for one in told["messages"]}


def filled(folder: Path) -> Path:
    """A spool with three messages: a fresh one, one that was deferred, and one that is held."""
    spool = spool_in(folder / "spool")
    for number in (1, 2, 3):
        one = envelope(number, recipients=2)
        one.forward_paths[1] = MailPath("evil\x1b[2J", "other.example")
        sink = spool.begin(one)
        sink.write(b"Subject: x\r\n\r\ntext\r\n")
        sink.finish(lambda said: None)
        spool.commit()
    outcomes = [
        Outcome(0, OutcomeKind.DEFERRED, "4.2.0", "450 4.2.0 wait\x1b]0;owned\x07", "hop.example")
    ]
    progress = Progress(outcomes).to_json()
    spool.put(QueueRow(2, "ID2", due_ns=10**19 // 2, attempts=3, progress=progress))
    spool.put(QueueRow(3, "ID3", held=True))
    spool.close()
    return folder / "spool"


def test_the_list_tells_each_message_with_its_state(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    found = listed(folder)
    assert {id_: one["state"] for id_, one in found.items()} == {
        "ID1": "new",
        "ID2": "deferred",
        "ID3": "held",
    }
    assert found["ID2"]["attempts"] == 3
    assert found["ID2"]["recipients"][0]["outcome"] == "deferred"
    assert found["ID2"]["recipients"][1]["outcome"] == "pending"
    assert queue(folder, "list").stdout.count("ID") == 4
    last = queue(folder, "list", "--limit", "1").stdout.splitlines()[-1]
    assert last == "1 of 3 messages; --limit 0 shows all"
    some = queue(folder, "list", "--limit", "1", "--from", "example.org").stdout.splitlines()[-1]
    assert some == "1 shown, there may be more; --limit 0 shows all"


def test_nothing_that_a_peer_chose_reaches_the_terminal_as_it_is(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    for arguments in (("list",), ("show", "ID2"), ("list", "--json"), ("show", "ID2", "--json")):
        told = queue(folder, *arguments).stdout
        assert told.isascii() and told.replace("\n", "").isprintable(), told
    assert "\\x1b]0;owned\\x07" in queue(folder, "show", "ID2").stdout


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        (("--state", "held"), ["ID3"]),
        (("--to", "other.example"), ["ID1", "ID2", "ID3"]),
        (("--to", "B@Example.TEST"), ["ID1", "ID2", "ID3"]),
        (("--to", "example"), []),
        (("--from", "example.org", "--state", "new"), ["ID1"]),
        (("--from", ""), []),
    ],
)
def test_the_list_can_be_narrowed(tmp_path: Path, filters: tuple[str, ...], ids: list[str]) -> None:
    assert list(listed(filled(tmp_path), *filters)) == ids


def test_without_a_server_what_is_asked_for_is_done_at_once(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    assert queue(folder, "hold", "ID1", "ID2").stdout == "held: 2\n"
    assert {one["state"] for one in listed(folder).values()} == {"held"}
    refused = queue(folder, "retry", "ID1", code=1)
    assert refused.stdout == "to be tried now: 0\n"
    assert refused.stderr == "mailsrv: 1 held, and not tried before it is released\n"
    assert queue(folder, "retry", "--all").stdout == "to be tried now: 0\n"
    assert listed(folder)["ID1"]["state"] == "held", "it is held until it is released"
    assert queue(folder, "release", "ID1").stdout == "released: 1\n"
    assert listed(folder)["ID1"]["state"] == "due"
    told = queue(folder, "drop", "--all", "--yes", "--json").stdout
    expected = {"verb": "drop", "asked": 3, "done": 3, "unknown": [], "answered": True}
    assert json.loads(told) == {"schema": 1, **expected}
    assert queue(folder, "list").stdout == "the queue is empty\n"


def test_what_is_dropped_is_dropped_on_purpose(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    told = queue(folder, "drop", "ID1", code=2).stderr
    assert told == "mailsrv: queue drop: needs --yes where nobody can be asked\n"
    assert len(listed(folder)) == 3


def test_an_unknown_id_is_told_and_the_others_are_done(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    for arguments in (("hold", "ID1", "x\x1b"), ("show", "ID1", "x\x1b")):
        told = queue(folder, *arguments, code=1)
        assert told.stderr == "mailsrv: x\\x1b: there is no such message\n"
    assert listed(folder)["ID1"]["state"] == "held"


def test_an_id_may_be_typed_in_any_case_and_names_its_message_once(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    assert queue(folder, "show", "id2").stdout == queue(folder, "show", "ID2").stdout
    assert len(listed_by(queue(folder, "show", "id1", "ID1", "Id1", "--json"))) == 1
    assert queue(folder, "hold", "id1", "ID1").stdout == "held: 1\n"
    assert queue(folder, "show", "nosuch", code=1).stdout == ""


@pytest.mark.parametrize("id_", ["\udcff", "é", "A" * 5000, ""])
def test_an_id_that_can_be_none_is_told_in_a_short_line(tmp_path: Path, id_: str) -> None:
    told = queue(filled(tmp_path), "show", id_, code=1).stderr
    assert told.endswith(": there is no such message\n") and len(told) < 200


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("show", "ID1")])
def test_output_that_cannot_be_written_is_told_and_a_reader_may_go(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    folder = filled(tmp_path)
    with open("/dev/full", "w") as full:
        told = queue(folder, *arguments, code=2, output=full)
    assert told.stderr == "mailsrv: the output: No space left on device\n"
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as gone:
        assert queue(folder, *arguments, code=141, output=gone).stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("hold",),
        ("hold", "ID1", "--all"),
        ("hold", "ID1", "--to", "x"),
        ("list", "--limit", "-1"),
        ("list", "--limit", "99999999999999999999"),
    ],
)
def test_wrong_use_is_told(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert queue(filled(tmp_path), *arguments, code=2).stderr.startswith("mailsrv: ")


def test_a_folder_without_a_spool_or_with_another_one_is_told_and_not_touched(
    tmp_path: Path,
) -> None:
    told = queue(tmp_path / "none", "list", code=2).stderr
    assert told == f"mailsrv: spool: {tmp_path}/none: there is no spool\n"
    assert not (tmp_path / "none").exists()
    folder = filled(tmp_path)
    with closing(sqlite3.connect(folder / "spool.db")) as other:
        other.execute("PRAGMA user_version = 9")
    told = queue(folder, "hold", "--all", code=2).stderr
    assert told.endswith("spool.db: has version 9, and this program writes 2\n")


def queue_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, "queue", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.parametrize("options", [(), ("--delivery", "relay=127.0.0.1:1"), ("--delivery", "mx")])
def test_without_options_it_finds_the_spool_that_serve_makes_without_a_configuration(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    with serving(tmp_path, None, ("--listen", "127.0.0.1:0", *options)):
        done = queue_in(tmp_path, "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the queue is empty\n", "")


def test_without_options_none_and_two_spools_are_told(tmp_path: Path) -> None:
    done = queue_in(tmp_path, "list")
    assert done.returncode == 2
    assert done.stderr.startswith("mailsrv: spool: there is none here, of mail.spool and mailsrv")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mail.spool").mkdir()
    (tmp_path / "mailsrv.spool").mkdir()
    done = queue_in(tmp_path, "drop", "--all", "--yes")
    assert done.returncode == 2
    assert done.stderr.endswith("are both here; --spool DIR says which one is meant\n")


@pytest.mark.parametrize("arguments", [("--help",), ("list", "--help"), ("drop", "--help")])
def test_help_names_the_spool_that_is_meant_without_options(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    out = " ".join(queue_in(tmp_path, *arguments).stdout.split())
    assert "mail.spool or mailsrv.spool" in out


def test_the_content_comes_as_it_is(tmp_path: Path) -> None:
    told = queue(filled(tmp_path), "show", "ID1", "--content")
    assert told.stdout == "Subject: x\n\ntext\n"  # as text has its line ends


def waiting(running: Process, folder: Path) -> list[str]:
    """Two messages that wait, since their Maildir fails; the ids."""
    shutil.rmtree(folder / "mail" / "tmp")
    running.deliver()
    running.log.until('event="delivery failed"')
    running.deliver()
    return list(listed(folder / "mail.spool"))


def test_beside_a_running_server_messages_are_held_released_and_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "mail.spool"
    with serving(tmp_path, CONFIG, ()) as running:
        first, second = waiting(running, tmp_path)
        told = queue(folder, "hold", first, second, code=1)
        assert told.stdout == "held: 1\n"
        assert told.stderr.startswith("mailsrv: 1 being delivered right now")
        running.log.until('event="queue command"', "verb=hold", f"id={second}")
        (tmp_path / "mail" / "tmp").mkdir()
        running.log.until("event=delivered", f"id={first}")
        assert listed(folder)[second]["state"] == "held"
        running.deliver()
        running.log.until("event=delivered")
        assert queue(folder, "release", second).stdout == "released: 1\n"
        running.log.until("event=delivered", f"id={second}")
        running.end()
    assert len(list((tmp_path / "mail" / "new").iterdir())) == 3


def test_what_is_dropped_beside_a_server_is_gone_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "mail.spool"
    with serving(tmp_path, CONFIG, ()) as running:
        _, second = waiting(running, tmp_path)
        assert queue(folder, "drop", "--yes", second).stdout == "dropped: 1\n"
        assert second not in listed(folder)
        running.end()
    with closing(sqlite3.connect(folder / "spool.db")) as other:
        assert other.execute("SELECT messages FROM total").fetchone() == (1,)


def test_what_was_asked_of_a_server_that_was_killed_is_done_by_the_next(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    with closing(sqlite3.connect(folder / "spool.db")) as other:
        other.execute("INSERT INTO command (message, verb) VALUES (1, 'hold')")
        other.commit()
    config = CONFIG + f'spool = "{folder}"\n'
    with serving(tmp_path, config, ()) as running:
        running.log.until('event="queue command"', "verb=hold", "id=ID1")
        running.end()
    assert {id_: one["state"] for id_, one in listed(folder).items()}["ID1"] == "held"


def message(**values: Any) -> QueuedMessage:
    usual: dict[str, Any] = {
        "number": 1,
        "id": "ID1",
        "received_ns": 0,
        "octets": 4321,
        "state": "held",
        "attempts": 2,
        "due_ns": None,
        "waits_for": "",
        "sender": "a@example.org",
        "client": "192.0.2.1",
        "recipients": (Recipient("b@example.test"),),
    }
    return QueuedMessage(**usual | values)


def test_of_an_unreadable_message_nothing_is_said_that_is_not_known(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    with closing(sqlite3.connect(folder / "spool.db")) as other:
        other.execute("UPDATE message SET envelope = '{' WHERE id = 'ID1'")
        other.commit()
    for arguments in (("list", "--state", "unreadable"), ("show", "ID1")):
        told = queue(folder, *arguments).stdout
        assert "ID1" in told and "sender and recipients cannot be read" in told
        assert "ourselves" not in told and "<>" not in told
    assert queue(folder, "show", "ID1", "--content").stdout == "Subject: x\n\ntext\n"


def test_the_table_fits_the_terminal_and_is_whole_elsewhere() -> None:
    one = message(
        sender="a" * 100 + "@example.org",
        recipients=(Recipient("b@example.test", "deferred", "4.0.0", "450 " + "x" * 500),),
    )
    narrow = Listing(NS_PER_S, width=40)
    assert max(map(len, [narrow.heading(), *narrow.message(one), *narrow.details(one)][:5])) <= 40
    wide = list(Listing(NS_PER_S).message(one))
    assert wide[2] == "  450 " + "x" * 500
    assert "\x1b" not in "".join(wide)
    assert any("\x1b[33m" in line for line in Listing(0, colour=True).message(one))


def test_figures_for_people() -> None:
    assert [size(n) for n in (0, 999, 1024, 10_240, 5 * 1024**3)] == [
        *("0", "999", "1.0K", "10K", "5.0G"),
    ]
    assert [duration(s * NS_PER_S) for s in (-5, 59, 60, 7200, 200_000)] == [
        *("0s", "59s", "1m", "2h", "2d"),
    ]
    assert escaped("é\n\\") == "\\xe9\\n\\\\"
