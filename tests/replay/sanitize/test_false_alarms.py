"""The check for what remains finds each leak, and nothing where there is none, whatever the key."""

from __future__ import annotations

import base64
import os
import quopri
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from capture_builder import ACK, FIN, Wire

from replay.capture.reader import Capture, read_capture
from replay.sanitize.lookalikes import Lookalikes
from replay.sanitize.sanitizer import LeftOver, sanitize
from replay.sanitize.smtp_cleaner import SmtpCleaner

KEYS = int(os.environ.get("SANITIZER_KEYS", "20"))
"""For each session; SANITIZER_KEYS=1000 is the full run, 10,000 over ten sessions."""

NAME, MAILBOX, SECRET = (
    "Hildegard Vosskuhle",
    "hildegard.vosskuhle@bigbank-intern.de",
    "Zwiebelfisch9",
)


def encoded(text: str) -> bytes:
    return base64.b64encode(text.encode())


def message(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in (*lines, b"."))


WHOLE = base64.encodebytes(f"Dear {NAME}, write to {MAILBOX} soon.".encode() * 3)
BODIES: list[bytes] = [
    message(b"Subject: hello", b"", b"nothing of interest"),
    message(b"From: %b <%b>" % (NAME.encode(), MAILBOX.encode()), b"", b"regards"),
    message(b"Subject: =?utf-8?B?" + encoded(NAME) + b"?=", b"", b"x"),
    message(b"Content-Transfer-Encoding: base64", b"", *WHOLE.splitlines()),
    message(
        b"Content-Transfer-Encoding: quoted-printable", b"",
        *quopri.encodestring(f"{NAME} in K\u00f6ln, {MAILBOX}".encode()).splitlines(),
    ),
    message(b"Received: from mail.bigbank-intern.de ([10.0.0.1]) by 2001:db9::7; id 4711472", b""),
    message(b"X-Numbers: 167772161 4294967295 10.0.0.2", b"", b"0a000001 10 0 0 1"),
    message(b"Subject: " + NAME.encode()[:10], b" " + NAME.encode()[10:], b"", b"folded"),
    message(b"", encoded(NAME + MAILBOX) * 3),
    message(b"", NAME.encode("utf-16-le").replace(b"\n", b" ").replace(b"\r", b" ")),
]  # fmt: skip


@cache
def captured(number: int) -> Capture:
    """A session between two hosts whose addresses turn up elsewhere in the packets by chance: as
    sequence numbers, and in what is said."""
    addresses = ("10.0.0.1", "10.0.0.2") if number % 2 else ("11.22.33.44", "172.16.0.2")
    firsts = tuple(int.from_bytes(bytes(map(int, one.split(".")))) for one in addresses)
    wire = Wire(*addresses, first_sequence=(firsts[0], firsts[1])).handshake()
    turns: list[tuple[Callable[..., None], bytes]] = []
    for said, answer in (
        (b"EHLO pc17.bigbank-intern.de\r\n", b"250-mx.bigbank-intern.de\r\n250 AUTH LOGIN\r\n"),
        (b"AUTH LOGIN\r\n", b"334 " + encoded(("Benutzername:", "UserName:", "Nom:")[number % 3])),
        (encoded(MAILBOX) + b"\r\n", b"334 " + encoded(("Kennwort:", "PASSWORD:")[number % 2])),
        (encoded(SECRET) + b"\r\n", b"235 2.7.0 ok\r\n"),
        (b"MAIL FROM:<%b>\r\n" % MAILBOX.encode(), b"250 ok\r\n"),
        (b"RCPT TO:<b@elsewhere-gmbh.de>\r\n", b"250 ok\r\n"),
        (b"DATA\r\n", b"354 go\r\n"),
        (BODIES[number], b"250 2.0.0 queued as 4F2A9C\r\n"),
        (b"QUIT\r\n", b"221 bye\r\n"),
    ):
        answer += b"" if answer.endswith(b"\n") else b"\r\n"
        turns += [(wire.client_says, said), (wire.server_says, answer)]
    wire.server_says(b"220 mx.bigbank-intern.de ESMTP\r\n", 1)
    for place, (say, octets) in enumerate(turns, 2):
        say(octets, place)
    wire.packet(0, flags=FIN | ACK, ms=100)
    wire.packet(1, flags=FIN | ACK, ms=101)
    with TemporaryDirectory() as folder:
        return read_capture(wire.write(Path(folder) / "some.pcap"))


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_no_key_gives_a_false_alarm(number: int) -> None:
    capture = captured(number)
    for key in range(KEYS):
        sanitize([(capture, capture.conversations)], b"key %d of a full run" % key)


LEAKS = {
    "a name": NAME.encode(),
    "a mailbox": MAILBOX.encode(),
    "a host": b"mail.bigbank-intern.de",
    "base64": encoded(f"Dear {NAME}"),
    "base64 one octet on": encoded("x" + NAME),
    "quoted-printable": b"=48=69=6C=64=65=67=61=72=64 =56=6F=73=73=6B=75=68=6C=65",
    "across a soft line break": b"Hildeg=\r\nard Vossk=\r\nuhle",
    "UTF-16": NAME.encode("utf-16-le"),
    "credentials": encoded(SECRET),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_put_in_by_hand_is_found(leak: str) -> None:
    octets = LEAKS[leak]

    class Leaky(SmtpCleaner):
        def sender(self, said: bytes, *, from_the_beginning: bool = True) -> bytes:
            cleaned = super().sender(said, from_the_beginning=from_the_beginning)
            at = cleaned.index(b"DATA\r\n") + 6
            return cleaned[:at] + (octets + b"\r\n" + cleaned[at + len(octets) + 2 :])

    capture = captured(3)
    with pytest.raises(LeftOver, match=r"in what the sender says.*; if that is a chance likeness"):
        sanitize([(capture, capture.conversations)], b"a key of sixteen", Leaky)


def test_an_address_left_in_a_packet_is_found_with_its_packet() -> None:
    class Leaky(SmtpCleaner):
        def host_address(self, host: str) -> str:
            return host

    capture = captured(1)
    with pytest.raises(LeftOver, match=r"address '10\.0\.0\.1' in packet 1 of the new capture"):
        sanitize([(capture, capture.conversations)], b"a key of sixteen", Leaky)


def test_prompts_are_protocol_and_stay() -> None:
    looks = Lookalikes(b"a key of sixteen", frozenset())
    for prompt in ("Username:", "PASSWORD:", "Benutzername:", "Mot de passe:", "Пароль:"):
        said = b"334 " + encoded(prompt) + b"\r\n"
        assert SmtpCleaner(looks).server(said) == said
