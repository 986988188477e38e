"""What the server accepted is compared with what a transcript expects it to have accepted."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
from running import replay

from mailsrv.runtime.clock import FakeClock
from replay.play.fakes.world import DeliveredMessage
from replay.transcript import transcript
from replay.transcript.script import AcceptedMessage, Mask
from replay.verify import suite
from replay.verify.accepted import accepted_message, compare_accepted, update_accepted

SENDER = r"""+++
story = "A message."
+++
@0 open from 192.0.2.10
* S? 220
reply+0 C: EHLO client.example\r\n
* S? 250
reply+0 C: MAIL FROM:<a@example.org> BODY=8BITMIME RET=HDRS\r\n
        C: RCPT TO:<b@example.test> NOTIFY=NEVER\r\n
        C: RCPT TO:<c@example.test>\r\n
        C: DATA\r\n
* S? 250
* S? 250
* S? 250
* S? 354
reply+0 C: Subject: x\r\n
        C: ..a\r\n
        C: .\r\n
* S? 250
reply+0 close
"""

CONTENT = b"Subject: x\r\n.a\r\n"
"""As it is stored behind the trace header: unstuffed."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A transcript that says what is accepted."""
    path = tmp_path / "x.smtp"
    path.write_text(SENDER, encoding="utf-8")
    suite.run_file(path, FakeClock(), updating=("create",))
    return path


def delivered(path: Path) -> DeliveredMessage:
    result = suite.run_file(path, FakeClock(), keep=True)
    (message,) = result.delivered
    return message


def test_an_update_writes_envelope_trace_header_and_content_behind_it(path: Path) -> None:
    (message,) = transcript.load(path).accepted or ()
    assert message.reverse_path == b"<a@example.org> BODY=8BITMIME RET=HDRS"
    assert message.forward_paths == (b"<b@example.test> NOTIFY=NEVER", b"<c@example.test>")
    (trace,) = message.trace
    assert isinstance(trace, bytes)
    assert trace.startswith(b"Return-Path: <a@example.org>\r\nReceived: from client.example ([192.")
    assert message.content_octets == len(CONTENT)
    assert message.content_sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert suite.run_file(path, FakeClock()).verdict == suite.AS_EXPECTED


def test_a_trace_header_that_is_not_expected_is_told(path: Path) -> None:
    text = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in text if " trace: " not in line), encoding="utf-8")
    (difference,) = suite.run_file(path, FakeClock()).differences
    assert difference.what.startswith("accepted message 1: another trace header")
    assert (difference.expected, str(difference.observed)[:15]) == (None, "Return-Path: <a")


@pytest.mark.parametrize(
    ("change", "what", "expected", "observed"),
    [
        ({"content": b"." + CONTENT}, "other content", "content 16 octets", "content 17 octets"),
        ({"content": CONTENT[1:]}, "other content", "content 16 octets", "content 15 octets"),
        ({"trace": b""}, "another trace header", "Return-Path: <a@", "None"),
    ],
)
def test_other_octets_are_told_with_both_sides(
    path: Path, change: dict[str, bytes], what: str, expected: str, observed: str
) -> None:
    other = dataclasses.replace(delivered(path), **change)  # type: ignore[arg-type]
    (difference,) = compare_accepted(transcript.load(path).accepted, [other])
    assert difference.what.startswith(f"accepted message 1: {what}")
    assert str(difference.expected).startswith(expected)
    assert str(difference.observed).startswith(observed)
    assert difference.line


def test_a_dropped_recipient_is_told(path: Path) -> None:
    other = delivered(path)
    other.envelope.forward_paths.pop()
    (difference,) = compare_accepted(transcript.load(path).accepted, [other])
    assert difference.what == "accepted message 1: other recipients"
    assert difference.expected == "to <b@example.test> NOTIFY=NEVER\nto <c@example.test>"
    assert difference.observed == "to <b@example.test> NOTIFY=NEVER"


def test_a_message_too_few_and_one_too_many_are_told(path: Path) -> None:
    message, expected = delivered(path), transcript.load(path).accepted
    (missing,) = compare_accepted(expected, [])
    assert (missing.what, missing.observed) == ("accepted message 1: missing", None)
    (surplus,) = compare_accepted((), [message])
    assert (surplus.what, surplus.expected) == ("accepted message 1: not expected", None)
    assert not list(compare_accepted(None, [message]))


def test_the_command_tells_what_differs(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("to <c@", "to <d@")
    path.write_text(text, encoding="utf-8")
    ran = replay("run", path)
    assert ran.status == 1
    line = text[: text.index("accepted")].count("\n") + 1
    assert f"accepted message 1: other recipients (line {line})" in ran.out
    assert ran.out.count("d@example.test") == 1
    ran = replay("run", "--update=fix", path)
    assert "1 fixed" in ran.out
    assert suite.run_file(path, FakeClock()).verdict == suite.AS_EXPECTED


def test_versions_and_ciphers_of_tls_are_masked_and_masks_that_fit_are_kept(path: Path) -> None:
    message = delivered(path)
    message.envelope.tls = "TLSv1.3 TLS_AES_256_GCM_SHA384"
    secured = dataclasses.replace(
        message, trace=b"Received: by x\r\n\t(TLSv1.3 TLS_AES_256_GCM_SHA384)\r\n"
    )
    expected = accepted_message(secured)
    assert expected.trace == (b"Received: by x\r\n\t(", Mask(), b")\r\n")
    by_hand: AcceptedMessage = dataclasses.replace(
        expected, trace=(b"Received: ", Mask(), b"\r\n\t(", Mask(), b")\r\n")
    )
    assert not list(compare_accepted((by_hand,), [secured]))
    assert update_accepted((by_hand,), [secured]) == (by_hand,)
