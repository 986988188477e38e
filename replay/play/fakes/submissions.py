"""[world.messages]: mail that comes in by itself, for a scenario that is about what becomes of it.

Each message is sent by a plain sender over a connection of its own; that it is taken is expected.

    [world]
    messages = [{ from = "<a@example.org>", to = ["<b@example.net> NOTIFY=DELAY"], at_s = 5 }]
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence

from mailsrv.units import NS_PER_S, seconds_to_ns
from replay.play.fakes.tables import ENTRIES_MAX, WorldError, check_keys
from replay.transcript.duration import DURATION_NS_MAX
from replay.transcript.script import (
    AfterArrival,
    At,
    Close,
    Departure,
    Expectation,
    Open,
    ReplyCode,
    ScriptedConnection,
    SendOctets,
    Step,
)

MESSAGES_MAX = 1_000
CLIENT = "192.0.2.1"
CONTENT = "Subject: A message\n\nIts text.\n"

_KEYS = ("from", "to", "content", "at_s", "client")
_PATH = re.compile(r"<[^<>\x00-\x1f\x7f]{0,512}>(?: [!-~]{1,512}){0,20}")
_ADDRESS = re.compile(r"[^<>\x00-\x20\x7f]{1,512}")
_DOT = re.compile(rb"(?m)^\.")


def submissions_from(value: object) -> tuple[ScriptedConnection, ...]:
    """The senders of ``value``, a list of tables.  Raises WorldError."""
    if not isinstance(value, list) or len(value) > MESSAGES_MAX:
        raise WorldError("world.messages", f"a list of at most {MESSAGES_MAX} tables")
    return tuple(
        _sender(f"world.messages[{number}]", number, table) for number, table in enumerate(value, 1)
    )


def _sender(key: str, number: int, table: object) -> ScriptedConnection:
    if not isinstance(table, Mapping):
        raise WorldError(key, f"a table of {', '.join(_KEYS)}")
    check_keys(key, table, _KEYS)
    forward_paths = table.get("to")
    if not isinstance(forward_paths, list) or not 0 < len(forward_paths) <= ENTRIES_MAX:
        raise WorldError(f"{key}.to", f"a list of 1 to {ENTRIES_MAX} recipients")
    return plain_sender(
        str(number),
        _at_ns(f"{key}.at_s", table.get("at_s", 0)),
        _client(f"{key}.client", table.get("client", CLIENT)),
        _path(f"{key}.from", table.get("from")).encode(),
        [_path(f"{key}.to", path).encode() for path in forward_paths],
        _content(f"{key}.content", table.get("content", CONTENT)),
    )


def plain_sender(
    name: str,
    at_ns: int,
    client: str,
    reverse_path: bytes,
    forward_paths: Sequence[bytes],
    content: bytes,
) -> ScriptedConnection:
    """A connection that sends one message and expects that it is taken.

    Paths have their parameters behind them; ``content`` is as it is sent, with its final dot.
    """
    envelope = [b"MAIL FROM:%b\r\n" % reverse_path]
    envelope += [b"RCPT TO:%b\r\n" % path for path in forward_paths]
    steps = [
        Departure(At(at_ns), Open(client)),
        *_exchange(220),
        *_exchange(250, b"EHLO client.example\r\n"),
        *_exchange(250, *envelope, b"DATA\r\n"),
        *_exchange(250, content),
        *_exchange(221, b"QUIT\r\n"),
        Departure(AfterArrival(0), Close()),
    ]
    return ScriptedConnection(name, tuple(steps))


def _exchange(code: int, *commands: bytes) -> Iterator[Step]:
    """Commands in one flight, and what is expected to each: ``code``, or 354 to DATA."""
    if commands:
        yield Departure(AfterArrival(0), SendOctets(b"".join(commands)))
    for command in commands or (b"",):
        yield Expectation(ReplyCode(354 if command == b"DATA\r\n" else code))


def _path(key: str, value: object) -> str:
    if isinstance(value, str) and _PATH.fullmatch(value):
        return value
    if isinstance(value, str) and _ADDRESS.fullmatch(value):
        return f"<{value}>"
    raise WorldError(key, 'a path with its parameters, as in "<a@example.org> RET=HDRS"')


def _content(key: str, value: object) -> bytes:
    """``value`` as it is sent; its lines end in LF."""
    if not isinstance(value, str):
        raise WorldError(key, "a text")
    text = value if value.endswith("\n") or not value else f"{value}\n"
    return stuffed(re.sub(rb"(?<!\r)\n", b"\r\n", text.encode("utf-8", "surrogateescape")))


def stuffed(content: bytes) -> bytes:
    """``content`` as it is sent, with its final dot (RFC 5321 section 4.5.2)."""
    end = b"" if content.endswith(b"\r\n") or not content else b"\r\n"
    return _DOT.sub(b"..", content) + end + b".\r\n"


def _at_ns(key: str, value: object) -> int:
    seconds_max = DURATION_NS_MAX // NS_PER_S
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= seconds_max:  # type: ignore[operator]
        raise WorldError(key, f"a number of seconds from 0 to {seconds_max}")
    return seconds_to_ns(value)  # type: ignore[arg-type]


def _client(key: str, value: object) -> str:
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise WorldError(key, "an IPv4 or IPv6 address, as in 192.0.2.1") from None
