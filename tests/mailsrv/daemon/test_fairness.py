"""Many who want much beside one who wants little, on real sockets and in real time.

Only there does the poll tell again and again what is ready, and only there can a connection be
forgotten that waits in the backlog.
"""

from __future__ import annotations

import smtplib
import threading
from pathlib import Path

from process import PATIENCE_S, serving

SENDERS = 10
MESSAGES = 2
BULK_LINES = 15_000
LINE = "0123456789abcdef" * 4 + "\r\n"
COMMANDS = 900


def send_bulk(port: int, number: int, sent: list[int]) -> None:
    text = f"Subject: bulk {number}\r\n\r\n" + LINE * BULK_LINES
    with smtplib.SMTP("127.0.0.1", port, "bulk.example.org", timeout=PATIENCE_S) as client:
        for _ in range(MESSAGES):
            client.sendmail("bulk@example.org", ["you@example.org"], text)
            sent.append(number)


def flood(port: int, number: int, sent: list[int]) -> None:
    """Far more commands than a turn in one write, and then a message."""
    with smtplib.SMTP("127.0.0.1", port, "flood.example.org", timeout=PATIENCE_S) as client:
        client.ehlo()
        client.send("MAIL FROM:<flood@example.org>\r\n" + "RCPT TO:<x@example.org>\r\n" * COMMANDS)
        for _ in range(1 + COMMANDS):
            client.getreply()
        client.send("DATA\r\n")
        client.getreply()
        client.send("Subject: flood\r\n\r\ntext\r\n.\r\n")
        if client.getreply()[0] == 250:
            sent.append(number)


def test_ten_bulk_senders_and_ten_who_flood_and_one_good_client_all_get_through(
    tmp_path: Path,
) -> None:
    mail = tmp_path / "mail"
    options = ("--listen", "127.0.0.1:0", "--delivery", f"maildir={mail}")
    sent: list[int] = []
    with serving(tmp_path, options=options) as server:
        port = server.port
        threads = [
            threading.Thread(target=act, args=(port, number, sent))
            for number in range(SENDERS)
            for act in (send_bulk, flood)
        ]
        for thread in threads:
            thread.start()
        good = 0
        while good < 5 or any(thread.is_alive() for thread in threads):
            server.deliver(port)
            good += 1
        for thread in threads:
            thread.join(PATIENCE_S)
        lines = server.end()  # which delivers what was accepted
    assert sorted(sent) == sorted([*range(SENDERS)] * (MESSAGES + 1))
    assert len(list((mail / "new").iterdir())) == len(sent) + good
    assert sum("verdict=accepted" in line for line in lines) == len(sent) + good
