"""What real next hops get from mailsrv: a table, as Markdown.

Run as ``python -m benchmarks.real_next_hops``, as root.  Each next hop is started with mailboxes of
its own and mailsrv in front of it, with the settings that it has by itself.  Every kind of message
is sent to mailsrv, and looked for in the mailboxes: its octets must be the same, behind the header
fields that were put before them.
"""

from __future__ import annotations

import re
import smtplib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import command
from benchmarks.contenders import UnavailableError, comes_up, free_port, server_environment
from benchmarks.next_hop_servers import (
    DOMAIN,
    NextHopServer,
    dovecot,
    exim,
    postfix,
    wait_until,
)

GUARD_S = 90
CROWD_GUARD_S = 600
SENDER = "sender"
UTF8_USER = "δοκιμή"
CROWD = [f"user{n}" for n in range(1000)]
Start = Callable[[Sequence[str]], AbstractContextManager[NextHopServer]]
SERVERS: dict[str, Start] = {"Postfix": postfix, "Exim": exim, "Dovecot LMTP": dovecot}
LARGE_OCTETS = 50 * 1024 * 1024
FIELDS = (
    b"From: sender@example.test\r\nDate: Thu, 26 Nov 2026 01:02:03 +0000\r\n"
    b"Message-ID: <1@example.test>\r\n"
)
"""What a next hop adds where it is missing."""
HEADER = FIELDS + b"Subject: a message\r\n\r\n"
_ACTION = re.compile(rb"^Action: (\w+)", re.MULTILINE)
_REPORTING = re.compile(rb"^Reporting-MTA: *dns; *(\S+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Trial:
    """mailsrv in front of one next hop."""

    hop: NextHopServer
    port: int

    def send(self, users: list[str], content: bytes, mail: str = "", rcpt: str = "") -> None:
        """Hand a message to mailsrv.  Raises smtplib.SMTPException."""
        with smtplib.SMTP("127.0.0.1", self.port, "client.example.test", timeout=GUARD_S) as client:
            client.sendmail(
                f"{SENDER}@{DOMAIN}",
                [f"{user}@{DOMAIN}" for user in users],
                content,
                mail.split(),
                rcpt.split(),
            )

    def arrived(self, user: str, content: bytes) -> str:
        """What is in the user's mailbox, in words."""
        if not wait_until(lambda: bool(self.hop.mail_of(user)), GUARD_S):
            return "**lost**"
        (mail,) = self.hop.mail_of(user)
        return "delivered" if mail.endswith(content.replace(b"\r\n", b"\n")) else "**changed**"

    def notice(self) -> str:
        """The newest notice in the sender's mailbox: what it says, and who wrote it."""
        if not wait_until(lambda: bool(self.hop.mail_of(SENDER)), GUARD_S):
            return "no notice"
        text = self.hop.mail_of(SENDER)[-1]
        action, author = _ACTION.search(text), _REPORTING.search(text)
        if action is None or author is None:
            return "**no notice of delivery status**"
        who = "mailsrv" if author[1] == b"front.example.test" else "the next hop"
        return f"{action[1].decode()}, by {who}"


# -- kinds of messages ----------------------------------------------------------------------------


def seven_bit(trial: Trial) -> str:
    content = HEADER + b".\r\n..dots\r\n.\r\nFrom here\r\n" + b"x" * 900 + b"\r\n\r\n"
    trial.send(["plain"], content)
    return trial.arrived("plain", content)


def eight_bit(trial: Trial) -> str:
    content = HEADER + bytes(n for n in range(1, 256) if n not in (10, 13)) * 2 + b"\r\n"
    trial.send(["eight"], content, mail="BODY=8BITMIME")
    return trial.arrived("eight", content)


def smtputf8(trial: Trial) -> str:
    content = FIELDS + "Subject: δοκιμή\r\n\r\ntext\r\n".encode()
    trial.send([UTF8_USER], content, mail="SMTPUTF8 BODY=8BITMIME")
    if not wait_until(
        lambda: bool(trial.hop.mail_of(UTF8_USER) or trial.hop.mail_of(SENDER)), GUARD_S
    ):
        return "**lost**"
    if not trial.hop.mail_of(UTF8_USER):
        return f"returned: {trial.notice()}"
    return trial.arrived(UTF8_USER, content)


def large(trial: Trial) -> str:
    line = b"0123456789abcdef" * 4 + b"\r\n"
    content = HEADER + line * ((LARGE_OCTETS - len(HEADER) - 2) // len(line))
    trial.send(["large"], content)
    return trial.arrived("large", content)


def crowd(trial: Trial) -> str:
    content = HEADER + b"to all\r\n"
    trial.send(CROWD, content)
    hop = trial.hop
    wait_until(lambda: all(hop.mail_of(user) for user in CROWD), CROWD_GUARD_S)
    found = [hop.mail_of(user) for user in CROWD]
    whole = sum(len(one) == 1 and one[0].endswith(b"to all\n") for one in found)
    return "delivered" if whole == len(CROWD) else f"**{whole} of {len(CROWD)}**"


def success_notice(trial: Trial) -> str:
    trial.send(["notified"], HEADER + b"text\r\n", mail="ENVID=one", rcpt="NOTIFY=SUCCESS,FAILURE")
    arrived = trial.arrived("notified", b"text\r\n")
    return f"{arrived}; notice: {trial.notice()}"


def unknown_user(trial: Trial) -> str:
    trial.send(["nobody-here"], HEADER + b"text\r\n")
    return f"notice: {trial.notice()}"


def under_tls(trial: Trial) -> str:
    trial.send(["tls"], HEADER + b"text\r\n")
    arrived = trial.arrived("tls", b"text\r\n")
    used = any(b"TLS1" in mail or b"TLSv1" in mail for mail in trial.hop.mail_of("tls"))
    return f"{arrived}, {'TLS' if used else '**in the clear**'}"


KINDS: dict[str, Callable[[Trial], str]] = {
    "dots, long lines, blank lines": seven_bit,
    "8-bit (BODY=8BITMIME)": eight_bit,
    "UTF-8 address and header (SMTPUTF8)": smtputf8,
    "50 MiB": large,
    "1,000 recipients": crowd,
    "notice of success asked for (DSN)": success_notice,
    "unknown recipient": unknown_user,
    "STARTTLS offered": under_tls,
}
USERS = [SENDER, "plain", "eight", UTF8_USER, "large", "notified", "tls", *CROWD]


# -- the table ------------------------------------------------------------------------------------


@contextmanager
def mailsrv(delivery: str) -> Iterator[int]:
    """The shipped daemon in front of a next hop; its port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as text, tempfile.TemporaryFile("w+") as log:
        folder = Path(text)
        (folder / "conf.toml").write_text('hostname = "front.example.test"\n')
        command = [sys.executable, "-m", "mailsrv", "serve", "--config", str(folder / "conf.toml")]
        command += ["--listen", f"127.0.0.1:{port}", "--spool", str(folder / "spool")]
        command += ["--delivery", delivery]
        environment = server_environment()
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, text=True, env=environment
        )
        try:
            if not comes_up(process, port):
                raise UnavailableError("mailsrv does not start")
            yield port
        finally:
            process.kill()
            process.wait()


def results(start: Start, kinds: list[str]) -> Iterator[str]:
    """What became of each kind of message; every one with a next hop that is new."""
    for kind in kinds:
        with start(USERS) as hop, mailsrv(hop.delivery) as port:
            try:
                yield KINDS[kind](Trial(hop, port))
            except smtplib.SMTPException as error:
                yield f"**mailsrv: {error}**"


def table(kinds: list[str]) -> Iterator[str]:
    """The lines of the table, and behind it whoever takes no part."""
    columns: dict[str, dict[str, str]] = {}
    absent = []
    for name, start in SERVERS.items():
        try:
            columns[name] = dict(zip(kinds, results(start, kinds), strict=True))
        except UnavailableError as reason:
            absent.append(f"{name} took no part: {reason}")
    if not columns:
        yield from absent
        return
    yield f"| message | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for kind in kinds:
        yield f"| {kind} | {' | '.join(column[kind] for column in columns.values())} |"
    yield from absent


def main() -> int:
    arguments = command.parser(__doc__)
    arguments.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}")
    kinds = command.chosen(arguments, arguments.parse_args().kinds, KINDS)
    for line in table(kinds):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    command.run(main)
