"""What a server that does not answer in time leaves open."""

from __future__ import annotations

from checking import check
from scripted_server import Manners

from replay.verify.check.verdict import Verdict

SMUGGLING = r"""
@0       open from 192.0.2.10
*        S? 220
reply+0  C: EHLO client.example\r\n
*        S? 250
reply+0  C: MAIL FROM:<a@example.org>\r\n
*        S? 250
reply+0  C: RCPT TO:<b@example.test>\r\n
*        S? 250
reply+0  C: DATA\r\n
*        S? 354
reply+0  C: Subject: x\r\n\r\nhello\n.\r\n
+20ms    C: MAIL FROM:<c@example.org>\r\n
+20ms    C: \r\n.\r\n
*        S? 250
may      reply 250 451 5yz, or end
+50ms    C: QUIT\r\n
*        S? 221
+20ms    close
must     [CVE-2023-51764] accept at most 1
"""


def test_a_server_that_is_too_slow_has_not_withstood() -> None:
    assert check(SMUGGLING, Manners()).verdict is Verdict.HOLDS
    slow = check(SMUGGLING, Manners(replies={".": b"", "QUIT": b""}, closes_behind="NONE"))
    assert slow.verdict is Verdict.COULD_NOT_TELL
    assert slow.judgement.reason == "reply 6 did not come"


def test_a_sender_that_closes_before_the_answer_to_its_quit_says_all_it_has_to() -> None:
    body = SMUGGLING.replace("*        S? 221\n+20ms    close", "+0       close\n*        S? 221")
    assert check(body, Manners()).verdict is Verdict.HOLDS
