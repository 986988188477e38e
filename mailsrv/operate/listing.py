"""The queue as text for people, and as JSON for programs.

Whatever a peer chose is escaped: nothing of it reaches a terminal as it is.  Lines are cut to the
width of a terminal, and are whole where the output goes elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from mailsrv.operate.queued_message import QueuedMessage
from mailsrv.units import NS_PER_S

SCHEMA = 1
"""Of the JSON: it changes where a key goes or means something else."""
RECIPIENTS_SHOWN = 3
UNREADABLE = "sender and recipients cannot be read; the content can, with queue show --content"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"))
_COLUMNS = ("ID", "SIZE", "AGE", "STATE", "TRIES", "NEXT")
_WIDTHS = (16, 7, 5, 11, 6, 0)


class Listing:
    """Makes the lines.  ``width`` is that of the terminal, None where nothing is cut; ``colour``:
    states stand out."""

    def __init__(self, now_ns: int, *, width: int | None = None, colour: bool = False) -> None:
        self._now_ns = now_ns
        self._width = width
        self._colour = colour

    def heading(self) -> str:
        """The names of the columns."""
        return self._cut(_row(_COLUMNS))

    def message(self, one: QueuedMessage) -> Iterator[str]:
        """A message of the list."""
        values = (
            escaped(one.id),
            size(one.octets),
            duration(self._now_ns - one.received_ns),
            one.state,
            str(one.attempts),
            self._next(one),
        )
        yield self._paint(self._cut(_row(values)), one.state)
        if one.state == "unreadable":
            yield self._cut(f"  {UNREADABLE}")
            return
        shown = [f"<{escaped(each.address)}>" for each in one.recipients[:RECIPIENTS_SHOWN]]
        if (more := len(one.recipients) - len(shown)) > 0:
            shown.append(f"{more:,} more")
        yield self._cut(f"  <{escaped(one.sender)}> to {', '.join(shown)}")
        if one.reason:
            yield self._cut(f"  {escaped(one.reason)}")

    def details(self, one: QueuedMessage) -> Iterator[str]:
        """Everything about a message."""
        yield f"id          {escaped(one.id)}"
        is_readable = one.state != "unreadable"
        client = f" from {escaped(one.client) or 'ourselves'}" if is_readable else ""
        yield f"received    {instant(one.received_ns)}{client}"
        yield f"size        {one.octets:,} octets"
        if is_readable:
            yield f"sender      <{escaped(one.sender)}>"
        yield f"state       {one.state}, attempts: {one.attempts}"
        if not is_readable:
            yield self._cut(f"            {UNREADABLE}")
        if next_ := self._next(one):
            yield f"next        {next_}"
        for each in one.recipients:
            said = " ".join(filter(None, (each.outcome, each.status)))
            yield self._cut(f"recipient   <{escaped(each.address)}> {said}")
            if each.reply:
                by = f"{escaped(each.remote)}: " if each.remote else ""
                yield self._cut(f"            {by}{escaped(each.reply)}")

    def _next(self, one: QueuedMessage) -> str:
        if one.state == "waiting":
            return f"when {escaped(one.waits_for)} has room"
        if one.state == "deferred" and one.due_ns is not None:
            return f"in {duration(one.due_ns - self._now_ns)}"
        return "now" if one.state in ("new", "due") else ""

    def _cut(self, line: str) -> str:
        if self._width is None or len(line) <= self._width:
            return line
        return line[: max(self._width - 3, 0)] + "..."

    def _paint(self, line: str, state: str) -> str:
        code = {"held": "33", "unreadable": "31"}.get(state, "1")
        return f"\x1b[{code}m{line}\x1b[0m" if self._colour else line


def as_json(one: QueuedMessage) -> dict[str, Any]:
    """A message as a JSON object."""
    return {
        "id": one.id,
        "received": instant(one.received_ns),
        "size": one.octets,
        "client": one.client,
        "sender": one.sender,
        "state": one.state,
        "attempts": one.attempts,
        "next": instant(one.due_ns) if one.due_ns else None,
        "waits_for": one.waits_for or None,
        "recipients": [
            {
                "address": each.address,
                "outcome": each.outcome,
                "status": each.status or None,
                "reply": each.reply or None,
                "remote": each.remote or None,
            }
            for each in one.recipients
        ],
    }


def escaped(text: str) -> str:
    """``text`` in printable ASCII."""
    return text.encode("unicode_escape").decode("ascii")


def size(octets: int) -> str:
    """Octets for people: 4.1K."""
    number = float(octets)
    for unit in ("", "K", "M", "G"):
        if number < 1000 or unit == "G":
            return f"{number:.0f}{unit}" if number >= 10 or not unit else f"{number:.1f}{unit}"
        number /= 1024
    raise AssertionError("the last unit is for all that is larger")


def duration(nanoseconds: int) -> str:
    """A duration for people, in its largest unit: 3h."""
    seconds = max(nanoseconds, 0) // NS_PER_S
    for unit_s, unit in _UNITS:
        if seconds >= unit_s:
            return f"{seconds // unit_s}{unit}"
    return f"{seconds}s"


def instant(since_1970_ns: int) -> str:
    """In UTC (RFC 3339)."""
    try:
        at = _EPOCH + timedelta(seconds=since_1970_ns // NS_PER_S)
    except OverflowError:
        return "never"
    return f"{at:%Y-%m-%dT%H:%M:%S}Z"


def _row(values: tuple[str, ...]) -> str:
    padded = [value.ljust(width) for value, width in zip(values, _WIDTHS, strict=True)]
    return " ".join(padded).rstrip()
