"""The judge of real deliveries: it must be able to condemn.  Delivering itself takes a root."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RECORD = Path(__file__).resolve().parents[2] / "captures/record"
sys.path.insert(0, str(RECORD))
try:
    deliver = importlib.import_module("deliver")
    recipe = importlib.import_module("recipe")
finally:
    sys.path.remove(str(RECORD))

SENT = b"From: ann@client.example\nSubject: a\n b\n\n.\nGr\xc3\xbc\xc3\x9fe\n"
TRACE = (
    b"Return-Path: <ann@client.example>\n"
    b"Received: from client.example ([127.0.0.1])\n"
    b"\tby mx.example.test with ESMTPS\n\t(TLSv1.3 X)\n\tid 4711;\n"
    b"\tTue, 4 Mar 2025 10:15:00 +0000\n"
)
WANTED = {"messages": 1, "content": ["/sent"], "uses": ["STARTTLS", "DSN"], "tls": "TLSv1.3"}
MESSAGE = {
    "event": "message",
    "verdict": "accepted",
    "id": "4711",
    "client": "127.0.0.1",
    "tls": "TLSv1.3 X",
}
COMMANDS = ["EHLO client.example", "STARTTLS", "RCPT TO:<b@example.test> NOTIFY=NEVER"]


@pytest.mark.parametrize("name", recipe.names(recipe.DELIVERIES))
def test_a_delivery_says_all_that_it_must(name: str) -> None:
    delivered = recipe.load(name, recipe.DELIVERIES).delivered
    assert {"messages", "content", "uses", "tls"} <= delivered.keys()
    assert delivered.keys() <= {*WANTED, "client", "sessions", "changes"}


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_can_be_loaded(name: str) -> None:
    assert recipe.load(name).send


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Any]:
    def judge(
        stored: bytes = TRACE + SENT,
        message: dict[str, str] = MESSAGE,
        commands: list[str] = COMMANDS,
        **wanted: object,
    ) -> Any:
        for folder in ("mail/new", "sent"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "mail/new/1").write_bytes(stored)
        (tmp_path / "sent/plain.eml").write_bytes(SENT)
        (tmp_path / "log").write_text(json.dumps(message) + "\n", encoding="utf-8")
        notes = [{"session": 1, "command": one, "more": False} for one in commands]
        text = "".join(json.dumps(one) + "\n" for one in notes)
        (tmp_path / "commands").write_text(text, encoding="utf-8")
        return deliver.judge("somebody", WANTED | wanted, tmp_path)

    return judge


def test_a_good_delivery_is_told_with_what_it_used(judged: Callable[..., Any]) -> None:
    assert judged() == deliver.Outcome("somebody", "TLSv1.3", ("DSN", "STARTTLS"), ())
    assert judged(TRACE + b"X-Own: 1\n" + SENT).remarks == ()


@pytest.mark.parametrize(
    ("differently", "why"),
    [
        ({"stored": TRACE + SENT + b"\n"}, "the body differs"),
        ({"stored": TRACE + SENT.replace(b"\n.\n", b"\n..\n")}, "the body differs"),
        ({"stored": TRACE + SENT.replace(b" b\n", b"")}, "header fields are missing"),
        ({"stored": TRACE.replace(b"127.0.0.1", b"127.0.0.3") + SENT}, "the client is not"),
        ({"stored": TRACE.replace(b"4711", b"4712") + SENT}, "the log knows nothing"),
        ({"stored": TRACE.replace(b"TLSv1.3 X", b"none") + SENT}, "does not tell the TLS"),
        ({"message": MESSAGE | {"client": "127.0.0.3"}}, "the client is not"),
        ({"message": MESSAGE | {"tls": "TLSv1.2 X"}}, "TLS is 'TLSv1.2 X'"),
        ({"message": MESSAGE | {"verdict": "deferred"}}, "0 accepted by the log"),
        ({"commands": COMMANDS[:2]}, "it did not use DSN"),
        ({"messages": 2}, "1 messages stored"),
        ({"sessions": 2}, "it took 1 sessions"),
        ({"tls": ""}, "TLS is"),
    ],
)
def test_a_delivery_that_shows_less_is_condemned(
    judged: Callable[..., Any], differently: dict[str, Any], why: str
) -> None:
    with pytest.raises(deliver.Wrong, match=why):
        judged(**differently)


@pytest.mark.parametrize(
    ("command", "followed", "extensions"),
    [
        ("MAIL FROM:<a@b> size=9 BODY=8BITMIME", False, {"SIZE", "8BITMIME"}),
        ("MAIL FROM:<a@b> SMTPUTF8", True, {"SMTPUTF8", "PIPELINING"}),
        ("MAIL FROM:<size=9@b>", False, set()),
        ("RCPT TO:<a@b> ORCPT=rfc822;a@b", False, {"DSN"}),
        ("MAIL FROM:<a@b> RET=HDRS", False, {"DSN"}),
        ("BDAT 9 LAST", True, {"CHUNKING"}),
        ("NOOP", True, {"PIPELINING"}),
    ],
)
def test_what_a_command_uses(command: str, followed: bool, extensions: set[str]) -> None:
    note = {"session": 1, "command": command, "more": followed}
    assert set(deliver.used([note])) == extensions
