"""The log: one event a line, as key=value, written once a pass of the loop.

Values come from the network: whatever is not plain is quoted, and control characters, quotes
and everything outside printable ASCII are escaped, so that a peer can neither forge a line nor
reach a terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from mailsrv.clock import Clock

VALUE_MAX_CHARACTERS = 512
_PLAIN = re.compile(r"[A-Za-z0-9_.:@/+-]+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Journal:
    """Collects lines and hands them to ``write`` in one piece.

    ``write`` takes text that ends in a line end; an OSError of its is dropped, since a log that
    cannot be written must not stop mail.
    """

    __slots__ = ("_clock", "_lines", "_write")

    def __init__(self, clock: Clock, write: Callable[[str], object]) -> None:
        self._clock = clock
        self._write = write
        self._lines: list[str] = []

    def note(self, event: str, **values: object) -> None:
        """Write down ``event``; a value of None is left out."""
        words = [f"time={timestamp(self._clock.realtime_ns())}", f"event={event}"]
        words += [f"{key}={_value(value)}" for key, value in values.items() if value is not None]
        self._lines.append(" ".join(words))

    def flush(self) -> None:
        """Hand over what was collected."""
        if self._lines:
            lines, self._lines = self._lines, []
            try:
                self._write("\n".join(lines) + "\n")
            except OSError:
                return


def timestamp(realtime_ns: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    when = _EPOCH + timedelta(milliseconds=realtime_ns // 1_000_000)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: object) -> str:
    text = str(value)[:VALUE_MAX_CHARACTERS]
    return text if _PLAIN.fullmatch(text) else json.dumps(text).replace("\x7f", "\\u007f")
