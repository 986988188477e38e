"""The event log of a run: it keeps what it is told, and makes a line of it when one is read.

Most runs turn out as expected, and then nobody reads what the server logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, overload

from mailsrv.runtime.clock import Clock
from mailsrv.smtp.events import TransactionEnded
from mailsrv.smtp.reply import Reply
from mailsrv.telemetry.event_log import EventLog
from mailsrv.telemetry.metrics import Metrics
from replay.play.virtual_time import LOG_LINES_MAX

_UNCHANGING = frozenset((int, bool, str, Reply, type(None)))


class _Entry(NamedTuple):
    realtime_ns: int
    event: str
    values: Mapping[str, object]


class LogLines(Sequence[str]):
    """The lines of a log, as the daemon would have written them."""

    __slots__ = ("_clock", "_entries", "_log")

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._clock = _EntryClock()
        self._log = EventLog(self._clock, str)  # whose lines are never written

    def add(self, realtime_ns: int, event: str, values: Mapping[str, object]) -> None:
        """One line more, if there is room for it."""
        if len(self._entries) < LOG_LINES_MAX:
            self._entries.append(_Entry(realtime_ns, event, values))

    def of(self, event: str) -> list[str]:
        """The lines of one event."""
        return [self[place] for place, entry in enumerate(self._entries) if entry.event == event]

    def _made(self) -> list[str]:
        lines = self._log.lines
        for realtime_ns, event, values in self._entries[len(lines) :]:
            self._clock.now_ns = realtime_ns
            self._log.put(event, values)
        return lines

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        return self._made()[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._made() == list(other)

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __reduce__(self) -> tuple[type[list[str]], tuple[list[str]]]:
        return list, (self._made(),)  # for another process


class KeptLog(EventLog):
    """Adds its entries to ``kept``."""

    __slots__ = ("kept",)

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, str, metrics=metrics)
        self.kept = LogLines()

    def put(self, event: str, values: Mapping[str, object]) -> None:
        if not _UNCHANGING.issuperset(map(type, values.values())):
            values = {key: _as_it_is_now(value) for key, value in values.items()}
        self.kept.add(self._clock.realtime_ns(), event, values)

    def _plain_message(
        self, number: int, client: str, ended: TransactionEnded, duration_ms: int
    ) -> str:
        return ""  # its values are kept, as those of any other entry


class _EntryClock:
    """Stands at the instant of the entry whose line is made."""

    now_ns = 0

    def realtime_ns(self) -> int:
        return self.now_ns

    monotonic_ns = realtime_ns


def _as_it_is_now(value: object) -> object:
    if type(value) in _UNCHANGING:
        return value
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
