"""The log: one event a line, as key=value, written once a pass of the loop.

Values come from the network: whatever is not plain is quoted, and control characters, quotes
and everything outside printable ASCII are escaped, so that a peer can neither forge a line nor
reach a terminal.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from mailsrv.clock import Clock
from mailsrv.question import Ended, Event, Refusal
from mailsrv.units import NS_PER_MS, NS_PER_S

VALUE_MAX_CHARACTERS = 512
_PLAIN = string.ascii_letters + string.digits + "_.:@/+-"
"""The characters of a value that stands without quotes."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Journal:
    """Collects lines and hands them to ``write`` in one piece.

    ``write`` takes text that ends in a line end; an OSError of its is dropped, since a log that
    cannot be written must not stop mail.
    """

    __slots__ = ("_clock", "_lines", "_second", "_second_s", "_write")

    def __init__(self, clock: Clock, write: Callable[[str], object]) -> None:
        self._clock = clock
        self._write = write
        self._lines: list[str] = []
        self._second_s = -1
        self._second = ""

    def note(self, event: str, **values: object) -> None:
        """Write down ``event``; a value of None is left out."""
        words = [f" {key}={shown(value)}" for key, value in values.items() if value is not None]
        self.line(f"event={shown(event)}{''.join(words)}")

    def line(self, words: str) -> None:
        """Write down a line already made: what came from outside in it went through ``shown``."""
        now_s, ns = divmod(self._clock.realtime_ns(), NS_PER_S)
        if now_s != self._second_s:  # the second's text is made once
            self._second_s = now_s
            self._second = (_EPOCH + timedelta(seconds=now_s)).strftime("%Y-%m-%dT%H:%M:%S")
        # In UTC, to the millisecond (RFC 3339).
        self._lines.append(f"time={self._second}.{ns // NS_PER_MS:03d}Z {words}")

    def record(self, number: int, client: str, events: Iterable[Event]) -> None:
        """These things happened on connection ``number``."""
        for one in events:
            if isinstance(one, Ended):
                self._ended(number, client, one)
            elif isinstance(one, Refusal):
                self.note(
                    "refused",
                    connection=number,
                    client=client,
                    id=one.id,
                    sender=None if one.sender is None else f"<{one.sender}>",
                    to=None if one.recipient is None else f"<{one.recipient}>",
                    reply=one.reply,
                )
            else:
                self.note(one.event, connection=number, client=client, detail=one.detail)

    def _ended(self, number: int, client: str, ended: Ended) -> None:
        envelope = ended.envelope
        to = ",".join([f"<{path}>" for path in envelope.forward_paths])
        self.line(
            f"event=message connection={number} client={shown(client)} id={envelope.id}"
            f" sender={shown(f'<{envelope.reverse_path}>')}"
            f" recipients={len(envelope.forward_paths)} to={shown(to)}"
            f" reply={shown(ended.verdict or 'none')}"
        )

    def flush(self) -> None:
        """Hand over what was collected."""
        if self._lines:
            lines, self._lines = self._lines, []
            try:
                self._write("\n".join(lines) + "\n")
            except OSError:
                return


def shown(value: object) -> str:
    """``value`` as it may stand in a line."""
    if type(value) is int:
        return str(value)
    text = str(value)[:VALUE_MAX_CHARACTERS]
    if text.isascii() and text.isprintable():
        if text and not text.strip(_PLAIN):  # nothing else is in it
            return text
        if '"' not in text and "\\" not in text:
            return f'"{text}"'
    return json.dumps(text).replace("\x7f", "\\u007f")
