"""Looking at what a server delivered."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from replay.verify.check.delivered import (
    Called,
    Delivered,
    DeliveredError,
    Mailbox,
    Mbox,
    from_mbox,
    mailbox,
    mark_of,
)

MARK, OTHER = mark_of("0123abcd", 1), mark_of("0123abcd", 12)
ONE = f"Return-Path: <a+{MARK}@example.org>\nSubject: x\n\nhello\n".encode()
TWO = f"Return-Path: <a@example.org>\nSubject: {OTHER}\n\nbye\n".encode()
MBOX = b"From a@example.org Mon Jan 12 2026\n" + ONE + b"\nFrom b Mon\n" + TWO


def assert_finds_both(place: Mailbox) -> None:
    delivered = Delivered(place)
    delivered.look()
    delivered.look()
    crlf = ONE.replace(b"\n", b"\r\n").strip()
    assert [one.strip() for one in delivered.contents(MARK)] == [crlf]
    assert len(delivered.contents(OTHER)) == 1
    assert delivered.contents(mark_of("0123abcd", 2)) == []


def test_a_maildir(tmp_path: Path) -> None:
    for place, octets in (("new/1", ONE), ("cur/2:2,S", TWO), ("tmp/3", ONE), ("user/new/4", ONE)):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(octets)
    assert_finds_both(mailbox(f"maildir={tmp_path}"))


def test_a_maildir_that_the_first_message_makes_below_a_folder_that_is_there(
    tmp_path: Path,
) -> None:
    place = mailbox(f"maildir={tmp_path}")
    assert list(place.look()) == []
    (tmp_path / "mail" / "new").mkdir(parents=True)
    (tmp_path / "mail" / "new" / "1").write_bytes(ONE)
    assert list(place.look()) == [ONE]


def test_a_name_that_comes_within_a_tick_of_the_clock_is_found(tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    place = mailbox(f"maildir={tmp_path}")
    for number in range(3):
        (new / str(number)).write_bytes(ONE)
        os.utime(new, ns=(number, number))
        assert len(list(place.look())) == 1
        (new / f"late{number}").write_bytes(ONE)
        os.utime(new, ns=(number, number))
        assert len(list(place.look())) == 1
        assert list(place.look()) == []


def test_a_folder_whose_names_do_not_change_is_not_read_through_again(tmp_path: Path) -> None:
    for name in ("cur", "new", "tmp"):
        (tmp_path / name).mkdir()
    for number in range(100):
        (tmp_path / "cur" / str(number)).write_bytes(ONE)
    place = mailbox(f"maildir={tmp_path}")
    assert len(list(place.look())) == 100
    assert list(place.look()) == []
    changed = (tmp_path / "cur").stat()
    (tmp_path / "cur" / "hidden").write_bytes(ONE)
    os.utime(tmp_path / "cur", ns=(changed.st_atime_ns, changed.st_mtime_ns))
    assert list(place.look()) == [], "as nothing says that it did"
    (tmp_path / "new" / "another:2,S").write_bytes(TWO)
    assert list(place.look()) == [TWO]


def test_a_mailbox_of_any_name_is_looked_at(tmp_path: Path) -> None:
    for number, user in enumerate(("new", "x/cur", "a/b/c")):
        (tmp_path / user / "new").mkdir(parents=True)
        (tmp_path / user / "new" / str(number)).write_bytes(ONE)
    assert len(list(mailbox(f"maildir={tmp_path}").look())) == 3


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("maildir={}/mail", "there is no such folder"),
        ("maildir={}/file", "there is no such folder"),
        ("mbox={}/none/mbox", "there is no folder"),
        ("mbox={}", "Is a directory"),
        ("mbox={}/other", "is no mbox: it does not begin with 'From '"),
        ("command=cat {}/other", "is no mbox: it does not begin with 'From '"),
    ],
)
def test_a_place_that_is_not_there_is_an_error_that_names_it(
    tmp_path: Path, place: str, why: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "other").write_bytes(b"root:x:0:0\n\nFrom a\n")
    with pytest.raises(DeliveredError, match=why) as caught:
        list(mailbox(place.format(tmp_path)).look())
    named = str(tmp_path) if "cat" not in place else "command=cat"
    assert named in str(caught.value)


@pytest.mark.parametrize("piece_octets", [30, 70, 100, 1 << 20])
def test_an_mbox_of_any_size_is_read_in_pieces_and_on_from_where_it_ended(
    tmp_path: Path, piece_octets: int
) -> None:
    path = tmp_path / "mbox"
    place = Mbox(path, piece_octets)
    path.write_bytes(b"Fro")
    assert list(place.look()) == [], "the first is on its way"
    texts = [b"Subject: %d\n\nx\n" % number for number in range(20)]
    path.write_bytes(b"".join(b"From a\n%s\n" % one for one in texts[:10]))
    assert [one.strip() for one in place.look()] == [one.strip() for one in texts[:10]]
    for one in texts[10:]:
        with path.open("ab") as file:
            file.write(b"From a\n" + one[:5])
            file.flush()
            assert list(place.look()) == [], "it is not whole yet"
            file.write(one[5:] + b"\n")
        assert [told.strip() for told in place.look()] == [one.strip()]
    path.write_bytes(b"From a\nSubject: after\n\nit was emptied\n")
    assert len(list(place.look())) == 1


def test_an_mbox_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "mbox"
    place = mailbox(f"mbox={path}")
    assert list(place.look()) == []
    path.write_bytes(MBOX)
    assert len(list(place.look())) == 2
    path.write_bytes(MBOX + b"\nFrom c\nSubject: z\n\nlast\n")
    assert list(place.look()) == [b"Subject: z\n\nlast\n"]
    assert_finds_both(mailbox(f"mbox={path}"))


def test_a_line_that_begins_with_from_is_no_message_unless_an_empty_line_stands_above() -> None:
    assert from_mbox(b"From a\nSubject: z\nFrom: x\n\nline\nFrom here on\n") == [
        b"Subject: z\nFrom: x\n\nline\nFrom here on\n"
    ]


def test_what_a_command_prints() -> None:
    program = f"import sys; sys.stdout.buffer.write({MBOX!r})"
    command = shlex.join([sys.executable, "-c", program])
    assert_finds_both(mailbox(f"command={command}"))


class _Mailpit(BaseHTTPRequestHandler):
    """The two addresses of mailpit's API that are asked."""

    def do_GET(self) -> None:
        pages = {
            "/api/v1/messages?limit=500": json.dumps(
                {"total": 2, "messages": [{"ID": "b/2"}, {"ID": "a1"}]}
            ).encode(),
            "/api/v1/message/a1/raw": ONE,
            "/api/v1/message/b%2F2/raw": TWO,
        }
        page = pages.get(self.path)
        self.send_response(404 if page is None else 200)
        self.end_headers()
        self.wfile.write(page or b"")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def mailpit() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Mailpit) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


def test_the_http_api_of_mailpit(mailpit: str) -> None:
    assert_finds_both(mailbox(f"http={mailpit}/"))
    with pytest.raises(DeliveredError, match="Not Found"):
        list(mailbox(f"http={mailpit}/elsewhere").look())


def test_a_message_for_two_recipients_is_one(tmp_path: Path) -> None:
    path = tmp_path / "mbox"
    path.write_bytes(MBOX + b"\nFrom c\nDelivered-To: c\n" + ONE)
    delivered = Delivered(mailbox(f"mbox={path}"))
    delivered.look()
    assert len(delivered.contents(MARK)) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("maildir", "takes maildir=DIR, mbox=FILE, command=COMMAND or http=URL"),
        ("imap=x", "takes maildir=DIR"),
        ("mbox=", "takes maildir=DIR"),
        ("http=127.0.0.1:8025", "takes an address such as http://"),
        ("command='", "No closing quotation"),
        ("command=  ", "names a command"),
        ("maildir=/nowhere/at/all", "no such folder"),
        ("command=/nowhere/at/all", "No such file"),
        ("command=false", "command=false: exit status 1$"),
        ("mbox=/", "Is a directory"),
        ("http=http://127.0.0.1:1", "Connection refused"),
    ],
)
def test_what_cannot_be_looked_at_is_told(text: str, reason: str) -> None:
    with pytest.raises(DeliveredError, match=reason):
        list(mailbox(text).look())


def test_a_report_to_the_sender_is_no_message_of_its_own() -> None:
    report = b"Content-Type: multipart/report;\n report-type=delivery-status\n\n" + ONE
    delivered = Delivered(Called(lambda: [report]))
    delivered.look()
    assert delivered.contents(MARK) == []
